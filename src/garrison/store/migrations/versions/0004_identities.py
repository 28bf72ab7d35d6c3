"""Identities at other providers."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "identities",
        sa.Column("issuer", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("issuer", "subject", name="identities_pkey"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="identities_account_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("identities_by_account", "identities", ["account_id"])
