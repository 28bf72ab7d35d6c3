"""Generated route tables: plans of apps as plain data, built as real Starlette and FastAPI apps that say what ran."""

from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import FastAPIError
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, Convertor, register_url_convertor
from starlette.endpoints import HTTPEndpoint
from starlette.responses import Response
from starlette.routing import Host, Mount, Router

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, routes_of
from garrison.policy.rules import allow, public

UUID_TEXT = "8f14e45f-ceea-467f-a8f6-0b6dd4b1e6a1"
RULES = (public, allow(signed_in=True), allow(scope="tasks:read"))
METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS")
HOSTS = ("a.example", "b.example", "A.Example:8080", "a.example.", "[::1]:80", "x.a.example")


class EvenConvertor(Convertor[int]):
    """A converter of the app's own, which may fail where its expression matched."""

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        if int(value) % 2:
            raise ValueError("odd")
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


if "even" not in CONVERTOR_TYPES:
    register_url_convertor("even", EvenConvertor())


@dataclass(frozen=True)
class Leaf:
    """A route. `kind`: a function, a class-based endpoint, a raw ASGI callable, a web socket."""

    path: str
    kind: Literal["function", "class", "callable", "websocket"]
    methods: tuple[str, ...]
    """Empty: what the framework makes of that."""


@dataclass(frozen=True)
class Group:
    """Routes under something. `how`: mounted as app, router or raw ASGI; behind a host name; included with a prefix."""

    how: Literal["starlette", "fastapi", "router", "raw", "host", "include"]
    prefix: str
    children: tuple[Any, ...]
    redirects: bool
    has_default: bool


@dataclass
class Ran:
    """What a request ran: labels of endpoints, each with the path parameters that it saw."""

    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


# Plans

_parts = st.sampled_from(
    ("a", "A", "b", "tasks", "{}", "{}", "{:int}", "{:float}", "{:uuid}", "{:path}", "{:even}", "{}.json", "a{}")
)


@st.composite
def paths(draw: st.DrawFn, *, least: int = 0, most: int = 3, may_end_with_slash: bool = True) -> str:
    parts = draw(st.lists(_parts, min_size=least, max_size=most))
    named = [part.replace("{", f"{{p{number}") for number, part in enumerate(parts)]
    path = "".join("/" + part for part in named)
    if may_end_with_slash and (not path or draw(st.integers(0, 4)) == 0):
        path += "/"
    return path


@st.composite
def leaves(draw: st.DrawFn) -> Leaf:
    kind: Any = draw(st.sampled_from(("function", "function", "function", "class", "callable", "websocket")))
    methods = tuple(sorted(draw(st.sets(st.sampled_from(METHODS), max_size=3))))
    return Leaf(draw(paths()), kind, methods)


@st.composite
def groups(draw: st.DrawFn, children: st.SearchStrategy[tuple[Any, ...]]) -> Group:
    how: Any = draw(st.sampled_from(("starlette", "fastapi", "router", "raw", "host", "include", "include", "include")))
    if how == "host":
        prefix = draw(st.sampled_from(("a.example", "{tenant}.example", "B.example", "[::1]")))
    else:
        prefix = draw(paths(most=2, may_end_with_slash=False))
    return Group(how, prefix, draw(children), draw(st.booleans()), draw(st.integers(0, 5)) == 0)


tables = st.recursive(
    st.lists(leaves(), min_size=1, max_size=4).map(tuple),
    lambda inner: st.lists(st.one_of(leaves(), groups(inner)), min_size=1, max_size=4).map(tuple),
    max_leaves=5,
)

_segments = st.sampled_from(
    (
        *(
            "a",
            "A",
            "b",
            "tasks",
            "Tasks",
            "7",
            "8",
            "007",
            "7.5",
            UUID_TEXT,
            UUID_TEXT.upper(),
            "x.json",
            "ab",
            "a.json",
        ),
        *(
            "a;b",
            "a;b=1",
            "%61",
            "%41",
            "%2561",
            "a%2Fb",
            "a%252Fb",
            "%2e%2e",
            ".",
            "..",
            "",
            "caf%C3%A9",
            "%FF",
            "a%00",
        ),
        *("a%20", "a%3Fb", "a%5Cb", "%EF%BC%A1", "~", "a%3bb"),
    )
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, bytes, str, str]:
    """Kind, method, raw path, host, root path."""
    raw = "".join("/" + segment for segment in draw(st.lists(_segments, max_size=5)))
    if not raw or draw(st.integers(0, 4)) == 0:
        raw += "/"
    kind = draw(st.sampled_from(("http", "http", "http", "websocket")))
    method = draw(st.sampled_from((*METHODS, "PUT", "get", "PROPFIND")))
    root_path = draw(st.sampled_from(("", "", "", "", "/a", "/tasks", "/a/b")))
    return kind, method, raw.encode(), draw(st.sampled_from(HOSTS)), root_path


# Apps


