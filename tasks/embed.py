"""Embed: features of pictures and texts, computed once and kept in files under what they were computed from.

Kept in half precision, and used so from the first time on: figures are the same, just computed or read again.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from naruto_core.artifacts import atomic_file, sha256_file
from naruto_core.dataset.prepare import prepare
from naruto_core.domain import DatasetVersion, Picture, Progress, Run, Sample, Variant
from naruto_core.errors import RecordDamaged
from naruto_core.scoring.blank import is_blank
from naruto_core.scoring.features import Extractor, Rows, embed_pictures, embed_texts
from tasks.place import Place
from tasks.reporting import reporter

Load = Callable[[], Image.Image]
_FORMAT = 2  # of the kept files


@dataclass(frozen=True, slots=True)
class Embedded:
    """Features (n, d) of pictures, and which of them (n,) are without content."""

    rows: Rows
    blank: NDArray[np.bool_]


def _open(place: Place, sample: Sample) -> Image.Image:
    """The sample's picture, if it is still the one that was recorded."""
    path = place.layout.root / sample.path
    if not path.exists():
        raise RecordDamaged(f"the picture {sample.path} is gone; run the same command again after `naruto verify`.")
    if sha256_file(path) != sample.sha256:
        raise RecordDamaged(f"the picture {sample.path} is not the one that was recorded; see `naruto verify`.")
    return Image.open(path)


def _open_real(place: Place, picture: Picture, resolution: int) -> Image.Image:
    data = place.layout.picture(picture.sha256, picture.suffix).read_bytes()
    return Image.fromarray(prepare(data, (resolution, resolution)).pixels)


def sample_features(
    place: Place, run: Run, variant: Variant, samples: Sequence[Sample], extractor: Extractor, batch_size: int
) -> Embedded:
    """Features of the run's `samples` of `variant`, in their order."""
    path = place.layout.embeddings(run.id, variant, extractor.id)
    loads = [partial(_open, place, sample) for sample in samples]
    return _kept(path, [s.sha256 for s in samples], loads, extractor, batch_size, f"score {variant}")


def real_features(
    place: Place,
    dataset: DatasetVersion,
    pictures: Sequence[Picture],
    extractor: Extractor,
    resolution: int,
    batch_size: int,
) -> Rows:
    """Features of `pictures` of a dataset version, prepared as training saw them."""
    contents = [picture.sha256 for picture in pictures]
    key = hashlib.sha256(f"{dataset.id}/{resolution}/{extractor.id}/{contents}".encode()).hexdigest()[:24]
    loads = [partial(_open_real, place, picture, resolution) for picture in pictures]
    path = place.layout.cache(f"real-{key}.safetensors")
    return _kept(path, contents, loads, extractor, batch_size, "score real").rows


def text_features(place: Place, texts: Sequence[str], extractor: Extractor) -> Rows:
    """Features (n, d) of `texts`; ModelUnusable for an extractor without a text tower."""
    key = hashlib.sha256(json.dumps([extractor.id, list(texts)]).encode()).hexdigest()[:24]
    path = place.layout.cache(f"texts-{key}.safetensors")
    if not path.exists():
        with atomic_file(path) as scratch:
            save_file({"features": embed_texts(extractor, texts)}, scratch)
    with safe_open(path, framework="np") as file:
        return file.get_tensor("features").astype(np.float32)


def _identity(extractor: str, contents: Sequence[str]) -> str:
    return json.dumps({"format": _FORMAT, "extractor": extractor, "pictures": list(contents)})


def _read(path: Path, wanted: str) -> Embedded | None:
    if not path.exists():
        return None
    with safe_open(path, framework="np") as file:
        if (file.metadata() or {}).get("of") != wanted:
            return None
        return Embedded(file.get_tensor("features").astype(np.float32), file.get_tensor("blank"))


def _kept(
    path: Path, contents: Sequence[str], loads: Sequence[Load], extractor: Extractor, batch_size: int, stage: str
) -> Embedded:
    """The features at `path` when they are of exactly these pictures; otherwise computed, and kept there."""
    wanted = _identity(extractor.id, contents)
    if known := _read(path, wanted):
        return known
    report, began = reporter(), time.monotonic()
    blank: list[bool] = []

    def looked_at(load: Load) -> Image.Image:
        picture = load()
        blank.append(is_blank(picture))
        return picture

    def done(count: int) -> None:
        spent = time.monotonic() - began
        report(Progress(stage, count, len(loads), "picture", spent, spent / count * (len(loads) - count)))

    rows = embed_pictures(extractor, [partial(looked_at, load) for load in loads], batch_size, done)
    half = rows.astype(np.float16)
    with atomic_file(path) as scratch:
        save_file({"features": half, "blank": np.array(blank)}, scratch, metadata={"of": wanted})
    return Embedded(half.astype(np.float32), np.array(blank))
