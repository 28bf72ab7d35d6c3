"""FastAPI, 0.133 to newest: Starlette's adapter, and what FastAPI adds to it.

From 0.137 on included routers are a tree: `iter_route_contexts` resolves it for the inventory. The router hands a
request down the tree and calls `handle` of the original route, or of a copy that it makes for routes that are not
FastAPI's own. The copies are made anew whenever a route is added, so the place where they are made is locked, too.
These are private attributes; `tests/policy/test_frameworks.py` pins them for every supported version.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import fastapi.routing
from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute

from garrison.core.errors import PolicyError
from garrison.core.principal import Principal
from garrison.policy.decide import Decisions
from garrison.policy.inventory import Node
from garrison.policy.inventory import Route as Leaf
from garrison.policy.rules import Rule
from garrison.serve.frameworks.starlette import EVERYTHING, LockingList, StarletteAdapter, response_of
from garrison.serve.openapi import enriched
from garrison.wire.answer import Scope
from garrison.wire.body import problem_errors
from garrison.wire.call import Call
from garrison.wire.problem import problem

_INCLUDED: Any = getattr(fastapi.routing, "_IncludedRouter", None)
_CONTEXTS: Any = getattr(fastapi.routing, "iter_route_contexts", None)


def current_principal(connection: HTTPConnection) -> Principal:
    """Return who this request acts as; `Principal.anonymous` on public routes nobody signed in for.

    An override of this dependency (`app.dependency_overrides`) is refused at start in production.
    """
    user = connection.scope.get("user")
    return user if isinstance(user, Principal) else Principal.anonymous


class FastAPIAdapter(StarletteAdapter):
    """One FastAPI app."""

    framework = "FastAPI"

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app)
        self._fastapi = app

    def root_path(self, scope: Scope) -> str:
        return self._fastapi.root_path or str(scope.get("root_path", ""))

    def prepare(self, decisions: Decisions, *, development: bool) -> None:
        super().prepare(decisions, development=development)
        app = self._fastapi
        if not development:
            _refuse_overrides(app)
        if app.exception_handlers.get(RequestValidationError) in (None, request_validation_exception_handler):
            app.exception_handlers[RequestValidationError] = _invalid
            app.middleware_stack = None  # built anew with the handler at the next request
        rules: dict[tuple[str, str], Rule | None] = {
            (decision.method, _plain(route.template)): decision.rule
            for route, found in decisions.by_route.items()
            for decision in found.values()
        }
        original = app.openapi
        documents: dict[int, dict[str, Any]] = {}

        def openapi() -> dict[str, Any]:
            document = original()
            if id(document) not in documents:
                documents.clear()
                documents[id(document)] = enriched(document, rules)
            return documents[id(document)]

        app.openapi = openapi  # type: ignore[method-assign]

    def openapi(self) -> Mapping[str, Any] | None:
        return self._fastapi.openapi() if self._fastapi.openapi_url else None

    # The inventory

    def _elements(self, router: Router) -> Iterable[Any]:
        if _CONTEXTS is None:
            return router.routes
        low = getattr(router, "_iter_low_priority_routes", tuple)
        return [*_CONTEXTS(router.routes), *low()]

    def _nodes(self, route: Any, template: str) -> list[Node]:
        original, effective = _resolved(route)
        if isinstance(original, APIRoute):
            return [self._leaf(effective, template, element=original)]
        if isinstance(effective, Mount):
            return [self._mount(effective, template)]
        if isinstance(effective, Host):
            return [self._host(effective, template)]
        if isinstance(effective, WebSocketRoute):
            return [self._leaf(effective, template, kind="websocket", element=original)]
        if isinstance(effective, Route):
            return [self._leaf(effective, template, element=original, docs=_is_docs(effective))]
        return self._front_end(original, effective, template)

    def _front_end(self, original: Any, effective: Any, template: str) -> list[Node]:
        """Static front-end routes, tried last: each is one opaque route."""
        routes = getattr(original, "routes", None)
        if routes is None:
            raise PolicyError(f"{type(original).__name__} under {template or '/'} is no kind of route we can guard")
        prefix = getattr(effective, "frontend_prefix", "") or ""
        found: list[Node] = []
        for one in sorted(routes, key=lambda one: -len(one.path)):
            path = (prefix + "/" + one.path.strip("/")).rstrip("/")
            found.append(
                Leaf(
                    template=f"{template}{path}/**",
                    kind="http",
                    regex=_below(path),
                    methods=frozenset({"GET", "HEAD"}),
                    element=original,
                    opaque=True,
                )
            )
        return found

    # The lock

    def _lock_router(self, router: Router) -> None:
        super()._lock_router(router)
        for route in router.routes:
            if _INCLUDED is not None and isinstance(route, _INCLUDED):
                self._lock_included(route)

    def _lock_element(self, route: Any) -> None:
        original, effective = _resolved(route)
        if isinstance(effective, Mount | Host):
            super()._lock_element(effective)
        elif isinstance(original, APIRoute) or effective is original:
            self._lock_handle(original, original)
        elif effective is not None and hasattr(effective, "handle"):
            self._lock_handle(effective, original)
        else:
            self._lock_handle(original, original)

    def _lock_included(self, included: Any) -> None:
        """Lock what an included router makes of its routes, each time it makes them anew, and what is added to it."""
        router = included.original_router
        if not isinstance(router.routes, LockingList):
            router.routes = LockingList(router.routes, self._lock_late)
        candidates = included.effective_candidates
        known: list[Any] = []

        def locked_candidates() -> list[Any]:
            found: list[Any] = candidates()
            if known != [found] or known[0] is not found:
                for one in found:
                    if isinstance(one, _INCLUDED):
                        self._lock_included(one)
                    elif one.starlette_route is not None:
                        self._lock_context(one)
                known[:] = [found]
            return found

        if "effective_candidates" not in vars(included):
            included.effective_candidates = locked_candidates
            locked_candidates()

    def _lock_context(self, context: Any) -> None:
        if isinstance(context.starlette_route, Mount | Host):
            super()._lock_element(context.starlette_route)
        else:
            self._lock_handle(context.starlette_route, context.original_route)


def _resolved(route: Any) -> tuple[Any, Any]:
    """Return the original route and the one in effect: of a `RouteContext`, of an effective context, or the same."""
    original = getattr(route, "original_route", None)
    if original is None:
        return route, route
    context = getattr(route, "_route_context", route)
    if context is None:
        return original, original
    return original, context.starlette_route if context.starlette_route is not None else context


def _below(path: str) -> Any:
    return re.compile(re.escape(path) + r"(?:/.*)?\Z", re.DOTALL) if path else EVERYTHING


def _is_docs(route: Any) -> bool:
    return getattr(route.endpoint, "__module__", "") == "fastapi.applications"


def _plain(template: str) -> str:
    """Return the template as OpenAPI writes it: `{path:path}` → `{path}`."""
    return re.sub(r"\{([^:}]+):[^}]+\}", r"{\1}", template)


def _refuse_overrides(app: FastAPI) -> None:
    if current_principal in app.dependency_overrides:
        raise PolicyError("dependency_overrides replaces current_principal: in production nobody is made up")


async def _invalid(request: Request, error: Exception) -> Response:
    """Answer what FastAPI finds wrong with the input: 400 with pointers, 404 where it is a path parameter."""
    if not isinstance(error, RequestValidationError):
        raise error
    call = request.scope.get("garrison")
    request_id = call.request_id if isinstance(call, Call) else ""
    errors = list(error.errors())
    if any(one["loc"][:1] == ("path",) for one in errors):
        return response_of(problem("not_found", request_id))
    if any(one["type"] == "json_invalid" for one in errors):
        return response_of(problem("bad_body", request_id, detail="the body is not valid JSON"))
    return response_of(problem("validation", request_id, fields={"errors": problem_errors(errors)}))
