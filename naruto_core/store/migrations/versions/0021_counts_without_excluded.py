"""Counts of assignments and of open units without reviewers who are excluded from the campaign."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_EXCLUDED = """EXISTS (
    SELECT 1 FROM excluded_reviewers AS e
    WHERE e.campaign_id = assignments.campaign_id AND e.reviewer_id = assignments.reviewer_id
)"""
_END = f"UPDATE assignments SET done = true WHERE NOT done AND {_EXCLUDED}"
_TAKEN = """
UPDATE units SET given = (
    SELECT count(*) FROM assignments LEFT JOIN rating_events ON rating_events.id = assignments.last_event
    WHERE assignments.unit_id = units.id AND NOT assignments.repeat
    AND (NOT assignments.done OR rating_events.act = 'vote'){without}
)
WHERE units.campaign_id IN (SELECT campaign_id FROM excluded_reviewers)
"""
_OPEN = """
UPDATE campaigns SET open_units = (
    SELECT count(*) FROM units WHERE units.campaign_id = campaigns.id AND units.given < units.wanted AND units.gold = ''
)
WHERE campaigns.id IN (SELECT campaign_id FROM excluded_reviewers)
"""


def upgrade() -> None:
    op.execute(_END)
    op.execute(_TAKEN.format(without=f" AND NOT {_EXCLUDED}"))
    op.execute(_OPEN)


def downgrade() -> None:
    op.execute(_TAKEN.format(without=""))
    op.execute(_OPEN)
