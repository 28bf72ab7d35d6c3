"""Somebody stands in for whoever would be authenticated: the hook of the users' test kit (`garrison.testing`).

Only *who is it* is answered by the test; every other layer runs. In production no plan holds this check, and nothing
that comes with a request can set it: it is an attribute of an object in this process.
"""

from collections.abc import Awaitable

from garrison.core.principal import Principal
from garrison.guard.layer import Check
from garrison.wire.answer import Answer
from garrison.wire.call import Call


class StandIn:
    """Who stands in, if anybody: what the guard calls `Verified`, with no end but the test's."""

    account_version = 1 << 60
    session_version = 1 << 60
    rests_on: tuple[tuple[str, int], ...] = ()
    expires_at = float("inf")

    def __init__(self) -> None:
        self.principal = Principal.anonymous
        self.account_id = ""
        self.session_id = ""

    def play(self, principal: Principal) -> None:
        """Let `principal` stand in; `Principal.anonymous` ends it."""
        self.principal = principal
        self.account_id = principal.id
        self.session_id = principal.session_id or ""


def stand_in_check(stand_in: StandIn, check: Check) -> Check:
    """Return a check that takes whoever stands in, unless the request shows a credential in a header of its own."""

    def check_stand_in(call: Call) -> "Answer | Awaitable[Answer | None] | None":
        if (
            stand_in.principal is Principal.anonymous
            or b"authorization" in call.headers
            or b"x-api-key" in call.headers
        ):
            return check(call)
        call.principal = stand_in.principal
        call.credential = stand_in
        return None

    return check_stand_in
