"""Families that are bound to a key of the client's (DPoP)."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sessions", sa.Column("jkt", sa.String(64), nullable=True))
