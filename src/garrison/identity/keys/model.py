"""A key, and its table.

A key acts in the name of the account that made it, within the scopes it was given *and* what the account's roles give
now: its grants never exceed its maker's. One of kind `app` is no person's: it says which app is asking, may do nothing
but create accounts, and is no secret once the app is in somebody's hands.
"""

from dataclasses import dataclass
from typing import Literal

from sqlalchemy import (
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
    text,
)

from garrison.store.schema import metadata

Kind = Literal["api", "app"]
CREATE_ACCOUNTS = "accounts:create"
"""The one scope of an app key."""
IS_APP = text("kind = 'app'")
"""Written out, since an index on some rows serves no statement that names them by a parameter."""

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("name", Text, nullable=False),
    Column("secret_digest", LargeBinary(32), nullable=False, unique=True),
    Column("earlier_digest", LargeBinary(32), nullable=True, unique=True),
    Column("earlier_until", Double, nullable=True),
    Column("scopes", Text, nullable=False),
    Column("networks", Text, nullable=False),
    Column("rate", Text, nullable=False),
    Column("expires_at", Double, nullable=True),
    Column("created_at", Double, nullable=False),
    Column("used_at", Double, nullable=True),
    Column("version", Integer, nullable=False),
    CheckConstraint("kind IN ('api', 'app')", name="api_keys_kind"),
    Index("api_keys_by_account", "account_id", "created_at"),
    Index("api_keys_of_apps", "kind", sqlite_where=IS_APP, postgresql_where=IS_APP),
)


@dataclass(frozen=True, slots=True)
class Key:
    """A key as its maker may see it. Times are Unix seconds; when it was used last may lag."""

    id: str
    account_id: str
    kind: Kind
    name: str
    scopes: tuple[str, ...]
    networks: tuple[str, ...]
    rate: str
    expires_at: float | None
    created_at: float
    used_at: float | None
