"""A cache of embeddings (the features that an extractor gives a picture or a text), shared by all runs.

Keyed by extractor and content, in half precision, in a database file of its own. It is a cache only: a missing or
damaged row (every row has a digest) is computed again. Reading returns arrays that are mapped from a file, so that they
need no memory.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Boolean,
    Column,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    inspect,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from naruto_core.artifacts import storage_errors
from naruto_core.errors import RecordDamaged
from naruto_core.settings import sqlite_url
from naruto_core.store.connection import Repository, make_engine, parse_url

TABLE = Table(
    "embeddings",
    MetaData(),
    Column("extractor", String, primary_key=True),
    Column("content", String, primary_key=True),
    Column("blank", Boolean, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("digest", LargeBinary),
)
_BATCH = 500  # keys in one query
SHARD_ROWS = 4096  # embeddings in a parquet file, at most: 16 MiB of 2,048 features


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Features (n, d), float16, and which pictures are blank (n,), bool."""

    features: NDArray[np.float16]
    blank: NDArray[np.bool_]


class EmbeddingCache(Repository):
    """The embeddings in the file `path`, which is created when it is missing.

    Several processes may use it at once; of several machines too, on a network volume that has locks (NFSv4, CephFS).
    """

    def __init__(self, path: Path) -> None:
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(make_engine(parse_url(sqlite_url(path)), write_ahead=False))
        self._folder = path.parent
        with self._writing() as session:
            TABLE.create(session.connection(), checkfirst=True)
            if not any(column["name"] == "digest" for column in inspect(session.connection()).get_columns(TABLE.name)):
                _add_digests(session)

    def missing(self, extractor: str, contents: Sequence[str]) -> list[str]:
        """Which of `contents` have no embedding by `extractor`, each once, in their order.

        Damaged rows are removed and count as missing.
        """
        valid: set[str] = set()
        damaged: list[str] = []
        with self._reading() as session:
            for batch in _batches(contents):
                for row in session.execute(select(TABLE).where(_rows_of(extractor, batch))):
                    intact = row.digest == row_digest(extractor, row.content, row.features, blank=row.blank)
                    valid.add(row.content) if intact else damaged.append(row.content)
        if damaged:
            with self._writing() as session:
                for batch in _batches(damaged):
                    session.execute(delete(TABLE).where(_rows_of(extractor, batch)))
        return [content for content in dict.fromkeys(contents) if content not in valid]

    def is_intact(self) -> bool:
        """Whether every row has its digest."""
        with self._reading() as session:
            rows = session.execute(select(TABLE).execution_options(yield_per=_BATCH))
            return all(r.digest == row_digest(r.extractor, r.content, r.features, blank=r.blank) for r in rows)

    def add(
        self, extractor: str, contents: Sequence[str], features: NDArray[np.floating], blank: Sequence[bool]
    ) -> None:
        """Add `features` (n, d) and blank flags (n,) of `contents` (n,); existing rows stay as they are."""
        rows = np.asarray(features, dtype=np.float16)
        values = [
            {
                "extractor": extractor,
                "content": content,
                "blank": flag,
                "features": row.tobytes(),
                "digest": row_digest(extractor, content, row.tobytes(), blank=flag),
            }
            for content, row, flag in zip(contents, rows, blank, strict=True)
        ]
        with self._writing() as session:
            session.execute(insert(TABLE).on_conflict_do_nothing(), values)

    def read(self, extractor: str, contents: Sequence[str]) -> Embeddings:
        """The embeddings of `contents`, in their order. RecordDamaged when one is missing or has another length."""
        index = {content: i for i, content in reversed(list(enumerate(contents)))}
        first = np.array([index[content] for content in contents], dtype=np.intp)
        blank, features, n_read = np.zeros(len(contents), dtype=np.bool_), None, 0
        with self._reading() as session:
            for batch in _batches(list(index)):
                for row in session.execute(select(TABLE).where(_rows_of(extractor, batch))):
                    values = np.frombuffer(row.features, dtype=np.float16)
                    if features is None:
                        features = _on_disk(self._folder, len(contents), len(values))
                    if len(values) != features.shape[1]:
                        raise RecordDamaged(
                            f"embeddings by {extractor} have several lengths; delete cache/embeddings.db."
                        )
                    features[index[row.content]], blank[index[row.content]] = values, row.blank
                    n_read += 1
        if features is None or n_read < len(index):
            raise RecordDamaged(f"{len(index) - n_read} embeddings by {extractor} are missing; score the run again.")
        for i in np.flatnonzero(first != np.arange(len(contents))).tolist():  # contents that occur twice
            features[i], blank[i] = features[first[i]], blank[first[i]]
        return Embeddings(features, blank)

    def to_parquet(self, extractor: str, contents: Sequence[str]) -> bytes:
        """The embeddings of `contents` as a parquet file, for `add_parquet` of another cache."""
        import pyarrow as pa  # most that read the cache write no such file
        import pyarrow.parquet as pq

        found: list[dict[str, Any]] = []
        with self._reading() as session:
            for batch in _batches(sorted(set(contents))):
                rows = session.execute(select(TABLE).where(_rows_of(extractor, batch)).order_by(TABLE.c.content))
                found += [dict(row) for row in rows.mappings()]
        data = BytesIO()
        pq.write_table(pa.Table.from_pylist(found), data, compression="none")  # features do not become smaller
        return data.getvalue()

    def add_parquet(self, extractor: str, data: bytes) -> None:
        """Add embeddings by `extractor` that another cache wrote; existing rows stay as they are.

        Raises RecordDamaged for a file that cannot be read, or has a row that is not as it was written.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            rows = pq.read_table(BytesIO(data), use_threads=False, columns=TABLE.columns.keys()).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            raise RecordDamaged(f"it is no parquet file of embeddings ({error})") from None
        for row in rows:
            digest = row_digest(extractor, str(row["content"]), row["features"] or b"", blank=bool(row["blank"]))
            if row["extractor"] != extractor or row["digest"] != digest:
                raise RecordDamaged(f"its row of {row['content']} is not as it was written")
        if rows:
            with self._writing() as session:
                session.execute(insert(TABLE).on_conflict_do_nothing(), rows)


def shards_of(extractor: str, contents: Sequence[str]) -> dict[str, Sequence[str]]:
    """Names of the parquet files that hold the embeddings of `contents`, each with its contents.

    A name says what is in the file, so that whoever needs the same embeddings finds them without a list of files.
    """
    keys = sorted(set(contents))
    parts = [keys[start : start + SHARD_ROWS] for start in range(0, len(keys), SHARD_ROWS)]
    digests = [hashlib.sha256("\0".join([extractor, *part]).encode()).hexdigest() for part in parts]
    return {f"embeddings/{digest}.parquet": part for digest, part in zip(digests, parts, strict=True)}


def row_digest(extractor: str, content: str, features: bytes, *, blank: bool) -> bytes:
    """An 8-byte BLAKE2b digest over the key and the values of a row."""
    key = f"{extractor}\0{content}\0{int(blank)}\0".encode()
    return hashlib.blake2b(key + features, digest_size=8).digest()


def _add_digests(session: Session) -> None:
    """Add digests to a file of an older version, which had none; its rows are assumed to be intact."""
    session.execute(text(f"ALTER TABLE {TABLE.name} ADD COLUMN digest BLOB"))
    last = ("", "")
    while rows := session.execute(
        select(TABLE)
        .where(tuple_(TABLE.c.extractor, TABLE.c.content) > last)
        .order_by(TABLE.c.extractor, TABLE.c.content)
        .limit(_BATCH)
    ).all():
        for row in rows:
            digest = row_digest(row.extractor, row.content, row.features, blank=row.blank)
            session.execute(update(TABLE).where(_rows_of(row.extractor, [row.content])).values(digest=digest))
        last = rows[-1].extractor, rows[-1].content


def _rows_of(extractor: str, contents: Sequence[str]):
    return (TABLE.c.extractor == extractor) & TABLE.c.content.in_(contents)


def _batches(contents: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(contents), _BATCH):
        yield contents[start : start + _BATCH]


def _on_disk(folder: Path, n: int, d: int) -> NDArray[np.float16]:
    """An array (n, d) mapped from a temporary file, which the system removes with the last reference to the array."""
    with TemporaryFile(dir=folder, prefix=".features-") as scratch:
        return np.asarray(np.memmap(scratch, np.float16, "w+", shape=(n, d)))
