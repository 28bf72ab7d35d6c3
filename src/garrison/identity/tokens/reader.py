"""A JWT that is shown for the first time: signature and claims first, then the rows behind it, in one read.

What was revoked is refused by a process that has just started, too, and one that cannot hear the news asks each time.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple

from garrison.guard.authenticate import REFUSED
from garrison.identity.sessions.cache import Judge, Outcome, SessionCache
from garrison.identity.signing.jose import TokenRefused, verify
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.wire.call import Call

LOOK_EVERY_S = 0.5
"""A key that is not known may have been made by another process a moment ago; random `kid`s must not cost more."""


class Claimed(NamedTuple):
    """What a token's claims mean: which row is to be read, and what makes an entry of it."""

    sql: str
    parameters: tuple[Any, ...]
    judge: Judge


Understand = Callable[[Mapping[str, Any], str, float], Claimed | None]
"""(claims, kid, now) → what is claimed; None for claims that are not those of such a token, in force now.

May raise TokenRefused with a code for the log."""


class TokenReader:
    """Reads tokens of one `typ`: `value_of` finds one in a call, `understand` says what its claims mean."""

    __slots__ = ("_cache", "_looked_at", "_ring", "_signing", "_typ", "_understand", "_value_of")

    def __init__(
        self,
        cache: SessionCache,
        keyring: Keyring,
        signing: SigningService,
        *,
        typ: str,
        value_of: Callable[[Call], bytes],
        understand: Understand,
    ) -> None:
        self._cache = cache
        self._ring = keyring
        self._signing = signing
        self._typ = typ
        self._value_of = value_of
        self._understand = understand
        self._looked_at = float("-inf")

    def ask(self, shown: bytes, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return what `SessionCache.verify` is to return for a token that it does not know."""
        try:
            return self._ask(shown, call)
        except TokenRefused as refused:
            if refused.code == "kid" and (
                call.boot - self._looked_at >= LOOK_EVERY_S
                or not self._ring.verifying  # at the very first start another process makes the keys and signs at once
            ):
                self._looked_at = call.boot
                return self._look(shown, call)
            call.reason = refused.code
            return REFUSED

    async def _look(self, shown: bytes, call: Call) -> Outcome:
        await self._signing.load()
        try:
            outcome = self._ask(shown, call)
        except TokenRefused as refused:
            call.reason = refused.code
            return REFUSED
        return await outcome if isinstance(outcome, Awaitable) else outcome

    def _ask(self, shown: bytes, call: Call) -> "Outcome | Awaitable[Outcome]":
        claims, kid = verify(self._value_of(call), self._ring.verifying.get, typ=self._typ)
        claimed = self._understand(claims, kid, call.now)
        if claimed is None:
            raise TokenRefused("claims")
        return self._cache.read(shown, call, *claimed)
