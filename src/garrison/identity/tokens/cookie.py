"""A signed JWT in the session's cookie (`SESSION_FORMAT=jwt`): the same session, the same guard, the same revocation.

It saves no look at the store: the first time a process sees one, the session's row is asked for, as for any cookie.
What it gives is a value that others can read and verify by the JWKS. `typ` and `aud` are its own (RFC 8725 section
3.11), so it is no access token, and an access token is no cookie. Whoever shows one of which half the life is gone gets
another with the answer, as long as the session lives.
"""

from collections.abc import Awaitable, Mapping
from typing import Any

from garrison.guard.authenticate import Outcome
from garrison.identity.sessions.authenticator import CookieAuthenticator
from garrison.identity.sessions.cache import SessionCache, SessionEntry, Token
from garrison.identity.sessions.carriers import cookie_names
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import numeric_date
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.queries import ACCESS_READ
from garrison.identity.tokens.reader import Claimed, TokenReader
from garrison.identity.tokens.service import COOKIE_AUDIENCE, COOKIE_TYP, TokenService
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie, set_cookie
from garrison.wire.header_lines import block

RENEW_EVERY_S = 60.0
"""An answer may be lost, so another cookie is offered again, but not with every answer: signing takes 0.3 ms."""


class JwtCookieAuthenticator(CookieAuthenticator):
    """Reads the same cookies as `CookieAuthenticator`, with a JWT in them, and renews them."""

    def __init__(
        self,
        cache: SessionCache,
        keyring: Keyring,
        signing: SigningService,
        tokens: TokenService,
        settings: IdentitySettings,
    ) -> None:
        super().__init__(cache, development=settings.development)
        reader = TokenReader(cache, keyring, signing, typ=COOKIE_TYP, value_of=self._value_of, understand=self._claimed)
        self._salt = b"session+jwt\x00"
        self._ask = reader.ask
        self._cache = cache
        self._ring = keyring
        self._tokens = tokens
        self._settings = settings

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the session of the cookie; None without one, REFUSED for one that is not valid (any more)."""
        outcome = super().check(call)
        if isinstance(outcome, SessionEntry):
            self._renew_if_due(call, outcome)
        elif isinstance(outcome, Awaitable):
            return self._later(call, outcome)
        return outcome

    async def _later(self, call: Call, outcome: Awaitable[Outcome]) -> Outcome:
        """The same, where the store was asked."""
        found = await outcome
        if isinstance(found, SessionEntry):
            self._renew_if_due(call, found)
        return found

    def _value_of(self, call: Call) -> bytes:
        names = cookie_names(call, development=self._settings.development)
        value = None if names is None else find_cookie(call.headers[b"cookie"], names.session)
        return b"" if value is None else value.encode("latin-1")

    def _claimed(self, claims: Mapping[str, Any], kid: str, now: float) -> Claimed | None:
        expires_at, issued_at = numeric_date(claims.get("exp")), numeric_date(claims.get("iat"))
        if (
            claims.get("iss") != self._settings.issuer
            or claims.get("aud") != COOKIE_AUDIENCE
            or not isinstance(claims.get("sub"), str)
            or not isinstance(claims.get("sid"), str)
            or expires_at is None
            or issued_at is None
            or now >= expires_at
            or issued_at > now + self._settings.leeway_s
        ):
            return None
        renew_at = issued_at + (expires_at - issued_at) / 2
        token = Token(claims["sub"], expires_at, "cookie", kid, self._ring.is_shared, "session", renew_at)
        return Claimed(ACCESS_READ, (kid, claims["sid"]), self._cache.judge_session(token))

    def _renew_if_due(self, call: Call, entry: SessionEntry) -> None:
        if call.now < entry.renew_at or call.kind != "http":
            return
        names = cookie_names(call, development=self._settings.development)
        if names is None:
            return
        entry.renew_at = call.now + RENEW_EVERY_S
        value, expires_at = self._tokens.cookie_of(entry.session_id, entry.account_id, entry.ends_at, call.now)
        left = int(expires_at - call.now)
        call.renewed = block(set_cookie(names.session, value, max_age_s=left, secure=names.secure))