class Builder:
    """Builds a plan as a real app."""

    def __init__(self, ran: Ran) -> None:
        self._ran = ran
        self._number = 0

    def starlette(self, children: tuple[Any, ...]) -> Starlette:
        app = Starlette()
        self._fill(app.router, children)
        return app

    def fastapi(self, children: tuple[Any, ...]) -> FastAPI:
        app = FastAPI(openapi_url=None)
        self._fill(app.router, children)
        return app

    def label(self, kind: str) -> str:
        self._number += 1
        return f"{kind} {self._number}"

    def _fill(self, router: Router, children: tuple[Any, ...]) -> None:
        for child in children:
            if isinstance(child, Group):
                self._group(router, child)
            else:
                self._leaf(router, child)

    def _group(self, router: Router, group: Group) -> None:
        if group.how == "include":
            if isinstance(router, APIRouter):
                included = APIRouter(redirect_slashes=group.redirects)
                self._fill(included, group.children)
                self._number += 1  # one path may not name a parameter twice
                prefix = group.prefix.replace("{p", f"{{i{self._number}p")
                try:
                    router.include_router(included, prefix=prefix)
                except FastAPIError:  # a mount without a path needs a prefix
                    router.include_router(included, prefix="/a")
                except AttributeError:  # before 0.137 a host could not be included
                    pass
                return
            app: Any = self._router(group)
        elif group.how in ("router", "host"):
            app = self._router(group)
        elif group.how == "raw":
            app = self._raw(self.label("raw"))
        else:
            app = self.starlette(group.children) if group.how == "starlette" else self.fastapi(group.children)
            app.router.redirect_slashes = group.redirects
        router.routes.append(Host(group.prefix, app) if group.how == "host" else Mount(group.prefix, app))

    def _router(self, group: Group) -> Router:
        default = self._raw(self.label("default")) if group.has_default else None
        router = Router(redirect_slashes=group.redirects, default=default)
        self._fill(router, group.children)
        return router

    def _leaf(self, router: Router, leaf: Leaf) -> None:
        label = self.label(leaf.kind)
        ran = self._ran
        methods = list(leaf.methods) or None
        if leaf.kind == "websocket":

            async def connected(websocket: Any) -> None:
                ran.calls.append((label, dict(websocket.path_params)))
                await websocket.close()

            connected.label = label  # type: ignore[attr-defined]
            router.add_websocket_route(leaf.path, connected)
        elif leaf.kind == "class":
            router.add_route(leaf.path, self._class(label, leaf.methods))
        elif leaf.kind == "callable":
            router.add_route(leaf.path, self._raw(label), methods=methods)
        else:

            async def answer(request: Request) -> Response:
                ran.calls.append((label, dict(request.path_params)))
                return Response(label)

            answer.label = label  # type: ignore[attr-defined]
            if isinstance(router, APIRouter):
                router.add_api_route(leaf.path, answer, methods=methods)
            else:
                router.add_route(leaf.path, answer, methods=methods)

    def _class(self, label: str, methods: tuple[str, ...]) -> Any:
        ran = self._ran

        async def answer(_self: Any, request: Request) -> Response:
            ran.calls.append((label, dict(request.path_params)))
            return Response(label)

        return type(
            "Endpoint", (HTTPEndpoint,), {"label": label, **{name.lower(): answer for name in methods or ("GET",)}}
        )

    def _raw(self, label: str) -> Any:
        return RawApp(self._ran, label)


class RawApp:
    """An ASGI app that nothing can be seen of."""

    def __init__(self, ran: Ran, label: str) -> None:
        self._ran = ran
        self.label = label

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self._ran.calls.append((self.label, dict(scope.get("path_params", {}))))
        if scope["type"] == "http":
            await Response(self.label)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1000})


def scope_of(kind: str, method: str, raw: bytes, host: str, root_path: str = "") -> dict[str, Any]:
    scope: dict[str, Any] = {
        "type": kind,
        "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
        "raw_path": raw,
        "query_string": b"",
        "root_path": root_path,
        "headers": [(b"host", host.encode())],
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 1),
        "scheme": "http" if kind == "http" else "ws",
        "subprotocols": [],
        "extensions": {},
    }
    if kind == "http":
        scope["method"] = method
    return scope


def run(app: Any, scope: dict[str, Any]) -> int:
    """Run one request to its end without an event loop: nothing in these apps waits. Returns the status, 0 if none."""
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b""} if scope["type"] == "http" else {"type": "websocket.connect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    coroutine: Coroutine[Any, Any, None] = app(scope, receive, send)
    try:
        while True:
            coroutine.send(None)
    except StopIteration:
        pass
    except ValueError as error:  # a converter that failed
        assert str(error) == "odd"  # noqa: PT017 - others are not expected
    return statuses[0] if statuses else 0


def decided(root: Branch) -> Decisions:
    """Decide every route of a table in turn by one of three rules."""
    decisions = Decisions()
    for number, route in enumerate(routes_of(root)):
        rule = RULES[number % len(RULES)]
        decisions.by_route[route] = {method: Decision(route, method, rule, "test") for method in route.listed_methods()}
    return decisions
