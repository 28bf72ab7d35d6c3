"""A route that appears after start is undecided: 401, or 403 when signed in, and it never runs, whoever leads there."""

from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request, WebSocket
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

from garrison import public
from tests.policy.guarded import TREE, client_of, past_the_guard, sign_in
from tests.policy.rewriting import Rewriting, app_of, nothing, raw_answer, set_path
from tests.policy.tables import Ran, RawApp, run, scope_of

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
    router.get("/other")(nothing())  # FastAPI looks at an included router again when it got a route of its own


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
    router.get("/known")(public(nothing()))
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
    router.get("/known")(public(nothing()))
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
    router.add_route("/class", raw_answer("class", ran), methods=["GET"])
    app.include_router(router, prefix="/in")
    client = client_of(app, ("* /**", public))
    assert client.get("/in/class").status_code == 200
    app.get("/late")(nothing())
    router.get("/late")(nothing())
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


@pytest.mark.parametrize("make", [FastAPI, Starlette])
def test_another_router_of_a_mounted_app_never_runs(make: Any) -> None:
    ran = Ran()
    inner, other, outer = make(), APIRouter(), FastAPI()
    inner.router.add_route("/x", public(raw_answer("known", ran)))
    outer.mount("/in", inner)
    client = client_of(outer)
    assert client.get("/in/x").status_code == 200
    assert isinstance(inner, make)
    for path in ("/x", "/y"):
        other.add_route(path, raw_answer("late", ran))
    inner.router = other
    inner.middleware_stack = None
    assert client.get("/in/x").status_code == 403
    assert client.get("/in/y").status_code == 401
    other.add_route("/z", raw_answer("later", ran))
    assert client.get("/in/z").status_code == 401
    assert past_the_guard(outer).get("/in/y").status_code == 403
    assert [label for label, _ in ran.calls] == ["known"]


def test_a_late_default_never_runs() -> None:
    ran = Ran()
    app = Starlette(routes=[Route("/open", public(raw_answer("open", ran)))])
    client = client_of(app)
    assert client.get("/open").status_code == 200
    app.router.default = RawApp(ran, "default")
    run(app.router.app, scope_of("http", "GET", b"/x", "testserver"))
    assert client.get("/x").status_code == 404
    assert [label for label, _ in ran.calls] == ["open"]
