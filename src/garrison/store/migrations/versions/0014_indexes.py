"""Indexes for what would else read a whole table: app keys, and the codes of one client."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    is_app = sa.text("kind = 'app'")
    op.create_index("api_keys_of_apps", "api_keys", ["kind"], sqlite_where=is_app, postgresql_where=is_app)
    op.create_index("authorization_codes_by_client", "authorization_codes", ["client_id"])
    op.create_index("device_codes_by_client", "device_codes", ["client_id"])
