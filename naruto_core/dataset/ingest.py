"""Ingest: every record of a source checked, its original bytes stored once by content, a dataset version written."""

import heapq
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby

from naruto_core.artifacts import Layout, sha256_bytes, storage_errors, write_atomically
from naruto_core.dataset.duplicates import find_duplicates, perceptual_hash
from naruto_core.dataset.records import BrokenRecordError, Record, Source, decode
from naruto_core.dataset.sources import open_source
from naruto_core.dataset.versions import table_name, write_version
from naruto_core.domain import DatasetVersion, Picture, Progress, QuarantinedRecord, Split
from naruto_core.errors import DatasetUnusable
from naruto_core.recipe import DatasetSection


def check(record: Record) -> Picture | QuarantinedRecord:
    """The facts of the record's picture (split and duplicates still open), or why it is quarantined."""
    try:
        caption = _caption(record.caption)
        decoded = decode(record.image)
    except BrokenRecordError as broken:
        return record.quarantined(broken.reason, broken.detail)
    return Picture(
        sha256=sha256_bytes(record.image),
        suffix=decoded.suffix,
        width=decoded.image.width,
        height=decoded.image.height,
        caption=caption,
        split=Split.TRAIN,
        perceptual_hash=perceptual_hash(decoded.image),
    )


def _caption(found: object) -> str:
    if found is None:
        raise BrokenRecordError("no-caption", "the caption is missing")
    if not isinstance(found, str):
        raise BrokenRecordError("caption-not-text", f"the caption is of type {type(found).__name__}")
    if not found.strip():
        raise BrokenRecordError("no-caption", "the caption is blank")
    try:
        found.encode()
    except UnicodeEncodeError as error:
        raise BrokenRecordError("caption-not-text", f"the caption is not valid Unicode: {error.reason}") from None
    return found


def arrange(pictures: list[Picture], hold_out: int) -> list[Picture]:
    """The rows of a version: sorted, records with the same bytes and caption once, doubles flagged,
    `hold_out` of them the reference.

    Held out are the pictures with the smallest sha256 of "<their sha256>reference". Those that have
    a double stay in training, so that the reference shows nothing that was trained on. Raises
    DatasetUnusable when `hold_out` leaves nothing to train on.
    """
    rows = [next(same) for _, same in groupby(sorted(pictures, key=_content), key=_content)]
    doubles = find_duplicates([row.perceptual_hash for row in rows])
    alone = [i for i in range(len(rows)) if not doubles.any[i]]
    if hold_out >= len(rows):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, but only {len(rows)} pictures were kept: hold out fewer or bring more."
        )
    if hold_out > len(alone):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, but only {len(alone)} of {len(rows)} pictures have no duplicate: "
            "hold out fewer."
        )

    def lot(i: int) -> str:
        return sha256_bytes(f"{rows[i].sha256}reference".encode())

    reference = set(heapq.nsmallest(hold_out, alone, key=lot))
    for i, first in enumerate(doubles.earliest.tolist()):
        if first >= 0:
            rows[i] = replace(rows[i], duplicate_of=rows[first].sha256)
        elif i in reference:
            rows[i] = replace(rows[i], split=Split.REFERENCE)
    return rows


def _content(picture: Picture) -> tuple[str, str]:
    return picture.sha256, picture.caption


_SECONDS_BETWEEN_REPORTS = 0.5
_RECORDS_BETWEEN_REPORTS = 50


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What came of an ingest: the version, and what was left out of it."""

    version: DatasetVersion
    quarantined: tuple[QuarantinedRecord, ...]


def ingest(section: DatasetSection, layout: Layout, on_progress: Callable[[Progress], None]) -> IngestResult:
    """Bring the source of `section` into the data root; the same content is the same version.

    `n_duplicates` of the version counts the flagged rows and the records that repeat both the bytes
    and the caption of another (kept once). Raises DatasetUnusable for a source that is missing,
    empty, without its columns or with more than `max_quarantined` broken records, and StorageFailed
    for a disk that is full or not writable; neither leaves a version behind.
    """
    table = table_name(layout, section.source)
    source = open_source(section)
    pictures, quarantined = _sift(source, layout, on_progress)
    _refuse_too_broken(section, len(pictures), quarantined)
    rows = arrange(pictures, section.hold_out)
    n_duplicates = sum(bool(row.duplicate_of) for row in rows) + len(pictures) - len(rows)
    version = write_version(layout, table, source.name, rows, n_quarantined=len(quarantined), n_duplicates=n_duplicates)
    return IngestResult(version, tuple(quarantined))


def _sift(
    source: Source, layout: Layout, on_progress: Callable[[Progress], None]
) -> tuple[list[Picture], list[QuarantinedRecord]]:
    """Check every record and store the pictures that pass."""
    pictures: list[Picture] = []
    quarantined: list[QuarantinedRecord] = []
    pace = _Pace(source.total, on_progress)
    for record in source.records():
        checked = check(record) if isinstance(record, Record) else record
        if isinstance(checked, Picture) and isinstance(record, Record):
            _keep(record.image, checked, layout)
            pictures.append(checked)
        elif isinstance(checked, QuarantinedRecord):
            quarantined.append(checked)
        pace.report(len(pictures), len(quarantined))
    return pictures, quarantined


def _keep(data: bytes, picture: Picture, layout: Layout) -> None:
    path = layout.picture(picture.sha256, picture.suffix)
    with storage_errors(path):
        if not path.is_file() or path.read_bytes() != data:  # a damaged file is mended
            write_atomically(path, data)


def _refuse_too_broken(section: DatasetSection, n_pictures: int, quarantined: list[QuarantinedRecord]) -> None:
    total = n_pictures + len(quarantined)
    if total == 0:
        raise DatasetUnusable(f"dataset {section.source} is empty: it has no record at all.")
    if not quarantined or (n_pictures and len(quarantined) <= section.max_quarantined * total):
        return
    (reason, count), *_ = Counter(broken.reason for broken in quarantined).most_common()
    first = next(broken for broken in quarantined if broken.reason == reason)
    raise DatasetUnusable(
        f"{len(quarantined)} of {total} records of {section.source} are broken "
        f"({len(quarantined) / total:.1%}; at most {section.max_quarantined:.1%} may be): mostly {reason} ({count}, "
        f"first in {first.source} row {first.row}: {first.detail}); repair them, or raise dataset.max_quarantined."
    )


class _Pace:
    """Says how far the records are: every half second, every fifty, and at the end."""

    def __init__(self, total: int, on_progress: Callable[[Progress], None]) -> None:
        self.total = total
        self.on_progress = on_progress
        self.began = self.reported = time.monotonic()

    def report(self, n_pictures: int, n_quarantined: int) -> None:
        done, now = n_pictures + n_quarantined, time.monotonic()
        due = now - self.reported >= _SECONDS_BETWEEN_REPORTS or done % _RECORDS_BETWEEN_REPORTS == 0
        if due or done == self.total:
            self.reported = now
            seconds = now - self.began
            left = seconds / done * max(0, self.total - done)
            note = f"{n_quarantined} quarantined" if n_quarantined else ""
            self.on_progress(Progress("ingest", done, self.total, "picture", seconds, left, note))
