"""The users' test kit: the whole guard runs, only *who is it* is answered by the test."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from garrison import Garrison, PolicyError, Principal, allow, public
from garrison.core.principal import Factor
from garrison.fastapi import Me
from garrison.testing import ManualClock, account, acting_as, assert_closed, assert_open, assert_refused

ADA = account("acc_ada", scopes={"notes:read"})
ADMIN = account("acc_root", roles={"admin"})


async def note_owner(id: str) -> str | None:
    return {"1": "acc_ada"}.get(id)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FastAPI:
    monkeypatch.chdir(tmp_path)
    app = FastAPI()

    @app.get("/test")
    @public
    async def test(me: Me) -> str:
        return me.id

    @app.get("/notes")
    @allow(scope="notes:read")
    async def notes(me: Me) -> str:
        return me.id

    @app.get("/notes/{id}")
    @allow(owner=note_owner)
    async def note(id: str) -> str:
        return id

    @app.get("/reports")
    @allow(role="admin", factor_age="10 minutes")
    async def reports() -> str:
        return "all"

    @app.get("/public/refuses")
    @public
    async def refuses() -> None:
        raise HTTPException(403)

    @app.get("/missing/{id}")
    @allow(signed_in=True)
    async def missing(id: str) -> None:
        raise HTTPException(404)

    @app.get("/endless")
    @public
    async def endless() -> StreamingResponse:
        async def forever() -> AsyncIterator[bytes]:
            while True:
                yield b"tick"
                await asyncio.sleep(0.01)

        return StreamingResponse(forever())

    @app.websocket("/open-live")
    @public
    async def open_live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.receive_text()

    @app.websocket("/live")
    @allow(signed_in=True)
    async def live(socket: WebSocket, me: Me) -> None:
        await socket.accept()
        await socket.send_text(me.id)
        await socket.close()

    return Garrison().protect(app)


def test_open_and_closed_are_what_anybody_meets(app: FastAPI) -> None:
    assert_open(app, "GET", "/test")
    assert_closed(app, "GET", "/notes")
    assert_closed(app, "GET", "/reports")
    for wrong, text in (("/notes", "anybody gets 401"), ("/nothing", "anybody gets 404")):
        with pytest.raises(AssertionError, match=text):
            assert_open(app, "GET", wrong)
    with pytest.raises(AssertionError, match="GET /test is not closed: anybody gets 200"):
        assert_closed(app, "GET", "/test")
    with pytest.raises(AssertionError, match="there is no such route"):
        assert_closed(app, "GET", "/nothing")


def test_whoever_stands_in_meets_every_other_layer(app: FastAPI) -> None:
    assert_refused(app, "GET", "/reports", as_=ADA)
    assert_refused(app, "GET", "/notes/2", as_=ADA, status=404)
    assert_refused(app, "GET", "/notes/1", as_=ADMIN, status=404)
    assert_refused(app, "GET", "/reports", as_=ADMIN, status=401)  # no factor was proved
    with pytest.raises(AssertionError, match="GET /notes/1 as acc_ada: expected 404, got 200"):
        assert_refused(app, "GET", "/notes/1", as_=ADA, status=404)


def test_what_a_handler_refuses_is_not_the_guards_refusal(app: FastAPI) -> None:
    with pytest.raises(AssertionError, match="not closed: anybody gets 403, from the app itself"):
        assert_closed(app, "GET", "/public/refuses")
    with pytest.raises(AssertionError, match="expected 404, got 404, from the app itself"):
        assert_refused(app, "GET", "/missing/1", as_=ADA, status=404)


def test_a_mistyped_path_refuses_nobody(app: FastAPI) -> None:
    for path in ("/nots/2", "/nothing", "/notes/2/more"):
        with pytest.raises(AssertionError, match="there is no such route"):
            assert_refused(app, "GET", path, as_=ADA, status=404)
    assert_refused(app, "GET", "/notes/a%20b?page=2", as_=ADA, status=404)
    assert_refused(app, "DELETE", "/auth/sessions/ses_other", as_=ADA, status=404)


def test_streams_and_web_sockets_are_asked_too(app: FastAPI) -> None:
    assert_open(app, "GET", "/endless")
    assert_open(app, "WS", "/open-live")
    assert_closed(app, "WS", "/live")
    with pytest.raises(AssertionError, match="anybody gets 101"):
        assert_closed(app, "WS", "/open-live")
    with pytest.raises(AssertionError, match="no such route"):
        assert_closed(app, "WS", "/nothing")


def test_too_many_questions_are_told_from_refusals(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GARRISON_LIMIT_API", "1/minute")
    assert_closed(app, "GET", "/notes")
    with pytest.raises(AssertionError, match="429, too many requests: raise GARRISON_LIMIT_API"):
        assert_closed(app, "GET", "/notes")


@pytest.mark.parametrize("lifespan", [True, False])
def test_it_works_with_the_frameworks_own_client(app: FastAPI, lifespan: bool) -> None:
    client = TestClient(app)
    if lifespan:
        client.__enter__()
    with acting_as(app, ADA):
        assert client.get("/test").json() == "acc_ada"
        assert client.get("/notes").json() == "acc_ada"
        with acting_as(app, ADMIN):
            assert client.get("/notes").status_code == 403
        with acting_as(app, Principal.anonymous):
            assert client.get("/notes").status_code == 401
        assert client.get("/notes").status_code == 200
        with client.websocket_connect("/live", headers={"origin": "http://127.0.0.1:8000"}) as socket:
            assert socket.receive_text() == "acc_ada"
        dead = client.get("/notes", headers={"authorization": "Bearer grs_" + "A" * 43})
        assert dead.status_code == 401, "a credential of the request's own still counts"
    assert client.get("/notes").status_code == 401
    if lifespan:
        client.__exit__(None, None, None)


def test_whoever_stands_in_has_no_session_to_show(app: FastAPI) -> None:
    with TestClient(app) as client, acting_as(app, ADA):
        assert client.get("/auth/session").status_code == 403
        assert client.get("/auth/sessions").json() == {"items": []}


def test_a_recent_factor_satisfies_factor_age(app: FastAPI) -> None:
    import time

    fresh = account("acc_root", roles={"admin"}, factors=[Factor("password", time.time())])
    stale = account("acc_root", roles={"admin"}, factors=[Factor("password", time.time() - 3600)])
    with TestClient(app) as client:
        with acting_as(app, fresh):
            assert client.get("/reports").status_code == 200
        with acting_as(app, stale):
            assert client.get("/reports").status_code == 401


def test_a_test_that_fails_leaves_nobody_standing_in(app: FastAPI) -> None:
    with pytest.raises(ZeroDivisionError), acting_as(app, ADA):
        raise ZeroDivisionError
    assert_closed(app, "GET", "/notes")


def test_production_refuses_it_and_an_app_without_a_guard_too(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PolicyError), acting_as(FastAPI(), ADA):
        pass
    for name, value in {
        "ENV": "production",
        "ISSUER": "https://api.example.com",
        "SECRET": "s" * 40,
        "EMAIL_VERIFICATION": "optional",
    }.items():
        monkeypatch.setenv(f"GARRISON_{name}", value)
    for ask, path in ((assert_open, "/test"), (assert_closed, "/notes")):
        with pytest.raises(PolicyError):
            ask(app, "GET", path)
    with pytest.raises(PolicyError), acting_as(app, ADA):
        pass


def test_a_production_plan_holds_no_stand_in() -> None:
    from garrison.guard.plan import Planner
    from garrison.guard.settings import GuardSettings
    from garrison.guard.stand_in import StandIn
    from garrison.wire.call import Call

    stand_in = StandIn()
    stand_in.play(ADA)
    for development, expected in ((True, 200), (False, 401)):
        planner = Planner(
            GuardSettings(development=development),
            (),
            api_limit=None,
            route_limit=lambda rule: (),
            endpoint_limit=lambda endpoint: (),
            owner_failed=lambda call, error: None,
            stand_in=stand_in,
        )
        plan = planner.of_route(allow(signed_in=True), method="GET", websocket=False)
        call = Call({"type": "http", "method": "GET", "headers": [], "http_version": "1.1"})
        call.headers = {}
        answers = [answer for check in plan.checks if (answer := check(call)) is not None]
        assert [getattr(answer, "status", 0) for answer in answers] == ([] if expected == 200 else [401])


def test_the_clock_of_the_kit_moves_only_when_told() -> None:
    clock = ManualClock(1000.0)
    clock.advance(5)
    assert (clock.now(), clock.now()) == (1005.0, 1005.0)
