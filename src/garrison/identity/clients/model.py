"""An OAuth client, and its table (RFC 6749 section 2).

A client's secret is 256 random bits, kept as a digest; after a rotation the one before is good until `earlier_until`.
`epoch` is raised to end every token of the client, `version` by anything that matters to a verification made before.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import Boolean, CheckConstraint, Column, Double, Integer, LargeBinary, String, Table, Text, false

from garrison.store.schema import metadata

PURPOSE = "client"
"""Purpose of the digest, see `core.ids.digest`."""
PREFIX = "grc_"
_LONG = "urn:ietf:params:oauth:grant-type:"
SHORT_NAMES = {"device_code": _LONG + "device_code", "token_exchange": _LONG + "token-exchange"}
"""What people may write for grants that have a long name."""
GRANTS = frozenset({"authorization_code", "client_credentials", "refresh_token", *SHORT_NAMES.values()})
Status = Literal["active", "disabled"]

clients = Table(
    "clients",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", Text, nullable=False),
    Column("secret_digest", LargeBinary(32), nullable=False),
    Column("earlier_digest", LargeBinary(32), nullable=True),
    Column("earlier_until", Double, nullable=True),
    Column("grants", Text, nullable=False),
    Column("audiences", Text, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("redirect_uris", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("is_public", Boolean(create_constraint=False), nullable=False, server_default=false()),
    Column("jwks", Text, nullable=True),
    Column("requires_dpop", Boolean(create_constraint=False), nullable=False, server_default=false()),
    CheckConstraint("status IN ('active', 'disabled')", name="clients_status"),
)


@dataclass(frozen=True, slots=True)
class Client:
    """A client as people see it. The first of `audiences` is what it gets a token for when it names none."""

    id: str
    name: str
    grants: tuple[str, ...]
    audiences: tuple[str, ...]
    scopes: tuple[str, ...]
    redirect_uris: tuple[str, ...]
    status: Status
    epoch: int
    created_at: float
    is_public: bool = False
    """It can keep no secret (an app, a page): what it shows is PKCE, and nothing is given to it by itself."""
    jwks: str = ""
    """Public keys of a client that authenticates by signature (`clients/keys.py`); empty where it has a secret."""
    requires_dpop: bool = False
    """It gets no token that is not bound to a key it proves (RFC 9449 section 5.2, `dpop_bound_access_tokens`)."""
    calls_itself: str = ""
    """Of a client with a document: the name it gives itself, which nobody has checked; its `name` is its host."""
