"""The second lock: code of the app between guard and endpoint cannot make another endpoint, or another object, run."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from garrison import Garrison, allow, public
from tests.policy.guarded import TREE, client_of, past_the_guard, protect, sign_in
from tests.policy.tables import Ran, RawApp, run, scope_of

Rewrite = Callable[[dict[str, Any]], None]


class Rewriting:
    """A pure ASGI middleware that changes the scope in place."""

    def __init__(self, app: Any, rewrite: Rewrite) -> None:
        self._app = app
        self._rewrite = rewrite

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self._rewrite(scope)
        await self._app(scope, receive, send)


class Copying(Rewriting):
    """The same, on a copy of the scope, as careful middlewares do."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(dict(scope), receive, send)


class HttpRewriting(BaseHTTPMiddleware):
    """The same by Starlette's own base class."""

    def __init__(self, app: Any, rewrite: Rewrite) -> None:
        super().__init__(app)
        self._rewrite = rewrite

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        self._rewrite(request.scope)
        return await call_next(request)


MIDDLEWARES = [Rewriting, Copying, HttpRewriting]


def app_of(ran: list[str], middleware: Any = None, rewrite: Rewrite | None = None) -> FastAPI:
    """An app of public routes and others that only an admin may call; `ran` notes what runs."""
    app = FastAPI()
    if middleware is not None:
        app.add_middleware(middleware, rewrite=rewrite)

    @app.get("/open")
    @public
    async def open_() -> str:
        ran.append("open")
        return "open"

    @app.get("/secret")
    @allow(role="admin")
    async def secret() -> str:
        ran.append("secret")
        return "secret"

    @app.get("/tasks/{id:int}")
    @public
    async def task(id: int) -> str:
        ran.append(f"task {id}")
        return "task"

    @app.delete("/tasks/{id:int}")
    @allow(role="admin")
    async def delete(id: int) -> str:
        ran.append(f"delete {id}")
        return "deleted"

    @app.api_route("/both/{id}", methods=["GET", "POST"])
    @public
    async def both(id: str, request: Request) -> str:
        ran.append(f"{request.method} both {id}")
        return "both"

    return app


def set_path(path: str) -> Rewrite:
    def rewrite(scope: dict[str, Any]) -> None:
        scope["path"] = path
        scope["raw_path"] = path.encode()

    return rewrite


def set_method(method: str) -> Rewrite:
    def rewrite(scope: dict[str, Any]) -> None:
        scope["method"] = method

    return rewrite


def method_override(scope: dict[str, Any]) -> None:
    """As middlewares for old browsers do."""
    for name, value in scope["headers"]:
        if name == b"x-http-method-override":
            scope["method"] = value.decode()


# Rewriting middlewares


@pytest.mark.parametrize("middleware", MIDDLEWARES)
@pytest.mark.parametrize(
    ("method", "path", "rewrite"),
    [
        ("GET", "/open", set_path("/secret")),
        ("GET", "/tasks/1", set_path("/tasks/2")),
        ("GET", "/tasks/1", set_path("/tasks/01")),
        ("GET", "/tasks/1", set_method("DELETE")),
        ("GET", "/tasks/1", method_override),
        ("GET", "/both/1", set_method("POST")),
        ("POST", "/both/1", set_method("GET")),
        ("GET", "/both/1", set_path("/both/2")),
        ("GET", "/open", set_path("/both/2")),
    ],
)
def test_a_middleware_that_rewrites_path_or_method_runs_nothing(
    middleware: Any, method: str, path: str, rewrite: Rewrite
) -> None:
    ran: list[str] = []
    client = client_of(app_of(ran, middleware, rewrite))
    answer = client.request(method, path, headers={"x-http-method-override": "DELETE"})
    assert answer.status_code in (403, 404)
    assert ran == []


def test_a_refusal_of_the_lock_is_a_problem_of_its_own_code() -> None:
    client = client_of(app_of([], Rewriting, set_path("/secret")))
    answer = client.get("/open")
    assert (answer.status_code, answer.json()["code"]) == (403, "undecided")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_middleware_that_changes_nothing_disturbs_nothing() -> None:
    ran: list[str] = []
    client = client_of(app_of(ran, Copying, lambda scope: None))
    assert client.get("/tasks/7").status_code == 200
    assert client.post("/both/x").status_code == 200
    assert ran == ["task 7", "POST both x"]


