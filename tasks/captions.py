"""Captions: those of a recorded dataset version, looked through for noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from naruto_core.dataset.captions import (
    CaptionFinding,
    CaptionSummary,
    Similarity,
    audit_captions,
    summarise_captions,
)
from naruto_core.dataset.versions import read_pictures
from naruto_core.device_lock import hold_device
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import NotRecorded, RecordDamaged
from naruto_core.recipe import Recipe
from naruto_core.scoring.alignment import cosines
from naruto_core.scoring.features import Extractor, load_extractor
from naruto_core.store.records import Store
from tasks.embed import real_features, text_features
from tasks.place import Place, working_place
from tasks.reporting import say

_TEXTS_AT_A_TIME = 256  # embedded together; a text tower's memory grows with them


@dataclass(frozen=True, slots=True)
class CaptionAudit:
    """What was looked at, what was found, and the figures of it."""

    dataset: DatasetVersion
    pictures: tuple[Picture, ...]
    findings: tuple[CaptionFinding, ...]
    summary: CaptionSummary


def check_captions(name: str, recipe: Recipe, *, words_only: bool = False) -> CaptionAudit:
    """Audit the captions of the dataset `name`: an id, the beginning of one, or a source.

    Similarity is measured by `scoring.pair_extractor` of the recipe, on pictures as its scores see them; with
    `words_only` not at all, and no model is loaded. Embeddings are kept: a second audit computes none. Raises
    NotRecorded for a name that nothing was ingested under.
    """
    with working_place() as place:
        dataset = find_dataset(place.store, name)
        pictures = read_pictures(place.layout, dataset)
        extractor = None if words_only else load_extractor(recipe.scoring.pair_extractor, place.device)
        try:
            similarity = None if extractor is None else _similarity(place, dataset, pictures, recipe, extractor)
        except FileNotFoundError as error:
            raise RecordDamaged(f"the picture {error.filename} is gone: ingest {dataset.source} again.") from error
    findings = audit_captions(pictures, similarity)
    summary = summarise_captions(pictures, findings, similarity, extractor.id if extractor else "")
    return CaptionAudit(dataset, tuple(pictures), tuple(findings), summary)


def _similarity(
    place: Place, dataset: DatasetVersion, pictures: Sequence[Picture], recipe: Recipe, extractor: Extractor
) -> Similarity:
    """The cosine of each picture with its caption."""
    captions = sorted({picture.caption for picture in pictures})
    with hold_device(place.settings.locks, str(place.device), f"captions {dataset.id}", _wait):
        shown = real_features(
            place, dataset, pictures, extractor, recipe.generation.resolution, recipe.scoring.batch_size
        )
        parts = range(0, len(captions), _TEXTS_AT_A_TIME)
        said = np.concatenate([text_features(place, captions[at : at + _TEXTS_AT_A_TIME], extractor) for at in parts])
    row = {caption: i for i, caption in enumerate(captions)}
    return cosines(shown, said[[row[picture.caption] for picture in pictures]])


def find_dataset(store: Store, name: str) -> DatasetVersion:
    """The version with that id or the only one whose id begins so; of a source with several, the newest."""
    known = store.datasets()
    by_id = [one for one in known if name.startswith("ds-") and one.id.startswith(name)]
    if len(by_id) > 1:
        raise NotRecorded(f"{name!r} could be any of {len(by_id)} datasets; type more of the id.")
    found = by_id or [one for one in known if one.source == name]
    if not found:
        shown = ", ".join(f"{one.id} ({one.source})" for one in known[:5]) or "none yet"
        raise NotRecorded(f"there is no dataset {name!r}: bring it in with `naruto ingest`; recorded are {shown}.")
    return max(found, key=lambda one: one.delta_version)


def _wait(holder: str) -> None:
    say(f"waiting: the device is busy with {holder}")
