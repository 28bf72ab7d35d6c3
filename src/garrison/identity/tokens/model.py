"""Refresh tokens, and their table.

A family is a session; its tokens are numbered. A token that was rotated keeps its successor, sealed under a key that
only the token itself gives, so that whoever shows it again while that is allowed gets the very same one, and nobody who
reads the table gets any. `acknowledged` is whether the client is known to have got that successor.
"""

from sqlalchemy import Boolean, Column, Double, ForeignKey, Index, Integer, LargeBinary, String, Table, UniqueConstraint

from garrison.store.schema import metadata

PURPOSE = "refresh"
"""Purpose of the digest, see `core.ids.digest`."""
PREFIX = "grr_"

refresh_tokens = Table(
    "refresh_tokens",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("session_id", String(32), ForeignKey("sessions.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("used_at", Double, nullable=True),
    Column("successor", LargeBinary, nullable=True),
    Column("acknowledged", Boolean(create_constraint=False), nullable=False),
    UniqueConstraint("session_id", "number"),
    Index("refresh_tokens_by_expiry", "expires_at"),
)
