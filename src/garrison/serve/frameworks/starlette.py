"""Starlette: guarded in place by giving the app a class of its own, whose `__call__` is the guard.

What is read off the app: `routes`, mounts with routes of their own, hosts, class-based endpoints, web sockets. What
cannot be seen through (a raw ASGI app or static files under a mount, a router's own `default`) is one opaque route.

The lock wraps `handle` of whatever a router picks, and the lists of routes are exchanged for ones that lock what is
added later (`late.py`). `handle` is what Starlette's and FastAPI's routers call on a match, and is an ordinary method,
so that an attribute of the instance stands before it. The app's own router has a gate besides, from `protect` on.
"""

import re
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, MutableMapping
from copy import copy
from functools import partial
from typing import Any

import structlog
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Host, Match, Mount, Route, Router, WebSocketRoute

from garrison.core.errors import PolicyError
from garrison.guard.failures import is_broken_json
from garrison.policy.decide import Decisions
from garrison.policy.inventory import Branch, Node
from garrison.policy.inventory import Route as Leaf
from garrison.policy.lock import OnRefusal, gate, locked
from garrison.policy.table import Policy
from garrison.serve.frameworks.adapter import GUARD, Entry, own_root_path
from garrison.serve.frameworks.late import watch
from garrison.wire.answer import Answer, ASGIApp, Receive, Scope, Send
from garrison.wire.call import Call
from garrison.wire.problem import problem

_ENDPOINT_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY")
_PLAIN = "__garrison_plain__"
"""Where what a lock stands before is kept: the second start of one app locks it anew."""
_FOLLOWED = "__garrison_followed__"
_SEARCH = frozenset({"type", "router", "route", "http", "path", "/", "lifespan", "routes", "matches", "Match", "FULL"})
_SEARCH |= {"PARTIAL", "NONE", "update", "handle", "get_route_path", "dict", "redirect_slashes", "endswith", "rstrip"}
_SEARCH |= {"URL", "RedirectResponse", "str", "default"}
"""All that Starlette's `Router.app` names and says."""
_MOST_REMEMBERED = 64
"""Of one route: a root path may come from a header that a middleware believes."""
_log = structlog.get_logger("garrison")
EVERYTHING = re.compile(r".*\Z", re.DOTALL)


