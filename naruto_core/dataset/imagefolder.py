"""An imagefolder: picture files, and a metadata file with their names and captions.

The metadata file is `metadata.jsonl` (one JSON object a line, or all of them in one JSON array), `metadata.json` (such
an array), `metadata.csv` or `metadata.parquet`. File names may be in subfolders, never outside the folder; Windows'
backslashes and the other Unicode normalization of a name (macOS writes decomposed letters) are understood. Pictures
that no row names are quarantined as records without a caption, so that a missing row is noticed.
"""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections.abc import Generator, Iterator
from itertools import chain, islice
from pathlib import PurePosixPath
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from naruto_core.dataset.file_trees import FileTree, leads_out
from naruto_core.dataset.parquet_limits import safe_batch_rows
from naruto_core.dataset.records import PICTURE_SUFFIXES, BrokenRecordError, Record
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable

METADATA = "metadata.jsonl"
_ARRAY, _CSV, _PARQUET = "metadata.json", "metadata.csv", "metadata.parquet"
METADATA_FILES = (METADATA, _CSV, _PARQUET)
_ROWS_CHECKED = 100  # for the columns, on opening
_BEGINNING = 1000  # letters of a file, of which one must not be white space
_BATCH = 256  # rows of a parquet file in memory at a time
_MAX_REPEATS = 1000
_MOST_DIGITS = 20  # of a number; Python refuses to read one of more than 4300
_MAX_ARRAY = 100_000_000  # letters of a JSON array, which is in memory as a whole
_DEFAULT_CAPTION_COLUMN = "text"
_FILE_COLUMN, _REPEATS = "file_name", "repeats"
_ADDRESS_COLUMNS = ("url", "image_url", "img_url", "URL")
URLS = (
    "nothing here downloads pictures from arbitrary addresses, because nobody can say what lies there tomorrow; "
    "download them first, for instance with img2dataset, and use the folder that it writes."
)

_Row = dict[str, Any] | BrokenRecordError


def find_metadata(tree: FileTree) -> str:
    """The name of the metadata file at the top of `tree`; "" when there is none."""
    for name in (METADATA, _CSV):
        if name in tree.names:
            return name
    if _ARRAY in tree.names and _is_array(tree):
        return _ARRAY
    if _PARQUET in tree.names:  # it may be a table that has the pictures themselves
        with tree.open(_PARQUET) as file:
            try:
                return _PARQUET if _FILE_COLUMN in pq.read_schema(file).names else ""
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DatasetUnusable(f"cannot read {tree.label}/{_PARQUET}: {error}") from error
    return ""


def address_column(columns: Iterator[str] | list[str]) -> str:
    """The column that has addresses of pictures instead of pictures; "" when there is none."""
    return next((column for column in columns if column in _ADDRESS_COLUMNS), "")


