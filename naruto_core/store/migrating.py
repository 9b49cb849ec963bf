"""Bringing a database to the schema of this code, whichever version made it.

After a change of `schema`, `alembic.command.revision(migrations(connection), "what changed", autogenerate=True)`
writes the next script from what the connection's database lacks; read it before it is committed.
"""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection

from naruto_core.errors import RecordDamaged
from naruto_core.store.connection import make_engine, sentences, shown


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
