"""Leases of runs (which process works on a run, and how long), tags and notes."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "run_leases",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id", name="fk_run_leases_run_id"), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("process", sa.Integer(), nullable=False),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.DateTime(), nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(), nullable=False),
        sa.Column("released_at", sa.DateTime(), nullable=True),
        sa.Column("waited_seconds", sa.Double(), server_default="0", nullable=False),
        sa.Column("stop_requested_by", sa.String(), server_default="", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run_leases"),
    )
    op.create_index("ix_run_leases_run_id_released_at", "run_leases", ["run_id", "released_at"])
    op.create_table(
        "run_tags",
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id", name="fk_run_tags_run_id"), nullable=False),
        sa.Column("tag", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "tag", name="pk_run_tags"),
    )
    op.create_table(
        "run_notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id", name="fk_run_notes_run_id"), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_run_notes"),
    )
    op.create_index("ix_run_notes_run_id", "run_notes", ["run_id"])


def downgrade() -> None:
    op.drop_table("run_notes")
    op.drop_table("run_tags")
    op.drop_table("run_leases")