class ImageFolder:
    """The pictures of `tree` with the rows of its file `metadata`.

    The file is named by `file_name` or `image_column`, the caption is in `caption_column`; where that is "text" and
    does not exist, a single column `caption` or `prompt` is taken. An optional column `repeats` says how often an epoch
    shows the picture. Raises DatasetUnusable when a column does not exist.
    """

    def __init__(self, tree: FileTree, metadata: str, image_column: str, caption_column: str) -> None:
        self.tree, self.metadata = tree, metadata
        self.notes = list(tree.notes)
        self._names = frozenset(tree.names)
        self._by_key = {_key(name): name for name in reversed(tree.names)}
        columns = self._columns()
        self._file = self._file_column(columns, image_column)
        self._caption = self._caption_column(columns, caption_column)
        if _REPEATS in columns:
            self.notes.append(f"{metadata}: took column '{_REPEATS}' as how often an epoch shows a picture")
        listed = [self._name_of(row) for row in self._rows()]
        known = frozenset(listed)
        pictures = (n for n in tree.names if PurePosixPath(n).suffix.lower() in PICTURE_SUFFIXES)
        self._unlisted = [name for name in pictures if name not in known]
        self._n_rows = len(listed)
        self.total = self._n_rows + len(self._unlisted)

    def records(self) -> Iterator[Record | QuarantinedRecord]:
        """The records of all rows, then the pictures that no row names."""
        for number, row in enumerate(self._rows()):
            yield self._record(number, row)
        for number, name in enumerate(self._unlisted, self._n_rows):
            yield QuarantinedRecord(name, number, "no-caption", f"no line of {self.metadata} names this file")

    def _record(self, number: int, row: _Row) -> Record | QuarantinedRecord:
        name = self.metadata
        try:
            if isinstance(row, BrokenRecordError):
                raise row
            name = self._file_name(row)
            return Record(name, number, self.tree.read(name), row.get(self._caption), _repeats(row.get(_REPEATS)))
        except BrokenRecordError as broken:
            return QuarantinedRecord(name, number, broken.reason, broken.detail)

    def _columns(self) -> list[str]:
        columns: dict[str, None] = {}
        for row in islice(self._rows(), _ROWS_CHECKED):
            columns |= {} if isinstance(row, BrokenRecordError) else dict.fromkeys(row)
        if any("\0" in column for column in columns):
            raise DatasetUnusable(
                f"{self._place} is neither UTF-8 nor UTF-16 with a byte order mark: save it as UTF-8."
            )
        return list(columns)

    @property
    def _place(self) -> str:
        return f"{self.tree.label}/{self.metadata}"

    def _file_column(self, columns: list[str], image_column: str) -> str:
        candidates = (_FILE_COLUMN, image_column, "image")
        column = next((candidate for candidate in candidates if candidate in columns), "")
        if not column and (addresses := address_column(columns)):
            raise DatasetUnusable(f"{self._place} lists addresses of pictures (column '{addresses}'): {URLS}")
        if columns and not column:
            raise self._no_column(_FILE_COLUMN, columns)
        if column and column != _FILE_COLUMN:
            self.notes.append(f"{self.metadata}: took column '{column}' as file names")
        return column or _FILE_COLUMN

    def _caption_column(self, columns: list[str], caption_column: str) -> str:
        if caption_column in columns or not columns:
            return caption_column
        others = [column for column in ("caption", "prompt") if column in columns]
        if caption_column != _DEFAULT_CAPTION_COLUMN or len(others) != 1:
            raise self._no_column(caption_column, columns)
        self.notes.append(f"{self.metadata}: took column '{others[0]}' as captions")
        return others[0]

    def _no_column(self, column: str, columns: list[str]) -> DatasetUnusable:
        return DatasetUnusable(
            f"{self._place} has no column '{column}'; its columns are {', '.join(columns)}: "
            "name the file in file_name and set dataset.caption_column."
        )

    def _rows(self) -> Iterator[_Row]:
        read = {METADATA: self._json_rows, _ARRAY: self._json_rows, _CSV: self._csv_rows, _PARQUET: self._parquet_rows}
        return read[self.metadata]()

    def _json_rows(self) -> Generator[_Row]:
        with self._text("\n") as lines:
            first = next((line for line in lines if line.strip()), "")
            if first.lstrip().startswith("["):
                yield from _json_array(first + lines.read(_MAX_ARRAY))
                return
            for line in chain([first], lines):
                if line.strip():
                    try:
                        yield _parse(line)
                    except BrokenRecordError as broken:
                        yield broken

    def _csv_rows(self) -> Generator[_Row]:
        """Rows of a table with a header. A broken row is one record; an open quotation mark at the end is an error."""
        with self._text("") as lines:
            blank, header = next(((n, line) for n, line in enumerate(lines) if line.strip()), (0, ""))
            reader = csv.DictReader(
                chain([header], lines), delimiter=_delimiter(header), skipinitialspace=True, strict=True
            )
            try:
                _ = reader.fieldnames  # reads the header
            except csv.Error as error:
                raise DatasetUnusable(f"cannot read the header of {self._place} ({error}): write it anew.") from None
            while True:
                began = blank + reader.line_num + 1
                try:
                    row = next(reader, None)
                except csv.Error as error:
                    if "end of data" in str(error):
                        raise DatasetUnusable(
                            f"{self._place} ends within the quotation marks that line {began} opens: close them."
                        ) from None
                    yield BrokenRecordError("bad-metadata", f"line {began}: {error}")
                    continue
                if row is None:
                    return
                yield row if None not in row and None not in row.values() else _ragged(began)

    def _parquet_rows(self) -> Generator[_Row]:
        with self.tree.open(self.metadata) as file, pq.ParquetFile(file, pre_buffer=False) as table:
            rows = safe_batch_rows(table, file, table.schema_arrow.names, _BATCH, self._place)
            try:
                for batch in table.iter_batches(rows, use_threads=False):
                    yield from cast("list[dict[str, Any]]", batch.to_pylist())
            except (pa.ArrowException, OSError, ValueError) as error:
                raise DatasetUnusable(f"cannot read {self._place}: {error}") from error

    def _text(self, newline: str) -> io.TextIOWrapper:
        return _open_text(self.tree, self.metadata, newline)

    def _name_of(self, row: _Row) -> str:
        try:
            return "" if isinstance(row, BrokenRecordError) else self._file_name(row)
        except BrokenRecordError:
            return ""

    def _file_name(self, row: dict[str, Any]) -> str:
        """The row's file as a relative path with forward slashes. Raises BrokenRecordError."""
        name = row.get(self._file)
        if not isinstance(name, str) or not name:
            raise BrokenRecordError("bad-metadata", f"{self._file} is missing or not text")
        if "://" in name:
            raise BrokenRecordError("address", f"{name[:200]} is an address: {URLS.rstrip('.')}")
        if leads_out(name) or leads_out(name.replace("\\", "/")):
            raise BrokenRecordError("outside-folder", f"{name} leads out of the folder")
        plain = PurePosixPath(name).as_posix()
        return plain if plain in self._names else self._by_key.get(_key(plain), plain)


