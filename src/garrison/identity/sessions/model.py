"""What a session is, and its table.

The public id (`ses_…`) is not derived from the secret, and the secret is kept as a digest under the purpose of its
carrier, so that a cookie's value is no bearer token and the other way round. A session carries the account's epoch of
its making: it is valid while that is at least the account's own. `version` is raised by whatever changes the session;
ending it deletes the row and announces a version above it.

A session whose carrier is `token` is a family of refresh tokens (`tokens/`): its own secret is nobody's, and once it
`is_bound` every refresh has to show its device; with `jkt`, every request a proof of that key (RFC 9449). With
`client_id` it is what a person gave that client: within `scope`, for `audience`, and delegated.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    false,
)

from garrison.core.ids import AccountId, SessionId
from garrison.core.principal import Factor
from garrison.store.schema import metadata

Carrier = Literal["cookie", "token"]
COOKIE_PURPOSE = "session"
NO_PURPOSE = "nothing"
"""What the secret of a session is for that is shown by tokens: no credential is looked up under it."""

sessions = Table(
    "sessions",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("secret_digest", LargeBinary(32), nullable=False, unique=True),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("account_epoch", Integer, nullable=False),
    Column("carrier", String(8), nullable=False),
    Column("factors", Text, nullable=False),
    Column("device_id", String(32), nullable=True),
    Column("is_bound", Boolean(create_constraint=False), nullable=False, server_default=false()),
    Column("client", String(64), nullable=False),
    Column("network", String(64), nullable=False),
    Column("created_at", Double, nullable=False),
    Column("seen_at", Double, nullable=False),
    Column("idle_until", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("version", Integer, nullable=False),
    Column("jkt", String(64), nullable=True),
    Column("client_id", String(512), nullable=True),
    Column("scope", Text, nullable=True),
    Column("audience", Text, nullable=True),
    CheckConstraint("carrier IN ('cookie', 'token')", name="sessions_carrier"),
    Index("sessions_by_account", "account_id", "created_at"),
    Index("sessions_by_idle", "idle_until"),
    Index("sessions_by_client", "client_id"),
)


@dataclass(frozen=True, slots=True)
class Session:
    """A session as its owner may see it. Times are Unix seconds; `client` and `network` are hints, not evidence."""

    id: SessionId
    account_id: AccountId
    carrier: Carrier
    client: str
    network: str
    created_at: float
    seen_at: float
    expires_at: float


def factors_to_text(factors: Sequence[Factor]) -> str:
    """Return the factors as the column holds them: JSON pairs of kind and time."""
    return json.dumps([[factor.kind, factor.proved_at] for factor in factors], separators=(",", ":"))


@lru_cache(1024)
def factors_of(text: str) -> tuple[Factor, ...]:
    """Return the factors that a column holds."""
    return tuple(Factor(kind, proved_at) for kind, proved_at in json.loads(text))
