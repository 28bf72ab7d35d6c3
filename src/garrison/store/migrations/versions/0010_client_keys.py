"""Clients that authenticate by signature."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clients", sa.Column("jwks", sa.Text(), nullable=True))
    name = "used_assertions"
    op.create_table(
        name,
        sa.Column("digest", sa.LargeBinary(32), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=f"{name}_pkey"),
    )
    op.create_index("used_assertions_by_expiry", name, ["expires_at"])
