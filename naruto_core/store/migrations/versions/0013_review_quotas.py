"""Indexes of gold units and of units for several reviewers."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COLUMNS = ["campaign_id", "given", "position"]


def upgrade() -> None:
    for name, condition in (("ix_units_gold", "gold != ''"), ("ix_units_overlap", "wanted > 1 AND gold = ''")):
        where = sa.text(condition)
        op.create_index(name, "units", _COLUMNS, sqlite_where=where, postgresql_where=where)


def downgrade() -> None:
    for name in ("ix_units_gold", "ix_units_overlap"):
        op.drop_index(name, "units")
