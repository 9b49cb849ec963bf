"""Limits for parquet files of strangers, checked in their footer: before anything is decompressed.

A file of 19 KB can hold cells of 600 MB: zeros compress well, and a dictionary repeats one value in every row.
"""

import pyarrow.parquet as pq

from naruto_core.dataset.records import MAX_BYTES
from naruto_core.errors import DatasetUnusable

_HARMLESS = 64 << 20  # bytes of a column in one row group, however well it was compressed
_MOST_COMPRESSED = 100  # times; pictures are compressed already, text about 10 times
_AT_ONCE = 512 << 20  # bytes of a batch


def safe_batch_rows(file: pq.ParquetFile, columns: list[str], rows: int, label: str) -> int:
    """The number of rows, at most `rows`, to read at once, so that a batch stays small even if a dictionary repeats.

    Raises DatasetUnusable, with `label`, when a column of a row group unpacks to much more than its file has, or to
    more than a picture may have on average.
    """
    largest = 1
    for group in range(file.metadata.num_row_groups):
        of_group = file.metadata.row_group(group)
        for number in range(of_group.num_columns):
            column = of_group.column(number)
            if column.path_in_schema.partition(".")[0] not in columns:
                continue
            size = column.total_uncompressed_size
            cell = size / max(1, of_group.num_rows)
            if size > _HARMLESS and (size > _MOST_COMPRESSED * column.total_compressed_size or cell > MAX_BYTES):
                raise DatasetUnusable(
                    f"{label}: {column.total_compressed_size:,} bytes of column '{column.path_in_schema}' unpack to "
                    f"{size:,}: no pictures or captions do; write the file again from the pictures."
                )
            largest = max(largest, size)
    return max(1, min(rows, _AT_ONCE // largest))
