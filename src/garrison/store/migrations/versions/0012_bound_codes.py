"""Authorization codes that are bound to a key of the client's (DPoP)."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("authorization_codes", sa.Column("jkt", sa.String(64), nullable=True))
