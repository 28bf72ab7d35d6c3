"""Codes of the device grant."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    name = "device_codes"
    op.create_table(
        name,
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("user_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("client_id", sa.String(32), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("interval_s", sa.Double(), nullable=False),
        sa.Column("next_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=True),
        sa.Column("account_version", sa.Integer(), nullable=True),
        sa.Column("proved_at", sa.Double(), nullable=True),
        sa.Column("session_id", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=f"{name}_pkey"),
        sa.UniqueConstraint("user_digest", name=f"{name}_user_digest_key"),
        sa.ForeignKeyConstraint(["client_id"], ["clients.id"], name=f"{name}_client_id_fkey", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=f"{name}_account_id_fkey", ondelete="CASCADE"),
        sa.CheckConstraint("state IN ('pending', 'allowed', 'denied')", name=f"{name}_state"),
    )
    op.create_index("device_codes_by_expiry", name, ["expires_at"])
