"""Dataset versions as Delta tables: one table per source, one row per picture; old versions stay readable.

A commit has the id and the counts of its version. Content that a table already has is not
written again, whichever of its versions has it; old versions are never removed.

A commit's metadata is not trusted: a version is valid when its rows, read back, have its id. Two processes
that create a table at the same time may both replace an empty table by Delta's report, and the newer version
then has the rows of both. A lock prevents it where the file system has locks; reading back detects it everywhere.
"""

import errno
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from naruto_core.artifacts import Layout, exclusive_lock, sha256_bytes, storage_errors
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
        pa.field("repeats", pa.int32(), nullable=False),  # tables of before have no such column: 1
    ]
)
_NO_RETENTION = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.deletedFileRetentionDuration": "interval 36500 days",
}
_MIN_FREE = 1 << 18  # bytes free for a commit and a data file without rows
_FREE_PER_ROW = 400  # bytes, uncompressed
_INVALID_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[\[\]|^?#\\\x00-\x1f]")  # deltalake 1.6 reads these as parts of a URL
_SYSTEM_ERROR = r"(?:os error|code:) (\d+)"  # an errno in messages of Delta's writer
_COMMITS = 20  # tries to write a version while other processes write to the same table
_UNREADABLE = (DeltaError, TableNotFoundError, OSError, pa.ArrowException, ValueError, TypeError)
_BATCH = 4096  # rows in memory at a time on their way to and from the table


def version_id(rows: Iterable[Picture]) -> str:
    """`ds-` and 16 hex digits of a sha256 over the sorted (sha256, caption, split) of all rows.

    Repeats count too, where a picture has more than 1.
    """
    return _id_of([_facts(row.sha256, row.caption, row.split.value, row.repeats) for row in rows])


def _facts(sha256: str, caption: str, split: str, repeats: int = 1) -> tuple[str, ...]:
    return (sha256, caption, split) if repeats == 1 else (sha256, caption, split, str(repeats))


def _id_of(facts: list[tuple[str, ...]]) -> str:
    digest = hashlib.sha256()
    for row in sorted(facts):
        digest.update(json.dumps(row).encode() + b"\n")
    return f"ds-{digest.hexdigest()[:16]}"


def check_table_folder(root: Path) -> None:
    """Raise StorageFailed where the name of the data root has characters that Delta does not support."""
    if invalid := _INVALID_ROOT.search(str(root)):
        raise StorageFailed(
            f"dataset tables cannot be stored below {str(root)!r}: its name has a {invalid[0]!r}; set "
            "NARUTO_HOME to another folder."
        )


def table_name(layout: Layout, source: str) -> str:
    """The table's folder name for a source: its last part for people, and a digest to make it unique.

    Raises StorageFailed as `check_table_folder`.
    """
    check_table_folder(layout.root)
    words = re.sub(r"[^a-z0-9]+", "-", Path(source).name.lower()).strip("-")[:40].strip("-")
    return f"{words or 'dataset'}-{sha256_bytes(source.encode())[:8]}"


def write_version(
    layout: Layout, table: str, source: str, rows: list[Picture], *, n_quarantined: int, n_duplicates: int
) -> DatasetVersion:
    """Write `rows` into the Delta table named `table`, unless it has them already; the dataset version.

    The rows of the version are read back and checked. The commit is atomic: a killed or failed write leaves the older
    versions. A table that Delta cannot open is renamed, and a new one created. Raises StorageFailed for a full disk
    or a folder that is not writable.
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
    note = {"dataset_id": identity, "source": source} | {key: str(value) for key, value in counts.items()}
    with storage_errors(path), _delta_errors(path), exclusive_lock(path.with_name(f".{path.name}.lock")):
        path.mkdir(parents=True, exist_ok=True)
        at = _write(path, identity, rows, note)
    return DatasetVersion(identity, source, layout.relative(path), at, **counts)


def _write(path: Path, identity: str, rows: list[Picture], note: dict[str, str]) -> int:
    """The Delta version that holds `rows`, committed if there was none."""
    for attempt in range(_COMMITS):
        if (at := _find_version(path, identity)) is not None:
            return at
        if attempt:  # without locks, other processes write now: wait a random time
            time.sleep(random.uniform(0, 0.05 * attempt))
        _check_free_space(path, len(rows))
        with suppress(CommitFailedError):  # another process was first: see what it wrote
            write_deltalake(
                path,
                pa.RecordBatchReader.from_batches(_SCHEMA, _batches(rows)),
                mode="overwrite",
                schema_mode="overwrite",
                configuration=_NO_RETENTION,
                writer_properties=WriterProperties(max_row_group_size=_BATCH),
                commit_properties=CommitProperties(custom_metadata=note),
            )
    raise StorageFailed(
        f"other processes keep changing {path} while dataset {identity} is written: run the same command again."
    )


def _find_version(path: Path, identity: str) -> int | None:
    """The newest Delta version of the table whose rows have the id `identity`; None if there is none."""
    if not DeltaTable.is_deltatable(str(path)):
        return None
    try:
        commits = DeltaTable(path).history()
    except DeltaError as error:
        if re.search(_SYSTEM_ERROR, str(error)):  # no permission, or a disk error: the table may be intact
            raise
        damaged = path.with_name(f"{path.name}.damaged-{time.time_ns()}")
        with suppress(FileNotFoundError):
            path.rename(damaged)
        path.mkdir(exist_ok=True)
        return None
    versions = (int(commit["version"]) for commit in commits if commit.get("dataset_id") == identity)
    return next((at for at in versions if _has_id(path, at, identity)), None)


def _has_id(path: Path, at: int, identity: str) -> bool:
    """Whether the rows of version `at` have the id `identity`; reads only the columns that it needs."""
    try:
        batches = _read(path, at, ["sha256", "caption", "split", "repeats"]).to_batches(_BATCH)
    except _UNREADABLE:
        return False
    return _id_of([_facts(**row) for batch in batches for row in batch.to_pylist()]) == identity


def _batches(rows: list[Picture]) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(rows), _BATCH):
        yield pa.RecordBatch.from_pylist([asdict(row) for row in rows[start : start + _BATCH]], schema=_SCHEMA)


def _check_free_space(path: Path, n_rows: int) -> None:
    """Raise OSError (ENOSPC) when the disk is nearly full: Delta's writer would print a panic from another thread."""
    if shutil.disk_usage(path).free < _MIN_FREE + n_rows * _FREE_PER_ROW:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextmanager
def _delta_errors(path: Path) -> Generator[None]:
    """Turn an errno in a message of Delta's writer into OSError, for `storage_errors`; other errors: StorageFailed."""
    try:
        yield
    except (DeltaError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        message = _single_line(error)
        if code := re.search(_SYSTEM_ERROR, message):
            raise OSError(int(code[1]), message) from error
        raise StorageFailed(f"cannot write the dataset table {path}: {message}") from error


def _single_line(error: Exception) -> str:
    plain = re.sub(r"\x1b\[\d*m", "", str(error))  # deltalake colours its chain of causes
    return " ".join(plain.split())


def _read(path: Path, at: int, columns: list[str]) -> pa.Table:
    """Columns of version `at` of a table, those that it has, in its own order, read in this thread.

    A process that ends while Arrow's threads run is aborted (apache/arrow#34314); Arrow's datasets use threads for
    reading ahead even with use_threads=False.
    """
    parts: list[pa.Table] = []
    for uri in DeltaTable(path, version=at).file_uris():
        with pq.ParquetFile(path / uri.rpartition("/")[2], pre_buffer=False) as file:  # names are never encoded
            parts.append(file.read(columns=columns, use_threads=False))
    return pa.concat_tables(parts) if parts else _SCHEMA.empty_table().select(columns)


def read_pictures(layout: Layout, version: DatasetVersion) -> list[Picture]:
    """The pictures of `version`, sorted by sha256 and caption.

    Raises RecordDamaged when the table is missing, or its rows do not have the version's id.
    """
    path = layout.absolute(version.table)
    remedy = f"ingest {version.source} again."
    try:
        rows = _rows(path, version.delta_version)
    except _UNREADABLE as error:
        raise RecordDamaged(
            f"dataset {version.id} cannot be read from {path}: {_single_line(error)}; {remedy}"
        ) from error
    if version_id(rows) != version.id:
        raise RecordDamaged(f"the rows in {path} are not those of dataset {version.id}; {remedy}")
    return sorted(rows, key=lambda p: (p.sha256, p.caption))


def read_picture(layout: Layout, picture: Picture) -> bytes:
    """The bytes of a dataset picture as ingested. Raises RecordDamaged when the file is missing or was changed."""
    path = layout.picture(picture.sha256, picture.suffix)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RecordDamaged(f"the picture {layout.relative(path)} is missing: ingest its dataset again.") from None
    if sha256_bytes(data) != picture.sha256:
        raise RecordDamaged(f"the picture {layout.relative(path)} is damaged: ingest its dataset again.")
    return data


def is_intact(layout: Layout, version: DatasetVersion) -> bool:
    """Whether the rows of `version` can be read and have its id."""
    return _has_id(layout.absolute(version.table), version.delta_version, version.id)


def to_parquet(rows: list[Picture]) -> bytes:
    """`rows` as a parquet file."""
    data = BytesIO()
    pq.write_table(pa.Table.from_batches(_batches(rows), _SCHEMA), data)
    return data.getvalue()


def write_parquet(layout: Layout, version: DatasetVersion, data: bytes) -> None:
    """Write the table of `version` from `data`, as `to_parquet` made it on another machine.

    Raises RecordDamaged where these are other rows, or the table here counts its versions otherwise.
    """
    try:
        rows = [_picture(entry) for entry in pq.read_table(BytesIO(data), use_threads=False).to_pylist()]
    except _UNREADABLE as error:
        raise RecordDamaged(f"the rows of dataset {version.id} cannot be read: {_single_line(error)}") from error
    counts = {"n_quarantined": version.n_quarantined, "n_duplicates": version.n_duplicates}
    written = write_version(layout, Path(version.table).name, version.source, rows, **counts)
    if written != version:
        raise RecordDamaged(
            f"dataset {version.id} was recorded otherwise than its rows in the bucket: ingest {version.source} again."
        )


def _rows(path: Path, at: int) -> list[Picture]:
    """The rows of version `at` of a table, in its own order."""
    batches = _read(path, at, _SCHEMA.names).to_batches(_BATCH)
    return [_picture(entry) for batch in batches for entry in batch.to_pylist()]


def _picture(entry: dict[str, Any]) -> Picture:
    split = Split(entry.pop("split"))
    return Picture(split=split, **entry)
