"""Any other ASGI app: it cannot be looked into, so the lines of the table are its routes."""

import re
from collections.abc import Awaitable, Mapping
from typing import Any

from garrison.policy.decide import Decisions
from garrison.policy.inventory import WEBSOCKET_METHOD, Branch, Route
from garrison.policy.lock import OnRefusal, locked
from garrison.policy.table import Pattern, Policy
from garrison.serve.frameworks.adapter import GUARD, Entry
from garrison.wire.answer import ASGIApp, Receive, Scope, Send

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class PlainAdapter:
    """Wraps the app: there is nothing to guard it in place by."""

    framework = "ASGI"

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._running = app
        self._element = object()

    @property
    def inner(self) -> ASGIApp:
        """The app, locked once started."""
        return self._running

    def install(self, entry: Entry, *, owner: object) -> Any:
        return _guarded(self._app, entry, owner)

    def inventory(self, policy: Policy) -> Branch:
        routes: list[Route] = []
        for line in policy.lines:
            methods = line.pattern.methods
            http = None if methods is None else methods - {WEBSOCKET_METHOD}
            if http is None or http:
                with_head = None if http is None else http | ({"HEAD"} if "GET" in http else set())
                routes.append(self._route(line.pattern, "http", with_head))
            if methods is None or WEBSOCKET_METHOD in methods:
                routes.append(self._route(line.pattern, "websocket", None))
        return Branch(tuple(routes))

    def lock(self, on_refusal: OnRefusal) -> None:
        app, guarded = self._app, locked(self._app, self._element, "the app", on_refusal, parameters=False)

        def running(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
            return (app if scope["type"] == "lifespan" else guarded)(scope, receive, send)

        self._running = running

    def has_late(self, scope: Scope) -> bool:
        return False

    def root_path(self, scope: Scope) -> str:
        return str(scope.get("root_path", ""))

    def prepare(self, decisions: Decisions, *, development: bool) -> None:
        return None

    def openapi(self) -> Mapping[str, Any] | None:
        return None

    def _route(self, pattern: Pattern, kind: Any, methods: frozenset[str] | None) -> Route:
        path = "/" + "/".join(pattern.segments)
        return Route(
            template=path,
            kind=kind,
            regex=_regex(pattern),
            methods=methods,
            claims=frozenset() if methods is not None else None,
            element=self._element,
            opaque=path.endswith("/**"),
        )


def _regex(pattern: Pattern) -> re.Pattern[str]:
    parts: list[str] = []
    for segment in pattern.segments:
        parameter = _PARAMETER.fullmatch(segment)
        if segment == "**":
            return re.compile("/".join(["", *parts]) + r"(?:/.*)?\Z")
        if parameter is not None:
            parts.append(f"(?P<{parameter[1]}>[^/]+)")
        else:
            parts.append("[^/]+" if segment == "*" else re.escape(segment))
    return re.compile("/".join(["", *parts]) + r"\Z")


def _guarded(app: ASGIApp, entry: Entry, owner: object) -> ASGIApp:
    """A function, because servers take an outermost callable that is not `async def` for ASGI 2."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        await entry(app, scope, receive, send)

    setattr(guarded, GUARD, owner)
    return guarded
