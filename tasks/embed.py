"""Embed: features of pictures and texts, computed once and kept under what they were computed from.

Each batch is kept as soon as it is there, so that a killed scoring goes on where it was; another run, or a dataset
version that shares pictures with this one, computes none of them again. Kept in half precision and used so from the
first time on: figures are the same, just computed or read again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from naruto_core.artifacts import sha256_file
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.versions import read_picture
from naruto_core.domain import Picture, Sample
from naruto_core.errors import RecordDamaged
from naruto_core.scoring.features import Extractor, embed_pictures, embed_texts
from naruto_core.scoring.sample_metrics import is_blank
from naruto_core.store.embedding_cache import Embedded, EmbeddingCache
from tasks.place import Place
from tasks.reporting import pace

Load = Callable[[], Image.Image]
Rows = NDArray[np.float16]
_TEXTS_AT_ONCE = 256
_AGAIN = "`naruto run` with the choices of its run draws it again."


def sample_features(
    place: Place, samples: Sequence[Sample], extractor: Extractor, batch_size: int, stage: str
) -> Embedded:
    """Features of `samples`, in their order, and which of them are blank."""
    loads = {sample.sha256: partial(_open, place, sample) for sample in samples}
    return _embedded(place, [sample.sha256 for sample in samples], loads, extractor, batch_size, stage)


def real_features(
    place: Place, pictures: Sequence[Picture], extractor: Extractor, resolution: int, batch_size: int
) -> Rows:
    """Features of `pictures` of a dataset version, prepared as training saw them."""
    contents = [f"{picture.sha256}@{resolution}" for picture in pictures]
    loads = {
        content: partial(_open_real, place, picture, resolution)
        for content, picture in zip(contents, pictures, strict=True)
    }
    return _embedded(place, contents, loads, extractor, batch_size, "score real").features


def text_features(place: Place, texts: Sequence[str], extractor: Extractor) -> Rows:
    """Features (n, d) of `texts`; ModelUnusable for an extractor without a text tower."""
    contents = [f"text:{hashlib.sha256(text.encode()).hexdigest()}" for text in texts]
    by_content = dict(zip(contents, texts, strict=True))
    with EmbeddingCache(place.layout.embeddings) as kept:
        missing = kept.missing(extractor.id, contents)
        for start in range(0, len(missing), _TEXTS_AT_ONCE):
            part = missing[start : start + _TEXTS_AT_ONCE]
            rows = embed_texts(extractor, [by_content[content] for content in part])
            kept.add(extractor.id, part, rows, [False] * len(part))
        return kept.read(extractor.id, contents).features


def _open(place: Place, sample: Sample) -> Image.Image:
    """The sample's picture, if it is still the one that was recorded."""
    path = place.layout.root / sample.path
    if not path.exists():
        raise RecordDamaged(f"the picture {sample.path} is gone; {_AGAIN}")
    if sha256_file(path) != sample.sha256:
        raise RecordDamaged(f"the picture {sample.path} is not the one that was recorded; {_AGAIN}")
    return Image.open(path)


def _open_real(place: Place, picture: Picture, resolution: int) -> Image.Image:
    return Image.fromarray(prepare(read_picture(place.layout, picture), (resolution, resolution)).pixels)


@dataclass(slots=True)
class _Look:
    """Opens pictures and notes, by content, which are blank."""

    loads: Mapping[str, Load]
    blank: dict[str, bool]

    def __call__(self, content: str) -> Image.Image:
        picture = self.loads[content]()
        self.blank[content] = is_blank(picture)
        return picture


def _embedded(
    place: Place, contents: Sequence[str], loads: Mapping[str, Load], extractor: Extractor, batch_size: int, stage: str
) -> Embedded:
    """The features of `contents`; what was not kept yet is computed and kept, batch by batch."""
    with EmbeddingCache(place.layout.embeddings) as kept:
        if missing := kept.missing(extractor.id, contents):
            look, done, report = _Look(loads, {}), 0, pace(stage, len(missing), "picture")
            for rows in embed_pictures(extractor, [partial(look, content) for content in missing], batch_size):
                part = missing[done : done + len(rows)]
                kept.add(extractor.id, part, rows, [look.blank.pop(content) for content in part])
                done += len(rows)
                report(done)
        return kept.read(extractor.id, contents)
