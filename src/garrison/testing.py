"""For the tests of your app: act as anybody, and say which routes are open and which are closed.

    from garrison.testing import account, acting_as, assert_closed, assert_open, assert_refused

    assert_open(app, "GET", "/test")
    assert_closed(app, "GET", "/reports/tasks")
    assert_refused(app, "GET", "/reports/tasks", as_=account("acc_ada"), status=403)

    with acting_as(app, account("acc_ada", roles={"admin"})), TestClient(app) as client:
        assert client.get("/reports/tasks").status_code == 200

The whole guard runs; only *who is it* is answered by the test. What a route's handler does, it does. Refused with
PolicyError where the settings say production, and nothing in a request can switch it on.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

from garrison.core.clock import ManualClock
from garrison.core.errors import PolicyError
from garrison.core.principal import Factor, Principal
from garrison.serve.frameworks import guard_of
from garrison.serve.garrison import Garrison
from garrison.serve.settings import load_settings
from garrison.wire.answer import Message

__all__ = ["ManualClock", "account", "acting_as", "assert_closed", "assert_open", "assert_refused"]

_CLOSED = (401, 403)
_ABSENT = (404, 405)


def account(
    id: str = "acc_test",
    *,
    roles: Iterable[str] = (),
    scopes: Iterable[str] = (),
    organization: str | None = None,
    factors: Iterable[Factor] = (),
) -> Principal:
    """Return a signed-in person with this id, role `member` and `roles`, and exactly these scopes."""
    return Principal(
        id=id,
        roles=frozenset({"member", *roles}),
        scopes=frozenset(scopes),
        organization=organization,
        session_id="ses_test",
        factors=tuple(factors),
    )


@contextmanager
def acting_as(app: Any, principal: Principal) -> Iterator[None]:
    """Let every request of `app` without a credential of its own be `principal`'s, within the context.

    Contexts nest; the innermost one counts. Raises PolicyError for an app without a guard, and in production.
    """
    stand_in = _guard(app).stand_in
    before = stand_in.principal
    stand_in.play(principal)
    try:
        yield
    finally:
        stand_in.play(before)


def assert_open(app: Any, method: str, path: str) -> None:
    """Assert that anybody may call this route; what it then answers is the handler's."""
    status = _status(app, method, path)
    if status in _CLOSED or status in _ABSENT or status >= 500:
        raise AssertionError(f"{method} {path} is not open: anybody gets {status}")


def assert_closed(app: Any, method: str, path: str) -> None:
    """Assert that nobody may call this route without signing in."""
    status = _status(app, method, path)
    if status not in _CLOSED:
        hint = "there is no such route" if status in _ABSENT else f"anybody gets {status}"
        raise AssertionError(f"{method} {path} is not closed: {hint}")


def assert_refused(app: Any, method: str, path: str, *, as_: Principal, status: int = 403) -> None:
    """Assert that this principal is refused with this status."""
    with acting_as(app, as_):
        found = _status(app, method, path)
    if found != status:
        raise AssertionError(f"{method} {path} as {as_.id or 'anonymous'}: expected {status}, got {found}")


def _guard(app: Any) -> Garrison:
    guard = guard_of(app)
    if not isinstance(guard, Garrison):
        raise PolicyError("this app has no guard; protect it first", code="unprotected")
    settings = guard.settings if guard.settings is not None else load_settings()
    if not settings.development:
        raise PolicyError("nobody stands in for anybody in production", code="production")
    return guard


def _status(app: Any, method: str, path: str) -> int:
    """Send one request through the guarded app, in process, and return the status; the app's lifespan does not run."""
    _guard(app)
    outcome: list[int | BaseException] = []

    def run() -> None:
        try:
            outcome.append(asyncio.run(_request(app, method, path)))
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)  # the caller may be inside an event loop already
    thread.start()
    thread.join()
    found = outcome[0]
    if isinstance(found, BaseException):
        raise found
    return found


async def _request(app: Any, method: str, path: str) -> int:
    target, _, query = path.partition("?")
    statuses: list[int] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": target,
        "raw_path": quote(target, safe="/!$&'()*+,;=:@~%").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"testserver")],
        "client": ("testclient", 0),
        "server": ("testserver", 80),
    }
    await app(scope, receive, send)
    return statuses[0] if statuses else 500
