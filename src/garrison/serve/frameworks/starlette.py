"""Starlette: guarded in place by giving the app a class of its own, whose `__call__` is the guard.

What is read off the app: `routes`, mounts with routes of their own, hosts, class-based endpoints, web sockets. What
cannot be seen through (a raw ASGI app or static files under a mount, a router's own `default`) is one opaque route.

The lock wraps `handle` of whatever a router picks, and the lists of routes are exchanged for ones that lock what is
added later. `handle` is what Starlette's and FastAPI's routers call on a match, and is an ordinary method, so that an
attribute of the instance stands before it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Host, Match, Mount, Route, Router, WebSocketRoute

from garrison.core.errors import PolicyError
from garrison.policy.decide import Decisions
from garrison.policy.inventory import Branch, Node
from garrison.policy.inventory import Route as Leaf
from garrison.policy.lock import OnRefusal, locked
from garrison.policy.table import Policy
from garrison.serve.frameworks.adapter import GUARD, Entry
from garrison.wire.answer import Answer, ASGIApp, Receive, Scope, Send
from garrison.wire.call import Call
from garrison.wire.problem import problem

_ENDPOINT_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
_LOCKED = "__garrison_locked__"
EVERYTHING = re.compile(r".*\Z", re.DOTALL)


class StarletteAdapter:
    """One Starlette app."""

    framework = "Starlette"

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._class = type(app)
        self._apps = [app]
        """The app, and those mounted in it once the inventory was taken."""
        self._late: list[BaseRoute] = []
        self._on_refusal: OnRefusal | None = None

    def install(self, entry: Entry, *, owner: object) -> Any:
        async def guarded_call(app: Any, scope: Scope, receive: Receive, send: Send) -> None:
            await entry(app, scope, receive, send)

        cls = self._class
        namespace = {"__call__": guarded_call, GUARD: owner, "__module__": cls.__module__, "__doc__": cls.__doc__}
        self._app.__class__ = type(cls.__name__, (cls,), namespace)
        return self._app

    @property
    def inner(self) -> ASGIApp:
        """The app as it was before."""
        call, app = self._class.__call__, self._app

        async def run(scope: Scope, receive: Receive, send: Send) -> None:
            await call(app, scope, receive, send)

        return run

    def inventory(self, policy: Policy) -> Branch:
        return self._router_branch(self._app.router, "")

    def lock(self, on_refusal: OnRefusal) -> None:
        self._on_refusal = on_refusal
        self._lock_router(self._app.router)

    def has_late(self, scope: Scope) -> bool:
        return any(route.matches(dict(scope))[0] is not Match.NONE for route in self._late)

    def root_path(self, scope: Scope) -> str:
        return str(scope.get("root_path", ""))

    def prepare(self, decisions: Decisions, *, development: bool) -> None:
        """Let what breaks be answered like every other refusal: Starlette would answer in plain text."""
        for app in self._apps:
            if app.debug and not development:
                raise PolicyError("debug=True shows tracebacks to clients; remove it in production")
            if app.exception_handlers.keys().isdisjoint({500, Exception}):
                app.exception_handlers[Exception] = _failed
                app.middleware_stack = None  # built anew with the handler at the next request

    def openapi(self) -> Mapping[str, Any] | None:
        return None

    # The inventory

    def _router_branch(self, router: Router, template: str, **outer: Any) -> Branch:
        default: Leaf | None = None
        if router.default != router.not_found:
            default = Leaf(f"{template}/**", "http", EVERYTHING, None, element=router, opaque=True)
        children = tuple(node for route in self._elements(router) for node in self._nodes(route, template))
        return Branch(
            children, template=template, redirects_slashes=bool(router.redirect_slashes), default=default, **outer
        )

    def _elements(self, router: Router) -> Iterable[Any]:
        """Return what the router tries, in order; FastAPI's adapter resolves its tree here."""
        return router.routes

    def _nodes(self, route: Any, template: str) -> list[Node]:
        if isinstance(route, Mount):
            return [self._mount(route, template)]
        if isinstance(route, Host):
            return [self._host(route, template)]
        if isinstance(route, WebSocketRoute):
            return [self._leaf(route, template, kind="websocket")]
        if isinstance(route, Route):
            return [self._leaf(route, template)]
        raise PolicyError(f"{type(route).__name__} under {template or '/'} is no kind of route that can be guarded")

    def _leaf(self, route: Any, template: str, *, kind: Any = "http", element: Any = None, docs: bool = False) -> Leaf:
        endpoint = route.endpoint
        methods, handlers = route.methods if kind == "http" else None, {}
        if isinstance(endpoint, type) and issubclass(endpoint, HTTPEndpoint):
            handlers = {
                name: getattr(endpoint, name.lower()) for name in _ENDPOINT_METHODS if hasattr(endpoint, name.lower())
            }
            if "GET" in handlers:
                handlers.setdefault("HEAD", handlers["GET"])
            methods = set(handlers) if methods is None else set(handlers) & set(methods)
        return Leaf(
            template=template + route.path,
            kind=kind,
            regex=route.path_regex,
            methods=None if not methods else frozenset(methods),
            converters=_converters(route.param_convertors),
            endpoint=endpoint,
            handlers=handlers,
            element=route if element is None else element,
            docs=docs,
        )

    def _mount(self, mount: Mount, template: str, element: Any = None) -> Node:
        below = template + mount.path
        router = self._router_of(mount._base_app, below)
        if router is None:
            return Leaf(
                template=f"{below}/**",
                kind="http",
                regex=mount.path_regex,
                methods=None,
                converters=_converters(mount.param_convertors),
                element=mount if element is None else element,
                opaque=True,
            )
        return self._router_branch(
            router, below, regex=mount.path_regex, converters=_converters(mount.param_convertors)
        )

    def _host(self, host: Host, template: str) -> Node:
        router = self._router_of(host.app, template or "/")
        if router is None:
            leaf = Leaf(f"{template}/**", "http", EVERYTHING, None, element=host, opaque=True)
            return Branch(
                (leaf,),
                template=template,
                regex=host.host_regex,
                converters=_converters(host.param_convertors),
                is_host=True,
            )
        return self._router_branch(
            router, template, regex=host.host_regex, converters=_converters(host.param_convertors), is_host=True
        )

    def _router_of(self, app: Any, where: str) -> Router | None:
        """Return the router inside a mounted app, or None for what cannot be seen through."""
        if getattr(type(app), GUARD, None) is not None or getattr(app, GUARD, None) is not None:
            raise PolicyError(f"the app mounted at {where} is protected by itself; protect the outer app only")
        if isinstance(app, Starlette):
            if getattr(app, "root_path", ""):
                raise PolicyError(f"the app mounted at {where} sets root_path, which a mount does already; remove it")
            if app not in self._apps:
                self._apps.append(app)
            return app.router
        return app if isinstance(app, Router) else None

    # The lock

    def _lock_router(self, router: Router) -> None:
        if router.default != router.not_found and not hasattr(router.default, _LOCKED):
            router.default = self._locked(router.default, router, "a router's default")
        for element in list(self._elements(router)):
            self._lock_element(element)
        if not isinstance(router.routes, LockingList):
            router.routes = LockingList(router.routes, self._lock_late)

    def _lock_element(self, route: Any) -> None:
        if isinstance(route, Mount | Host):
            inner = self._router_of(route._base_app if isinstance(route, Mount) else route.app, route.name or "")
            if inner is not None:
                self._lock_router(inner)
                return
        self._lock_handle(route, route)

    def _lock_handle(self, route: Any, element: object) -> None:
        if _LOCKED not in vars(route):
            route.handle = self._locked(route.handle, element, getattr(route, "path", type(route).__name__))
            setattr(route, _LOCKED, True)

    def _lock_late(self, route: Any) -> None:
        """A route that appears after start: nothing is decided about it, so nothing lets it run."""
        self._late.append(route)
        if _LOCKED not in vars(route):
            self._lock_handle(route, object())

    def _locked(self, app: Any, element: object, name: str) -> Any:
        if self._on_refusal is None:
            raise PolicyError("locked before start")
        run = locked(app, element, name, self._on_refusal)
        setattr(run, _LOCKED, True)
        return run