class StarletteAdapter:
    """One Starlette app."""

    framework = "Starlette"
    searches: frozenset[Any] = frozenset({Router.app})
    """How routers of this framework search their list of routes."""
    root_path: Callable[[Scope], str] = staticmethod(own_root_path)
    looks: frozenset[Any] = frozenset({Route.matches})
    """How its routes look at a request: path, root path and method, and nothing else."""

    def __init__(self, app: Starlette) -> None:
        self._app = app
        self._class = type(app)
        self.inner: ASGIApp = partial(self._class.__call__, app)
        """The app as it was before."""
        self._apps = [app]
        """The app, and those mounted in it once the inventory was taken."""
        self._known: dict[int, object] = {}
        """What the inventory knows, by identity; kept alive here, so that no id comes twice."""
        self._late: dict[int, Any] = {}
        self._shortcuts: dict[int, ASGIApp] = {}
        self._on_refusal: OnRefusal = _before_start
        self._is_locked = False

    def install(self, entry: Entry, *, owner: object) -> Any:
        adapter, cls = self, self._class

        def set_attribute(app: Any, name: str, value: Any) -> None:
            if name == "router":
                adapter._exchanged(value)
            cls.__setattr__(app, name, value)

        namespace = {
            "__call__": entry,
            "__setattr__": set_attribute,
            GUARD: owner,
            "__module__": cls.__module__,
            "__doc__": cls.__doc__,
        }
        self._gate(self._app.router)
        self._app.__class__ = type(cls.__name__, (cls,), namespace)
        return self._app

    def inventory(self, policy: Policy) -> Branch:
        return self._router_branch(self._app.router, "")

    def lock(self, on_refusal: OnRefusal) -> None:
        self._on_refusal = on_refusal
        self._late.clear()
        self._known.clear()
        self._is_locked = True
        self._lock_router(self._app.router)
        for app in self._apps[1:]:
            self._follow(app)
        self._shorten(self._app.router)

    def has_late(self, scope: Scope) -> bool:
        if not self._late:
            return False
        try:
            return self._meets_late(self._app.router, {**scope, "root_path": self.root_path(scope)})
        except Exception:  # converters are the app's code: whatever they raise, no endpoint would run
            return False

    def prepare(self, decisions: Decisions, *, development: bool, basic: bool) -> None:
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
            default = Leaf(f"{template}/**", "http", EVERYTHING, None, claims=None, element=router, opaque=True)
        return Branch(
            tuple(node for route in self._elements(router) for node in self._nodes(route, template)),
            template=template,
            redirects_slashes=bool(router.redirect_slashes),
            last=self._last(router, template),
            default=default,
            **outer,
        )

    def _elements(self, router: Router) -> Iterable[Any]:
        """Return what the router tries, in order; FastAPI's adapter resolves its tree here."""
        return router.routes

    def _last(self, router: Router, template: str) -> tuple[Leaf, ...]:
        """Return what the router tries after that; only FastAPI's does."""
        return ()

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
        methods = (route.methods or None) if kind == "http" else None
        claims = None if methods is None else frozenset(methods)
        handlers = _handlers(endpoint)
        if handlers:
            methods = set(handlers) if methods is None else set(handlers) & set(methods)
        return Leaf(
            template=template + route.path,
            kind=kind,
            regex=route.path_regex,
            methods=None if methods is None else frozenset(methods),
            claims=claims,
            converters=_converters(route.param_convertors),
            endpoint=endpoint,
            handlers=handlers,
            element=route if element is None else element,
            docs=docs,
        )

    def _mount(self, mount: Mount, template: str) -> Node:
        below = template + mount.path
        router = self._router_of(mount._base_app, below)
        if router is None:
            return Leaf(
                template=f"{below}/**",
                kind="http",
                regex=mount.path_regex,
                methods=None,
                claims=None,
                converters=_converters(mount.param_convertors),
                element=mount._base_app,
                opaque=True,
            )
        return self._router_branch(
            router, below, regex=mount.path_regex, converters=_converters(mount.param_convertors)
        )

    def _host(self, host: Host, template: str) -> Node:
        router = self._router_of(host.app, template or "/")
        if router is None:
            leaf = Leaf(f"{template}/**", "http", EVERYTHING, None, claims=None, element=host.app, opaque=True)
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

    def _gate(self, router: Router) -> None:
        """Nothing reaches the router but through the guard, whoever calls it, even before start."""
        stack = router.middleware_stack
        shortcuts = self._shortcuts if stack == router.app else {}  # a router's own middleware runs in any case
        router.middleware_stack = gate(stack, "the router", self._refused, shortcuts)  # type: ignore[assignment]

    def _shorten(self, router: Router) -> None:
        """Spare the app's router the search that the guard has made already, most of what a router does.

        The guard chose as the router would, so the router's own code is run with the chosen route alone in its list:
        it matches, converts and fills the scope as ever, but that a route without parameters is asked once for each
        path. Whatever is changed after start ends that, for good.
        """
        self._shortcuts.clear()
        if type(router).app not in self.searches:  # somebody's own search, which may know more than a list of routes
            return
        for route in router.routes:
            if isinstance(route, Route) and sum(route is other for other in router.routes) == 1:
                self._shortcuts[id(route)] = _search_of(router, route, looks=self.looks)

    def _changed(self) -> None:
        self._shortcuts.clear()

    def _lock_router(self, router: Router) -> None:
        for route in list(router.routes):
            self._lock_element(route)
        if router.default != router.not_found:
            router.default = self._locked(plain(router.default), router, "a router's default")
        self._watch(router)

    def _watch(self, router: Router) -> None:
        watch(router, self._lock_late, self._late_default, self._changed)

    def _lock_element(self, route: Any) -> None:
        """Lock what runs a route of the inventory."""
        self._known[id(route)] = route
        inner = self._inner_router(route)
        if inner is not None:
            self._lock_router(inner)
        else:
            self._lock_handle(route, element_of(route))

    def _inner_router(self, route: Any) -> Router | None:
        if isinstance(route, Mount | Host):
            return self._router_of(_app_of(route), getattr(route, "path", "") or "/")
        return None

    def _lock_handle(self, route: Any, element: object) -> None:
        plain = vars(route).setdefault(_PLAIN, route.handle)
        route.handle = self._locked(plain, element, getattr(route, "path", "") or type(route).__name__)

    def _lock_late(self, route: Any) -> None:
        """A route that appears after start: nothing is decided about it, so nothing lets it run."""
        self._changed()
        if id(route) not in self._known and id(route) not in self._late:
            self._late[id(route)] = route
            self._lock_handle(route, object())

    def _late_default(self, default: Any) -> Any:
        return default if hasattr(default, _PLAIN) else self._locked(default, object(), "a router's default")

    def _exchanged(self, router: Router) -> None:
        """The app got another router."""
        self._changed()
        self._gate(router)
        if self._is_locked:
            for route in router.routes:
                self._lock_late(route)
            if router.default != router.not_found:
                router.default = self._late_default(router.default)
            self._watch(router)

    def _follow(self, app: Any) -> None:
        """Be told when an app that is mounted gets another router, too."""
        adapter = self
        cls: Any = type(app)
        if hasattr(cls, _FOLLOWED):
            return

        def set_attribute(app: Any, name: str, value: Any) -> None:
            if name == "router":
                adapter._exchanged(value)
            cls.__setattr__(app, name, value)

        namespace = {"__setattr__": set_attribute, _FOLLOWED: True, "__module__": cls.__module__}
        app.__class__ = type(cls.__name__, (cls,), namespace)

    def _meets_late(self, router: Router, scope: MutableMapping[str, Any]) -> bool:
        """Say whether the router would come upon a late route with this request."""
        for route in router.routes:
            met = self._meets(route, scope)
            if met is not None:
                return met
        return False

    def _meets(self, route: Any, scope: MutableMapping[str, Any]) -> bool | None:
        """Say whether this route is a late one that matches, or leads to one; None where the next is to be asked."""
        match, child = route.matches(scope)
        if match is Match.NONE:
            return None
        if id(getattr(route, "original_route", route)) in self._late:
            return True
        inner = self._inner_router(getattr(route, "starlette_route", None) or route)
        if inner is not None:
            return self._meets_late(inner, {**scope, **child})
        return False if match is Match.FULL else None

    def _locked(self, app: Any, element: object, name: str, *, parameters: bool = True) -> Any:
        run = locked(app, element, name, self._refused, parameters=parameters)
        setattr(run, _PLAIN, app)
        return run

    def _refused(self, scope: Scope, name: str) -> None:
        self._on_refusal(scope, name)


