"""Tokens that are revoked one by one."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "revoked_tokens",
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="revoked_tokens_pkey"),
    )
    op.create_index("revoked_tokens_by_expiry", "revoked_tokens", ["expires_at"])
