"""Tabular sources: parquet files (as on the hub) and folders that `save_to_disk` wrote.

Both are streamed a few rows at a time. The picture column has bytes, or a struct with `bytes` and
`path`; a path without bytes is never opened.
"""

import json
import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
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
_DEFAULT = "default"  # the hub's name of the configuration that is meant when none is named
_NUMBERED = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.\w+")
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
    if shard.suffix.lower() == ".parquet":
        with pq.ParquetFile(shard) as file:
            return file.metadata.num_rows, file.schema_arrow
    # memory-mapped, so that counting reads only the headers of the batches
    with pa.memory_map(str(shard)) as mapped, pa.ipc.open_stream(mapped) as reader:
        _refuse_compression(shard)
        return sum(batch.num_rows for batch in reader), reader.schema


def _refuse_compression(shard: Path) -> None:
    """DatasetUnusable for an Arrow file with compressed batches: what they unpack to has no limit.

    `save_to_disk` compresses nothing. pyarrow shows no compression without decompressing, so the flatbuffers of the
    batches are read here: Message.header is field 2, DictionaryBatch.data 1, RecordBatch.compression 3.
    """
    with pa.memory_map(str(shard)) as mapped:
        for message in pa.ipc.MessageReader.open_stream(mapped):
            header = message.metadata.to_pybytes()
            batch = _field(header, _offset(header, 0), 2)
            if message.type == "dictionary":
                batch = _field(header, batch, 1)
            if message.type in ("dictionary", "record batch") and _field(header, batch, 3):
                raise DatasetUnusable(
                    f"{shard} is compressed, which no dataset of save_to_disk is: save it again without compression."
                )


def _field(data: bytes, table: int, number: int) -> int:
    """The position of the table that is field `number` of the flatbuffer table at `table`; 0 when it has none."""
    entries = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    entry = 4 + 2 * number
    if not table or entry >= int.from_bytes(data[entries : entries + 2], "little"):
        return 0
    at = int.from_bytes(data[entries + entry : entries + entry + 2], "little")
    return _offset(data, table + at) if at else 0


def _offset(data: bytes, at: int) -> int:
    return at + int.from_bytes(data[at : at + 4], "little")


def _batches(shard: Path, columns: list[str]) -> Generator[pa.RecordBatch]:
    if shard.suffix.lower() == ".parquet":
        with pq.ParquetFile(shard, buffer_size=_BUFFER, pre_buffer=False) as file:
            with shard.open("rb") as raw:
                rows = safe_batch_rows(file, raw, columns, _BATCH, str(shard))
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


@dataclass(frozen=True, slots=True)
class ShardChoice:
    """The shards that are read, and what is said of the others."""

    shards: list[Path]
    notes: Sequence[str] = ()


def choose_shards(root: Path, shards: list[Path]) -> ShardChoice:
    """Of the shards below `root` those of the training split, as splits are named on the hub; without splits, all.

    A split is named by the beginning of a folder or file name; the hub's own conversions may be named `partial-train`.
    Raises DatasetUnusable for several configurations, of which none is named `default`, and for missing shards.
    """
    split_at = {shard: depth for shard in shards if (depth := _split_depth(shard.relative_to(root).parts)) is not None}
    if not split_at:
        _check_complete(root, shards)
        return ShardChoice(shards)
    configurations: dict[str, list[Path]] = {}
    for shard, depth in split_at.items():
        configurations.setdefault("/".join(shard.relative_to(root).parts[:depth]), []).append(shard)
    if len(configurations) > 1 and _DEFAULT not in configurations:
        names = sorted(configurations)
        raise DatasetUnusable(
            f"{root} has {len(names)} configurations ({', '.join(name or 'its top folder' for name in names)}), and "
            f"pictures of one are wanted: use the folder of one, such as {root / names[-1]}."
        )
    chosen = configurations[_DEFAULT] if len(configurations) > 1 else next(iter(configurations.values()))
    _check_complete(root, chosen)
    left = sorted({_name(root, shard) for shard in shards} - {_name(root, shard) for shard in chosen})
    if not left:
        return ShardChoice(chosen)
    note = f"{len(chosen)} of {len(shards)} files are of the training split; {left[0]} is not read"
    return ShardChoice(chosen, [note if len(left) == 1 else f"{note}, nor {len(left) - 1} others"])


def _split_depth(parts: tuple[str, ...]) -> int | None:
    """The number of folders above the part that names the training split; None where no part does."""
    return next((depth for depth, part in enumerate(parts) if part.startswith(_TRAIN)), None)


def _name(root: Path, shard: Path) -> str:
    return shard.relative_to(root).as_posix()


def _check_complete(root: Path, shards: Sequence[Path]) -> None:
    """Raise DatasetUnusable where names like `train-00000-of-00003.parquet` tell of shards that are not there."""
    numbers: dict[tuple[str, str], set[int]] = {}
    for shard in shards:
        if match := _NUMBERED.fullmatch(_name(root, shard)):
            numbers.setdefault((match[1], match[3]), set()).add(int(match[2]))
    for (stem, total), present in numbers.items():
        missing = [number for number in range(int(total)) if number not in present]
        if missing:
            raise DatasetUnusable(
                f"{root} lacks {len(missing)} of {int(total)} files, first {stem}-{missing[0]:05d}-of-{total}: "
                "download it again, or give one file as the source."
            )


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
