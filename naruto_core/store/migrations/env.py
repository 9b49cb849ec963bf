"""Run by Alembic, never imported: what a migration runs on. The connection comes from `store.migrating`."""

from alembic import context

from naruto_core.store.rating_schema import Base

connection = context.config.attributes["connection"]
# SQLite cannot alter a column in place: batch mode copies the table
context.configure(
    connection=connection, target_metadata=Base.metadata, render_as_batch=connection.dialect.name == "sqlite"
)
with context.begin_transaction():
    context.run_migrations()
