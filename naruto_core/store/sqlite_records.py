"""Read what is recorded of a run from a SQLite file with Python's own sqlite3; write nothing, migrate nothing."""

import re
import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from naruto_core.errors import NarutoError, RecordDamaged, StorageFailed
from naruto_core.store.run_queries import RunQueries

BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).parent / "migrations"

_BUSY = "another process has been writing to it for too long; try again when it is done"
_OWNER = "this user may not write there; change its owner, or set NARUTO_HOME to another folder"
_ERRORS: dict[int, tuple[type[NarutoError], str]] = {
    sqlite3.SQLITE_BUSY: (StorageFailed, _BUSY),
    sqlite3.SQLITE_LOCKED: (StorageFailed, _BUSY),
    sqlite3.SQLITE_CANTOPEN: (StorageFailed, _OWNER),
    sqlite3.SQLITE_READONLY: (StorageFailed, _OWNER),
    sqlite3.SQLITE_FULL: (StorageFailed, "the disk is full; free some space and run the same command again"),
    sqlite3.SQLITE_IOERR: (StorageFailed, "the disk refused to read or write; check it and run the same command again"),
    sqlite3.SQLITE_NOTADB: (StorageFailed, "the file is not a SQLite database; move it away or set NARUTO_DATABASE"),
    sqlite3.SQLITE_CORRUPT: (RecordDamaged, "the file is damaged; put back a copy of it"),
}


def sqlite_fault(error: object, place: object) -> NarutoError | None:
    """What an error of SQLite says to people, about the database at `place`; None for one that is a bug."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None or code & 0xFF not in _ERRORS:
        return None
    error_class, reason = _ERRORS[code & 0xFF]
    return error_class(f"cannot use the database {place}: {reason}.")


def newest_revision() -> str:
    """The newest revision of the schema: the files of revisions begin with their number."""
    return max(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


class SqliteRecords(RunQueries):
    """The queries about a run, over a connection of sqlite3 to the database at `place`."""

    def __init__(self, connection: sqlite3.Connection, place: str) -> None:
        self._connection, self._place = connection, place

    def _rows(self, statement: str, **values: object) -> Sequence[Sequence[Any]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            if fault := sqlite_fault(error, self._place):
                raise fault from error
            raise


@contextmanager
def open_records(url: str) -> Generator[RunQueries]:
    """The queries about runs of the database at an SQLAlchemy `url`, for the length of the block.

    A SQLite file that needs nothing but to be read is read by sqlite3. Any other database is opened as `open_store`
    does: it makes, migrates, or says what is wrong.
    """
    path = _plain_file(url)
    connection = path and _connect(path)
    if connection:
        with closing(connection):
            yield SqliteRecords(connection, str(path))
    else:
        from naruto_core.store.database import open_store  # SQLAlchemy

        with open_store(url) as store:
            yield store


def _plain_file(url: str) -> str:
    """The file of the SQLite database at `url`, as `connection.parse_url` reads it; "" for any other URL."""
    path = url.removeprefix("sqlite:///")
    if path == url or "?" in path or ":memory:" in path or path.startswith("file:"):
        return ""
    return decoded_path(path)


def decoded_path(path: str) -> str:
    """A path in an SQLAlchemy URL of SQLite, in which `%3F` and `%25` are `?` and `%`."""
    return re.sub("%(25|3F)", lambda code: {"25": "%", "3F": "?"}[code[1]], path)


def _connect(path: str) -> sqlite3.Connection | None:
    """A connection to a file in write-ahead mode with the newest schema; None for any other, or none.

    Raises StorageFailed for a file that is locked for too long: SQLAlchemy would wait as long again.
    """
    try:
        connection = sqlite3.connect(
            f"file:{quote(path)}?mode=rw", uri=True, timeout=BUSY_SECONDS, isolation_level=None
        )  # not mode=ro: the first reader of a log makes the memory that its readers share
    except sqlite3.Error:
        return None
    try:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        revisions = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY and (fault := sqlite_fault(error, path)):
            connection.close()
            raise fault from error
        mode, revisions = "", []
    if mode == "wal" and revisions == [(newest_revision(),)]:
        return connection
    connection.close()
    return None