def test_another_root_path_does_not_make_another_object_of_the_same_path() -> None:
    ran = Ran()

    def mounted_elsewhere(scope: dict[str, Any]) -> None:
        scope["root_path"] = "/mine"

    makes: list[Callable[[], Any]] = [Starlette, FastAPI]
    for make in makes:
        app = make()
        app.router.add_route("/{path:path}", public(_answer("file", ran)))
        app.add_middleware(Rewriting, rewrite=mounted_elsewhere)
        client = client_of(app)
        assert client.get("/mine/yours").status_code == 403
        assert ran.calls == []


def test_another_host_does_not_make_another_object_of_the_same_path() -> None:
    ran = Ran()

    async def file(request: Request) -> Response:
        ran.calls.append(("file", dict(request.path_params)))
        return Response()

    def other_host(scope: dict[str, Any]) -> None:
        scope["headers"] = [(name, b"b.example" if name == b"host" else value) for name, value in scope["headers"]]

    app = Starlette(routes=[Host("{tenant}.example", Router([Route("/x", public(file))]))])
    app.add_middleware(Rewriting, rewrite=other_host)
    client = client_of(app, allowed_hosts=("a.example", "b.example"))
    assert client.get("/x", headers={"host": "b.example"}).status_code == 200
    assert client.get("/x", headers={"host": "a.example"}).status_code == 403
    assert ran.calls == [("file", {"tenant": "b"})]


def test_a_web_socket_of_another_path_is_closed() -> None:
    ran: list[str] = []
    app = FastAPI()

    async def talk(websocket: WebSocket) -> None:
        ran.append(websocket.url.path)
        await websocket.accept()
        await websocket.close()

    app.add_api_websocket_route("/open", talk)
    app.add_api_websocket_route("/secret", talk)
    app.add_middleware(Rewriting, rewrite=set_path("/secret"))
    client = client_of(app, ("WS /open", public), ("WS /secret", allow(role="admin")))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/open"):
        pass
    assert ran == []


def test_a_router_of_its_own_default_is_locked() -> None:
    ran = Ran()
    app = Starlette(routes=[Route("/secret", allow(role="admin")(_answer("secret", ran)))])
    app.router.default = RawApp(ran, "default")
    app.add_middleware(Rewriting, rewrite=set_path("/elsewhere"))
    client = client_of(app, ("GET /**", public))
    assert client.get("/anything").status_code == 403
    assert client.get("/elsewhere").status_code == 200
    assert [label for label, _ in ran.calls] == ["default"]


def _answer(label: str, ran: Ran) -> Any:
    return RawApp(ran, label)


def test_a_redirect_lets_no_endpoint_run() -> None:
    ran: list[str] = []
    client = client_of(app_of(ran, Rewriting, set_path("/open")))
    assert client.get("/open/").status_code == 403
    assert ran == []


def test_a_front_end_is_locked_wherever_it_was_included(directory: Path) -> None:
    (directory / "files").mkdir()
    (directory / "files" / "file.txt").write_text("secret")
    for included in (False, True):
        app, router = FastAPI(), APIRouter()
        (router if included else app).frontend("/app", directory="files")
        app.include_router(router)
        app.get("/open")(public(_nothing()))
        app.add_middleware(Rewriting, rewrite=set_path("/app/file.txt"))
        client = client_of(app, ("GET /app/**", allow(role="admin")))
        answer = client.get("/open")
        assert (answer.status_code, "secret" in answer.text) == (403, False), included


def _nothing() -> Any:
    async def nothing() -> str:
        return ""

    return nothing


# Nothing from outside speaks for the guard


def test_nothing_that_a_client_sends_is_taken_for_a_decision() -> None:
    ran: list[str] = []
    app = app_of(ran)
    client = client_of(app)
    for headers in ({"garrison": "granted"}, {"x-garrison": "1"}, {"user": "admin"}, {"x-original-url": "/secret"}):
        assert client.get("/secret", headers=headers).status_code == 401
        assert past_the_guard(app).get("/secret", headers=headers).status_code == 403
    assert ran == []


@pytest.mark.parametrize("forged", [True, "granted", {"granted": True}, object()])
def test_an_entry_of_the_scope_that_is_no_call_of_ours_opens_nothing(forged: Any) -> None:
    ran: list[str] = []
    app = app_of(ran, Rewriting, lambda scope: scope.update(garrison=forged))
    client = client_of(app)
    assert client.get("/open").status_code == 403
    assert ran == []


def test_an_entry_that_a_server_left_in_the_scope_is_replaced() -> None:
    app = app_of([])
    protect(app)

    async def with_entry(scope: Any, receive: Any, send: Any) -> None:
        await app({**scope, "garrison": object(), "user": object()}, receive, send)

    client = TestClient(with_entry)
    assert client.get("/open").status_code == 200
    assert client.get("/secret").status_code == 401


