"""FastAPI, 0.133 to newest: Starlette's adapter, and what FastAPI adds to it.

From 0.137 on included routers are a tree, which the inventory resolves as the router does: by `effective_candidates`.
The router hands a request down the tree and calls `handle` of the original route, or of a copy that it makes for
routes that are not FastAPI's own. The copies are made anew whenever a route is added, so the place where they are made
is locked, too. These are private attributes; `tests/policy/test_fastapi_versions.py` pins them.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import fastapi.routing
from fastapi import FastAPI, Request
from fastapi.exception_handlers import request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute, APIRouter
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute

from garrison.core.errors import PolicyError
from garrison.core.principal import Principal
from garrison.policy.decide import Decisions
from garrison.policy.inventory import Node
from garrison.policy.inventory import Route as Leaf
from garrison.policy.lock import OnRefusal
from garrison.policy.rules import Rule
from garrison.serve.frameworks.late import LockingList
from garrison.serve.frameworks.starlette import EVERYTHING, StarletteAdapter, element_of, plain, response_of
from garrison.serve.openapi import enriched
from garrison.wire.answer import Scope
from garrison.wire.body import problem_errors
from garrison.wire.call import Call
from garrison.wire.problem import problem

_INCLUDED: Any = getattr(fastapi.routing, "_IncludedRouter", None)


def current_principal(connection: HTTPConnection) -> Principal:
    """Return who this request acts as; `Principal.anonymous` on public routes nobody signed in for.

    An override of this dependency (`app.dependency_overrides`) is refused at start in production.
    """
    user = connection.scope.get("user")
    return user if isinstance(user, Principal) else Principal.anonymous


class FastAPITree(StarletteAdapter):
    """A Starlette app, into which FastAPI apps or routers may be mounted."""

    searches = frozenset({Router.app, APIRouter.app})
    looks = frozenset({Route.matches, APIRoute.matches})

    # The inventory

    def _elements(self, router: Router) -> Iterable[Any]:
        for route in router.routes:
            if _INCLUDED is not None and isinstance(route, _INCLUDED):
                yield from _effective(route)
            else:
                yield route

    def _nodes(self, route: Any, template: str) -> list[Node]:
        original, effective = _resolved(route)
        if isinstance(original, APIRoute):
            return [self._leaf(effective, template, element=original)]
        if isinstance(effective, Mount | Host):
            return super()._nodes(effective, template)
        if isinstance(effective, WebSocketRoute):
            return [self._leaf(effective, template, kind="websocket", element=original)]
        if isinstance(effective, Route):
            return [self._leaf(effective, template, element=original, docs=_is_docs(effective))]
        raise PolicyError(f"{type(original).__name__} under {template or '/'} is no kind of route that can be guarded")

    def _last(self, router: Router, template: str) -> tuple[Leaf, ...]:
        """Front ends: static files, tried last, the longest path first. Each is one opaque route."""
        found: list[tuple[str, Any]] = []
        for group, prefix in _front_ends(router):
            if not hasattr(group, "routes"):
                raise PolicyError(f"{type(group).__name__} under {template or '/'} is no kind of route we can guard")
            found.extend(((prefix + "/" + one.path.strip("/")).rstrip("/"), group) for one in group.routes)
        found.sort(key=lambda one: -len(one[0]))
        return tuple(
            Leaf(
                template=f"{template}{path}/**",
                kind="http",
                regex=_below(path),
                methods=frozenset({"GET", "HEAD"}),
                element=group,
                opaque=True,
            )
            for path, group in found
        )

    # The lock

    def lock(self, on_refusal: OnRefusal) -> None:
        for one in self._late.values():
            if isinstance(one, _Asking):
                one.restore()
        super().lock(on_refusal)

    def _lock_router(self, router: Router) -> None:
        super()._lock_router(router)
        self._lock_front_ends(router)

    def _lock_element(self, route: Any) -> None:
        if _INCLUDED is not None and isinstance(route, _INCLUDED):
            self._known[id(route)] = route
            self._lock_router(route.original_router)
            self._lock_copies(route)
        else:
            super()._lock_element(route)

    def _lock_copies(self, included: Any) -> None:
        """Lock what an included router makes of its routes, each time it makes them anew."""
        _after(included, "effective_candidates", self._lock_candidate)
        if hasattr(included, "effective_low_priority_routes"):
            _after(included, "effective_low_priority_routes", self._lock_front_end_copy)

    def _lock_candidate(self, one: Any) -> None:
        if isinstance(one, _INCLUDED):
            self._lock_copies(one)
            return
        self._lock_late(one.original_route)
        copy, original = one.starlette_route, one.original_route
        if copy is None:
            return
        inner = self._inner_router(copy)
        if id(original) not in self._known:
            self._lock_handle(copy, object())
        elif inner is None:
            self._lock_handle(copy, element_of(original))
        elif isinstance(copy, Host) and inner is not self._inner_router(original):
            self._lock_prefixed(inner)

    def _lock_prefixed(self, made: Router) -> None:
        """Lock the router that FastAPI makes of a host in a router with a prefix: one mount of the host's app."""
        for mount in made.routes:
            if self._inner_router(mount) is None:
                self._lock_handle(mount, element_of(mount))

    def _lock_front_ends(self, router: Router) -> None:
        groups = getattr(router, "_low_priority_routes", None)
        if groups is None:
            return
        for group in groups:
            self._known[id(group)] = group
            self._lock_handle(group, group)
            if not isinstance(group.routes, LockingList):
                group.routes = LockingList(group.routes, self._late_front_end, self._changed)
        if not isinstance(groups, LockingList):
            router._low_priority_routes = LockingList(groups, self._lock_late, self._changed)  # type: ignore[attr-defined]

    def _lock_front_end_copy(self, context: Any) -> None:
        group = context.original_route
        self._lock_late(group)
        if getattr(context, "app", None) is not None:  # holds what `handle` was when the copy was made
            element = group if id(group) in self._known else object()
            context.app = self._locked(plain(context.app), element, "a front end", parameters=False)

    def _late_front_end(self, front_end: Any) -> None:
        """A path that is added to a group of front ends that is decided: it is not served, its neighbours are."""
        self._late[id(front_end)] = _Asking(front_end)
        front_end.matches_with_path = _matches_nothing
        front_end.matches = _matches_nothing

    def _meets_late(self, router: Router, scope: MutableMapping[str, Any]) -> bool:
        return (
            super()._meets_late(router, scope)
            or any(
                id(group) in self._late and group.matches(scope)[0] is not Match.NONE
                for group, _ in _front_ends(router)
            )
            or any(
                late.matches(scope, prefix)
                for group, prefix in _front_ends(router)
                for one in group.routes
                if isinstance(late := self._late.get(id(one)), _Asking)
            )
        )

    def _meets(self, route: Any, scope: MutableMapping[str, Any]) -> bool | None:
        if _INCLUDED is None or not isinstance(route, _INCLUDED):
            return super()._meets(route, scope)
        if id(route) in self._late:
            return True if route.matches(scope)[0] is not Match.NONE else None
        for one in route.effective_candidates():
            met = self._meets(one, scope)
            if met is not None:
                return met
        return None