class LockingList(list[Any]):
    """A router's routes: what is added is locked first."""

    def __init__(self, routes: Iterable[Any], lock: Callable[[Any], None]) -> None:
        super().__init__(routes)
        self._lock = lock

    def append(self, route: Any) -> None:
        self._lock(route)
        super().append(route)

    def insert(self, index: Any, route: Any) -> None:
        self._lock(route)
        super().insert(index, route)

    def extend(self, routes: Iterable[Any]) -> None:
        for route in routes:
            self.append(route)

    def __iadd__(self, routes: Any) -> Any:  # type: ignore[misc]  # the list type overloads __add__, not this
        self.extend(routes)
        return self

    def __setitem__(self, index: Any, routes: Any) -> None:
        routes = list(routes) if isinstance(index, slice) else routes
        for route in routes if isinstance(index, slice) else [routes]:
            if route not in self:
                self._lock(route)
        super().__setitem__(index, routes)


async def _failed(request: Request, _error: Exception) -> Response:
    """Say that something broke, and nothing of it; the guard, to which the exception goes on, logs it."""
    call = request.scope.get("garrison")
    return response_of(problem("internal", call.request_id if isinstance(call, Call) else ""))


def response_of(answer: Answer) -> Response:
    """Return an answer of ours as Starlette's response."""
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)


def _converters(convertors: Mapping[str, Any]) -> dict[str, Callable[[str], Any]]:
    return {name: convertor.convert for name, convertor in convertors.items()}