def _before_start(scope: Scope, name: str) -> None:
    _log.error("second_lock", element=name, method=scope.get("method", "WS"))


def plain(app: Any) -> Any:
    """Return what a lock stands before."""
    return getattr(app, _PLAIN, app)


def _search_of(router: Router, route: Route, *, looks: Container[Any]) -> ASGIApp:
    """Return the router's search with this route alone in its list; to the app it is still the same router.

    A route without parameters says the same of the same path, root path and method, and is asked once. Where the search
    does nothing but what it did when this was written, it is not run again either.
    """
    has_memory = not route.param_convertors and type(route).matches in looks and "matches" not in vars(route)
    is_plain = _is_plain(type(router).app)
    named = {"route": route} if is_plain and "route" in type(router).app.__code__.co_consts else {}
    known: dict[tuple[str, str | None, str], Scope] = {}
    alone = copy(router)
    vars(alone)["routes"] = [_remembering(route, known, named) if has_memory else route]
    search = alone.app

    def find(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope.setdefault("router", router)
        return search(scope, receive, send)

    def find_known(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        child = known.get((scope["path"], scope.get("root_path"), scope["method"]))
        if child is None or "path_params" in scope or "router" in scope:
            return find(scope, receive, send)
        scope.update(child)
        scope["path_params"] = {}
        scope["router"] = router
        return route.handle(scope, receive, send)

    return find_known if has_memory and is_plain else find


def _is_plain(search: Any) -> bool:
    """Say whether a router's search is the one that `find_known` stands for: names and texts of its code are all known.

    A later release that looks at anything else, or does more, is run as it is.
    """
    code = search.__code__
    return _SEARCH.issuperset(code.co_names) and _SEARCH.issuperset(one for one in code.co_consts if type(one) is str)


def _remembering(route: Route, known: dict[tuple[str, str | None, str], Scope], named: Scope) -> Any:
    """Return a copy of the route that is asked once for each path, root path and method; bounded.

    `named`: what the router puts into the scope besides.
    """
    asked: Any = copy(route)
    look, full = route.matches, Match.FULL

    def matches(scope: Scope) -> tuple[Match, Scope]:
        key = (scope["path"], scope.get("root_path"), scope["method"])
        child = known.get(key)
        if child is not None and "path_params" not in scope:  # an app around this one may have put some there
            return full, {**child, "path_params": {}}
        match, child = look(scope)
        if match is full and not child["path_params"] and len(known) < _MOST_REMEMBERED:
            known[key] = {**child, **named}
        return match, child

    def handle(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope.get("route") is asked:
            scope["route"] = route
        return route.handle(scope, receive, send)

    asked.matches = matches
    if type(route).matches is Route.matches:  # FastAPI's own names the route itself
        asked.handle = handle
    return asked


def _app_of(route: Any) -> Any:
    return route._base_app if isinstance(route, Mount) else route.app


def element_of(route: Any) -> object:
    """Return what stands for a route: of what is mounted the app, since FastAPI makes copies of mounts."""
    return _app_of(route) if isinstance(route, Mount | Host) else route


def _handlers(endpoint: Any) -> dict[str, Any]:
    """Return method → function of a class-based endpoint that dispatches as Starlette's does."""
    if not isinstance(endpoint, type) or not issubclass(endpoint, HTTPEndpoint):
        return {}
    if endpoint.dispatch is not HTTPEndpoint.dispatch:  # whatever it makes of the methods
        return {}
    found = {name: getattr(endpoint, name.lower(), None) for name in _ENDPOINT_METHODS}
    if found["HEAD"] is None:
        found["HEAD"] = found["GET"]
    return {name: handler for name, handler in found.items() if handler is not None}


async def _failed(request: Request, error: Exception) -> Response:
    """Say that something broke, and nothing of it; the guard, to which the exception goes on, logs it."""
    call = request.scope.get("garrison")
    if isinstance(call, Call) and is_broken_json(call, error):
        return response_of(problem("bad_body", call.request_id))
    return response_of(problem("internal", call.request_id if isinstance(call, Call) else ""))


def response_of(answer: Answer) -> Response:
    """Return an answer of ours as Starlette's response."""
    headers = {name.decode(): value.decode() for name, value in answer.headers}
    return Response(answer.body, answer.status, headers)


def _converters(convertors: Mapping[str, Any]) -> dict[str, Callable[[str], Any]]:
    return {name: convertor.convert for name, convertor in convertors.items()}
