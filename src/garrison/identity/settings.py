"""What identity is told: one frozen value, composed by `serve/settings.py`, so that this room reads no environment.

Durations in seconds. Tests lower the price of hashing and raise limits here; they never take a layer away.
"""

import re
from dataclasses import dataclass

from garrison.core.durations import Limit
from garrison.core.errors import SettingsError
from garrison.identity.issuers.model import ForeignIssuer
from garrison.identity.providers.configured import Provider

_COST = re.compile(r"m=([0-9]{1,7}),t=([0-9]{1,2}),p=([0-9]{1,2})", re.ASCII)
_DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class PasswordCost:
    """Parameters of Argon2id (RFC 9106). The default is OWASP's least: 19 MiB, two passes, one lane."""

    memory_kib: int = 19_456
    passes: int = 2
    lanes: int = 1

    def __post_init__(self) -> None:
        if self.passes < 1 or self.lanes < 1 or self.memory_kib < 8 * self.lanes:
            raise ValueError(_COST_HELP)


def parse_cost(text: str) -> PasswordCost:
    """Return the cost written as in an Argon2 hash, `m=19456,t=2,p=1` (m in KiB). Raises ValueError."""
    match = _COST.fullmatch(text.strip())
    if match is None:
        raise ValueError(_COST_HELP)
    return PasswordCost(int(match[1]), int(match[2]), int(match[3]))


@dataclass(frozen=True, slots=True)
class IdentitySettings:
    """Settings of every capability. Raises SettingsError for a production server with cheap password hashes."""

    development: bool
    """True lets cookies without `Secure` exist, over http on this machine."""
    issuer: str = "http://127.0.0.1:8000"

    session_idle_s: float = 14 * _DAY_S
    session_max_s: float = 30 * _DAY_S
    max_sessions: int = 10_000
    """Most live sessions of one account; the oldest ends when one more begins."""
    cache_entries: int = 16_384
    """Most verified sessions kept by one process, about 1.2 kB each."""
    cache_ttl_s: float = 300.0
    """How long a verification may be served before the store is asked again; must stay below the view's memory."""

    device_lifetime_s: float = 400 * _DAY_S
    """From the last sign-in; browsers keep no cookie longer (RFC 6265bis section 5.5)."""
    max_devices: int = 100
    """Most known devices of one account; the one unused longest is forgotten."""

    limit_sign_in: Limit = Limit(5, 900)
    """Failed sign-ins per (account, network), and per known device."""
    limit_sign_in_address: Limit = Limit(50, 900)
    """Failed sign-ins per address; an IPv6 /48 as a whole has 16 times as many."""
    limit_sign_up: Limit = Limit(20, 3600)
    sign_up_needs_key: bool = False
    """Only apps that show a key of kind `app` may sign people up."""
    basic: bool = False
    """HTTP Basic is taken."""
    account_free: Limit = Limit(20, 900)
    """Failed sign-ins of one account from all unknown devices together, before further ones are delayed."""
    account_delay_max_s: float = 30.0
    """The longest delay. Never a lock: a stranger must not be able to keep the owner out."""
    max_delayed: int = 2048
    """Most sign-ins of one process that wait out a delay at a time; what comes beyond is told to come back."""
    max_delayed_account: int = 256
    """Most of them at one account, so that guessing at one does not take the places of all others."""

    session_format: str = "opaque"
    """What a session's cookie holds: 256 random bits, or (`jwt`) a signed statement about the session."""
    audience: str = ""
    """What our access tokens are for; empty: the issuer."""
    signing_algorithm: str = "RS256"
    """`RS256 ES256 EdDSA`, or `HS256`, which needs `signing_secret` and has no JWKS."""
    signing_secret: bytes = b""
    key_lifetime_s: float = 90 * _DAY_S
    """After which the next key signs."""
    jwks_max_age_s: float = 300.0
    """How long verifiers may keep the JWKS."""
    revocation_bound_s: float = 2.0
    """How long a process may take to hear of a change, and so to show a new key."""
    access_ttl_s: float = 900.0
    refresh_ttl_s: float = 7 * _DAY_S
    """Of one refresh token; each rotation begins anew."""
    refresh_max_s: float = 90 * _DAY_S
    """Of a family, from its sign-in."""
    refresh_grace_s: float = 10.0
    leeway_s: float = 60.0
    """How far clocks of others may be off."""
    limit_refresh: Limit = Limit(60, 60)
    limit_oauth_token: Limit = Limit(60, 60)
    """Tokens of one client."""
    limit_oauth_token_failed: Limit = Limit(20, 900)
    """Failed authentications of clients, per address."""
    limit_user_codes: Limit = Limit(20, 900)
    """Looking up codes that devices show, per account and per network: they have 34 bits."""
    limit_oauth_lookups: Limit = Limit(6000, 60)
    """Introspections and revocations, per address: resource servers ask for every request."""
    share: int = 1
    """How many processes share these two without a common store: each takes 1/share."""
    foreign_issuers: tuple[ForeignIssuer, ...] = ()
    """Whose tokens are taken beside ours."""
    client_documents: bool = False
    """Clients are taken that describe themselves by a document at their id, a URL."""
    client_document_scopes: tuple[str, ...] = ()
    """What they may ask for beside `openid email`."""
    providers: tuple[Provider, ...] = ()
    """Whom people may sign in with."""

    password_cost: PasswordCost = PasswordCost()
    hash_threads: int | None = None
    """None: one less than there are cores, at least one, so that hashing never takes the last core."""
    hash_queue: int = 32
    """Most passwords waiting per thread; beyond, sign-ins are shed at once."""
    hash_queue_timeout_s: float = 2.0

    def __post_init__(self) -> None:
        least = PasswordCost()
        cost = self.password_cost
        if not self.development and (cost.memory_kib < least.memory_kib or cost.passes < least.passes):
            text = f"production hashes with at least m={least.memory_kib},t={least.passes},p={least.lanes}"
            raise SettingsError([("PASSWORD_COST", text)])

    @property
    def longest_token_s(self) -> float:
        """How long anything that a key signed may be good."""
        longest = max(self.access_ttl_s, self.session_idle_s if self.session_format == "jwt" else 0.0)
        return longest + self.leeway_s

    @property
    def shown_before_s(self) -> float:
        """How long a key is shown before it signs: until whoever keeps the JWKS, of any process, must have it."""
        return self.jwks_max_age_s + self.revocation_bound_s

    @property
    def touch_every_s(self) -> float:
        """How often idle times are written: one write per session in a twentieth of the idle time, or a minute.

        Where that itself is short, in a quarter of it: another process, or the sweeper, would end who is active.
        """
        return min(max(60.0, self.session_idle_s / 20), self.session_idle_s / 4)


_COST_HELP = "write the cost as m=KiB,t=passes,p=lanes, for example m=19456,t=2,p=1, m at least 8 for each lane"
