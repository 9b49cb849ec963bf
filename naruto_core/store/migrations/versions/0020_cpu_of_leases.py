"""The kind of CPU of a lease: bytes depend on its vector instructions."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_leases", sa.Column("cpu", sa.String(), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("run_leases", "cpu")
