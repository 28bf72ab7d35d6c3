"""The second lock: code of the app between guard and endpoint cannot make another endpoint, or another object, run."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Host, Route, Router
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from garrison import Garrison, allow, public
from garrison.policy.decide import Decision
from garrison.policy.inventory import Route as Route_
from garrison.policy.lock import locked
from garrison.wire.call import Call
from tests.policy.guarded import TREE, client_of, past_the_guard, protect
from tests.policy.rewriting import (
    MIDDLEWARES,
    Copying,
    Rewrite,
    Rewriting,
    app_of,
    method_override,
    nothing,
    raw_answer,
    set_method,
    set_path,
)
from tests.policy.tables import Ran, RawApp, run, scope_of

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


def test_a_middleware_that_changes_nothing_disturbsnothing() -> None:
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
        app.router.add_route("/{path:path}", public(raw_answer("file", ran)))
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
    app = Starlette(routes=[Route("/secret", allow(role="admin")(raw_answer("secret", ran)))])
    app.router.default = RawApp(ran, "default")
    app.add_middleware(Rewriting, rewrite=set_path("/elsewhere"))
    client = client_of(app, ("GET /**", public))
    assert client.get("/anything").status_code == 403
    assert client.get("/elsewhere").status_code == 200
    assert [label for label, _ in ran.calls] == ["default"]


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
        app.get("/open")(public(nothing()))
        app.add_middleware(Rewriting, rewrite=set_path("/app/file.txt"))
        client = client_of(app, ("GET /app/**", allow(role="admin")))
        answer = client.get("/open")
        assert (answer.status_code, "secret" in answer.text) == (403, False), included


@pytest.mark.skipif(not TREE, reason="before 0.137 FastAPI could not include a host")
def test_a_raw_app_behind_a_host_is_locked_in_an_included_router() -> None:
    for rule, status in ((public, 200), (allow(role="admin"), 403)):
        ran = Ran()
        app, router = FastAPI(), APIRouter()
        router.host("a.example", RawApp(ran, "raw"))
        app.get("/open")(public(nothing()))
        app.include_router(router, prefix="/in")
        rewrite = set_path("/in/x") if status == 403 else set_path("/in/y")
        app.add_middleware(Rewriting, rewrite=rewrite)
        client = client_of(app, ("* /in/**", rule), allowed_hosts=("a.example",))
        path = "/open" if status == 403 else "/in/y"
        assert client.get(path, headers={"host": "a.example"}).status_code == status
        assert [label for label, _ in ran.calls] == (["raw"] if status == 200 else [])


# The lock by itself


def test_each_condition_of_the_lock_is_needed() -> None:
    ran, element = Ran(), object()
    refused: list[str] = []
    run_ = locked(RawApp(ran, "endpoint"), element, "name", lambda _scope, name: refused.append(name))
    route = Route_("/x/{id:int}", "http", re.compile(""), None, element=element)

    def scope(**changes: Any) -> dict[str, Any]:
        found = {**scope_of("http", "GET", b"/x/7", "testserver"), "path_params": {"id": 7}}
        call = Call(found)
        call.path, call.granted, call.values = "/x/7", True, {"id": 7}
        call.route = Decision(route, "GET", public, "test")
        for name, value in changes.items():
            if name.startswith("call_"):
                setattr(call, name.removeprefix("call_"), value)
        found["garrison"] = call
        return {**found, **{name: value for name, value in changes.items() if not name.startswith("call_")}}

    assert run(run_, scope()) == 200
    assert run(run_, scope(path_params={"id": 7, "more": 1})) == 200
    other = Decision(Route_("/x/{id:int}", "http", re.compile(""), None, element=object()), "GET", public, "test")
    lookalike = SimpleNamespace(**{name: getattr(scope()["garrison"], name) for name in ("path", "granted", "values")})
    lookalike.route, lookalike.kind, lookalike.method = scope()["garrison"].route, "http", "GET"
    lookalike.request_id = ""
    wrong: list[dict[str, Any]] = [
        {"garrison": None},
        {"garrison": lookalike},
        {"call_granted": False},
        {"call_route": other},
        {"path": "/x/8"},
        {"method": "POST"},
        {"call_kind": "websocket"},
        {"path_params": {"id": 8}},
        {"path_params": {"id": "7"}},
        {"path_params": {}},
    ]
    for changes in wrong:
        assert run(run_, scope(**changes)) == 403, changes
    without = scope()
    del without["path_params"]
    assert run(run_, without) == 403
    assert len(ran.calls) == 2
    assert set(refused) == {"name"}


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
    app.router.add_route("/open", public(raw_answer("open", ran)))
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
