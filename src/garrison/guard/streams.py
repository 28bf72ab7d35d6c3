"""Open streams, kept by session, account and whatever else they rest on, cut when any of it ends.

A request is authorized when it starts; an event stream or web socket goes on for hours. So every answer without a
known length and every web socket of a signed-in principal is registered here, and news of its session or account cuts
it: the task is cancelled, the chain closes the connection (web socket 1008). A role change cuts, too: the client
comes back with its new rights. Credentials also end by time, and a view that cannot hear news any more is not to be
trusted with open streams: `sweep` handles both. A body that is still on its way then is not read to its end, nor is
one whose end comes while no news can be heard, since the credential it came with may have ended meanwhile.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from garrison.core.principal import Principal
from garrison.guard.authorize import invalid_token
from garrison.guard.revocation import WHO, RevocationView
from garrison.wire.answer import Message, Receive
from garrison.wire.call import Call
from garrison.wire.problem import RETRY_SOON, problem

_DEAF_S, _LOOK_EVERY_S = 1.0, 0.02
"""How long the end of a body waits for news that do not come, and how often it looks."""
MARGIN = 0.2
"""Share of the bound before whose end streams are cut: cutting takes a moment, and the bound includes it."""


class CredentialEnded(Exception):
    """Raised into whoever reads a body, the app as well; `call.replaced` wins over whatever it says then."""


class Streams:
    """The open streams of this process."""

    __slots__ = ("_by_account", "_by_rest", "_by_session", "_ended_keys", "_hear", "_view")

    def __init__(self, view: RevocationView, hear: Callable[[], Awaitable[None]] | None = None) -> None:
        """`hear` asks for news where nobody does so all the time."""
        self._view = view
        self._hear = _nothing if hear is None else hear
        self._by_session: dict[str, set[Call]] = {}
        self._by_account: dict[str, set[Call]] = {}
        self._by_rest: dict[str, set[Call]] = {}
        """By client and token that a credential came through (token exchange)."""
        self._ended_keys: set[str] = set()
        view.listen(self._on_news)

    def __len__(self) -> int:
        return sum(map(len, self._by_account.values()))

    def open(self, call: Call) -> None:
        """Register the call's running task; does nothing for a credential that no news can end."""
        credential = call.credential
        if credential is None or call.task is not None:
            return
        call.task = asyncio.current_task()
        self._by_account.setdefault(credential.account_id, set()).add(call)
        if credential.session_id:
            self._by_session.setdefault(credential.session_id, set()).add(call)
        for one, _ in credential.rests_on:
            self._by_rest.setdefault(one, set()).add(call)
        if self._has_ended(credential):  # between the check and the first byte
            _cut(call)

    def attended(self, call: Call, receive: Receive) -> Receive:
        """Return a `receive` that gives no piece of a body once the credential has ended, but raises `CredentialEnded`.

        A body may take a quarter of an hour to come. What was kept in readiness while a session was good, a byte short
        of complete, must not be done after it. Where a dead cookie is anonymous, one that has just died is, too. Where
        no news can be heard, nobody knows: 503.
        """

        async def attend() -> Message:
            message = await receive()
            if message["type"] != "http.request" or call.credential is None:
                return message
            if not self._has_ended(call.credential):
                if not await self._heard():
                    call.replaced = problem("store_unavailable", call.request_id, headers=RETRY_SOON)
                    raise CredentialEnded
                if not self._has_ended(call.credential):
                    return message
            explicit = b"authorization" in call.headers or b"x-api-key" in call.headers
            if call.granted or explicit or not call.plan.is_lenient:
                call.replaced = invalid_token(call)
                raise CredentialEnded
            call.credential, call.principal = None, Principal.anonymous
            return message

        return attend

    def close(self, call: Call) -> None:
        """Forget the call; safe to repeat."""
        credential = call.credential
        kept = [(self._by_account, credential.account_id), (self._by_session, credential.session_id)]
        for table, key in kept + [(self._by_rest, one) for one, _ in credential.rests_on]:
            found = table.get(key)
            if found is not None:
                found.discard(call)
                if not found:
                    del table[key]
        call.task = None

    async def is_over(self, call: Call) -> bool:
        """Say whether what a stream's client just sent is not to be taken, and cut the stream then."""
        if not self._has_ended(call.credential) and await self._heard() and not self._has_ended(call.credential):
            return False
        _cut(call)
        return True

    def are_trusted(self) -> bool:
        """Say whether news are heard, for a moment longer at least."""
        return self._view.is_fresh(margin=MARGIN)

    def sweep(self, now: float) -> None:
        """Cut what has expired by `now` (Unix seconds), or everything when the view is not to be trusted."""
        trusted = self.are_trusted()
        for calls in list(self._by_account.values()):
            for call in list(calls):
                if call.cut:  # the app went on after the first time
                    _again(call)
                elif not trusted or call.credential.expires_at <= now:
                    _cut(call)

    def _on_news(self, kind: str, subject: str, version: int) -> None:
        """Cut what rests on an older version; who came back after the change and before its news stays."""
        of_whom = kind in WHO
        for call in list((self._by_account if of_whom else self._by_session).get(subject, ())):
            credential = call.credential
            if (credential.account_version if of_whom else credential.session_version) < version:
                _cut(call)
        for call in list(self._by_rest.get(subject, ())):
            if any(one == subject and carried < version for one, carried in call.credential.rests_on):
                _cut(call)

    def end_keys(self, kids: Collection[str]) -> None:
        """Cut what runs on a token that one of these keys signed."""
        self._ended_keys.update(kids)
        for calls in list(self._by_account.values()):
            for call in list(calls):
                if getattr(call.credential, "kid", "") in kids:
                    _cut(call)

    async def _heard(self) -> bool:
        """Wait for news, if there are none to be trusted; say whether there are."""
        if self._view.is_fresh():
            return True
        await self._hear()
        for _ in range(round(_DEAF_S / _LOOK_EVERY_S)):
            if self._view.is_fresh():
                return True
            await asyncio.sleep(_LOOK_EVERY_S)
        return False

    def _has_ended(self, credential: Any) -> bool:
        return self._view.has_ended(credential) or getattr(credential, "kid", "") in self._ended_keys


async def _nothing() -> None:
    return None


def _cut(call: Call) -> None:
    task = call.task
    if task is not None and not call.cut:
        call.cut = True
        _again(call)


def _again(call: Call) -> None:
    if call.task is not None:
        loop = call.task.get_loop()
        if not loop.is_closed():
            loop.call_soon_threadsafe(_cancel, call)


def _cancel(call: Call) -> None:
    """Cancel the stream's task, unless the stream ended meanwhile: the task may be serving something else by now."""
    if call.task is not None:
        call.task.cancel()
