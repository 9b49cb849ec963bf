"""What else is needed to compute a score again, and what people should know of a run before they trust it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("scores", sa.Column("details", sa.JSON(), nullable=False, server_default="{}"))
    op.create_table(
        "findings",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("warning", sa.Boolean(), nullable=False),
        sa.Column("sentence", sa.Text(), nullable=False),
        sa.Column("figures", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_findings_run_id")),
        sa.PrimaryKeyConstraint("run_id", "name", name=op.f("pk_findings")),
    )
