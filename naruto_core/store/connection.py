"""Connections to SQLite or Postgres: pragmas, short transactions, readable errors, migrations."""

import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Self

from pydantic_core import from_json  # a third of the time of json.loads
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, OperationalError, ProgrammingError
from sqlalchemy.exc import DatabaseError as SqlalchemyDatabaseError
from sqlalchemy.orm import Session

from naruto_core.errors import GO_ON, NotRecorded, RecordDamaged, StorageFailed
from naruto_core.store.sqlite_records import BUSY_SECONDS, decoded_path, newest_revision, sqlite_fault

if TYPE_CHECKING:
    from alembic.config import Config

ROWS_AT_ONCE = 2000  # that one transaction deletes
_POSTGRES_LOCK = 0x6E617275  # any number that nothing else in the database locks
_WRITER_LOCK, _WRITE_AHEAD = "writer_lock", "write_ahead"  # execution options of the engine


def parse_url(url: str) -> URL:
    """Parse an SQLAlchemy URL; in the path of a SQLite file, `%3F` and `%25` are `?` and `%`.

    Raises StorageFailed for an invalid one, without repeating a password, and for a SQLite database in memory.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # ValueError: the port is no number
        raise StorageFailed(
            "NARUTO_DATABASE is not a database URL; write one like sqlite:////folder/naruto.db, or leave it unset."
        ) from None
    if parsed.get_backend_name() != "sqlite":
        return parsed
    if not parsed.database or ":memory:" in parsed.database or parsed.query.get("mode") == "memory":
        raise StorageFailed(
            "NARUTO_DATABASE names a database in memory, which ends with the command: name a file, like "
            "sqlite:////folder/naruto.db, or leave it unset."
        )
    return parsed.set(database=decoded_path(parsed.database))


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for another kind of database. Raises StorageFailed as `parse_url` does."""
    parsed = parse_url(url)
    return Path(parsed.database) if parsed.get_backend_name() == "sqlite" and parsed.database else None


def make_engine(url: URL, *, foreign_keys: bool = True, write_ahead: bool = True) -> Engine:
    """Create an engine for `url`; nothing is opened yet. Raises StorageFailed for an unknown kind of database.

    A SQLite file is in write-ahead mode, unless not `write_ahead`: that mode needs memory that all its processes share,
    so it does not work for several machines on one volume.
    """
    try:
        options = {_WRITER_LOCK: Lock(), _WRITE_AHEAD: write_ahead}
        engine = create_engine(url, execution_options=options, json_deserializer=from_json)
    except NoSuchModuleError:
        raise StorageFailed(f"no database of the kind {url.drivername!r} is known; check NARUTO_DATABASE.") from None
    except ModuleNotFoundError as error:
        package = error.name
        raise StorageFailed(
            f"the database {display_url(url)} needs the Python package {package}: install it."
        ) from None
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _tune_sqlite(foreign_keys, write_ahead))
    event.listen(engine, "begin", _begin)
    return engine


def _tune_sqlite(foreign_keys: bool, write_ahead: bool) -> Callable[[Any, object], None]:
    def tune(connection: Any, record: object) -> None:
        del record
        # sqlite3 itself begins a transaction only at the first write and ends it at DDL; `_begin` replaces that
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
        connection.execute(f"PRAGMA foreign_keys = {'ON' if foreign_keys else 'OFF'}")
        _set_journal_mode(connection, "wal" if write_ahead else "delete")

    return tune


