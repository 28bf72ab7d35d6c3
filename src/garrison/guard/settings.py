"""What the guard is told: one frozen value, composed by `serve/settings.py`, so that the guard reads no environment."""

from dataclasses import dataclass

from garrison.core.durations import Limit
from garrison.core.network import Network


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """Settings of every layer, in the order of a request's way. Durations in seconds, sizes in bytes."""

    development: bool
    expose: bool = False
    """True lets a development server answer beyond loopback."""
    issuer: str = "http://127.0.0.1:8000"
    trusted_proxies: tuple[Network, ...] = ()
    allowed_hosts: frozenset[str] = frozenset()
    """Lower-case host names without port; the issuer's host is among them."""
    allowed_origins: frozenset[str] = frozenset()
    health_networks: tuple[Network, ...] = ()
    limit_address: Limit = Limit(1200, 60)
    limit_api: Limit = Limit(100, 60)
    share: int = 1
    """How many processes share the limits without a common store: each takes 1/share."""
    max_target_bytes: int = 8192
    max_header_count: int = 100
    max_header_bytes: int = 32768
    max_body_bytes: int = 1 << 20
    owner_deadline_s: float = 2.0
    revocation_bound_s: float = 2.0
    hsts_max_age_s: int = 31_536_000