# Run past the guard


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("make", [FastAPI, Starlette])
def test_an_app_that_another_server_runs_unwrapped_answers_403(make: Any, started: bool) -> None:
    ran = Ran()
    app = make()
    app.router.add_route("/open", public(_answer("open", ran)))
    client = client_of(app)
    if started:
        assert client.get("/open").status_code == 200
        ran.calls.clear()
    assert past_the_guard(app).get("/open").status_code == 403
    assert TestClient(app.router).get("/open").status_code == 403
    assert ran.calls == []


def test_a_mounted_app_or_an_included_router_run_by_itself_answers_403() -> None:
    ran: list[str] = []
    inner, router = app_of(ran), APIRouter()

    @router.get("/routed")
    @public
    async def routed() -> str:
        ran.append("routed")
        return ""

    app = FastAPI()
    app.mount("/inner", inner)
    app.include_router(router, prefix="/router")
    client = client_of(app)
    assert client.get("/inner/open").status_code == 200
    assert client.get("/router/routed").status_code == 200
    ran.clear()
    assert TestClient(inner).get("/open").status_code == 403
    if not TREE:  # the app's routes are copies
        return
    assert TestClient(router).get("/routed").status_code == 403
    other = FastAPI()
    other.include_router(router)
    assert TestClient(other).get("/routed").status_code == 403
    assert ran == []


# Routes that appear after start


