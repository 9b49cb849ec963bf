"""A run may have several adapter files: one a style, and embeddings of new tokens beside them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "adapter_files",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("path", sa.String(), nullable=False),
        sa.Column("style", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("rank", sa.Integer(), nullable=False),
        sa.Column("steps", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_adapter_files_run_id")),
        sa.PrimaryKeyConstraint("run_id", "path", name=op.f("pk_adapter_files")),
    )
    op.execute(
        "INSERT INTO adapter_files (run_id, path, style, sha256, rank, steps) "
        "SELECT run_id, path, '', sha256, rank, steps FROM adapters"
    )
    op.drop_table("adapters")
