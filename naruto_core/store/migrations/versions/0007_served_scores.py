"""How good the pictures were that the service gave out."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "served_scores",
        sa.Column("picture", sa.String(), primary_key=True),
        sa.Column("metric", sa.String(), primary_key=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("asked", sa.String(), nullable=False),
        sa.Column("drawn_at", sa.DateTime(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("extractor", sa.String(), nullable=False),
    )
    op.create_index(op.f("ix_served_scores_run_id_metric_drawn_at"), "served_scores", ["run_id", "metric", "drawn_at"])
    op.create_index(op.f("ix_served_scores_drawn_at"), "served_scores", ["drawn_at"])
    op.create_table(
        "drifts",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("since", sa.DateTime(), nullable=False),
        sa.Column("said_at", sa.DateTime(), nullable=False),
        sa.Column("served", sa.Double(), nullable=False),
        sa.Column("own", sa.Double(), nullable=False),
        sa.Column("difference", sa.Double(), nullable=False),
        sa.Column("low", sa.Double(), nullable=False),
        sa.Column("high", sa.Double(), nullable=False),
        sa.Column("margin", sa.Double(), nullable=False),
        sa.Column("n_served", sa.Integer(), nullable=False),
        sa.Column("prompts_served", sa.Integer(), nullable=False),
        sa.Column("n_own", sa.Integer(), nullable=False),
        sa.Column("extractor", sa.String(), nullable=False),
        sa.Column("verdict", sa.String(length=16), nullable=False),
    )
    op.create_index(op.f("ix_drifts_run_id_metric_id"), "drifts", ["run_id", "metric", "id"])


def downgrade() -> None:
    op.drop_table("drifts")
    op.drop_table("served_scores")
