"""Guarding FastAPI and Starlette apps in place: what stays as it was, what is seen, what is refused at start."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from garrison import Garrison, Policy, PolicyError, allow, public, require
from garrison.fastapi import Me
from tests.policy.guarded import TREE, client_of, production, protect, sign_in


async def answer(request: Request) -> Response:
    return PlainTextResponse(f"{request.method} {request.url.path}")


async def raw(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse("raw")(scope, receive, send)


def refusals(app: Any, *lines: Any, **more: Any) -> str:
    """Start the app, which must be refused; returns all that was said."""
    client = client_of(app, *lines, **more)
    with pytest.raises(PolicyError) as caught, client:
        pass
    return "\n".join(caught.value.refusals)


# In place


@pytest.mark.parametrize("make", [FastAPI, Starlette])
def test_protect_returns_the_same_object_of_the_same_type(make: type[Any]) -> None:
    app = make()
    assert Garrison().protect(app) is app
    assert isinstance(app, make)
    assert type(app).__name__ == make.__name__


@pytest.mark.parametrize("with_lifespan", [True, False])
def test_a_fastapi_app_is_guarded_with_and_without_lifespan(with_lifespan: bool) -> None:
    app = FastAPI()
    client = client_of(app)

    @app.get("/open")
    @public
    async def open_() -> str:
        return "open"

    @allow(signed_in=True)
    @app.get("/closed")
    async def closed(me: Me) -> str:
        return me.id

    def use() -> None:
        assert client.get("/open").json() == "open"
        assert client.get("/closed").status_code == 401
        account = sign_in(client)
        assert client.get("/closed").json() == account
        assert client.get("/unknown").status_code == 404
        assert client.post("/open").status_code == 405

    if with_lifespan:
        with client:
            use()
    else:
        use()


def test_a_starlette_app_is_guarded_with_its_own_principal() -> None:
    @allow(signed_in=True)
    async def who(request: Request) -> Response:
        return PlainTextResponse(request.user.id)

    client = client_of(Starlette(routes=[Route("/who", who)]))
    assert client.get("/who").status_code == 401
    account = sign_in(client)
    assert client.get("/who").text == account


def test_any_other_app_is_wrapped_and_guarded_by_its_table() -> None:
    app = Garrison(Policy(("GET /open", public), ("* /**", allow(signed_in=True)))).protect(raw)
    assert app is not raw
    client = TestClient(app)
    assert client.get("/open").text == "raw"
    assert client.head("/open").status_code == 200
    assert client.post("/open").status_code == 401
    assert client.get("/other").status_code == 401


def test_dependency_overrides_keep_working() -> None:
    def value() -> str:
        return "real"

    app = FastAPI()
    client = client_of(app)

    @app.get("/value")
    @public
    async def read(found: Annotated[str, Depends(value)]) -> str:
        return found

    app.dependency_overrides[value] = lambda: "overridden"
    assert client.get("/value").json() == "overridden"


def test_an_override_of_the_principal_is_refused_in_production() -> None:
    from garrison.fastapi import current_principal

    app = FastAPI()
    app.dependency_overrides[current_principal] = lambda: None
    with pytest.raises(PolicyError, match="current_principal"):
        production(app).get("/")


def test_protecting_twice_is_an_error() -> None:
    app = FastAPI()
    Garrison().protect(app)
    with pytest.raises(PolicyError) as caught:
        Garrison().protect(app)
    assert caught.value.code == "protected_twice"
    wrapped = Garrison().protect(raw)
    with pytest.raises(PolicyError) as caught:
        Garrison().protect(wrapped)
    assert caught.value.code == "protected_twice"
    guard = Garrison()
    guard.protect(FastAPI())
    with pytest.raises(PolicyError) as caught:
        guard.protect(FastAPI())
    assert caught.value.code == "protected_twice"


def test_a_protected_app_cannot_be_mounted_in_a_protected_one() -> None:
    inner = FastAPI()
    protect(inner)
    app = FastAPI()
    app.mount("/inner", inner)
    assert "/inner is protected by itself" in refusals(app)
    app = FastAPI()
    app.mount("/inner", Garrison().protect(raw))
    assert "/inner is protected by itself" in refusals(app)


def test_a_mounted_app_with_a_root_path_of_its_own_is_refused() -> None:
    app = FastAPI()
    inner = FastAPI()
    inner.root_path = "/elsewhere"
    app.mount("/inner", inner)
    assert "root_path" in refusals(app)


def test_the_second_start_of_one_app_takes_what_was_added_in_between() -> None:
    app = FastAPI()
    router = APIRouter()

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    router.add_websocket_route("/ws", socket)
    app.include_router(router, prefix="/more")
    client = client_of(app, ("WS /more/ws", public))
    app.get("/first")(public(_named("first")))
    with client:
        assert client.get("/first").json() == "first"
        app.get("/second")(public(_named("second")))
        router.get("/third")(public(_named("third")))
        assert client.get("/second").status_code == 401
        assert client.get("/more/third").status_code == (401 if TREE else 404)
    with client:
        assert client.get("/second").json() == "second"
        if TREE:
            assert client.get("/more/third").json() == "third"
        with client.websocket_connect("/more/ws"):
            pass


def _named(text: str) -> Callable[[], Any]:
    async def endpoint() -> str:
        return text

    return endpoint


# Documentation


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"])
def test_documentation_is_public_in_development_and_absent_in_production(path: str) -> None:
    assert client_of(FastAPI()).get(path).status_code == 200
    bare = production(FastAPI())
    assert bare.get(path).status_code == 404
    assert bare.post(path).status_code == 404


def test_documentation_stays_absent_behind_a_catch_all_and_opens_by_a_rule() -> None:
    app = FastAPI()
    app.get("/{page:path}")(public(_paged))
    client = production(app)
    assert client.get("/docs").status_code == 404
    assert client.get("/other").json() == "other"
    assert production(FastAPI(), ("GET /docs", public)).get("/docs").status_code == 200
    assert production(FastAPI(), ("GET /docs", allow(signed_in=True))).get("/docs").status_code == 401


async def _paged(page: str) -> str:
    return page


# What is seen


def test_every_undecided_route_is_named(directory: Path) -> None:
    class Items(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return Response()

    class Socket(WebSocketEndpoint):
        pass

    (directory / "static").mkdir()
    app = FastAPI()
    app.get("/function")(_named(""))
    app.router.routes += [Route("/class", Items), Route("/callable", raw), Route("/asgi", _Callable())]
    app.router.routes.append(WebSocketRoute("/socket", Socket))
    app.mount("/static", StaticFiles(directory="static"))
    app.mount("/raw", raw)
    app.mount("/router", Router([Route("/a", answer, methods=["POST"])]))
    app.mount("/starlette", Starlette(routes=[Route("/a", answer), Mount("/deep", routes=[Route("/b", answer)])]))
    app.mount("/fastapi", _fastapi_with("/c"))
    app.host("api.example.com", Router([Route("/host", answer)]))
    outer, inner = APIRouter(), APIRouter()
    app.include_router(outer, prefix="/outer")
    outer.include_router(inner, prefix="/inner")
    inner.delete("/{id}")(_identified)
    app.frontend("/app", directory="static")
    inner.frontend("/deep-app", directory="static")
    said = refusals(app)
    undecided = sorted(line.split(" is undecided")[0] for line in said.splitlines())
    assert undecided == sorted(
        [
            *("GET /function", "GET /class", "HEAD /class", "GET /callable", "HEAD /callable", "* /asgi", "WS /socket"),
            *("* /static/**", "* /raw/**", "POST /router/a", "GET /starlette/a", "HEAD /starlette/a"),
            *("GET /starlette/deep/b", "HEAD /starlette/deep/b", "GET /fastapi/c", "GET /host", "HEAD /host"),
            *("DELETE /outer/inner/{id}", "GET /app/**", "HEAD /app/**"),
            *("GET /outer/inner/deep-app/**", "HEAD /outer/inner/deep-app/**"),
        ]
    )


class _Callable:
    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await raw(scope, receive, send)


async def _identified(id: str) -> str:
    return id


def _fastapi_with(path: str) -> FastAPI:
    app = FastAPI()
    router = APIRouter()
    router.get(path)(_named(""))
    app.include_router(router)
    return app


def test_undecided_routes_start_as_denied_where_that_is_asked_for() -> None:
    app = FastAPI()
    app.get("/open")(public(_named("open")))
    app.get("/undecided")(_named("undecided"))
    client = client_of(app, undecided="deny")
    assert client.get("/open").status_code == 200
    assert client.get("/undecided").status_code == 401
    sign_in(client)
    answer = client.get("/undecided")
    assert (answer.status_code, answer.json()["code"]) == (403, "undecided")


def test_a_fastapi_app_in_a_starlette_one_is_seen_through() -> None:
    inner = _fastapi_with("/c")
    client = client_of(Starlette(routes=[Mount("/api", inner)]), ("GET /api/c", allow(signed_in=True)))
    assert client.get("/api/c").status_code == 401
    assert client.get("/api/docs").status_code == 200
    sign_in(client)
    assert client.get("/api/c").status_code == 200


def test_nested_and_repeated_includes_have_rules_of_their_own_through_a_table() -> None:
    shared, outer = APIRouter(), APIRouter()
    if not TREE:
        shared.get("/items/{id}")(_identified)
    outer.include_router(shared, prefix="/shared")
    app = FastAPI()
    app.include_router(shared, prefix="/v1")
    app.include_router(shared, prefix="/v2")
    app.include_router(outer, prefix="/outer")
    if TREE:
        shared.get("/items/{id}")(_identified)  # after the router was included
    client = client_of(
        app,
        ("GET /v1/items/{id}", public),
        ("GET /v2/items/{id}", allow(signed_in=True)),
        ("GET /outer/**", allow(role="admin")),
    )
    assert client.get("/v1/items/7").json() == "7"
    assert client.get("/v2/items/7").status_code == 401
    sign_in(client)
    assert client.get("/v2/items/7").json() == "7"
    assert client.get("/outer/shared/items/7").status_code == 403


def test_hosts_are_chosen_as_the_framework_chooses_them() -> None:
    @public
    async def a(request: Request) -> Response:
        return PlainTextResponse("a")

    @allow(signed_in=True)
    async def b(request: Request) -> Response:
        return PlainTextResponse("b")

    app = Starlette(routes=[Host("a.example", Router([Route("/x", a)])), Route("/x", b)])
    client = client_of(app, allowed_hosts=("a.example", "b.example"))
    assert client.get("/x", headers={"host": "A.example:8080"}).text == "a"
    assert client.get("/x", headers={"host": "b.example"}).status_code == 401
    assert client.get("/x", headers={"host": "a.example."}).status_code == 401  # Starlette's regex has no dot


def test_static_files_and_front_ends_are_served_once_decided(directory: Path) -> None:
    for name in ("static", "app", "admin"):
        (directory / name).mkdir()
        (directory / name / "index.html").write_text(name)
        (directory / name / "file.txt").write_text(name)
    app, router = FastAPI(), APIRouter()
    app.frontend("/", directory="app")
    app.frontend("/admin", directory="admin")
    app.include_router(router, prefix="/in")
    router.frontend("/", directory="static")
    app.mount("/static", StaticFiles(directory="static"))
    app.get("/api")(public(_named("api")))
    app.post("/only-post")(public(_named("posted")))
    client = client_of(
        app,
        ("* /static/**", public),
        ("* /admin/**", allow(role="admin")),
        ("* /in/**", allow(signed_in=True)),
        ("GET /**", public),
    )
    assert client.get("/static/file.txt").text == "static"
    assert client.get("/file.txt").text == "app"
    assert client.get("/api").json() == "api"
    assert client.get("/admin/file.txt").status_code == 401
    assert client.get("/in/file.txt").status_code == 401
    assert client.get("/api/").status_code == 307  # the redirect goes before the front end
    assert client.get("/only-post").status_code == 405  # so does a route that knows the path
    sign_in(client)
    assert client.get("/in/file.txt").text == "static"
    assert client.get("/admin/file.txt").status_code == 403


# What is refused


def test_a_hidden_route_is_refused_naming_both() -> None:
    app = FastAPI()
    app.get("/tasks/{id}")(public(_identified))
    app.get("/tasks/export")(allow(role="admin")(_named("")))
    said = refusals(app)
    assert "GET /tasks/export is never reached" in said
    assert "GET /tasks/{id}" in said
    assert len(re.findall(r"decorator at \S+test_frameworks\.py:\d+", said)) == 2


def test_a_front_end_behind_a_route_of_one_segment_is_not_hidden(directory: Path) -> None:
    (directory / "files" / "deep").mkdir(parents=True)
    (directory / "files" / "deep" / "file.txt").write_text("file")
    app = FastAPI()
    app.get("/{page}")(_paged)
    app.frontend("/", directory="files")
    client = client_of(app, ("* /**", public))
    assert client.get("/page").json() == "page"
    assert client.get("/deep/file.txt").text == "file"


def test_a_route_hidden_by_a_mount_is_refused_naming_both() -> None:
    app = FastAPI()
    app.mount("/tasks", Router([Route("/known", public(_request()))]))
    app.get("/tasks/export")(public(_named("")))
    said = refusals(app)
    assert "GET /tasks/export is never reached" in said
    assert "mounted at /tasks" in said


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("/{id:int}", "/{name}"),
        ("/{a}/{b}/x", "/{rest:path}/x"),
        ("/tasks/export", "/tasks/{id}"),
        ("/{id:int}", "/{number:float}"),
        ("/a", "/{rest:path}"),
    ],
)
def test_a_route_that_is_only_narrower_hides_nothing(first: str, second: str) -> None:
    app = Starlette(routes=[Route(first, public(_request())), Route(second, public(_request()))])
    assert client_of(app).get("/q").status_code in (200, 404)


def _request() -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("")

    return endpoint


@pytest.mark.parametrize(
    "path",
    [
        "/auth/sign-in",
        "/auth/{name}",
        "/auth/sessions/{id:int}",
        "/{area}/sign-in",
        "/auth/{rest:path}",
        "/health/live",
    ],
)
def test_a_route_of_the_app_under_our_paths_is_refused(path: str) -> None:
    app = Starlette(routes=[Route(path, public(_request()))])
    said = refusals(app)
    assert "which Garrison serves" in said
    assert "test_frameworks.py:" in said


def test_what_is_mounted_over_our_paths_is_refused() -> None:
    assert "which Garrison serves" in refusals(Starlette(routes=[Mount("/auth", raw)]), ("* /auth/**", public))


def test_a_catch_all_stands_aside_for_our_paths() -> None:
    app = Starlette(routes=[Route("/{rest:path}", public(_request()), methods=["GET", "POST"])])
    client = client_of(app)
    assert client.get("/anything").status_code == 200
    assert client.get("/auth/session").status_code == 401
    assert client.get("/auth/sign-in").status_code == 405
    assert client.get("/auth/unknown").status_code == 200


def test_our_own_paths_know_no_slash_redirect() -> None:
    client = client_of(FastAPI())
    answer = client.get("/auth/session/")
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")  # ours: the app is not asked
    assert client.get("/auth/session").status_code == 401


def test_moved_paths_leave_the_old_ones_to_the_app() -> None:
    app = FastAPI()
    app.get("/auth/session")(public(_named("mine")))
    Garrison(prefix="/identity").protect(app)
    client = TestClient(app)
    assert client.get("/auth/session").json() == "mine"
    assert client.get("/identity/auth/session").status_code == 401


def test_a_public_route_cannot_be_narrowed_to_somebody() -> None:
    app = FastAPI(openapi_url=None)
    app.get("/open")(public(_named("")))
    assert "public route cannot require" in refusals(app, require("* /open", role="admin"))


# Web sockets


def _sockets() -> FastAPI:
    app = FastAPI()

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    app.add_api_websocket_route("/open", talk)
    app.add_api_websocket_route("/closed", talk)
    return app


def test_web_sockets_are_closed_unless_decided() -> None:
    client = client_of(_sockets(), ("WS /open", public), ("WS /closed", allow(signed_in=True)))
    with client.websocket_connect("/open") as socket:
        assert socket.receive_text() == "hello"
    for path in ("/closed", "/unknown"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(path):
            pass
    sign_in(client)
    with client.websocket_connect("/closed") as socket:
        assert socket.receive_text() == "hello"
    assert client.get("/open").status_code == 404


def test_an_undecided_web_socket_keeps_the_app_from_starting() -> None:
    assert "WS /closed is undecided" in refusals(_sockets(), ("WS /open", public), ("GET /**", public))


def test_a_line_for_any_method_decides_web_sockets_too() -> None:
    client = client_of(_sockets(), ("* /closed", allow(signed_in=True)), ("* /**", public))
    with client.websocket_connect("/open"):
        pass
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/closed"):
        pass


def test_a_web_socket_of_a_foreign_origin_is_refused() -> None:
    client = client_of(_sockets(), ("WS /**", public))
    for headers in ({"origin": "https://evil.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/open", headers=headers):
            pass
    with client.websocket_connect("/open", headers={"origin": "http://127.0.0.1:8000"}) as socket:
        assert socket.receive_text() == "hello"


def test_a_web_socket_to_a_raw_mount_is_closed() -> None:
    reached: list[str] = []

    async def talk(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope["type"])

    client = client_of(Starlette(routes=[Mount("/raw", talk)]), ("* /raw/**", public))
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/raw/any"):
        pass
    assert reached == []


# Methods, root path


def test_a_route_that_takes_any_method_is_decided_method_by_method() -> None:
    app = Starlette(routes=[Mount("/raw", raw)])
    client = client_of(app, ("GET /raw/**", public), ("* /raw/**", allow(signed_in=True)))
    assert client.get("/raw/x").status_code == 200
    assert client.head("/raw/x").status_code == 200
    for method in ("POST", "DELETE", "PROPFIND"):
        assert client.request(method, "/raw/x").status_code == 401, method


def test_methods_that_no_line_decides_are_not_reached() -> None:
    client = client_of(Starlette(routes=[Mount("/raw", raw)]), ("GET /raw/**", public))
    assert client.get("/raw/x").status_code == 200
    assert client.delete("/raw/x").status_code == 405


def test_a_slash_redirect_to_a_decided_route_is_kept_and_runs_nothing() -> None:
    app = FastAPI()
    app.get("/closed/")(allow(signed_in=True)(_named("closed")))
    app.get("/undecided/")(_named("undecided"))
    client = client_of(app, undecided="deny")
    found = client.get("/closed")
    assert (found.status_code, found.headers["location"]) == (307, "http://testserver/closed/")
    assert client.get("/undecided").status_code == 404


@pytest.mark.parametrize("own", [True, False])
def test_a_root_path_is_taken_off_as_the_framework_does(own: bool) -> None:
    app = FastAPI()
    app.root_path = "/api" if own else ""
    app.get("/tasks")(public(_named("outer")))
    app.get("/api/tasks")(allow(signed_in=True)(_named("inner")))
    protect(app)
    client = TestClient(app, root_path="" if own else "/api")
    assert client.get("/tasks").json() == "outer"  # a proxy that cuts the prefix
    if own:
        assert client.get("/api/tasks").json() == "outer"
        assert client.get("/api/api/tasks").status_code == 401
        assert client.get("/api/auth/session").status_code == 401
