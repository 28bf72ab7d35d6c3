"""Clients whose tokens are all bound to a key."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("clients", sa.Column("requires_dpop", sa.Boolean(), server_default=sa.false(), nullable=False))
