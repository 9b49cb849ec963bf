"""The connection to SQLite or Postgres: pragmas, short transactions, errors as sentences, migrations."""

import sqlite3
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, ProgrammingError
from sqlalchemy.exc import DatabaseError as AnyDatabaseError
from sqlalchemy.orm import Session

from naruto_core.errors import NarutoError, RecordDamaged, StorageFailed

BUSY_SECONDS = 30
_POSTGRES_LOCK = 0x6E617275  # any number that nothing else in the database locks

_BUSY = "another process has been writing to it for too long; try again when it is done"
_OWNER = "this user may not write there; change its owner or set NARUTO_HOME elsewhere"
_SQLITE_TROUBLE: dict[int, tuple[type[NarutoError], str]] = {
    sqlite3.SQLITE_BUSY: (StorageFailed, _BUSY),
    sqlite3.SQLITE_LOCKED: (StorageFailed, _BUSY),
    sqlite3.SQLITE_CANTOPEN: (StorageFailed, _OWNER),
    sqlite3.SQLITE_READONLY: (StorageFailed, _OWNER),
    sqlite3.SQLITE_FULL: (StorageFailed, "the disk is full; free some space and run the same command again"),
    sqlite3.SQLITE_IOERR: (StorageFailed, "the disk refused to read or write; check it and run the same command again"),
    sqlite3.SQLITE_NOTADB: (StorageFailed, "the file is not a SQLite database; move it away or set NARUTO_DATABASE"),
    sqlite3.SQLITE_CORRUPT: (RecordDamaged, "the file is damaged; put back a copy of it"),
}


def parse(url: str) -> URL:
    """`url` taken apart; StorageFailed, without repeating a password, when it is no SQLAlchemy URL."""
    try:
        return make_url(url)
    except ArgumentError:
        raise StorageFailed(
            "NARUTO_DATABASE is not a database URL; write one like sqlite:////folder/naruto.db, or leave it unset."
        ) from None


def make_engine(url: URL, *, foreign_keys: bool = True) -> Engine:
    """An engine on `url`; nothing is opened yet."""
    try:
        engine = create_engine(url)
    except NoSuchModuleError:
        raise StorageFailed(f"no database of the kind {url.drivername!r} is known; check NARUTO_DATABASE.") from None
    except ModuleNotFoundError as error:
        raise StorageFailed(f"the database {shown(url)} needs the Python package {error.name}: install it.") from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite(foreign_keys))
    event.listen(engine, "begin", _begin)
    return engine


def _tune_sqlite(foreign_keys: bool) -> Callable[[Any, object], None]:
    def tune(connection: Any, record: object) -> None:
        del record
        # sqlite3 would begin a transaction only at the first write and end it at DDL; `_begin` does neither
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        _write_ahead(connection)

    return tune


def _write_ahead(connection: Any) -> None:
    """Keep the database readable while one writes, also when several programs make it at the same moment.

    Changing the journal needs the whole file; where two ask at once, SQLite refuses one of them at once, without
    waiting for the busy timeout, lest both wait for ever.
    """
    until = time.monotonic() + BUSY_SECONDS
    while connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
            time.sleep(0.02)


def _begin(connection: Connection) -> None:
    """One writer at a time: it takes the lock before it reads, so that what it read still holds when it writes."""
    writing = connection.get_execution_options().get("writing", False)
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    elif connection.dialect.name == "postgresql" and writing:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})")


class Database:
    """One database, in short transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writing=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the database's files."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Generator[Session]:
        """One consistent look; what another process writes meanwhile is not seen."""
        with sentences(self._engine.url), Session(self._engine) as session:
            yield session

    @contextmanager
    def _writing(self) -> Generator[Session]:
        """All of the block is recorded, or nothing of it."""
        with sentences(self._engine.url), Session(self._writer) as session, session.begin():
            yield session


@contextmanager
def sentences(url: URL) -> Generator[None]:
    """Turn what the database complains of into one sentence; a broken constraint is a bug and stays as it is."""
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except AnyDatabaseError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code is not None and code & 0xFF in _SQLITE_TROUBLE:
            kind, why = _SQLITE_TROUBLE[code & 0xFF]
            raise kind(f"cannot use the database {shown(url)}: {why}.") from error
        if not isinstance(error, OperationalError):
            raise
        why = " ".join(str(error.orig).split())
        raise StorageFailed(f"cannot use the database {shown(url)}: {why}.") from error


def shown(url: URL) -> str:
    """`url` as a person may see it: SQLite's file, or the URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def migrations(connection: Connection | None = None) -> Config:
    """What Alembic needs to know: the scripts of this package and the connection they run on."""
    config = Config()
    config.set_main_option("script_location", "naruto_core.store:migrations")
    config.attributes["connection"] = connection
    return config


def migrate(url: URL, target: str = "head") -> None:
    """Bring the database at `url` to revision `target`, in one transaction, one process at a time.

    Raises RecordDamaged when a newer version of this program has made it.
    """
    scripts = ScriptDirectory.from_config(migrations())
    # SQLite changes a column by copying its table and dropping the old one: a foreign key would then cascade
    engine = make_engine(url, foreign_keys=False)
    try:
        with sentences(url):
            with engine.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
            known = {script.revision for script in scripts.walk_revisions()}
            if current is not None and current not in known:
                raise RecordDamaged(
                    f"the database {shown(url)} has schema {current}, which only a newer version of this program "
                    "knows: install that one, or set NARUTO_HOME elsewhere."
                )
            if current == scripts.get_current_head():
                return
            with engine.execution_options(writing=True).begin() as connection:
                command.upgrade(migrations(connection), target)
    finally:
        engine.dispose()
