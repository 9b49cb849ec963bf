"""Units of one, two or four pictures, repeats, gold, the order shown; promotions; pictures found by their content.

The tables of 0004 are made anew and not changed: no page and no command ever wrote to them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

RATINGS = """
CREATE VIEW ratings AS
SELECT e.id AS event_id, a.campaign_id, a.unit_id, a.reviewer_id, a.shown, a."repeat", a.propensity,
       e.answer, e.seconds, e.viewport, e.at
FROM assignments a JOIN rating_events e ON e.id = a.last_event
WHERE e.act = 'vote'
"""


def upgrade() -> None:
    for name in ("rating_events", "assignments", "comparisons", "campaigns", "reviewers"):
        op.drop_table(name)
    _people()
    _units()
    _events()
    op.create_table(
        "promotions",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("alias", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("runs.id"), nullable=False),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.Column("checks", sa.JSON(), nullable=False),
    )
    op.create_index(op.f("ix_promotions_alias_id"), "promotions", ["alias", "id"])
    op.create_index(op.f("ix_samples_sha256"), "samples", ["sha256"])
    op.execute(RATINGS)


def _people() -> None:
    op.create_table(
        "reviewers",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("email", sa.String(), nullable=True),
        sa.Column("token_sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviewers")),
        sa.UniqueConstraint("name", name=op.f("uq_reviewers_name")),
        sa.UniqueConstraint("email", name=op.f("uq_reviewers_email")),
        sa.UniqueConstraint("token_sha256", name=op.f("uq_reviewers_token_sha256")),
    )
    op.create_table(
        "campaigns",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("question", sa.Text(), nullable=False),
        sa.Column("mode", sa.String(length=16), nullable=False),
        sa.Column("opened_at", sa.DateTime(), nullable=False),
        sa.Column("closed_at", sa.DateTime(), nullable=True),
        sa.Column("informative", sa.Double(), nullable=False),
        sa.Column("repeats", sa.Double(), nullable=False),
        sa.Column("example", sa.Boolean(), nullable=False),
        sa.Column("units", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("name", name=op.f("uq_campaigns_name")),
    )


def _units() -> None:
    op.create_table(
        "units",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("campaign_id", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("prompt", sa.String(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("samples", sa.JSON(), nullable=False),
        sa.Column("contenders", sa.JSON(), nullable=False),
        sa.Column("pairing", sa.String(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("given", sa.Integer(), nullable=False),
        sa.Column("gold", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_units_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_units")),
        sa.UniqueConstraint("campaign_id", "position", name=op.f("uq_units_campaign_id_position")),
    )
    op.create_index(
        op.f("ix_units_campaign_id_pairing_given_position"), "units", ["campaign_id", "pairing", "given", "position"]
    )
    op.create_index(
        op.f("ix_units_campaign_id_given_position_wanted"), "units", ["campaign_id", "given", "position", "wanted"]
    )


def _events() -> None:
    op.create_table(
        "assignments",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("campaign_id", sa.String(), nullable=False),
        sa.Column("unit_id", sa.Integer(), nullable=False),
        sa.Column("reviewer_id", sa.String(), nullable=False),
        sa.Column("shown", sa.String(), nullable=False),
        sa.Column("repeat", sa.Boolean(), nullable=False),
        sa.Column("propensity", sa.Double(), nullable=False),
        sa.Column("done", sa.Boolean(), nullable=False),
        sa.Column("leased_until", sa.DateTime(), nullable=False),
        sa.Column("last_event", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_assignments_campaign_id")),
        sa.ForeignKeyConstraint(["unit_id"], ["units.id"], name=op.f("fk_assignments_unit_id")),
        sa.ForeignKeyConstraint(["reviewer_id"], ["reviewers.id"], name=op.f("fk_assignments_reviewer_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_assignments")),
        sa.UniqueConstraint(
            "unit_id", "reviewer_id", "repeat", name=op.f("uq_assignments_unit_id_reviewer_id_repeat")
        ),
    )
    for columns in (
        ["reviewer_id", "campaign_id", "done"], ["done", "leased_until"], ["campaign_id", "done"],
    ):  # fmt: skip
        op.create_index(op.f(f"ix_assignments_{'_'.join(columns)}"), "assignments", columns)
    op.create_table(
        "rating_events",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("assignment_id", sa.String(), nullable=False),
        sa.Column("act", sa.String(length=16), nullable=False),
        sa.Column("answer", sa.Text(), nullable=True),
        sa.Column("nonce", sa.String(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("viewport", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(), nullable=False),
        sa.ForeignKeyConstraint(["assignment_id"], ["assignments.id"], name=op.f("fk_rating_events_assignment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rating_events")),
        sa.UniqueConstraint("nonce", name=op.f("uq_rating_events_nonce")),
    )
    op.create_index(op.f("ix_rating_events_assignment_id_id"), "rating_events", ["assignment_id", "id"])