def _set_journal_mode(connection: Any, mode: str) -> None:
    """Switch to write-ahead logging, so that readers work while another process writes; or to a rollback journal.

    Changing the journal mode locks the whole file. Where two processes do it at the same time, SQLite refuses one of
    them immediately, without the busy timeout, to avoid a deadlock; so it is tried again here.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while (current := connection.execute("PRAGMA journal_mode").fetchone()[0]) != mode:
        try:
            if connection.execute(f"PRAGMA journal_mode = {mode}").fetchone()[0] != mode:  # no error: never possible
                _remove_empty_file(connection)
                raise StorageFailed(
                    f"cannot use the SQLite database: it can have no journal of mode {mode}, only {current}, as where "
                    "it is opened read-only or its disk has no shared memory; set NARUTO_HOME or NARUTO_DATABASE to "
                    "a file on a local disk that this user may write."
                )
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _remove_empty_file(connection: Any) -> None:
    """Remove the file that SQLite made when it opened a new database which cannot be used."""
    ((_, _, name), *_) = connection.execute("PRAGMA database_list").fetchall()
    connection.close()
    with suppress(OSError):
        if name and Path(name).stat().st_size == 0:
            Path(name).unlink()


def _begin(connection: Connection) -> None:
    """Allow one writer at a time: it takes the lock before it reads, so what it read is still true when it writes."""
    options = connection.get_execution_options()
    writing = options.get("writing", False)
    if connection.dialect.name == "sqlite":
        if writing and options[_WRITE_AHEAD]:  # a rollback journal that is not synchronized may damage the file
            connection.exec_driver_sql(f"PRAGMA synchronous = {'FULL' if options.get('durable', True) else 'NORMAL'}")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
    elif connection.dialect.name == "postgresql" and writing:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_POSTGRES_LOCK})")


class Repository:
    """Base class of everything that reads and writes tables: one engine, short transactions.

    As a context manager, or by `close`, it closes the engine, which the repositories of a `Database` share.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._writer = engine.execution_options(writing=True)
        self._quick_writer = engine.execution_options(writing=True, durable=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections to the database."""
        self._engine.dispose()

    def integrity_problems(self) -> list[str]:
        """What SQLite finds wrong in the pages of its file; [] on a server."""
        try:
            pages = [str(row[0]) for row in self._pragma("integrity_check(20)")]
        except RecordDamaged:
            return ["SQLite cannot read it"]
        return [] if pages in (["ok"], []) else pages

    def missing_references(self) -> list[str]:
        """Rows of a SQLite database that name rows which do not exist; [] on a server."""
        rows = self._pragma("foreign_key_check")
        return [f"row {row[1]} of {row[0]} names a row of {row[2]} that is gone" for row in rows]

    def _pragma(self, name: str) -> list[Any]:
        if self._engine.dialect.name != "sqlite":
            return []
        with self._reading() as session:
            return list(session.connection().exec_driver_sql(f"PRAGMA {name}"))

    @contextmanager
    def _reading(self) -> Generator[Session]:
        """A read transaction: a consistent snapshot, without what other processes write meanwhile."""
        with database_errors(self._engine.url), Session(self._engine) as session:
            yield session

    @contextmanager
    def _reading_rows(self) -> Generator[Connection]:
        """A read transaction without objects of rows."""
        with database_errors(self._engine.url), self._engine.connect() as connection:
            yield connection

    def _rows(self, statement: str, **values: object) -> Sequence[Sequence[Any]]:
        """See `RunQueries`."""
        with self._reading_rows() as connection:
            return connection.execute(text(statement), values).tuples().all()

    @contextmanager
    def _writing(self) -> Generator[Session]:
        """A write transaction: all of the block is recorded, or nothing."""
        with self._turn(), database_errors(self._engine.url), Session(self._writer) as session, session.begin():
            yield session

    @contextmanager
    def _writing_rows(self, *, durable: bool = True) -> Generator[Connection]:
        """A write transaction without objects of rows: a statement takes a third of the time of the same in a session.

        SQLite does not wait for the disk in a transaction that is not `durable`: it may be lost when the power fails,
        until a durable one follows; not when a process is killed. Postgres waits for both.
        """
        engine = self._writer if durable else self._quick_writer
        with self._turn(), database_errors(self._engine.url), engine.begin() as connection:
            yield connection

    @contextmanager
    def _turn(self) -> Generator[None]:
        """Let the threads of this process write to SQLite one after the other.

        SQLite lets a writer that finds its file locked sleep up to 0.1 s and try again, so that with many threads some
        wait for seconds. After `BUSY_SECONDS` a thread goes on without the turn, and SQLite decides.
        """
        lock: Lock = self._engine.get_execution_options()[_WRITER_LOCK]
        held = self._engine.dialect.name == "sqlite" and lock.acquire(timeout=BUSY_SECONDS)
        try:
            yield
        finally:
            if held:
                lock.release()


@contextmanager
def database_errors(url: URL) -> Generator[None]:
    """Turn errors of the database into StorageFailed or RecordDamaged, with one sentence for people.

    NotRecorded for a text that Postgres neither finds nor stores.
    A violated constraint or an invalid statement is a bug: it is raised unchanged.
    """
    try:
        yield
    except (IntegrityError, ProgrammingError):
        raise
    except SqlalchemyDatabaseError as error:
        if fault := sqlite_fault(error.orig, display_url(url)):
            raise fault from error
        if "NUL (0x00)" in str(error.orig):  # what somebody typed or wrote into an address; SQLite has such texts
            raise NotRecorded("the text has the character NUL, which the database cannot hold.") from error
        if not isinstance(error, OperationalError):
            raise
        reason = " ".join(str(error.orig).split()).rstrip("?.")
        if url.get_backend_name() != "sqlite":
            reason += f"; start its server, or check NARUTO_DATABASE; {GO_ON.rstrip('.')}"
        raise StorageFailed(f"cannot use the database {display_url(url)}: {reason}.") from error


def display_url(url: URL) -> str:
    """`url` for messages: the file of SQLite, or the URL without its password."""
    if url.get_backend_name() == "sqlite" and url.database:
        return url.database
    return url.render_as_string(hide_password=True)


def _has_newest_schema(connection: Connection) -> bool:
    """Whether the database has the newest revision."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    return list(connection.scalars(text("SELECT version_num FROM alembic_version"))) == [newest_revision()]


def alembic_config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration: the migration scripts of this package, and the connection they run on."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "naruto_core.store:migrations")
    config.attributes["connection"] = connection
    return config


def migrate(url: URL, target: str = "head") -> None:
    """Migrate the database at `url` to revision `target`, in one transaction, one process at a time.

    Raises RecordDamaged for a database that a newer version of this program has migrated.
    """
    # SQLite changes a column by copying its table and dropping the old one; foreign keys would cascade then
    engine = make_engine(url, foreign_keys=False)
    try:
        with database_errors(url):
            with engine.connect() as connection:
                if _has_newest_schema(connection):
                    return
            from alembic import command  # a quarter of the time that a short command takes
            from alembic.runtime.migration import MigrationContext
            from alembic.script import ScriptDirectory

            scripts = ScriptDirectory.from_config(alembic_config())
            with engine.connect() as connection:
                current = MigrationContext.configure(connection).get_current_revision()
            revisions = {script.revision for script in scripts.walk_revisions()}
            if current is not None and current not in revisions:
                raise RecordDamaged(
                    f"the database {display_url(url)} has schema {current}, which only a newer version of this program "
                    "knows: install that version, or set NARUTO_HOME to another folder."
                )
            if current == scripts.get_current_head():
                return
            with engine.execution_options(writing=True).begin() as connection:
                command.upgrade(alembic_config(connection), target)
    finally:
        engine.dispose()
