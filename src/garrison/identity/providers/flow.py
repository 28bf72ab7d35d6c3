"""One sign-in under way at a provider: what this browser has to bring back, sealed into a cookie of its own.

The cookie holds provider, `state`, `nonce`, PKCE verifier and where to go afterwards; nobody can read or change it, it
is good for ten minutes, and only the browser that began has it (RFC 6749 section 10.12, RFC 9700 section 4.7; a `state`
that is not bound to the browser was CVE-2025-68481 and others). Nothing of it comes from the callback's parameters.
"""

import base64
import hashlib
import json
import secrets
from typing import NamedTuple

from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer

LIFETIME_S = 600.0
_PLACE = "cookie/provider flow"


class Flow(NamedTuple):
    """What was begun."""

    provider: str
    state: str
    nonce: str
    verifier: str
    return_to: str
    expires_at: float

    @property
    def challenge(self) -> str:
        """The PKCE challenge, S256 (RFC 7636 section 4.2)."""
        hashed = hashlib.sha256(self.verifier.encode()).digest()
        return base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()


def begin(provider: str, return_to: str, now: float) -> Flow:
    """Begin a flow with fresh secrets."""
    state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
    return Flow(provider, state, nonce, verifier, safe_return(return_to), now + LIFETIME_S)


def seal(flow: Flow, sealer: Sealer) -> str:
    """Return the cookie's value."""
    sealed = sealer.seal(json.dumps(flow).encode(), place=_PLACE)
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def unseal(value: str, sealer: Sealer, now: float) -> Flow | None:
    """Return the flow of a cookie; None for what we did not make, or not lately."""
    try:
        raw = base64.urlsafe_b64decode(value.encode("latin-1") + b"=" * (-len(value) % 4))
        flow = Flow._make(json.loads(sealer.open(raw, place=_PLACE)))
    except (ValueError, TypeError, GarrisonError):
        return None
    return flow if now < flow.expires_at else None


def safe_return(path: str) -> str:
    """Return a path of this host to go back to, `/` for anything that could lead elsewhere (CWE-601)."""
    plain = path.startswith("/") and not path.startswith(("//", "/\\")) and len(path) <= 1024
    return path if plain and path.isascii() and path.isprintable() and "\\" not in path else "/"
