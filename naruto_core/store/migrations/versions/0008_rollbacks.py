"""Which promotions are rollbacks: history is a stack."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("promotions", sa.Column("rollback", sa.Boolean(), nullable=False, server_default=sa.false()))
    # a rollback said so itself, and had no checks; what people wrote always has some
    promotions = sa.table("promotions", sa.column("rollback", sa.Boolean), sa.column("why"), sa.column("checks"))
    rolled_back = promotions.c.why.startswith("rolled back from ") & (sa.cast(promotions.c.checks, sa.Text) == "{}")
    op.execute(promotions.update().where(rolled_back).values(rollback=True))


def downgrade() -> None:
    op.drop_column("promotions", "rollback")
