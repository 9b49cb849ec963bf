"""Embed: features of samples and of the reference, computed once and kept in files."""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import save_file

from naruto_core.artifacts import atomic_file, sha256_file
from naruto_core.dataset.prepare import prepare
from naruto_core.dataset.versions import read_pictures
from naruto_core.domain import DatasetVersion, Picture, Progress, Run, Sample, Split, Variant
from naruto_core.errors import RecordDamaged
from naruto_core.scoring.features import Extractor, Rows, embed_pictures
from tasks.place import Place
from tasks.reporting import reporter


@dataclass(frozen=True, slots=True)
class SampleFeatures:
    """Features (n, d) with the samples they belong to (none for a reference) and their extractor's id."""

    rows: Rows
    samples: tuple[Sample, ...]
    extractor: str


def _open(place: Place, sample: Sample) -> Image.Image:
    """The sample's picture, if it is still the one that was recorded."""
    path = place.layout.root / sample.path
    if not path.exists():
        raise RecordDamaged(f"the picture {sample.path} is gone; run the same command again after `naruto verify`.")
    if sha256_file(path) != sample.sha256:
        raise RecordDamaged(f"the picture {sample.path} is not the one that was recorded; see `naruto verify`.")
    return Image.open(path)


def _open_reference(place: Place, picture: Picture, resolution: int) -> Image.Image:
    data = place.layout.picture(picture.sha256, picture.suffix).read_bytes()
    return Image.fromarray(prepare(data, (resolution, resolution)).pixels)


def sample_features(place: Place, run: Run, variant: Variant, extractor: Extractor, batch_size: int) -> SampleFeatures:
    """Features of all the run's samples of `variant`."""
    samples = tuple(place.store.samples(run.id, variant))
    path = place.layout.embeddings(run.id, variant, extractor.id)
    loads = [partial(_open, place, sample) for sample in samples]
    contents = [sample.sha256 for sample in samples]
    return SampleFeatures(
        _kept(path, contents, loads, extractor, batch_size, f"score {variant}"), samples, extractor.id
    )


def reference_features(
    place: Place, dataset: DatasetVersion, extractor: Extractor, resolution: int, batch_size: int
) -> SampleFeatures:
    """Features of the dataset's reference: its held-out part, or all of it when nothing is held out."""
    pictures = read_pictures(place.layout, dataset)
    held_out = [p for p in pictures if p.split is Split.REFERENCE] or pictures
    key = hashlib.sha256(f"{dataset.id}/{resolution}/{extractor.id}".encode()).hexdigest()[:24]
    loads = [partial(_open_reference, place, picture, resolution) for picture in held_out]
    contents = [picture.sha256 for picture in held_out]
    path = place.layout.cache(f"reference-{key}.safetensors")
    return SampleFeatures(_kept(path, contents, loads, extractor, batch_size, "score real"), (), extractor.id)


def _kept(
    path: Path,
    contents: Sequence[str],
    loads: Sequence[Callable[[], Image.Image]],
    extractor: Extractor,
    batch_size: int,
    stage: str,
) -> Rows:
    """The features at `path` when they are of exactly these pictures; otherwise computed, and kept there."""
    wanted = json.dumps({"extractor": extractor.id, "pictures": list(contents)})
    if path.exists():
        with safe_open(path, framework="np") as file:
            if (file.metadata() or {}).get("of") == wanted:
                return file.get_tensor("features").astype(np.float32)
    report, began = reporter(), time.monotonic()

    def done(count: int) -> None:
        spent = time.monotonic() - began
        report(Progress(stage, count, len(loads), "picture", spent, spent / count * (len(loads) - count)))

    rows = embed_pictures(extractor, loads, batch_size, done)
    with atomic_file(path) as scratch:
        save_file({"features": rows}, scratch, metadata={"of": wanted})
    return rows
