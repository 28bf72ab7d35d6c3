"""For the tests of your app: act as anybody, and say which routes are open and which are closed.

    from garrison.testing import account, acting_as, assert_closed, assert_open, assert_refused

    assert_open(app, "GET", "/test")
    assert_closed(app, "GET", "/reports/tasks")
    assert_refused(app, "GET", "/reports/tasks", as_=account("acc_ada"), status=403)

    with acting_as(app, account("acc_ada", roles={"admin"})), TestClient(app) as client:
        assert client.get("/reports/tasks").status_code == 200

The whole guard runs; only *who is it* is answered by the test. What a route's handler does, it does. Refused with
PolicyError where the settings say production, and nothing in a request can switch it on.

Data goes to `var/` of the current directory and limits count as ever, so a fixture in `conftest.py` gives each test a
store of its own and limits that it does not reach. The app lets go of a store where `with TestClient(app)` ends;
started without it, it goes on with the same store in the next test.

    @pytest.fixture(autouse=True)
    def own_store(tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        for limit in ("API", "ADDRESS", "SIGN_UP", "SIGN_IN", "SIGN_IN_ADDRESS"):
            monkeypatch.setenv(f"GARRISON_LIMIT_{limit}", "100000/minute")

Settings that are made in code, `Garrison(settings=Settings(…))`, name these themselves: the environment is not read.
"""

import asyncio
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

from garrison.core.clock import ManualClock
from garrison.core.errors import PolicyError
from garrison.core.principal import Factor, Principal
from garrison.policy.inventory import WEBSOCKET_METHOD, Kind
from garrison.policy.match import Matcher
from garrison.serve.frameworks import guard_of
from garrison.serve.garrison import Garrison
from garrison.serve.plans import inspect_app, own_path
from garrison.serve.settings import load_settings
from garrison.serve.wiring import OWN_PATHS
from garrison.wire.answer import Message
from garrison.wire.call import Call

__all__ = ["ManualClock", "account", "acting_as", "assert_closed", "assert_open", "assert_refused"]

_DEADLINE_S = 10.0
_REST_S = 0.5
"""How long an answer that has begun may take to end; longer is a stream, whose beginning has told all."""


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

    Contexts nest; the innermost one counts. Whoever stands in has no account and no session in the store: of our own
    paths `GET /auth/session` answers 403, `/auth/sessions` an empty list. To test these, sign up and sign in. Raises
    PolicyError for an app without a guard, and in production.
    """
    stand_in = _guard(app).stand_in
    before = stand_in.principal
    stand_in.play(principal)
    try:
        yield
    finally:
        stand_in.play(before)


def assert_open(app: Any, method: str, path: str) -> None:
    """Assert that anybody may call this route; what it then answers is the handler's. `WS` for a web socket."""
    found = _ask(app, method, path)
    if found.status in (401, 403, 404, 405, 429) or found.status >= 500:
        raise AssertionError(f"{method} {path} is not open: anybody gets {found}")


def assert_closed(app: Any, method: str, path: str) -> None:
    """Assert that the guard lets nobody call this route without signing in; what a handler refuses is not closed."""
    found = _ask(app, method, path)
    if found.ran or found.status not in (401, 403):
        hint = "there is no such route" if found.status in (404, 405) and not found.ran else f"anybody gets {found}"
        raise AssertionError(f"{method} {path} is not closed: {hint}")


def assert_refused(app: Any, method: str, path: str, *, as_: Principal, status: int = 403) -> None:
    """Assert that the guard refuses this principal with this status, and the handler never runs."""
    with acting_as(app, as_):
        found = _ask(app, method, path)
    who = as_.id or "anonymous"
    if found.ran or found.status != status:
        raise AssertionError(f"{method} {path} as {who}: expected {status}, got {found}")
    if status == 404 and not _is_served(_guard(app), method, path):
        raise AssertionError(f"{method} {path} as {who}: there is no such route, so nothing was refused")


@dataclass(frozen=True, slots=True)
class _Found:
    """What came of one request: the status (101 for an accepted web socket), and whether the app's handler ran."""

    status: int
    ran: bool

    def __str__(self) -> str:
        if self.status == 429:
            return "429, too many requests: raise GARRISON_LIMIT_API and GARRISON_LIMIT_ADDRESS in tests"
        return f"{self.status}, from the app itself" if self.ran and self.status >= 400 else str(self.status)


def _guard(app: Any) -> Garrison:
    guard = guard_of(app)
    if not isinstance(guard, Garrison):
        raise PolicyError("this app has no guard; protect it first", code="unprotected")
    settings = guard.settings if guard.settings is not None else load_settings()
    if not settings.development:
        raise PolicyError("nobody stands in for anybody in production", code="production")
    return guard


def _is_served(guard: Garrison, method: str, path: str) -> bool:
    """Say whether a route of the app or one of ours has this path: a mistyped one is a 404 for everybody, too."""
    target = unquote(path.partition("?")[0])
    for own in (own_path(own, guard.prefix) for own in OWN_PATHS):
        if re.fullmatch(re.sub(r"\{[a-z_]+\}", "[^/]+", own), target):
            return True
    if guard.adapter is None:
        return False
    inspected = inspect_app(guard.adapter, guard.policy, (), docs=True)
    kind: Kind = "websocket" if method == WEBSOCKET_METHOD else "http"
    return Matcher(inspected.root, inspected.decisions).find(kind, method, target).decision is not None


def _ask(app: Any, method: str, path: str) -> _Found:
    """Send one request through the guarded app, in process; the app's lifespan does not run."""
    _guard(app)
    outcome: list[_Found | BaseException] = []

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


async def _request(app: Any, method: str, path: str) -> _Found:
    """Ask, and wait for the answer to begin; then for its end, but not for that of an endless stream."""
    target, _, query = path.partition("?")
    opening: list[Message] = [
        {"type": "websocket.connect"}
        if method == WEBSOCKET_METHOD
        else {"type": "http.request", "body": b"", "more_body": False}
    ]
    statuses: list[int] = []
    begun = asyncio.Event()

    async def receive() -> Message:
        if not opening:
            await asyncio.Event().wait()  # a client that stays: streams listen here for its going away
        return opening.pop()

    async def send(message: Message) -> None:
        match message["type"]:
            case "http.response.start" | "websocket.http.response.start":
                statuses.append(message["status"])
            case "websocket.accept":
                statuses.append(101)
            case "websocket.close" if not statuses:
                statuses.append(403)
        begun.set()

    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(target),
        "raw_path": quote(target, safe="/!$&'()*+,;=:@~%").encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"testserver")],
        "client": ("testclient", 0),
        "server": ("testserver", 80),
    }
    if method == WEBSOCKET_METHOD:
        del scope["method"]
        more = {"type": "websocket", "scheme": "ws", "subprotocols": [], "extensions": {"websocket.http.response": {}}}
        scope.update(more)
    answering = asyncio.ensure_future(app(scope, receive, send))
    beginning = asyncio.ensure_future(begun.wait())
    try:
        await asyncio.wait((answering, beginning), timeout=_DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
        if begun.is_set():
            await asyncio.wait((answering,), timeout=_REST_S)
        if answering.done():
            await answering  # raises what the handler raised
        elif not statuses:
            raise AssertionError(f"{method} {path}: no answer within {_DEADLINE_S:g} s")
    finally:
        beginning.cancel()
        answering.cancel()
    call = scope.get("garrison")
    return _Found(statuses[0] if statuses else 500, isinstance(call, Call) and call.granted)
