"""Authorization codes, and what people give to clients."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clients", sa.Column("is_public", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("sessions", sa.Column("client_id", sa.String(512), nullable=True))
    op.add_column("sessions", sa.Column("scope", sa.Text(), nullable=True))
    op.add_column("sessions", sa.Column("audience", sa.Text(), nullable=True))
    op.create_index("sessions_by_client", "sessions", ["client_id"])
    name = "authorization_codes"
    op.create_table(
        name,
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("client_id", sa.String(512), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("account_version", sa.Integer(), nullable=False),
        sa.Column("redirect_uri", sa.Text(), nullable=False),
        sa.Column("scope", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("challenge", sa.String(64), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("proved_at", sa.Double(), nullable=False),
        sa.Column("good_until", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("session_id", sa.String(32), nullable=True),
        sa.PrimaryKeyConstraint("digest", name=f"{name}_pkey"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name=f"{name}_account_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("authorization_codes_by_expiry", name, ["expires_at"])
