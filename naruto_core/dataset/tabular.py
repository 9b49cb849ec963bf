"""Tabular sources: parquet files (as on the hub) and folders that `save_to_disk` wrote.

Both are streamed a few rows at a time. The picture column has bytes, or a struct with `bytes` and
`path`; a path without bytes is never opened.
"""

import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from naruto_core.dataset.imagefolder import URLS, address_column
from naruto_core.dataset.parquet_limits import safe_batch_rows
from naruto_core.dataset.records import BrokenRecordError, Record
from naruto_core.domain import QuarantinedRecord
from naruto_core.errors import DatasetUnusable

_BATCH = 16  # rows in memory at a time
_TRAIN = ("train", "partial-train")
_BUFFER = 1 << 20  # bytes read ahead; without it a whole row group would be loaded


class Table:
    """Shards with the same schema, and the names of their picture and caption columns. Raises DatasetUnusable."""

    def __init__(self, root: Path, shards: list[Path], image_column: str, caption_column: str) -> None:
        self.root = root
        self.shards = shards
        self.columns = (image_column, caption_column)
        self.total = sum(self._open(shard) for shard in shards)

    def records(self) -> Iterator[Record | QuarantinedRecord]:
        """The records of all shards, in order. Raises DatasetUnusable when a shard is damaged."""
        for shard in self.shards:
            name = shard.relative_to(self.root).as_posix()
            yield from self._records(shard, name)

    def _records(self, shard: Path, name: str) -> Iterator[Record | QuarantinedRecord]:
        row = 0
        # closed at once when the reader stops early or fails
        with closing(_batches(shard, list(self.columns))) as batches:
            while True:
                try:
                    batch = next(batches, None)
                except (pa.ArrowException, OSError, ValueError) as error:
                    raise _unreadable(shard, error, f" after row {row}") from None
                if batch is None:
                    return
                images, captions = (batch.column(column) for column in self.columns)
                for image, caption in zip(images, captions, strict=True):
                    yield _record(name, row, image, caption)
                    row += 1

    def _open(self, shard: Path) -> int:
        """Check the columns of a shard; its number of rows."""
        try:
            rows, schema = _shape(shard)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(shard, error) from None
        addresses = address_column(schema.names)
        if addresses and not any(_holds_bytes(kind) for kind in schema.types):
            raise DatasetUnusable(f"{shard.name} lists addresses of pictures (column '{addresses}'): {URLS}")
        for column in self.columns:
            if column not in schema.names:
                raise DatasetUnusable(
                    f"{shard.name} has no column '{column}'; its columns are {', '.join(schema.names)}: "
                    "set dataset.image_column and dataset.caption_column."
                )
        image_column = self.columns[0]
        if not _holds_bytes(schema.field(image_column).type):
            raise DatasetUnusable(
                f"column '{image_column}' of {shard.name} is {schema.field(image_column).type}, not the bytes of "
                "pictures: set dataset.image_column to another column."
            )
        return rows


def _unreadable(shard: Path, error: Exception, where: str = "") -> DatasetUnusable:
    reason = " ".join(str(error).split())
    return DatasetUnusable(f"cannot read {shard}{where}: {reason}; download or write the file again.")


def _shape(shard: Path) -> tuple[int, pa.Schema]:
    if shard.suffix == ".parquet":
        with pq.ParquetFile(shard) as file:
            return file.metadata.num_rows, file.schema_arrow
    # memory-mapped, so that counting reads only the headers of the batches
    with pa.memory_map(str(shard)) as mapped, pa.ipc.open_stream(mapped) as reader:
        return sum(batch.num_rows for batch in reader), reader.schema


def _batches(shard: Path, columns: list[str]) -> Generator[pa.RecordBatch]:
    if shard.suffix == ".parquet":
        with pq.ParquetFile(shard, buffer_size=_BUFFER, pre_buffer=False) as file:
            rows = safe_batch_rows(file, columns, _BATCH, str(shard))
            yield from file.iter_batches(rows, columns=columns, use_threads=False)
    else:
        with pa.OSFile(str(shard)) as file, pa.ipc.open_stream(file) as reader:
            for batch in reader:
                yield batch.select(columns)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        names = [field.name for field in kind]
        return "bytes" in names and _holds_bytes(kind.field(names.index("bytes")).type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _record(source: str, row: int, image: pa.Scalar, caption: pa.Scalar) -> Record | QuarantinedRecord:
    try:
        return Record(source, row, _bytes(image), _caption(caption))
    except BrokenRecordError as broken:
        return QuarantinedRecord(source, row, broken.reason, broken.detail)


def _bytes(image: pa.Scalar) -> bytes:
    value = image.as_py()
    if isinstance(value, Mapping):
        fields = cast(Mapping[str, Any], value)
        if fields["bytes"] is None and fields.get("path"):
            raise BrokenRecordError("missing-file", f"only a path is recorded ({fields['path']}), not the picture")
        value = fields["bytes"]
    if value is None:
        raise BrokenRecordError("no-image", "the picture is missing")
    return bytes(value)


def _caption(caption: pa.Scalar) -> object:
    try:
        return caption.as_py()
    except UnicodeDecodeError as error:
        raise BrokenRecordError("caption-not-text", f"the caption is not UTF-8: {error.reason}") from None


def train_split(root: Path, shards: list[Path]) -> list[Path]:
    """The shards whose folder or file name begins with `train`, as splits are named on the hub; else all shards.

    The hub's own conversions to parquet may be named `partial-train`.
    """
    chosen = [s for s in shards if any(part.startswith(_TRAIN) for part in s.relative_to(root).parts)]
    return chosen or shards


def has_column(shard: Path, column: str) -> bool:
    """Whether the parquet file `shard` has that column; True when it cannot be read, so that its error is shown."""
    try:
        return column in pq.read_schema(shard).names
    except (pa.ArrowException, OSError, ValueError):
        return True


def saved_shards(folder: Path) -> list[Path]:
    """The arrow files that `state.json` of a `save_to_disk` folder lists, in its order."""
    try:
        state = json.loads((folder / "state.json").read_bytes())
        names = [str(entry["filename"]) for entry in state["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetUnusable(f"{folder / 'state.json'} does not list data files: save the dataset again.") from error
    if stray := [name for name in names if Path(name).name != name]:
        raise DatasetUnusable(
            f"{folder / 'state.json'} points outside its folder ({stray[0]}): save the dataset again."
        )
    return [folder / name for name in names]
