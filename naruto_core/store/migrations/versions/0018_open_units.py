"""The number of open units of each campaign; indexes that hold what pages count: assignments, other events, runs."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_OLD = (["campaign_id", "done"], ["campaign_id", "last_event"])
_NEW = {
    "ix_assignments_of_reviewer": ["reviewer_id", "campaign_id", "repeat", "unit_id"],
    "ix_assignments_of_campaign": ["campaign_id", "last_event", "repeat", "reviewer_id", "unit_id"],
}
_OF_RUNS = "ix_runs_state_started_at_finished_at"
_COUNT = """
UPDATE campaigns SET open_units = (
    SELECT count(*) FROM units WHERE units.campaign_id = campaigns.id AND units.given < units.wanted AND units.gold = ''
)
"""


def upgrade() -> None:
    op.add_column("campaigns", sa.Column("open_units", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.execute(_COUNT)
    for columns in _OLD:
        op.drop_index(f"ix_assignments_{'_'.join(columns)}", "assignments")
    for name, columns in _NEW.items():
        op.create_index(name, "assignments", columns)
    op.create_index(_OF_RUNS, "runs", ["state", "started_at", "finished_at"])
    other = sa.text("act != 'vote'")
    op.create_index("ix_rating_events_other", "rating_events", ["id", "act"], sqlite_where=other, postgresql_where=other)


def downgrade() -> None:
    op.drop_index(_OF_RUNS, "runs")
    op.drop_index("ix_rating_events_other", "rating_events")
    for name in _NEW:
        op.drop_index(name, "assignments")
    for columns in _OLD:
        op.create_index(f"ix_assignments_{'_'.join(columns)}", "assignments", columns)
    op.drop_column("campaigns", "open_units")
