"""Ingest: check every record of a source, store its original bytes by content, and write a dataset version."""

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
from naruto_core.dataset.versions import table_name, version_id, write_version
from naruto_core.domain import DatasetVersion, Picture, Progress, QuarantinedRecord, Split
from naruto_core.errors import DatasetUnusable, amount, printable
from naruto_core.recipe_sections import DatasetSection


def check(record: Record) -> Picture | QuarantinedRecord:
    """The record's picture (without its final split and duplicates), or the reason why it is quarantined."""
    try:
        caption = "" if record.uncaptioned else _caption(record.caption)
        decoded = decode(record.image)
    except BrokenRecordError as broken:
        return record.quarantined(broken.reason, broken.detail)
    return Picture(
        repeats=record.repeats,
        sha256=sha256_bytes(record.image),
        suffix=decoded.suffix,
        width=decoded.image.width,
        height=decoded.image.height,
        caption=caption,
        split=Split.TRAIN,
        perceptual_hash=perceptual_hash(decoded.image),
    )


def _caption(value: object) -> str:
    if value is None:
        raise BrokenRecordError("no-caption", "the caption is missing")
    if not isinstance(value, str):
        raise BrokenRecordError("caption-not-text", f"the caption is of type {type(value).__name__}")
    if not value.strip():
        raise BrokenRecordError("no-caption", "the caption is blank")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise BrokenRecordError("caption-not-text", f"the caption is not valid Unicode: {error.reason}") from None
    return value


def assign_splits(pictures: list[Picture], hold_out: int) -> list[Picture]:
    """The rows of a version: sorted, equal records (bytes and caption) once with their most repeats, duplicates
    marked, `hold_out` of them as the reference.

    The pictures with the smallest sha256 of "<their sha256>reference" are held out. Pictures that have
    a duplicate stay in training, so that the reference shows nothing that was trained on. Raises
    DatasetUnusable when `hold_out` leaves no training picture, or there are too few without a duplicate.
    """
    rows = [_merged(list(same)) for _, same in groupby(sorted(pictures, key=_content), key=_content)]
    duplicates = find_duplicates([row.perceptual_hash for row in rows])
    unique = [i for i in range(len(rows)) if not duplicates.any[i]]
    if hold_out >= len(rows):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, and the dataset has {amount(len(rows), 'picture')} to use: "
            "hold out fewer or add pictures."
        )
    if hold_out > len(unique):
        raise DatasetUnusable(
            f"dataset.hold_out is {hold_out}, but only {len(unique)} of {len(rows)} pictures have no duplicate: "
            "hold out fewer."
        )

    def lottery(i: int) -> str:
        return sha256_bytes(f"{rows[i].sha256}reference".encode())

    reference = set(heapq.nsmallest(hold_out, unique, key=lottery))
    for i, first in enumerate(duplicates.earliest.tolist()):
        if first >= 0:
            rows[i] = replace(rows[i], duplicate_of=rows[first].sha256)
        elif i in reference:
            rows[i] = replace(rows[i], split=Split.REFERENCE)
    return rows


def _merged(same: list[Picture]) -> Picture:
    return replace(same[0], repeats=max(picture.repeats for picture in same))


def _content(picture: Picture) -> tuple[str, str]:
    return picture.sha256, picture.caption


_SECONDS_BETWEEN_REPORTS = 0.5
_RECORDS_BETWEEN_REPORTS = 50


@dataclass(frozen=True, slots=True)
class IngestResult:
    """The version that an ingest wrote, and the records that it left out."""

    version: DatasetVersion
    quarantined: tuple[QuarantinedRecord, ...]


def ingest(
    section: DatasetSection,
    layout: Layout,
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None] = lambda _: None,
    *,
    table_per_version: bool = False,
) -> IngestResult:
    """Ingest the source of `section` into the data root; the same content is the same version.

    `on_note` is called with sentences about what of the source was taken for what, before the first record is read.

    With `table_per_version` the table has this version alone, so that its number is 0 on every machine; else one table
    has all versions of a source.

    `n_duplicates` of the version counts the marked rows, and the records that repeat both the bytes
    and the caption of another (stored once). Raises DatasetUnusable for a source that is missing,
    empty, without its columns or with more than `max_quarantined` broken records, and StorageFailed
    for a disk that is full or not writable; in both cases no version is written.
    """
    table = table_name(layout, section.source)
    source = open_source(section)
    for note in source.notes:
        on_note(_printable(note))
    pictures, quarantined = _check_records(source, layout, on_progress)
    _check_share_of_broken(section, len(pictures), quarantined)
    rows = assign_splits(pictures, section.hold_out)
    n_duplicates = sum(bool(row.duplicate_of) for row in rows) + len(pictures) - len(rows)
    if table_per_version:
        table = f"{table}-{version_id(rows)}"
    version = write_version(layout, table, source.name, rows, n_quarantined=len(quarantined), n_duplicates=n_duplicates)
    return IngestResult(version, tuple(quarantined))


def _check_records(
    source: Source, layout: Layout, on_progress: Callable[[Progress], None]
) -> tuple[list[Picture], list[QuarantinedRecord]]:
    """Check every record, and store the usable pictures."""
    pictures: list[Picture] = []
    quarantined: list[QuarantinedRecord] = []
    reporter = _ProgressReporter(source.total, on_progress)
    for record in source.records():
        checked = check(record) if isinstance(record, Record) else record
        if isinstance(checked, Picture) and isinstance(record, Record):
            _store(record.image, checked, layout)
            pictures.append(checked)
        elif isinstance(checked, QuarantinedRecord):
            quarantined.append(replace(checked, source=_printable(checked.source), detail=_printable(checked.detail)))
        reporter.report(len(pictures), len(quarantined))
    return pictures, quarantined


def _printable(text: str) -> str:
    """`text` as valid Unicode in one line: a file's name may be neither."""
    return printable(" ".join(text.encode("utf-8", "replace").decode().splitlines()))


def _store(data: bytes, picture: Picture, layout: Layout) -> None:
    path = layout.picture(picture.sha256, picture.suffix)
    with storage_errors(path):
        if not path.is_file() or path.read_bytes() != data:  # a damaged file is replaced
            write_atomically(path, data)


def _check_share_of_broken(section: DatasetSection, n_pictures: int, quarantined: list[QuarantinedRecord]) -> None:
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


class _ProgressReporter:
    """Reports progress every half second, every fifty records, and at the end."""

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
