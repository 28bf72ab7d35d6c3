"""A session shown by cookie: 256 random bits, looked up by digest in `cache.py`.

What is not of our form is refused without asking the store. Tokens are read in `tokens/authenticator.py`.
"""

from collections.abc import Awaitable
from hashlib import sha256

from garrison.core.network import is_loopback
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.identity.sessions.cache import Ask, SessionCache
from garrison.identity.sessions.carriers import LOCAL_PEERS, LOOPBACK, TLS
from garrison.identity.sessions.model import COOKIE_PURPOSE
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie

SECRET_LENGTH = 43
"""Of `core.ids.new_secret`: 256 bits in URL-safe base 64."""
_COOKIE_SALT = COOKIE_PURPOSE.encode() + b"\x00"
# Written out here, because each call would cost a tenth of a warm check: the digest of `core.ids.digest`, and the
# choice of names of `carriers.cookie_names`.


class CookieAuthenticator:
    """Reads `__Host-garrison` over TLS, and `garrison` in development on this machine."""

    explicit = False

    def __init__(self, cache: SessionCache, *, development: bool) -> None:
        self._verify = cache.verify
        self._development = development
        self._salt = _COOKIE_SALT
        self._ask: Ask | None = None
        """What verifies the value where it says something itself; see `tokens/cookie.py`."""

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the session of the cookie; None without one, REFUSED for one that is not valid (any more)."""
        if call.secure:
            names = TLS
        elif self._development and (call.peer in LOCAL_PEERS or is_loopback(call.peer)):
            names = LOOPBACK
        else:
            return None
        header, start = call.headers[b"cookie"], names.session_start
        if header.rfind(start) == 0:  # the usual case: first, and once
            value = header[len(start) :].partition(b";")[0]
        else:
            found = find_cookie(header, names.session)
            if found is None:
                return None
            value = found.encode("latin-1")
        if len(value) != SECRET_LENGTH and self._ask is None:
            return REFUSED
        return self._verify(sha256(self._salt + value).digest(), call, self._ask)
