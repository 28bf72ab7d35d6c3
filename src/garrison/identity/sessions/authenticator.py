"""The two ways a session is shown: by cookie, and as a bearer token (RFC 6750 section 2.1).

Both are 256 random bits, looked up by digest in `cache.py`; the digest's purpose is the carrier's, so the value of a
cookie is no token and the other way round (CWE-287). What is not of our form is refused without asking the store.
"""

from collections.abc import Awaitable
from hashlib import sha256

from garrison.core.network import is_loopback
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.identity.sessions.cache import SessionCache
from garrison.identity.sessions.carriers import LOCAL_PEERS, LOOPBACK, TLS
from garrison.identity.sessions.model import COOKIE_PURPOSE, TOKEN_PREFIX, TOKEN_PURPOSE
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie

SECRET_LENGTH = 43
"""Of `core.ids.new_secret`: 256 bits in URL-safe base 64."""
_COOKIE_SALT = COOKIE_PURPOSE.encode() + b"\x00"
_TOKEN_SALT = TOKEN_PURPOSE.encode() + b"\x00"
_TOKEN_START = b"Bearer " + TOKEN_PREFIX.encode()
_TOKEN_LENGTH = len(TOKEN_PREFIX) + SECRET_LENGTH
# Written out here, because each call would cost a tenth of a warm check: the digest of `core.ids.digest`, and the
# choice of names of `carriers.cookie_names`.


class CookieAuthenticator:
    """Reads `__Host-garrison` over TLS, and `garrison` in development on this machine."""

    explicit = False

    def __init__(self, cache: SessionCache, *, development: bool) -> None:
        self._verify = cache.verify
        self._development = development

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the session of the cookie; None without one, REFUSED for one that is not valid (any more)."""
        if call.secure:
            names = TLS
        elif self._development and (call.peer in LOCAL_PEERS or is_loopback(call.peer)):
            names = LOOPBACK
        else:
            return None
        header, start = call.headers[b"cookie"], names.session_start
        if header.startswith(start) and header.find(start, 1) < 0:  # the usual case: first, and once
            value = header[len(start) :].partition(b";")[0]
        else:
            found = find_cookie(header, names.session)
            if found is None:
                return None
            value = found.encode("latin-1")
        if len(value) != SECRET_LENGTH:
            return REFUSED
        return self._verify(sha256(_COOKIE_SALT + value).digest(), call)


class TokenAuthenticator:
    """Reads `Authorization: Bearer grs_…`; other tokens are somebody else's."""

    explicit = True

    def __init__(self, cache: SessionCache) -> None:
        self._verify = cache.verify

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the session of the token; None for other credentials, REFUSED for one that is not valid (any more)."""
        value = call.headers.get(b"authorization", b"")
        if not value.startswith(_TOKEN_START):
            scheme, _, rest = value.partition(b" ")
            value = _TOKEN_START[:7] + rest.strip(b" ")
            if scheme.lower() != b"bearer" or not value.startswith(_TOKEN_START):
                return None
        token = value[7:]
        if len(token) != _TOKEN_LENGTH:
            token = token.rstrip(b" ")  # white space around a value is no part of it (RFC 9110 section 5.5)
            if len(token) != _TOKEN_LENGTH:
                return REFUSED
        return self._verify(sha256(_TOKEN_SALT + token).digest(), call)
