"""Wrapped apps, whose lines are their routes: no line is silently left out in favour of a wider one below it."""

from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from garrison import Garrison, Policy, PolicyError, allow, public, require
from garrison.serve.settings import Settings
from tests.policy.guarded import sign_in

ADMIN = allow(role="admin")
SIGNED_IN = allow(signed_in=True)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    await PlainTextResponse(scope["path"])(scope, receive, send)


def client_of(*lines: Any) -> TestClient:
    guard = Garrison(Policy(*lines), settings=Settings(password_cost="m=8,t=1,p=1"))
    return TestClient(guard.protect(echo), follow_redirects=False)


def refusals(*lines: Any) -> tuple[str, ...]:
    with pytest.raises(PolicyError) as caught:
        client_of(*lines).get("/")
    return caught.value.refusals


@pytest.mark.parametrize("path", ["/files/x.json", "/files/a.b.json", "/v1-notes/x"])
def test_a_parameter_that_is_part_of_a_segment_is_matched(path: str) -> None:
    lines = (("GET /files/{name}.json", ADMIN), ("GET /v{number}-notes/{id}", ADMIN), ("* /**", public))
    client = client_of(*lines)
    assert client.get(path).status_code == 401
    assert client.get("/files/xjson").text == "/files/xjson"


@pytest.mark.parametrize("pattern", ["GET /tasks/{id:int}", "GET /f/{name:str}.json", "GET /{rest:path}"])
def test_a_converter_is_refused(pattern: str) -> None:
    said = refusals((pattern, ADMIN), ("* /**", public))
    assert len(said) == 1
    assert said[0].startswith("table line 1: ")


def test_a_parameter_named_twice_is_refused_with_everything_else_that_is_wrong() -> None:
    said = refusals(("GET /{a}/{a}", public), ("GET /{a}-{a}", public), ("GET /{a:int}", public))
    assert [sentence[:13] for sentence in said] == ["table line 1:", "table line 2:", "table line 3:"]


@pytest.mark.parametrize("wide", [("* /**", SIGNED_IN), ("GET /in/{area}/{id}", SIGNED_IN), ("* /**", public)])
def test_a_requirement_for_requests_that_a_wider_line_takes_is_refused(wide: Any) -> None:
    said = refusals(("GET /in/admin/x", SIGNED_IN), wide, require("GET /in/admin/**", role="admin"))
    assert len(said) == 1
    assert "table line 3 (GET /in/admin/**)" in said[0]


def test_a_line_of_its_own_lets_a_requirement_narrow_every_request_that_it_names() -> None:
    client = client_of(("* /admin/**", SIGNED_IN), ("* /**", SIGNED_IN), require("* /admin/**", role="admin"))
    sign_in(client)
    assert [client.get(path).status_code for path in ("/admin", "/admin/x", "/admin/x/y")] == [403, 403, 403]
    assert client.get("/other").status_code == 200


def test_a_line_that_an_earlier_one_hides_is_refused() -> None:
    said = refusals(("* /{area}/**", public), ("GET /admin/x", ADMIN))
    assert [sentence.partition(":")[0] for sentence in said] == ["GET /admin/x is never reached"]


def test_lines_may_overlap_where_each_has_something_left() -> None:
    client = client_of(
        ("GET /x", public), ("GET|POST /x", SIGNED_IN), ("HEAD /y", SIGNED_IN), ("GET /y", public), ("* /{a}", public)
    )
    assert [client.request(method, "/x").status_code for method in ("GET", "POST")] == [200, 401]
    assert [client.request(method, "/y").status_code for method in ("HEAD", "GET")] == [401, 200]
    assert client.get("/z").status_code == 200
