"""Sweeps that search (how many settings, in which ranges), pruned cells, and the results of a sweep as computed last."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sweeps", sa.Column("trials", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("sweeps", sa.Column("search", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("sweeps", sa.Column("report", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("sweep_cells", sa.Column("pruned", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("sweep_cells", "pruned")
    op.drop_column("sweeps", "report")
    op.drop_column("sweeps", "search")
    op.drop_column("sweeps", "trials")
