"""Tokens that were revoked one by one, until they would have ended anyway.

Sessions, keys and clients end as a whole; only a client's own access token has nothing of its own to end.
"""

from sqlalchemy import Column, Connection, Double, Index, String, Table

from garrison.store.schema import metadata
from garrison.store.statements import insert_new

revoked_tokens = Table(
    "revoked_tokens",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("expires_at", Double, nullable=False),
    Index("revoked_tokens_by_expiry", "expires_at"),
)


def insert_revoked(connection: Connection, token_id: str, expires_at: float) -> bool:
    """Note that the token is revoked; say whether it was not before."""
    return insert_new(connection, revoked_tokens, {"id": token_id, "expires_at": expires_at})
