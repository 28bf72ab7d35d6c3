"""Any other ASGI app: it cannot be looked into, so the lines of the table are its routes.

A pattern that cannot be matched as it is written is refused: one that silently matched nothing would leave its requests
to a wider line below it. So it is with converters (`{id:int}`), which are the framework's and mean nothing here.
"""

import re
from collections.abc import Awaitable, Mapping
from typing import Any

from garrison.core.errors import PolicyError
from garrison.policy.decide import Decisions
from garrison.policy.inventory import WEBSOCKET_METHOD, Branch, Route
from garrison.policy.lock import OnRefusal, locked
from garrison.policy.table import Pattern, Policy, parameters_of
from garrison.serve.frameworks.adapter import GUARD, Entry, own_root_path
from garrison.wire.answer import ASGIApp, Receive, Scope, Send

_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_WRITTEN = re.compile(r"\{[^}]*\}")


class PlainAdapter:
    """Wraps the app: there is nothing to guard it in place by."""

    framework = "ASGI"
    root_path = staticmethod(own_root_path)

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.inner = app
        """The app, locked once started."""
        self._element = object()

    def install(self, entry: Entry, *, owner: object) -> Any:
        return type("Guarded", (), {"__call__": entry, GUARD: owner, "__doc__": "An ASGI app behind its guard."})()

    def inventory(self, policy: Policy) -> Branch:
        refusals = [f"table line {line.number}: {wrong}" for line in policy.lines if (wrong := _wrong(line.pattern))]
        if refusals:
            raise PolicyError(*refusals)
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

        self.inner = running

    def has_late(self, scope: Scope) -> bool:
        return False

    def prepare(self, decisions: Decisions, *, development: bool, basic: bool) -> None:
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


def _wrong(pattern: Pattern) -> str:
    """Return what of a pattern cannot be matched without a framework, empty if nothing."""
    if any(":" in one for one in _WRITTEN.findall(pattern.text)):
        return f"{pattern.text!r} has a converter, which only a framework gives a meaning to; write {{name}}"
    names = parameters_of("/" + "/".join(pattern.segments))
    if len(names) != len(set(names)):
        return f"{pattern.text!r} names a parameter twice"
    return ""


def _regex(pattern: Pattern) -> re.Pattern[str]:
    parts: list[str] = []
    for segment in pattern.segments:
        if segment == "**":
            return re.compile("/".join(["", *parts]) + r"(?:/.*)?\Z")
        if segment == "*":
            parts.append("[^/]+")
            continue
        pieces = _PARAMETER.split(segment)  # literal, name, literal, …
        parts.append("".join(f"(?P<{one}>[^/]+)" if at % 2 else re.escape(one) for at, one in enumerate(pieces)))
    return re.compile("/".join(["", *parts]) + r"\Z")
