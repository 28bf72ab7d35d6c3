"""The spine: accounts, sessions, devices, and what the store itself keeps.

Written out and never edited after a release: the models move on, this stays. A test compares what it makes with what
the models declare, statement by statement.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_POSITION = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    _create_accounts()
    _create_sessions()
    _create_devices()
    _create_log()
    _create_audit()
    _create_counters()
    _create_leases_and_marks()


def _create_accounts() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("email", sa.Text(), nullable=False),
        sa.Column("email_key", sa.Text(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("password_version", sa.Integer(), nullable=False),
        sa.Column("roles", sa.Text(), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("epoch", sa.Integer(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="accounts_pkey"),
        sa.CheckConstraint("status IN ('active', 'disabled')", name="accounts_status"),
        sa.UniqueConstraint("email_key", name="accounts_email_key_key"),
    )


def _create_sessions() -> None:
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("secret_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("account_epoch", sa.Integer(), nullable=False),
        sa.Column("carrier", sa.String(8), nullable=False),
        sa.Column("factors", sa.Text(), nullable=False),
        sa.Column("device_id", sa.String(32), nullable=True),
        sa.Column("client", sa.String(64), nullable=False),
        sa.Column("network", sa.String(64), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("idle_until", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="sessions_pkey"),
        sa.CheckConstraint("carrier IN ('cookie', 'token')", name="sessions_carrier"),
        sa.UniqueConstraint("secret_digest", name="sessions_secret_digest_key"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="sessions_account_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("sessions_by_account", "sessions", ["account_id", "created_at"])
    op.create_index("sessions_by_idle", "sessions", ["idle_until"])


def _create_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("secret_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("account_id", sa.String(32), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("used_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="devices_pkey"),
        sa.UniqueConstraint("secret_digest", name="devices_secret_digest_key"),
        sa.ForeignKeyConstraint(["account_id"], ["accounts.id"], name="devices_account_id_fkey", ondelete="CASCADE"),
    )
    op.create_index("devices_by_account", "devices", ["account_id", "used_at"])
    op.create_index("devices_by_expiry", "devices", ["expires_at"])


def _create_log() -> None:
    op.create_table(
        "changes",
        sa.Column("position", _POSITION, autoincrement=True, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="changes_pkey"),
        sqlite_autoincrement=True,
    )
    op.create_index("changes_by_time", "changes", ["at"])


def _create_audit() -> None:
    op.create_table(
        "events",
        sa.Column("position", _POSITION, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(32), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("network", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("request_id", sa.Text(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name="events_pkey"),
        sa.UniqueConstraint("id", name="events_id_key"),
        sqlite_autoincrement=True,
    )
    op.create_index("events_by_time", "events", ["at"])
    op.create_index("events_by_subject", "events", ["subject", "position"])
    op.create_table(
        "refusals",
        sa.Column("code", sa.String(64), nullable=False),
        sa.Column("who", sa.Text(), nullable=False),
        sa.Column("route", sa.Text(), nullable=False),
        sa.Column("minute", sa.Integer(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("code", "who", "route", "minute", name="refusals_pkey"),
    )
    op.create_index("refusals_by_minute", "refusals", ["minute"])


def _create_counters() -> None:
    op.create_table(
        "counters",
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("tat", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="counters_pkey"),
        sqlite_with_rowid=False,
    )
    op.create_index("counters_by_expiry", "counters", ["expires_at"])


def _create_leases_and_marks() -> None:
    op.create_table(
        "leases",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="leases_pkey"),
    )
    op.create_table(
        "marks",
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("name", name="marks_pkey"),
    )
