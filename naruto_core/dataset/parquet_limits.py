"""Limits for parquet files of strangers, checked in their footer and page headers: before anything is decompressed.

A file of 19 KB can hold cells of 600 MB: zeros compress well, and a dictionary repeats one value in every row. The
footer may state sizes that are too small, but the reader allocates what the header of each page says; pyarrow shows no
page headers, so they are read here.
"""

from typing import BinaryIO

import pyarrow.parquet as pq

from naruto_core.dataset.records import MAX_BYTES
from naruto_core.errors import DatasetUnusable

_HARMLESS = 64 << 20  # bytes of a column in one row group, however well it was compressed
_MOST_COMPRESSED = 100  # times; pictures are compressed already, text about 10 times
_AT_ONCE = 512 << 20  # bytes of a batch
_LONGEST_HEADER = 1 << 20  # bytes; statistics of a page may hold two values of its column
_DEEPEST = 8  # structures within each other in a page header


def safe_batch_rows(file: pq.ParquetFile, raw: BinaryIO, columns: list[str], rows: int, label: str) -> int:
    """The number of rows, at most `rows`, to read at once, so that a batch stays small even if a dictionary repeats.

    `raw` is the same file, opened for reading. Raises DatasetUnusable, with `label`, when a column of a row group
    unpacks to much more than its file has, or to more than a picture may have on average.
    """
    largest = 1
    for group in range(file.metadata.num_row_groups):
        of_group = file.metadata.row_group(group)
        if not of_group.num_rows:
            continue
        for number in range(of_group.num_columns):
            column = of_group.column(number)
            if column.path_in_schema.partition(".")[0] not in columns:
                continue
            try:
                size = max(column.total_uncompressed_size, _unpacked_size(raw, column))
            except (ValueError, IndexError, RecursionError):
                raise DatasetUnusable(
                    f"cannot read {label}: the page headers of column '{column.path_in_schema}' are damaged; download "
                    "or write the file again."
                ) from None
            cell = size / max(1, of_group.num_rows)
            if size > _HARMLESS and (size > _MOST_COMPRESSED * column.total_compressed_size or cell > MAX_BYTES):
                raise DatasetUnusable(
                    f"{label}: {column.total_compressed_size:,} bytes of column '{column.path_in_schema}' unpack to "
                    f"{size:,}: no pictures or captions do; write the file again from the pictures."
                )
            largest = max(largest, size)
    return max(1, min(rows, _AT_ONCE // largest))


def _unpacked_size(raw: BinaryIO, column: pq.ColumnChunkMetaData) -> int:
    """The sum of what the page headers of a column chunk state; ValueError or IndexError for invalid headers."""
    position, size = column.data_page_offset, 0
    if column.dictionary_page_offset:
        position = min(position, column.dictionary_page_offset)
    end = position + column.total_compressed_size
    while position < end:
        raw.seek(position)
        unpacked, packed, header = _page_header(raw)
        if min(unpacked, packed) < 0:
            raise ValueError("a page of negative size")
        size += unpacked
        position += header + packed
    return size


def _page_header(raw: BinaryIO) -> tuple[int, int, int]:
    """(uncompressed size, compressed size, own length) of the page header at the position of `raw`, in bytes."""
    data, wanted = b"", 256
    while True:
        data += raw.read(wanted)
        fields = _CompactReader(data)
        try:
            sizes = fields.integers()
        except IndexError:
            if len(data) < wanted or wanted > _LONGEST_HEADER:
                raise
            wanted = 2 * len(data)
        else:
            return sizes[2], sizes[3], fields.position


class _CompactReader:
    """Reads a structure in Thrift's compact protocol, as parquet's page headers are; IndexError where `data` ends."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position = data, 0

    def integers(self, depth: int = 0) -> dict[int, int]:
        """The integer fields of a structure, by their numbers; others are skipped. ValueError for an unknown type."""
        if depth > _DEEPEST:
            raise ValueError("structures are nested too deeply")
        values: dict[int, int] = {}
        number = 0
        while header := self._byte():
            kind, step = header & 15, header >> 4
            number = number + step if step else self._integer()
            if kind in (4, 5, 6):  # i16, i32, i64
                values[number] = self._integer()
            else:
                self._skip(kind, depth)
        return values

    def _skip(self, kind: int, depth: int) -> None:
        match kind:
            case 1 | 2:  # a boolean field is its own type
                pass
            case 3:
                self.position += 1
            case 4 | 5 | 6:
                self._varint()
            case 7:
                self.position += 8
            case 8:  # text: its length and its bytes
                length = self._varint()
                self.position += length
            case 9 | 10:  # list, set
                header = self._byte()
                length = header >> 4 if header >> 4 < 15 else self._varint()
                for _ in range(length):
                    self._byte() if header & 15 in (1, 2) else self._skip(header & 15, depth + 1)
            case 12:
                self.integers(depth + 1)
            case _:
                raise ValueError(f"no page header has a field of type {kind}")

    def _byte(self) -> int:
        self.position += 1
        return self._data[self.position - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 64:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("an integer of more than 64 bits")

    def _integer(self) -> int:
        """In zigzag form: 0, -1, 1, -2, ..."""
        value = self._varint()
        return value >> 1 ^ -(value & 1)
