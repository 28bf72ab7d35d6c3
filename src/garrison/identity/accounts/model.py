"""What an account is, and its table.

`epoch` is raised to end every session and token of the account; `version` by anything that matters to a verification
made before (epoch, roles, state, password). Each raise of `version` is a row of the log. `password_version` is raised
by a new password only, not by a new hash of the same one.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from sqlalchemy import CheckConstraint, Column, Double, Integer, String, Table, Text

from garrison.core.ids import AccountId
from garrison.store.schema import metadata

Status = Literal["active", "disabled"]
MEMBER = "member"
"""The role that everyone keeps."""
_ROLE = re.compile(r"[!#-\[\]-~]{1,128}", re.ASCII)

accounts = Table(
    "accounts",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("email", Text, nullable=False),
    Column("email_key", Text, nullable=False, unique=True),
    Column("password_hash", Text, nullable=True),
    Column("password_version", Integer, nullable=False),
    Column("roles", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Double, nullable=False),
    CheckConstraint("status IN ('active', 'disabled')", name="accounts_status"),
)


@dataclass(frozen=True, slots=True)
class Account:
    """A person's account. `roles` always holds `member`; `created_at` is Unix seconds."""

    id: AccountId
    email: str
    roles: frozenset[str]
    status: Status
    epoch: int
    version: int
    created_at: float


@lru_cache(1024)
def roles_of(text: str) -> frozenset[str]:
    """Return the roles of an account as its column holds them: those beside `member`, separated by spaces."""
    return frozenset((MEMBER, *text.split()))


def check_role(role: str) -> str:
    """Return the role, one word of RFC 6749's scope characters. Raises ValueError."""
    if _ROLE.fullmatch(role) is None:
        raise ValueError("a role is one word of 1 to 128 printable characters without quotes or backslashes")
    return role
