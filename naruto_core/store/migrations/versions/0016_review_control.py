"""Paused campaigns, excluded reviewers, notes on pictures, and an index of the newest event of a campaign."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("paused", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index("ix_assignments_campaign_id_last_event", "assignments", ["campaign_id", "last_event"])
    op.create_table(
        "excluded_reviewers",
        sa.Column("campaign_id", sa.String(), sa.ForeignKey("campaigns.id", name="fk_excluded_reviewers_campaign_id")),
        sa.Column("reviewer_id", sa.String(), sa.ForeignKey("reviewers.id", name="fk_excluded_reviewers_reviewer_id")),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("campaign_id", "reviewer_id", name="pk_excluded_reviewers"),
    )
    op.create_table(
        "picture_notes",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column(
            "assignment_id", sa.String(), sa.ForeignKey("assignments.id", name="fk_picture_notes_assignment_id"),
            nullable=False,
        ),
        sa.Column("sample", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("defect", sa.String(16), nullable=True),
        sa.Column("x", sa.Double(), nullable=True),
        sa.Column("y", sa.Double(), nullable=True),
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_picture_notes"),
        sa.UniqueConstraint("nonce", name="uq_picture_notes_nonce"),
    )  # fmt: skip
    op.create_index("ix_picture_notes_assignment_id", "picture_notes", ["assignment_id"])


def downgrade() -> None:
    op.drop_table("picture_notes")
    op.drop_table("excluded_reviewers")
    op.drop_index("ix_assignments_campaign_id_last_event", "assignments")
    op.drop_column("campaigns", "paused")
