"""An imagefolder: picture files and a `metadata.jsonl` with one JSON object per line, `file_name` and the caption.

A file name may be in subfolders, never outside the folder. Picture files that no line names are
quarantined as records without a caption, so that a missing line is noticed.
"""

import json
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, cast

from naruto_core.dataset.records import MAX_BYTES, BrokenRecordError, Record
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable

METADATA = "metadata.jsonl"
_PICTURE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
_LINES_CHECKED = 100  # for the columns, on opening


class ImageFolder:
    """The folder, with captions in `caption_column`. Raises DatasetUnusable when the column does not exist."""

    def __init__(self, folder: Path, caption_column: str) -> None:
        self.folder = folder
        self.caption_column = caption_column
        try:
            self._check_columns()
            with (folder / METADATA).open("rb") as lines:
                self.total = sum(1 for line in lines if line.strip())
        except OSError as error:
            raise DatasetUnusable(f"cannot read {folder / METADATA}: {error.strerror}.") from error
        self.total += sum(1 for _ in self._unlisted())

    def records(self) -> Iterator[Record | QuarantinedRecord]:
        """The records of all lines, then the unlisted files."""
        row = -1
        for row, line in enumerate(self._lines()):
            yield self._record(row, line)
        for extra, name in enumerate(self._unlisted(), row + 1):
            yield QuarantinedRecord(name, extra, "no-caption", f"no line of {METADATA} names this file")

    def _record(self, row: int, line: bytes) -> Record | QuarantinedRecord:
        name = METADATA
        try:
            entry = _parse(line)
            name = _file_name(entry)
            return Record(name, row, self._read(name), entry.get(self.caption_column))
        except BrokenRecordError as broken:
            return QuarantinedRecord(name, row, broken.reason, broken.detail)

    def _lines(self) -> Iterator[bytes]:
        with (self.folder / METADATA).open("rb") as lines:
            yield from (line for line in lines if line.strip())

    def _check_columns(self) -> None:
        seen: dict[str, None] = {}
        for line in islice(self._lines(), _LINES_CHECKED):
            try:
                seen |= dict.fromkeys(_parse(line))
            except BrokenRecordError:
                continue
        for column in ("file_name", self.caption_column):
            if seen and column not in seen:
                raise DatasetUnusable(
                    f"{self.folder / METADATA} has no column '{column}'; its columns are {', '.join(seen)}: "
                    "name the file in file_name and set dataset.caption_column."
                )

    def _read(self, name: str) -> bytes:
        path = self.folder / name
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise BrokenRecordError("missing-file", f"{name} is not a file")
            if status.st_size > MAX_BYTES:
                raise BrokenRecordError(
                    "too-large", f"{name} has {status.st_size:,} bytes; at most {MAX_BYTES:,} are read"
                )
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise BrokenRecordError("missing-file", f"there is no file {name}") from None
        except (OSError, ValueError) as error:
            raise BrokenRecordError("unreadable", f"{name}: {error}") from None

    def _unlisted(self) -> Iterator[str]:
        listed: set[str] = set()
        for line in self._lines():
            try:
                listed.add(_file_name(_parse(line)))
            except BrokenRecordError:
                continue
        for base, folders, files in os.walk(self.folder):
            folders.sort()
            for file in sorted(files):
                name = Path(base, file).relative_to(self.folder).as_posix()
                if Path(file).suffix.lower() in _PICTURE_SUFFIXES and not file.startswith(".") and name not in listed:
                    yield name


def _parse(line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError("bad-metadata", f"the line is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise BrokenRecordError("bad-metadata", "the line is not a JSON object")
    return cast(dict[str, Any], entry)


def _file_name(entry: dict[str, Any]) -> str:
    """The entry's file as a relative path with forward slashes. Raises BrokenRecordError."""
    name = entry.get("file_name")
    if not isinstance(name, str) or not name:
        raise BrokenRecordError("bad-metadata", "file_name is missing or not text")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise BrokenRecordError("outside-folder", f"{name} leads out of the folder")
    return path.as_posix()
