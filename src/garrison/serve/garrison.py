"""`Garrison`: what users hold. Constructing it and `protect` read no environment, open nothing, need no event loop.

Settings, routes and policy are read at lifespan start, or at the first request where a client sends no lifespan;
nothing is answered before. Until then this module needs no database library, so that `from garrison import allow`
stays cheap; `runtime` is imported when something starts.
"""

import threading
from collections.abc import Awaitable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from garrison.core.errors import GarrisonError, PolicyError
from garrison.core.principal import Principal
from garrison.guard.stand_in import StandIn
from garrison.policy.table import Policy
from garrison.serve.frameworks import Adapter, adapter_for
from garrison.wire.answer import ASGIApp, Message, Receive, Scope, Send

if TYPE_CHECKING:
    from garrison.identity.accounts.service import AccountService
    from garrison.identity.clients.service import ClientService
    from garrison.identity.issuers.service import IssuerService
    from garrison.identity.keys.service import KeyService
    from garrison.identity.sessions.service import SessionService
    from garrison.serve.runtime import Runtime
    from garrison.serve.settings import Settings

App = TypeVar("App")


def principal(scope: Mapping[str, Any]) -> Principal:
    """Return who the request of this ASGI scope acts as; anonymous where the guard found nobody, or did not run."""
    user = scope.get("user")
    return user if isinstance(user, Principal) else Principal.anonymous


class Garrison:
    """One policy for one app: `Garrison().protect(app)`.

    policy: a table, beside or instead of decorators. settings: for tests and embedding; None reads the environment
    and `.env` at start. prefix: moves our own paths (`/auth`, `/health` …) below it.
    """

    def __init__(self, policy: Policy | None = None, *, settings: "Settings | None" = None, prefix: str = "") -> None:
        if prefix and (not prefix.startswith("/") or prefix.endswith("/")):
            raise PolicyError("prefix begins with a slash and does not end with one, for example /identity")
        self._policy = policy or Policy()
        self._settings = settings
        self._prefix = prefix
        self._adapter: Adapter | None = None
        self._doors: dict[Any, ASGIApp] = {}
        self._runtime: Runtime | None = None
        self._starting = threading.Lock()
        self.stand_in = StandIn()
        """Who stands in for whoever would be authenticated, in tests; see `garrison.testing`."""
        self.behind_edge = False
        """True where `garrison serve` runs the app: its edge bounds targets and headers before a request exists."""
        self.is_draining = False
        """True once this process was told to end: it serves on for a while and is not ready for more."""

    def protect(self, app: App) -> App:
        """Guard `app` in place and return it; any ASGI app but FastAPI and Starlette is wrapped instead.

        Raises PolicyError when the app, or this Garrison, is in use already.
        """
        if self._adapter is not None:
            raise PolicyError("this Garrison guards an app already; make one for each app", code="protected_twice")
        adapter = adapter_for(app)
        garrison = self

        async def entry(_app: Any, scope: Scope, receive: Receive, send: Send) -> None:
            runtime, kind = garrison._runtime, scope["type"]
            if kind == "http" and runtime is not None and runtime.has_background:  # the usual case
                await runtime.chain.http(adapter.inner, scope, receive, send)
                return
            if kind == "lifespan":
                await garrison._lifespan(adapter, scope, receive, send)
                return
            if runtime is None:
                runtime = garrison._start()
            if not runtime.has_background:
                await runtime.maintain()
            if kind == "http":
                await runtime.chain.http(adapter.inner, scope, receive, send)
            elif kind == "websocket":
                await runtime.chain.websocket(adapter.inner, scope, receive, send)
            else:
                raise GarrisonError("unknown_scope", f"no guard for ASGI scopes of type {kind}")

        def door(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            runtime = garrison._runtime
            if runtime is not None and runtime.has_background and scope["type"] == "http":
                return runtime.chain.http(adapter.inner, scope, receive, send)
            return entry(None, scope, receive, send)

        guarded: App = adapter.install(entry, owner=self)
        self._doors = {entry: door}
        self._adapter = adapter
        return guarded

    def door(self, app: ASGIApp) -> ASGIApp:
        """Return the guarded app's entrance as a plain function, without a coroutine of its own, for `garrison serve`.

        Other servers look at what they are given, and take a plain function for another protocol. The app itself where
        somebody has put an entrance before ours.
        """
        return self._doors.get(type(app).__call__, app)

    @property
    def adapter(self) -> Adapter | None:
        """What knows the framework of the guarded app; None before `protect`."""
        return self._adapter

    @property
    def policy(self) -> Policy:
        """The table this Garrison was made with."""
        return self._policy

    @property
    def prefix(self) -> str:
        """Where our own paths begin, the empty string by default."""
        return self._prefix

    @property
    def settings(self) -> "Settings | None":
        """The settings this Garrison was made with; None: the environment's."""
        return self._settings

    @property
    def accounts(self) -> "AccountService":
        """Accounts: `create`, `set_role`, `disable`, … as async methods. Starts what is not started yet."""
        return (self._runtime or self._start()).accounts

    @property
    def sessions(self) -> "SessionService":
        """Sessions: `list`, `revoke`, `revoke_all(account_id)` as async methods. Starts what is not started yet."""
        return (self._runtime or self._start()).sessions

    @property
    def keys(self) -> "KeyService":
        """API keys: `create`, `list`, `rotate`, `revoke` as async methods. Starts what is not started yet."""
        return (self._runtime or self._start()).keys

    @property
    def clients(self) -> "ClientService":
        """OAuth clients: `create`, `list`, `rotate`, … as async methods. Starts what is not started yet."""
        return (self._runtime or self._start()).clients

    @property
    def issuers(self) -> "IssuerService":
        """Subjects of foreign issuers: `refuse`, `sign_out`, `allow`, `list`. Starts what is not started yet."""
        return (self._runtime or self._start()).issuers

    async def close(self) -> None:
        """Store what is pending and close the database; the next request opens it again."""
        runtime, self._runtime = self._runtime, None
        if runtime is not None:
            await runtime.close()

    def _start(self) -> "Runtime":
        """Read settings, routes and policy, and open the store. Raises PolicyError, SettingsError, StoreError."""
        from garrison.serve.start import start  # the database library is loaded when something starts, not before

        with self._starting:
            if self._runtime is None:
                self._runtime = start(self)
            return self._runtime

    async def _lifespan(self, adapter: Adapter, scope: Scope, receive: Receive, send: Send) -> None:
        """Start before the app's own start-up, run the background work while it serves, close after it."""
        try:
            runtime = self._start()
        except GarrisonError as error:
            await receive()
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            raise
        async with runtime.background():
            await _run_lifespan(adapter.inner, scope, receive, send, self.close)


async def _run_lifespan(inner: ASGIApp, scope: Scope, receive: Receive, send: Send, close: Any) -> None:
    """Hand the lifespan to the app; where it knows none, speak the protocol for it (ASGI lifespan, section 2)."""
    received: list[str] = []
    sent: list[str] = []

    async def noting_receive() -> Message:
        message = await receive()
        received.append(message["type"])
        return message

    async def closing_send(message: Message) -> None:
        sent.append(message["type"])
        if message["type"] == "lifespan.shutdown.complete":
            await close()
        await send(message)

    try:
        await inner(scope, noting_receive, closing_send)
    except Exception:
        if sent:
            raise
    if not sent:
        if not received:
            await receive()
        await send({"type": "lifespan.startup.complete"})
        while (await receive())["type"] != "lifespan.shutdown":
            pass
        await close()
        await send({"type": "lifespan.shutdown.complete"})
