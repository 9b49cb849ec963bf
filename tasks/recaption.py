"""Recaption: a dataset version's captions written anew by a model, as a dataset version of its own."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from naruto_core.artifacts import Layout, atomic_folder, write_atomically
from naruto_core.dataset.caption_audit import has_letters_or_digits
from naruto_core.dataset.imagefolder import METADATA
from naruto_core.dataset.preprocessing import prepare
from naruto_core.dataset.recaption import BEAMS, MAX_TOKENS, Captioner, load_captioner, recaption
from naruto_core.dataset.versions import read_picture, read_pictures
from naruto_core.domain import DatasetVersion, Picture
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe import Recipe
from tasks.captions import check_captions, find_dataset
from tasks.context import TaskContext, exclusive_device, task_context
from tasks.ingest import ingest
from tasks.progress import unit_reporter

_BATCH = 8  # pictures captioned together
_KEPT_EVERY = 8 * _BATCH  # a killed command loses at most so many captions


@dataclass(frozen=True, slots=True)
class Recaptioned:
    """`n` captions were changed; `folder` is the imagefolder that `version` was ingested from."""

    before: DatasetVersion
    version: DatasetVersion
    folder: Path
    n: int
    captioner: str


def recaption_dataset(
    name: str, model: str, revision: str | None, folder: Path | None, recipe: Recipe, *, only_flagged: bool = False
) -> Recaptioned:
    """Caption the dataset `name` with a BLIP `model`, all of it or what the audit flags, and ingest the result.

    Bytes stay as they are and as many pictures are held out as before, so that no picture changes side between
    training and reference: the lot falls by the bytes alone. For the same reason rows stay apart that have the same
    bytes: where the model would make two captions of a picture equal, the second stays as it was. So does a caption
    of which the model says nothing. New captions are kept: a killed command goes on where it was.

    Without `folder` the imagefolder lies in the cache. Raises DatasetUnusable for a folder that is not empty,
    ModelUnusable for a model that cannot be loaded.
    """
    _refuse_filled(folder)
    with task_context() as context:
        before = find_dataset(context.store, name)
        captioner = load_captioner(model, revision, context.device)
        pictures = read_pictures(context.layout, before)
        wanted = _flagged(before, recipe) if only_flagged else set(pictures)
        with exclusive_device(context, f"recaption {before.id}"):
            captions = _captions(context, captioner, [p for p in pictures if p in wanted])
        rows = _changed(pictures, wanted, captions)
        folder = (folder or context.layout.cache(f"recaptioned-{_digest([_facts(row) for row in rows])}")).absolute()
        column = recipe.dataset.caption_column
        _write(context.layout, folder, pictures, rows, column, captioner.id)
    chosen = {"source": str(folder), "revision": None, "hold_out": before.n_reference}
    version = ingest.fn(recipe.dataset.model_copy(update=chosen))
    n = sum(old.caption != new.caption for old, new in zip(pictures, rows, strict=True))
    return Recaptioned(before, version, folder, n, captioner.id)


def _flagged(dataset: DatasetVersion, recipe: Recipe) -> set[Picture]:
    audit = check_captions(dataset.id, recipe)
    found = {(finding.sha256, finding.caption) for finding in audit.findings}
    if not found:
        raise DatasetUnusable(f"dataset {dataset.id} has no caption with a finding: there is nothing to write anew.")
    return {picture for picture in audit.pictures if (picture.sha256, picture.caption) in found}


def _captions(context: TaskContext, captioner: Captioner, pictures: Sequence[Picture]) -> dict[str, str]:
    """By sha256; what was captioned before, with the same model and settings, is read and not written again."""
    path = context.layout.cache(f"captions-{_digest([captioner.id, BEAMS, MAX_TOKENS])}.json")
    known = _known(path)
    distinct = list({p.sha256: p for p in pictures if p.sha256 not in known}.values())
    report = unit_reporter("recaption", len(distinct), "picture")
    for start in range(0, len(distinct), _KEPT_EVERY):
        part = distinct[start : start + _KEPT_EVERY]
        loads = [partial(_open, context.layout, picture) for picture in part]
        said = recaption(loads, captioner, _BATCH, lambda done, start=start: report(start + done))
        known |= dict(zip((picture.sha256 for picture in part), said, strict=True))
        write_atomically(path, json.dumps({"captions": known, "sha256": _digest(known)}).encode())
    return known


def _known(path: Path) -> dict[str, str]:
    """The captions that were written to `path`; none when the file is missing or is not what was written."""
    try:
        kept = json.loads(path.read_bytes())
        return kept["captions"] if kept["sha256"] == _digest(kept["captions"]) else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {}


def _open(layout: Layout, picture: Picture) -> Image.Image:
    """The whole picture, upright."""
    return Image.fromarray(prepare(read_picture(layout, picture), (picture.height, picture.width)).pixels)


def _changed(pictures: Sequence[Picture], wanted: set[Picture], captions: dict[str, str]) -> list[Picture]:
    """The rows with their new captions, in the same order, none equal to another."""
    taken = {(picture.sha256, picture.caption) for picture in pictures}
    rows: list[Picture] = []
    for picture in pictures:
        new = captions.get(picture.sha256, "") if picture in wanted else ""
        if has_letters_or_digits(new) and (picture.sha256, new) not in taken:
            taken.add((picture.sha256, new))
            rows.append(replace(picture, caption=new))
        else:
            rows.append(picture)
    return rows


def _write(
    layout: Layout, folder: Path, before: Sequence[Picture], rows: Sequence[Picture], column: str, captioner: str
) -> None:
    """An imagefolder, files named by content; `captioned_by` stands in the lines whose caption is new."""
    lines: list[str] = []
    with atomic_folder(folder) as scratch:
        for old, row in zip(before, rows, strict=True):
            name = f"{row.sha256}{row.suffix}"
            (scratch / name).write_bytes(read_picture(layout, row))
            by = {} if old.caption == row.caption else {"captioned_by": captioner}
            shown = {} if row.repeats == 1 else {"repeats": row.repeats}
            lines.append(json.dumps({"file_name": name, column: row.caption} | shown | by, ensure_ascii=False))
        (scratch / METADATA).write_text("\n".join(lines) + "\n", encoding="utf-8")


def _refuse_filled(folder: Path | None) -> None:
    if folder is not None and folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise DatasetUnusable(f"{folder} is there already and not an empty folder: give the name of a new one.")


def _facts(row: Picture) -> list[str]:
    return [row.sha256, row.caption]


def _digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:24]
