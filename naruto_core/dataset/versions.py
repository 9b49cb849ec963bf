"""Dataset versions as Delta tables: one table a source, one row a picture, time travel between versions.

A commit carries the id and the counts of its version. Content that a table already holds is not
written again, whichever of its versions holds it; old versions are kept for good.
"""

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from naruto_core.artifacts import Layout, sha256_bytes, storage_errors
from naruto_core.domain import DatasetVersion, Picture, Split
from naruto_core.errors import RecordDamaged, StorageFailed

_SCHEMA = pa.schema(
    [
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("suffix", pa.string(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("caption", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("perceptual_hash", pa.string(), nullable=False),
        pa.field("duplicate_of", pa.string(), nullable=False),
    ]
)
_KEPT_FOR_GOOD = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
_ROOM = 1 << 18  # bytes free for a commit and a data file without rows
_ROOM_PER_ROW = 400  # bytes, uncompressed
_UNFIT = re.compile(r"%[0-9A-Fa-f]{2}|[\[\]|^\\\x00-\x1f]")  # deltalake 1.6 mistakes these for parts of a URL
_BATCH = 4096  # rows in memory at a time on their way to and from the table


def version_id(rows: Iterable[Picture]) -> str:
    """`ds-` and 16 hex digits of a sha256 over the sorted (sha256, caption, split) of all rows."""
    digest = hashlib.sha256()
    for row in sorted(rows, key=lambda p: (p.sha256, p.caption)):
        digest.update(json.dumps([row.sha256, row.caption, row.split.value]).encode() + b"\n")
    return f"ds-{digest.hexdigest()[:16]}"


def table_name(layout: Layout, source: str) -> str:
    """A folder name for a source: its last words for people, a digest so that no two share one.

    Raises StorageFailed where the data root has a name that Delta tables cannot lie below.
    """
    if unfit := _UNFIT.search(str(layout.root)):
        raise StorageFailed(
            f"dataset tables cannot lie below {str(layout.root)!r}: its name has a {unfit[0]!r}; set "
            "NARUTO_HOME elsewhere."
        )
    words = re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-")[:40].strip("-")
    return f"{words or 'dataset'}-{sha256_bytes(source.encode())[:8]}"


def write_version(
    layout: Layout, table: str, source: str, rows: list[Picture], *, n_quarantined: int, n_duplicates: int
) -> DatasetVersion:
    """Put `rows` into the Delta table named `table` unless it holds them already; the version they are.

    The commit is atomic: a killed or refused write leaves the versions that were there. Raises
    StorageFailed when the disk is full or the folder cannot be written.
    """
    path = layout.table(table)
    identity = version_id(rows)
    n_reference = sum(row.split is Split.REFERENCE for row in rows)
    counts = {
        "n_train": len(rows) - n_reference,
        "n_reference": n_reference,
        "n_quarantined": n_quarantined,
        "n_duplicates": n_duplicates,
    }
    with storage_errors(path), _delta_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        at = _held(path, identity)
        if at is None:
            _refuse_full_disk(path, len(rows))
            note = {"dataset_id": identity, "source": source} | {key: str(value) for key, value in counts.items()}
            write_deltalake(
                path,
                pa.RecordBatchReader.from_batches(_SCHEMA, _batches(rows)),
                mode="overwrite",
                configuration=_KEPT_FOR_GOOD,
                writer_properties=WriterProperties(max_row_group_size=_BATCH),
                commit_properties=CommitProperties(custom_metadata=note),
            )
            at = _held(path, identity)
    if at is None:
        raise StorageFailed(f"{path} was changed while dataset {identity} was written: run the same command again.")
    return DatasetVersion(identity, source, layout.relative(path), at, **counts)


def _held(path: Path, identity: str) -> int | None:
    """The Delta version of the table that holds that content, all of its files still there."""
    if not DeltaTable.is_deltatable(str(path)):
        return None
    for commit in DeltaTable(path).history():
        if commit.get("dataset_id") == identity:
            at = int(commit["version"])
            files = DeltaTable(path, version=at).file_uris()  # their folders percent-encoded, their names plain
            if all((path / Path(file).name).exists() for file in files):
                return at
    return None


def _batches(rows: list[Picture]) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(rows), _BATCH):
        yield pa.RecordBatch.from_pylist([asdict(row) for row in rows[start : start + _BATCH]], schema=_SCHEMA)


def _refuse_full_disk(path: Path, n_rows: int) -> None:
    """Delta's writer meets a full disk with a panic printed by another thread: ask before it does."""
    if shutil.disk_usage(path).free < _ROOM + n_rows * _ROOM_PER_ROW:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _delta_errors(path: Path) -> Generator[None]:
    """Delta's writer knows no errno but in its words; give it back, so that the usual sentence is said."""
    try:
        yield
    except (DeltaError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = _one_line(error)
        if code := re.search(r"(?:os error|code:) (\d+)", why):
            raise OSError(int(code[1]), why) from error
        raise StorageFailed(f"cannot write the dataset table {path}: {why}") from error


def _one_line(error: Exception) -> str:
    plain = re.sub(r"\x1b\[\d*m", "", str(error))  # deltalake colours its chain of causes
    return " ".join(plain.split())


def _read(path: Path) -> pa.Table:
    """A data file's rows, read in this thread.

    A process that ends while Arrow's own threads are about is aborted (apache/arrow#34314); its datasets use some for
    reading ahead whatever `use_threads` says.
    """
    with pq.ParquetFile(path, pre_buffer=False) as file:
        return file.read(columns=_SCHEMA.names, use_threads=False)


def read_pictures(layout: Layout, version: DatasetVersion) -> list[Picture]:
    """The rows of exactly that version, sorted by sha256 and caption.

    Raises RecordDamaged when the table is gone or no longer holds what the version's id says.
    """
    path = layout.absolute(version.table)
    again = f"ingest {version.source} again."
    try:
        parts = [uri.rpartition("/")[2] for uri in DeltaTable(path, version=version.delta_version).file_uris()]
        found = pa.concat_tables([_read(path / part) for part in parts]) if parts else _SCHEMA.empty_table()
    except (DeltaError, TableNotFoundError, OSError, pa.ArrowException) as error:
        raise RecordDamaged(f"dataset {version.id} cannot be read from {path}: {_one_line(error)}; {again}") from error
    rows = [_picture(entry) for batch in found.to_batches(_BATCH) for entry in batch.to_pylist()]
    if version_id(rows) != version.id:
        raise RecordDamaged(f"the rows in {path} are not those of dataset {version.id}; {again}")
    return sorted(rows, key=lambda p: (p.sha256, p.caption))


def _picture(entry: dict[str, Any]) -> Picture:
    split = Split(entry.pop("split"))
    return Picture(split=split, **entry)
