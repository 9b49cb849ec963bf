"""Phases of runs: what was planned, and what they took."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "phases",
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id", name="fk_phases_run_id"), nullable=False),
        sa.Column("phase", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("flops", sa.Double(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("basis", sa.String(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("precision", sa.String(), nullable=False),
        sa.Column("memory", sa.BigInteger(), nullable=False),
        sa.Column("measured_units", sa.Integer(), server_default="0", nullable=False),
        sa.Column("measured_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("measured_at", sa.DateTime(), nullable=True),
        sa.PrimaryKeyConstraint("run_id", "phase", name="pk_phases"),
    )


def downgrade() -> None:
    op.drop_table("phases")