class FastAPIAdapter(FastAPITree):
    """One FastAPI app."""

    framework = "FastAPI"

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app)
        self._fastapi = app
        self._openapi = app.openapi

    def root_path(self, scope: Scope) -> str:
        return self._fastapi.root_path or str(scope.get("root_path", ""))

    def prepare(self, decisions: Decisions, *, development: bool, basic: bool) -> None:
        super().prepare(decisions, development=development, basic=basic)
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
        original = self._openapi
        documents: dict[int, dict[str, Any]] = {}

        def openapi() -> dict[str, Any]:
            document = original()
            if id(document) not in documents:
                documents.clear()
                documents[id(document)] = enriched(document, rules, basic=basic)
            return documents[id(document)]

        app.openapi = openapi  # type: ignore[method-assign]

    def openapi(self) -> Mapping[str, Any] | None:
        return self._fastapi.openapi() if self._fastapi.openapi_url else None


class _Asking:
    """A front end's own way to match, kept when the front end itself was made to match nothing."""

    def __init__(self, front_end: Any) -> None:
        self._front_end = front_end
        self._path: str = front_end.path
        self._matches = front_end.matches_with_path

    def matches(self, scope: Scope, prefix: str) -> bool:
        """Say whether it would have matched."""
        path = (prefix + "/" + self._path.strip("/")).rstrip("/") or "/"
        return self._matches(scope, path)[0] is not Match.NONE

    def restore(self) -> None:
        """Let it match again."""
        del self._front_end.matches, self._front_end.matches_with_path


def _matches_nothing(*_: Any) -> tuple[Match, Scope]:
    return Match.NONE, {}


def _after(target: Any, name: str, lock: Callable[[Any], None]) -> None:
    """Have `lock` called with each item of the list that this method returns, now and whenever it is a new one."""
    make = getattr(type(target), name).__get__(target)
    known: list[Any] = []

    def locked_list() -> list[Any]:
        found: list[Any] = make()
        if not known or known[0] is not found:
            for one in found:
                lock(one)
            known[:] = [found]
        return found

    setattr(target, name, locked_list)
    locked_list()


def _front_ends(router: Any) -> list[tuple[Any, str]]:
    """Return the groups of front ends that a router tries last, each with the prefix it is included under."""
    low = getattr(router, "_iter_low_priority_routes", None)
    if low is None:
        return []
    return [(getattr(one, "original_route", one), getattr(one, "frontend_prefix", "")) for one in low()]


def _effective(included: Any) -> Iterator[Any]:
    """Yield what an included router makes of its routes, those of routers included in it among them."""
    for one in included.effective_candidates():
        if isinstance(one, _INCLUDED):
            yield from _effective(one)
        else:
            yield one


def _resolved(route: Any) -> tuple[Any, Any]:
    """Return the original route and the one in effect: of what an included router made, or the same."""
    original = getattr(route, "original_route", None)
    if original is None:
        return route, route
    return original, route.starlette_route if route.starlette_route is not None else route


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
