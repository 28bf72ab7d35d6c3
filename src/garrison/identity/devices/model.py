"""A device that signed in before, and its table.

A device is a random secret, bound to one account at a successful sign-in and kept as a digest. Showing it again gives
the sign-ins of that account a throttle budget of their own; it proves nothing and opens nothing. A presented secret
that is not bound to the account signing in is never adopted (CWE-384): a new one is made.
"""

from sqlalchemy import Column, Double, ForeignKey, Index, LargeBinary, String, Table

from garrison.store.schema import metadata

PURPOSE = "device"
"""Purpose of the digest, see `core.ids.digest`."""

devices = Table(
    "devices",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret_digest", LargeBinary(32), nullable=False, unique=True),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("devices_by_account", "account_id", "used_at"),
    Index("devices_by_expiry", "expires_at"),
)
