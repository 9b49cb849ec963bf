"""Sweeps and their cells: which runs are compared with each other."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sweeps",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("recipe", sa.String(), nullable=False),
        sa.Column("objective", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sweeps"),
    )
    op.create_table(
        "sweep_cells",
        sa.Column("sweep", sa.String(), sa.ForeignKey("sweeps.name", name="fk_sweep_cells_sweep"), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("setting", sa.Integer(), nullable=False),
        sa.Column("grid_values", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id", name="fk_sweep_cells_run_id"), nullable=True),
        sa.Column("failure", sa.Text(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("sweep", "position", name="pk_sweep_cells"),
    )
    op.create_index("ix_sweep_cells_run_id", "sweep_cells", ["run_id"])


def downgrade() -> None:
    op.drop_table("sweep_cells")
    op.drop_table("sweeps")
