"""A signing key, and its table.

    next      shown in the JWKS, signs nothing yet
    active    signs; exactly one
    retired   signs no more; what it signed is good until it ends (`ends_at`), then the row goes
    revoked   nothing it ever signed is good, at once; the row stays, so that its `kid` is never anything else

The private half is sealed for its row. `version` is raised by each change of state.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import CheckConstraint, Column, Double, Index, Integer, LargeBinary, String, Table, Text, text

from garrison.store.schema import metadata

State = Literal["next", "active", "retired", "revoked"]

signing_keys = Table(
    "signing_keys",
    metadata,
    Column("kid", String(64), primary_key=True),
    Column("algorithm", String(8), nullable=False),
    Column("state", String(8), nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("public", Text, nullable=False),
    Column("shown_at", Double, nullable=False),
    Column("signs_from", Double, nullable=True),
    Column("ends_at", Double, nullable=True),
    Column("version", Integer, nullable=False),
    CheckConstraint("state IN ('next', 'active', 'retired', 'revoked')", name="signing_keys_state"),
    Index(
        "signing_keys_one_active",
        "state",
        unique=True,
        sqlite_where=text("state = 'active'"),
        postgresql_where=text("state = 'active'"),
    ),
    Index("signing_keys_by_end", "ends_at"),
)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key as people see it. Times are Unix seconds: shown in the JWKS since, signing from, good until."""

    kid: str
    algorithm: str
    state: State
    shown_at: float
    signs_from: float | None
    ends_at: float | None