def add_get(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.get("/late")(endpoint)


def add_to_included(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    router.get("/late")(endpoint)


def add_starlette_route_to_included(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(await endpoint())

    router.add_route("/late", answer)


def insert_first(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.get("/late")(endpoint)
    app.router.routes.insert(0, app.router.routes.pop())


def replace_first(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes[0] = _route("/late", endpoint)


def replace_slice(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes[0:1] = [_route("/late", endpoint)]


def extend(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes += [_route("/late", endpoint)]


def exchange_the_list(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes = [_route("/late", endpoint), *app.router.routes]


def exchange_the_list_and_append(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes = list(app.router.routes)
    app.router.routes.append(_route("/late", endpoint))


def exchange_the_router(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    other = APIRouter()
    other.get("/late")(endpoint)
    app.router = other
    app.middleware_stack = None


def include_another(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    other = APIRouter()
    other.get("/late")(endpoint)
    app.include_router(other)


def include_another_in_included(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    other = APIRouter()
    other.get("/late")(endpoint)
    router.include_router(other)


def fill_another_included_in_included(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    other = APIRouter()
    router.include_router(other)
    other.get("/late")(endpoint)


def mount(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.mount("/late", Router([_route("/", endpoint)]))


def mount_in_included(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    router.mount("/late", Router([_route("/", endpoint)]))
    router.get("/other")(_nothing())  # FastAPI looks at an included router again when it got a route of its own


def mount_everywhere(app: FastAPI, router: APIRouter, endpoint: Any) -> None:
    app.router.routes.insert(0, Mount("", Router([_route("/late", endpoint)])))


def _route(path: str, endpoint: Any) -> Route:
    async def answer(request: Request) -> Response:
        return PlainTextResponse(await endpoint())

    return Route(path, answer)


LATE = [
    *(add_get, add_to_included, add_starlette_route_to_included, insert_first, replace_first, replace_slice, extend),
    *(exchange_the_list, exchange_the_list_and_append, exchange_the_router, include_another),
    *(include_another_in_included, fill_another_included_in_included, mount, mount_in_included, mount_everywhere),
]


@pytest.mark.parametrize("add", LATE)
def test_a_route_that_appears_after_start_is_undecided_and_never_runs(add: Any) -> None:
    ran: list[str] = []

    @public
    async def late() -> str:
        ran.append("late")
        return "late"

    app, router = app_of(ran), APIRouter()
    router.get("/known")(public(_nothing()))
    app.include_router(router)
    client = client_of(app)
    assert client.get("/known").status_code == 200
    add(app, router, late)
    path = "/late/" if "mount" in add.__name__ and add is not mount_everywhere else "/late"
    if TREE or "include" not in add.__name__:
        assert client.get(path).status_code == 401
        sign_in(client)
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (403, "undecided")
    else:
        assert client.get(path).status_code in (401, 404)
    assert past_the_guard(app).get(path).status_code == 403
    reached = run(app.router.app, scope_of("http", "GET", path.encode(), "testserver"))  # past the gate, too
    assert reached in (403, 404)
    assert ran == []


@pytest.mark.parametrize("add", LATE)
def test_a_route_that_appears_after_start_cannot_be_reached_by_rewriting(add: Any) -> None:
    ran: list[str] = []

    async def late() -> str:
        ran.append("late")
        return "late"

    path = "/late/" if "mount" in add.__name__ and add is not mount_everywhere else "/late"
    app, router = app_of(ran, Rewriting, set_path(path)), APIRouter()
    router.get("/known")(public(_nothing()))
    app.include_router(router)
    client = client_of(app)
    assert client.get("/known").status_code in (403, 404)
    add(app, router, late)
    assert client.get("/known").status_code in (403, 404)
    assert ran == []


def test_a_late_route_under_a_known_path_never_runs() -> None:
    ran: list[str] = []
    app = app_of(ran)
    client = client_of(app)
    assert client.get("/open").status_code == 200
    ran.clear()

    async def late() -> str:
        ran.append("late")
        return "late"

    app.router.routes.insert(0, _route("/open", late))
    assert client.get("/open").status_code == 403
    assert ran == []


def test_known_routes_stay_open_when_others_appear() -> None:
    ran = Ran()
    app, router = FastAPI(), APIRouter()
    if TREE:
        router.mount("/raw", RawApp(ran, "raw"))
    router.add_route("/class", _answer("class", ran), methods=["GET"])
    app.include_router(router, prefix="/in")
    client = client_of(app, ("* /**", public))
    assert client.get("/in/class").status_code == 200
    app.get("/late")(_nothing())
    router.get("/late")(_nothing())
    assert client.get("/in/class").status_code == 200
    if TREE:
        assert client.get("/in/raw/x").status_code == 200


def test_a_late_web_socket_is_closed() -> None:
    ran: list[str] = []

    async def talk(websocket: WebSocket) -> None:
        ran.append("talk")
        await websocket.accept()
        await websocket.close()

    app, router = app_of(ran), APIRouter()
    app.include_router(router)
    client = client_of(app)
    client.get("/open")
    ran.clear()
    app.router.add_websocket_route("/one", talk)
    router.add_websocket_route("/two", talk)
    app.router.routes.append(WebSocketRoute("/three", talk))
    for path in ("/one", "/two", "/three"):
        for one in (client, past_the_guard(app)):
            with pytest.raises(WebSocketDisconnect), one.websocket_connect(path):
                pass
    assert ran == []


def test_a_late_front_end_is_not_served(directory: Path) -> None:
    (directory / "files").mkdir()
    (directory / "files" / "file.txt").write_text("file")
    app, router, other = FastAPI(), APIRouter(), APIRouter()
    app.frontend("/app", directory="files")
    router.frontend("/in", directory="files")
    app.include_router(router)
    app.include_router(other)
    client = client_of(app, ("* /app/**", public), ("* /in/**", public))
    assert client.get("/app/file.txt").text == "file"
    app.frontend("/late", directory="files")
    app.frontend("/app/late", directory="files")
    router.frontend("/late-too", directory="files")
    other.frontend("/late-other", directory="files")
    for path in ("/late/file.txt", "/late-too/file.txt", "/late-other/file.txt"):
        assert client.get(path).status_code == 401, path
        assert past_the_guard(app).get(path).status_code in (403, 404)
    assert client.get("/app/late/file.txt").status_code == 404  # the known front end has no such file
    assert client.get("/app/file.txt").text == "file"
    assert client.get("/in/file.txt").text == "file"


def test_a_late_default_never_runs() -> None:
    ran = Ran()
    app = Starlette(routes=[Route("/open", public(_answer("open", ran)))])
    client = client_of(app)
    assert client.get("/open").status_code == 200
    app.router.default = RawApp(ran, "default")
    run(app.router.app, scope_of("http", "GET", b"/x", "testserver"))
    assert client.get("/x").status_code == 404
    assert [label for label, _ in ran.calls] == ["open"]


def test_many_requests_at_once_each_have_a_decision_of_their_own() -> None:
    ran: list[str] = []
    app = app_of(ran)
    guarded = Garrison().protect(app)
    statuses: list[int] = []

    async def one(path: bytes) -> None:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)
            await asyncio.sleep(0)

        scope = {**scope_of("http", "GET", path, "testserver"), "client": ("127.0.0.1", 1)}
        await guarded(scope, receive, send)
        statuses.append(sent[0]["status"])

    async def all_of_them() -> None:
        await asyncio.gather(*(one(path) for path in (b"/open", b"/secret", b"/tasks/1", b"/tasks/2") * 20))

    asyncio.run(all_of_them())
    assert sorted(set(statuses)) == [200, 401]
    assert len(ran) == 60
