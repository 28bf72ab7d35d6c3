"""Who a request acts as.

A principal is (kind, issuer, subject): two principals are the same person only if all three are. `id` is ours for
accounts, clients and keys, so a foreign subject can never equal an account. On public routes the principal may be
`Principal.anonymous`, which is falsy where it matters: `is_authenticated` is False and `id` is the empty string.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

PrincipalKind = Literal["anonymous", "account", "client", "key", "foreign"]
Via = Literal["none", "session", "jwt", "key", "basic"]


@dataclass(frozen=True, slots=True)
class Factor:
    """One proof of identity: `kind` (`password`, `totp`, `passkey` …) and when it was proved, Unix seconds."""

    kind: str
    proved_at: float


@dataclass(frozen=True, slots=True)
class Principal:
    """A signed-in (or anonymous) caller. Immutable; made by an authenticator, never by a handler.

    `roles` say what a person may do, `scopes` what this credential may do in their name. `delegated` is True for a
    third party's token, an API key, Basic and clients: such a principal passes only rules that name a scope or
    `credentials=`. `via` names the kind of credential.
    """

    id: str
    kind: PrincipalKind = "account"
    issuer: str = ""
    roles: frozenset[str] = frozenset()
    scopes: frozenset[str] = frozenset()
    organization: str | None = None
    session_id: str | None = None
    factors: tuple[Factor, ...] = ()
    via: Via = "session"
    delegated: bool = False
    actor: str | None = None
    """Id of the client that acts in this principal's name with a token it exchanged (RFC 8693 section 4.1)."""

    anonymous: ClassVar["Principal"]

    @property
    def is_authenticated(self) -> bool:
        """Starlette's word for: not anonymous."""
        return self.kind != "anonymous"

    @property
    def proved_at(self) -> float:
        """When the newest factor was proved, Unix seconds; 0 where none was."""
        return max((factor.proved_at for factor in self.factors), default=0.0)

    @property
    def display_name(self) -> str:
        """Starlette's word for a printable name: the id, never an address."""
        return self.id

    @property
    def identity(self) -> str:
        """Starlette's word for the id."""
        return self.id


Principal.anonymous = Principal(id="", kind="anonymous", via="none")
