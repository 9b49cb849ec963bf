"""Read another NARUTO_HOME without writing to it: it may be an archive or on a read-only disk.

Opening an SQLite database writes beside it, and migrates a database of an older version. So a copy is opened, in a
temporary folder; pictures and tables, which are only read, are linked.
"""

import os
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from naruto_core.artifacts import Layout, storage_errors
from naruto_core.errors import NotRecorded, StorageFailed
from naruto_core.store.embedding_cache import TABLE, EmbeddingCache

DATABASE_FILE = "naruto.db"
_BATCH = 1000  # embeddings in memory at a time


def has_database(home: Path) -> bool:
    """Whether `home` is a NARUTO_HOME with a database."""
    return (home / DATABASE_FILE).is_file()


@contextmanager
def read_only_layout(home: Path, own: Layout, compared_with: Path | None = None) -> Generator[Layout]:
    """A temporary layout with the content of `home`, for the length of the block; its database is `DATABASE_FILE`.

    Where several homes have an embedding, that of `own` is used, then that of `compared_with`, another home: machines
    round differently, and the same picture must have the same features on both sides of a comparison. Raises
    NotRecorded when `home` has no database, StorageFailed when its database is being written to.
    """
    if not has_database(home):
        raise NotRecorded(f"{home} is not a NARUTO_HOME: it has no {DATABASE_FILE}.")
    cache = own.embeddings.parent
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".read-only-", dir=cache) as scratch:
        layout = Layout(Path(scratch))
        with storage_errors(layout.root):
            _copy(home / DATABASE_FILE, layout.root / DATABASE_FILE)
            for entry in home.iterdir():
                if entry.is_dir() and entry.name != cache.name:
                    (layout.root / entry.name).symlink_to(entry.absolute())
            caches = [Layout(root).embeddings for root in (compared_with, home) if root]
            _merge(own.embeddings, caches, layout.embeddings)
        yield layout


def _copy(database: Path, target: Path) -> None:
    """Copy a database and its journal. Raises StorageFailed when it changes meanwhile."""
    names = [database.name, f"{database.name}-wal", f"{database.name}-journal"]
    sources = [path for name in names if (path := database.with_name(name)).exists()]
    before = [_stamp(path) for path in sources]
    for source in sources:
        if not os.access(source, os.R_OK):
            raise StorageFailed(f"this user may not read {source}: change its owner, or copy the folder.")
        shutil.copyfile(source, target.with_name(source.name.replace(database.name, target.name)))
    if before != [_stamp(path) for path in sources if path.exists()]:
        raise StorageFailed(f"{database} is being written to: try again when the other program has finished.")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _merge(own: Path, caches: Sequence[Path], merged: Path) -> None:
    """Copy all embeddings into the file `merged`: own first; existing rows stay."""
    with _MergeableCache(merged) as target:
        if own.exists():
            with _MergeableCache(own) as source:
                target.copy_from(source)
        for i, other in enumerate(path for path in caches if path.exists()):
            copy = merged.with_name(f"other-{i}.db")
            _copy(other, copy)
            with _MergeableCache(copy) as source:
                target.copy_from(source)


class _MergeableCache(EmbeddingCache):
    """An embedding cache that can copy the rows of another."""

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """All rows, in batches."""
        with self._reading() as session:
            result = session.execute(select(TABLE).execution_options(yield_per=_BATCH))
            for batch in result.mappings().partitions():
                yield [dict(row) for row in batch]

    def copy_from(self, other: "_MergeableCache") -> None:
        """Add the rows of `other` that are missing here."""
        for rows in other.rows():
            with self._writing() as session:
                session.execute(insert(TABLE).on_conflict_do_nothing(), rows)
