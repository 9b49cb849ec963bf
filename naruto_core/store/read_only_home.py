"""Another data root, to read from: nothing is written there, so that it may be an archive or lie on a read-only disk.

Opening a SQLite database writes beside it, and one of an older version would be brought up to date. So what is opened
is a copy, in a folder that is gone afterwards; pictures and tables, which are only read, are linked.
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

RECORD = "naruto.db"
_AT_ONCE = 1000  # embeddings in memory


def has_database(home: Path) -> bool:
    """Whether `home` is a data root in which something was recorded."""
    return (home / RECORD).is_file()


@contextmanager
def read_only_layout(home: Path, ours: Layout, beside: Path | None = None) -> Generator[Layout]:
    """A layout that shows what `home` holds, for the length of the block; its record is the file `RECORD` in its root.

    Embeddings that several roots have are `ours`, or those of the one it is looked at `beside`: two machines round
    differently, and the same picture shall have the same features on either side of a comparison. Raises NotRecorded
    where no record is, StorageFailed for one in use.
    """
    if not has_database(home):
        raise NotRecorded(f"there is no record in {home}: it has no {RECORD}, so it was nobody's NARUTO_HOME.")
    cache = ours.embeddings.parent
    with storage_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".looked-at-", dir=cache) as scratch:
        layout = Layout(Path(scratch))
        with storage_errors(layout.root):
            _copy(home / RECORD, layout.root / RECORD)
            for entry in home.iterdir():
                if entry.is_dir() and entry.name != cache.name:
                    (layout.root / entry.name).symlink_to(entry.absolute())
            others = [Layout(root).embeddings for root in (beside, home) if root]
            _join(ours.embeddings, others, layout.embeddings)
        yield layout


def _copy(database: Path, target: Path) -> None:
    """Copy a database, and what of it is still in its journal; StorageFailed when it changes meanwhile."""
    names = [database.name, f"{database.name}-wal"]
    sources = [path for name in names if (path := database.with_name(name)).exists()]
    before = [_stamp(path) for path in sources]
    for source in sources:
        if not os.access(source, os.R_OK):
            raise StorageFailed(f"{source} may not be read by this user: change its owner, or copy the folder.")
        shutil.copyfile(source, target.with_name(source.name.replace(database.name, target.name)))
    if before != [_stamp(path) for path in sources if path.exists()]:
        raise StorageFailed(f"{database} is being written to: compare when that is done.")


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _join(ours: Path, others: Sequence[Path], joined: Path) -> None:
    """Put all embeddings into the file `joined`: ours first, and what is there already stays."""
    with _Joined(joined) as target:
        if ours.exists():
            with _Joined(ours) as source:
                target.take(source)
        for i, other in enumerate(path for path in others if path.exists()):
            copy = joined.with_name(f"other-{i}.db")
            _copy(other, copy)
            with _Joined(copy) as source:
                target.take(source)


class _Joined(EmbeddingCache):
    """Embeddings that can be poured into one another."""

    def rows(self) -> Iterator[list[dict[str, Any]]]:
        """All that is kept, some at a time."""
        with self._reading() as session:
            found = session.execute(select(TABLE).execution_options(yield_per=_AT_ONCE))
            for part in found.mappings().partitions():
                yield [dict(row) for row in part]

    def take(self, other: "_Joined") -> None:
        """Keep what `other` has and this one has not."""
        for rows in other.rows():
            with self._writing() as session:
                session.execute(insert(TABLE).on_conflict_do_nothing(), rows)
