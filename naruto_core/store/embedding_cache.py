"""Embeddings: what a network said of a picture or a text, kept once for all runs.

Keyed by extractor and content, in half precision, in a database file of its own: it is no part of the record, and what
is lost of it is computed again. So is what was damaged: every row carries a digest. Reading gives arrays that a file
stands behind, not memory.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

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
from naruto_core.store.connection import Database, make_engine, parse

TABLE = Table(
    "embeddings",
    MetaData(),
    Column("extractor", String, primary_key=True),
    Column("content", String, primary_key=True),
    Column("blank", Boolean, nullable=False),
    Column("features", LargeBinary, nullable=False),
    Column("digest", LargeBinary),
)
_AT_ONCE = 500  # keys in one question to the database


@dataclass(frozen=True, slots=True)
class Embedded:
    """Features (n, d), float16, and which of the pictures (n,) are without content."""

    features: NDArray[np.float16]
    blank: NDArray[np.bool_]


class EmbeddingCache(Database):
    """The embeddings in the file `path`, which is made when it is not there. Several processes may use it at once."""

    def __init__(self, path: Path) -> None:
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(make_engine(parse(f"sqlite:///{path}")))
        self._folder = path.parent
        with self._writing() as session:
            TABLE.create(session.connection(), checkfirst=True)
            if not any(column["name"] == "digest" for column in inspect(session.connection()).get_columns(TABLE.name)):
                _add_digests(session)

    def missing(self, extractor: str, contents: Sequence[str]) -> list[str]:
        """Which of `contents` were not yet embedded by `extractor`, each once, in their order.

        Rows that are not what was written are removed, and count as missing.
        """
        known: set[str] = set()
        damaged: list[str] = []
        with self._reading() as session:
            for part in _parts(contents):
                for row in session.execute(select(TABLE).where(_of(extractor, part))):
                    whole = row.digest == row_digest(extractor, row.content, row.features, blank=row.blank)
                    known.add(row.content) if whole else damaged.append(row.content)
        if damaged:
            with self._writing() as session:
                for part in _parts(damaged):
                    session.execute(delete(TABLE).where(_of(extractor, part)))
        return [content for content in dict.fromkeys(contents) if content not in known]

    def add(
        self, extractor: str, contents: Sequence[str], features: NDArray[np.floating], blank: Sequence[bool]
    ) -> None:
        """Keep `features` (n, d) of `contents`; what is there already stays."""
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

    def read(self, extractor: str, contents: Sequence[str]) -> Embedded:
        """The embeddings of `contents`, in their order; RecordDamaged when one is missing or of another length."""
        where = {content: i for i, content in reversed(list(enumerate(contents)))}
        first = np.array([where[content] for content in contents], dtype=np.intp)
        blank, features, found = np.zeros(len(contents), dtype=np.bool_), None, 0
        with self._reading() as session:
            for part in _parts(list(where)):
                for row in session.execute(select(TABLE).where(_of(extractor, part))):
                    values = np.frombuffer(row.features, dtype=np.float16)
                    if features is None:
                        features = _on_disk(self._folder, len(contents), len(values))
                    if len(values) != features.shape[1]:
                        raise RecordDamaged(
                            f"embeddings by {extractor} have several lengths; delete cache/embeddings.db."
                        )
                    features[where[row.content]], blank[where[row.content]] = values, row.blank
                    found += 1
        if features is None or found < len(where):
            raise RecordDamaged(f"{len(where) - found} embeddings by {extractor} are missing; score the run again.")
        for i in np.flatnonzero(first != np.arange(len(contents))).tolist():  # the same content a second time
            features[i], blank[i] = features[first[i]], blank[first[i]]
        return Embedded(features, blank)


def row_digest(extractor: str, content: str, features: bytes, *, blank: bool) -> bytes:
    """8 bytes over all of a row."""
    key = f"{extractor}\0{content}\0{int(blank)}\0".encode()
    return hashlib.blake2b(key + features, digest_size=8).digest()


def _add_digests(session: Session) -> None:
    """Bring a file of an older version, whose rows had none, up to date; they are taken as they are."""
    session.execute(text(f"ALTER TABLE {TABLE.name} ADD COLUMN digest BLOB"))
    last = ("", "")
    while rows := session.execute(
        select(TABLE)
        .where(tuple_(TABLE.c.extractor, TABLE.c.content) > last)
        .order_by(TABLE.c.extractor, TABLE.c.content)
        .limit(_AT_ONCE)
    ).all():
        for row in rows:
            digest = row_digest(row.extractor, row.content, row.features, blank=row.blank)
            session.execute(update(TABLE).where(_of(row.extractor, [row.content])).values(digest=digest))
        last = rows[-1].extractor, rows[-1].content


def _of(extractor: str, contents: Sequence[str]):
    return (TABLE.c.extractor == extractor) & TABLE.c.content.in_(contents)


def _parts(contents: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(contents), _AT_ONCE):
        yield contents[start : start + _AT_ONCE]


def _on_disk(folder: Path, n: int, d: int) -> NDArray[np.float16]:
    """An array that lies in a file without a name: it is gone with the last one who holds it."""
    with TemporaryFile(dir=folder, prefix=".features-") as scratch:
        return np.asarray(np.memmap(scratch, np.float16, "w+", shape=(n, d)))
