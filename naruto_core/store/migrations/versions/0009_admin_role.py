"""The role "lead" is called "admin": people see the word."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_REVIEWERS = sa.table("reviewers", sa.column("role"))


def upgrade() -> None:
    op.execute(_REVIEWERS.update().where(_REVIEWERS.c.role == "lead").values(role="admin"))


def downgrade() -> None:
    op.execute(_REVIEWERS.update().where(_REVIEWERS.c.role == "admin").values(role="lead"))