def _open_text(tree: FileTree, name: str, newline: str) -> io.TextIOWrapper:
    """A metadata file as text. Bytes that are not in its encoding make their row invalid, not the file."""
    file = tree.open(name)
    utf16 = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    file.seek(0)
    return io.TextIOWrapper(
        file, encoding="utf-16" if utf16 else "utf-8-sig", errors="surrogateescape", newline=newline
    )


def _is_array(tree: FileTree) -> bool:
    """Whether `metadata.json` begins as a JSON array; other programs write objects of that name."""
    with _open_text(tree, _ARRAY, "\n") as lines:
        return lines.read(_BEGINNING).lstrip().startswith("[")


def _key(name: str) -> str:
    """What a file name has in common with its other spellings."""
    return unicodedata.normalize("NFC", PurePosixPath(name.replace("\\", "/")).as_posix())


def _json_array(text: str) -> Iterator[_Row]:
    """The rows of a file that is one JSON array of objects; a broken file is one broken row."""
    try:
        rows: list[object] = json.loads(text)
    except (ValueError, RecursionError) as error:
        yield BrokenRecordError("bad-metadata", f"the file begins as a JSON array, and is none: {error}")
        return
    for row in rows:
        yield cast("dict[str, Any]", row) if isinstance(row, dict) else _no_object("entry")


def _parse(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError("bad-metadata", f"the line is not JSON: {error}") from None
    if not isinstance(entry, dict):
        raise _no_object("line")
    return cast("dict[str, Any]", entry)


def _no_object(what: str) -> BrokenRecordError:
    return BrokenRecordError("bad-metadata", f"the {what} is not a JSON object")


def _delimiter(header: str) -> str:
    """What is between the names of a table's header; a sign within quotation marks is part of a name."""
    outside = re.sub(r'"[^"]*"', "", header)
    return next((sign for sign in ",;\t" if sign in outside), ",")


def _ragged(line: int) -> BrokenRecordError:
    return BrokenRecordError(
        "bad-metadata",
        f"line {line} has more or fewer fields than the header; put text that has commas in double quotes",
    )


def _repeats(value: object) -> int:
    """A row's repeats, 1 where it has none. Raises BrokenRecordError when it is no whole number from 1 to 1000."""
    if value is None or value == "":
        return 1
    text = str(value)
    repeats = int(text) if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS else 0
    if not 1 <= repeats <= _MAX_REPEATS:
        shown = text[:_MOST_DIGITS]
        raise BrokenRecordError("bad-metadata", f"{_REPEATS} is {shown}, not a whole number from 1 to {_MAX_REPEATS}")
    return repeats
