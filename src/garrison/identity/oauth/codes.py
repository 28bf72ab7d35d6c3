"""Authorization codes, and their table: one use, one minute (RFC 6749 section 4.1.2, RFC 9700 section 2.1.1).

A code that comes again was copied by somebody: the tokens it gave end, too. So a spent code stays for a while and names
the session that it began.
"""

from typing import NamedTuple

from sqlalchemy import (
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    insert,
    select,
    update,
)

from garrison.store.schema import metadata

PURPOSE = "authorization code"
"""Purpose of the digest, see `core.ids.digest`."""
LIFETIME_S, KEPT_S = 60.0, 3600.0

codes = Table(
    "authorization_codes",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("client_id", String(512), nullable=False),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("account_version", Integer, nullable=False),
    Column("redirect_uri", Text, nullable=False),
    Column("scope", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("challenge", String(64), nullable=False),
    Column("nonce", Text, nullable=False),
    Column("proved_at", Double, nullable=False),
    Column("good_until", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("session_id", String(32), nullable=True),
    Column("jkt", String(64), nullable=True),
    Index("authorization_codes_by_expiry", "expires_at"),
    Index("authorization_codes_by_client", "client_id"),
)


class Code(NamedTuple):
    """What a code stands for. `session_id` is None until it is spent; `proved_at` is when the person signed in.

    `jkt`: thumbprint of the key whose proof has to come with the code, None where the client named none.
    """

    client_id: str
    account_id: str
    account_version: int
    redirect_uri: str
    scope: str
    audience: str
    challenge: str
    nonce: str
    proved_at: float
    good_until: float
    session_id: str | None
    jkt: str | None


def insert_code(connection: Connection, digest: bytes, code: Code, *, now: float) -> None:
    """Keep a new code."""
    connection.execute(insert(codes).values(digest=digest, expires_at=now + KEPT_S, **code._asdict()))


def find_code(connection: Connection, digest: bytes) -> Code | None:
    """Return the code with this digest, spent or not, or None."""
    query = select(*(codes.c[name] for name in Code._fields)).where(codes.c.digest == digest)
    row = connection.execute(query).one_or_none()
    return None if row is None else Code._make(row)


def spend_code(connection: Connection, digest: bytes, session_id: str) -> bool:
    """Spend the code, if nobody did; say whether this call did. One statement, so that one of N wins."""
    statement = update(codes).where(codes.c.digest == digest, codes.c.session_id.is_(None))
    return connection.execute(statement.values(session_id=session_id)).rowcount == 1


def delete_all_codes(connection: Connection) -> int:
    """Forget every code; return how many there were."""
    return int(connection.execute(delete(codes)).rowcount)


def delete_codes_of_client(connection: Connection, client_id: str) -> None:
    """Forget every code of this client: what it did not show yet it gets nothing for."""
    connection.execute(delete(codes).where(codes.c.client_id == client_id))
