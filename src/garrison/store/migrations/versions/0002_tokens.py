"""Tokens: keys that sign, refresh tokens, families that are bound to a device."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("is_bound", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_table(
        "signing_keys",
        sa.Column("kid", sa.String(64), nullable=False),
        sa.Column("algorithm", sa.String(8), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("public", sa.Text(), nullable=False),
        sa.Column("shown_at", sa.Double(), nullable=False),
        sa.Column("signs_from", sa.Double(), nullable=True),
        sa.Column("ends_at", sa.Double(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("kid", name="signing_keys_pkey"),
        sa.CheckConstraint("state IN ('next', 'active', 'retired', 'revoked')", name="signing_keys_state"),
    )
    active = sa.text("state = 'active'")
    op.create_index(
        "signing_keys_one_active", "signing_keys", ["state"], unique=True, sqlite_where=active, postgresql_where=active
    )
    op.create_index("signing_keys_by_end", "signing_keys", ["ends_at"])
    op.create_table(
        "refresh_tokens",
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("session_id", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=True),
        sa.Column("successor", sa.LargeBinary(), nullable=True),
        sa.Column("acknowledged", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="refresh_tokens_pkey"),
        sa.UniqueConstraint("session_id", "number", name="refresh_tokens_session_id_number_key"),
        sa.ForeignKeyConstraint(
            ["session_id"], ["sessions.id"], name="refresh_tokens_session_id_fkey", ondelete="CASCADE"
        ),
    )
    op.create_index("refresh_tokens_by_expiry", "refresh_tokens", ["expires_at"])
