"""The whole chain: what is asked, what was decided, what comes back; and what happens when something breaks."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import structlog
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from garrison.core.durations import Limit
from garrison.guard.failures import redacted
from garrison.guard.streams import Streams
from garrison.policy.rules import Rule, allow, public
from garrison.wire.answer import Answer, Receive, Scope, Send
from garrison.wire.call import Call
from tests.guard.chained import PRODUCTION, Reply, Rig, opened, store_error

pytestmark = pytest.mark.anyio
ADA = {"authorization": "Bearer ada"}
ADA_BY_COOKIE = {"cookie": "session=ada"}
BOB = {"authorization": "Bearer bob"}
JSON = {"content-type": "application/json"}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def owner_of(task_id: str) -> str | None:
    return {"1": "ada", "2": "bob"}.get(task_id)


async def broken_owner(task_id: str) -> str | None:
    raise RuntimeError(f"no table for {task_id}")


class Echo:
    """An app that says what it got and counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.runs += 1
        body, more = b"", scope["type"] == "http"
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
        if scope["path"] == "/breaks":
            raise RuntimeError(f"cannot make sense of {body!r}")
        document = json.dumps({"who": scope["user"].id, "length": len(body)}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(document)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": document})


POLICY: list[tuple[str, str, Rule | None]] = [
    ("GET|POST", "/public", public),
    ("GET|POST|DELETE", "/mine", allow(signed_in=True)),
    ("GET", "/reports", allow(role="admin")),
    ("GET", "/scoped", allow(scope="tasks:read")),
    ("GET|PUT", "/tasks/{task_id}", allow(owner=owner_of)),
    ("GET", "/any/{task_id}", allow(owner=owner_of, or_role="admin")),
    ("GET", "/broken/{task_id}", allow(owner=broken_owner)),
    ("GET", "/fresh", allow(factor_age="10 minutes")),
    ("GET", "/keys", allow(credentials="key")),
    ("GET", "/rare", allow(signed_in=True, limit="1/minute")),
    ("POST", "/small", allow(signed_in=True, max_body=10)),
    ("POST", "/hook", replace(public, csrf=False)),
    ("GET|POST", "/undecided", None),
    ("GET|POST", "/breaks", public),
]


@pytest.fixture
def rig() -> Rig:
    rig = Rig(POLICY, Echo())
    rig.person("ada", roles=frozenset({"member"}))
    rig.person("bob", roles=frozenset({"member", "admin"}), scopes=frozenset({"tasks:read"}), factor_age_s=3600)
    rig.person("kim", roles=frozenset({"admin"}), delegated=True, via="key", kind="key")
    rig.person("cli", scopes=frozenset({"tasks:read"}), delegated=True, kind="client", via="bearer")
    return rig


@dataclass
class Ask:
    """A request and what must come back: status, and the problem's code or that the app ran."""

    method: str
    target: str
    status: int
    code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.method} {self.target[:20]} {self.status} {self.code}"


BEARER = "Bearer "
TABLE = [
    Ask("GET", "/public", 200),
    Ask("GET", "/public", 200, headers=ADA),
    Ask("GET", "/public", 200, headers={"cookie": "session=stale"}),
    Ask("GET", "/public", 401, "invalid_token", {"authorization": "Bearer stale"}),
    Ask("GET", "/public", 401, "invalid_token", {"authorization": "Basic YTpi"}),
    Ask("GET", "/public", 401, "invalid_token", {"x-api-key": "k"}),
    Ask("GET", "/public", 400, "two_credentials", {**ADA, "x-api-key": "k"}),
    Ask("GET", "/mine", 401, "unauthenticated"),
    Ask("GET", "/mine", 401, "invalid_token", {"cookie": "session=stale"}),
    Ask("GET", "/mine", 401, "unauthenticated", {"cookie": "other=ada"}),
    Ask("GET", "/mine", 401, "invalid_token", {"authorization": "Bearer stale", "cookie": "session=ada"}),
    Ask("GET", "/mine", 401, "invalid_token", {"authorization": "Bearer \xff"}),
    Ask("GET", "/mine", 200, headers=ADA),
    Ask("GET", "/mine", 200, headers=ADA_BY_COOKIE),
    Ask("GET", "/mine", 403, "forbidden", {"authorization": "Bearer kim"}),
    Ask("GET", "/reports", 401, "unauthenticated"),
    Ask("GET", "/reports", 403, "forbidden", ADA),
    Ask("GET", "/reports", 200, headers=BOB),
    Ask("GET", "/reports", 403, "forbidden", {"authorization": "Bearer kim"}),
    Ask("GET", "/scoped", 403, "insufficient_scope", ADA),
    Ask("GET", "/scoped", 200, headers=BOB),
    Ask("GET", "/scoped", 200, headers={"authorization": "Bearer cli"}),
    Ask("GET", "/tasks/1", 200, headers=ADA),
    Ask("GET", "/tasks/2", 404, "not_found", ADA),
    Ask("GET", "/tasks/9", 404, "not_found", ADA),
    Ask("GET", "/tasks/1", 404, "not_found", BOB),
    Ask("GET", "/tasks/1", 401, "unauthenticated"),
    Ask("PUT", "/tasks/2", 404, "not_found", ADA, {"body": b"{"}),
    Ask("GET", "/any/1", 200, headers=BOB),
    Ask("GET", "/broken/1", 503, "owner_check_failed", ADA),
    Ask("GET", "/fresh", 200, headers=ADA),
    Ask("GET", "/fresh", 401, "insufficient_factor", BOB),
    Ask("GET", "/keys", 200, headers={"authorization": "Bearer kim"}),
    Ask("GET", "/keys", 403, "forbidden", ADA),
    Ask("GET", "/undecided", 401, "unauthenticated"),
    Ask("POST", "/undecided", 403, "undecided", BOB),
    Ask("GET", "/nothing", 404, "not_found"),
    Ask("GET", "/nothing", 404, "not_found", ADA),
    Ask("PATCH", "/mine", 405, "method_not_allowed", ADA),
    Ask("BREW", "/mine", 405, "method_not_allowed"),
    # the path
    Ask("GET", "//mine", 400, "bad_path", ADA),
    Ask("GET", "/x/../mine", 400, "bad_path", ADA),
    Ask("GET", "/mine", 400, "bad_path", ADA, {"raw_path": b"/public"}),
    Ask("GET", "/tasks/\x00", 400, "bad_path", ADA, {"raw_path": b"/tasks/%00"}),
    Ask("GET", "/tasks/\ufffd", 400, "bad_path", ADA, {"raw_path": b"/tasks/%ff"}),
    # host, TLS, bounds, proxies
    Ask("GET", "/public", 400, "bad_host", {"host": "evil.com"}),
    Ask("GET", "/public", 400, "bad_host", {"host": ""}),
    Ask("GET", "/public", 308, "", {}, {"scheme": "http"}),
    Ask("GET", "/mine", 400, "https_required", ADA, {"scheme": "http"}),
    Ask("GET", "/public?" + "a" * 9000, 414, "uri_too_long"),
    Ask("GET", "/public", 431, "headers_too_large", {"x-big": "x" * 40_000}),
    Ask("GET", "/public", 400, "bad_request", {"forwarded": 'for="'}, {"client": ("198.51.100.1", 1)}),
    # other sites
    Ask("POST", "/mine", 403, "cross_site", {**ADA_BY_COOKIE, "origin": "https://evil.com"}),
    Ask("DELETE", "/mine", 403, "cross_site", {**ADA_BY_COOKIE, "sec-fetch-site": "same-site"}),
    Ask("POST", "/mine", 200, headers={**ADA_BY_COOKIE, "origin": "https://api.example.com"}),
    Ask("POST", "/mine", 200, headers={**ADA, "origin": "https://evil.com"}),
    Ask("POST", "/hook", 200, headers={**ADA_BY_COOKIE, "origin": "https://evil.com"}),
    Ask(
        "OPTIONS",
        "/mine",
        403,
        "cross_origin",
        {"origin": "https://evil.com", "access-control-request-method": "PUT"},
    ),
    # bodies
    Ask("POST", "/public", 200, more={"body": b'{"a":1}'}),
    Ask("POST", "/public", 200, headers=JSON, more={"chunks": [b'{"a"', b":1}"]}),
    Ask("POST", "/public", 400, "bad_body", JSON, {"body": b"[" * 40 + b"]" * 40}),
    Ask("POST", "/public", 400, "bad_body", JSON, {"body": b"\xff\xfe"}),
    Ask("POST", "/public", 400, "bad_body", {"content-type": "application/vnd.x+json"}, {"body": b"\xef\xbb\xbf{}"}),
    Ask("POST", "/public", 413, "body_too_large", {"content-length": "1048577"}),
    Ask("POST", "/public", 413, "body_too_large", JSON, {"chunks": [b"1" * 600_000] * 2}),
    Ask("POST", "/public", 413, "body_too_large", {}, {"chunks": [b"1" * 600_000] * 2}),
    Ask("POST", "/public", 200, headers={"content-type": "text/plain"}, more={"chunks": [b"1" * 500_000] * 2}),
    Ask("POST", "/public", 400, "bad_request", {"content-length": "-1"}),
    Ask("POST", "/public", 400, "bad_request", {"content-length": "9" * 30}),
    Ask("POST", "/public", 400, "bad_request", JSON, {"chunks": [b"{"], "leaves": True}),
    Ask("POST", "/small", 413, "body_too_large", ADA, {"body": b'{"a":12345}'}),
    Ask("POST", "/small", 413, "body_too_large", ADA, {"chunks": [b"12345", b"123456"]}),
    Ask("POST", "/small", 200, "", ADA, {"chunks": [b"12345", b"12345"]}),
    Ask("POST", "/small", 401, "unauthenticated", {}, {"body": b"x" * 100}),
    # health
    Ask("GET", "/health/live", 204, "", {"host": "10.0.0.1"}, {"scheme": "http"}),
    Ask("POST", "/health/live", 405, "method_not_allowed"),
]


@pytest.mark.parametrize("ask", TABLE, ids=str)
async def test_every_request_gets_what_was_decided(ask: Ask, rig: Rig) -> None:
    reply = await rig.ask(ask.method, ask.target, ask.headers, **ask.more)
    assert (reply.status, reply.code) == (ask.status, ask.code)
    assert reply.whole
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["x-request-id"]
    assert (reply.status < 500) or ask.target.startswith("/broken")
    if ask.code and not (ask.code == "body_too_large" and "chunks" in ask.more):
        assert rig.app.runs == 0  # type: ignore[attr-defined]
    if ask.status == 401:
        assert reply.headers["www-authenticate"].startswith("Bearer")
    if ask.status == 405:
        assert reply.headers["allow"]
    counts, overflow = rig.refusals.drain()
    assert (sorted(key.code for key in counts), overflow) == ([ask.code] if ask.code else [], 0)


async def test_what_the_app_hears_is_the_principal_and_the_body(rig: Rig) -> None:
    reply = await rig.ask("POST", "/mine", ADA, body=b'{"a": "b"}')
    assert json.loads(reply.body) == {"who": "ada", "length": 10}
    reply = await rig.ask("GET", "/public", {"cookie": "session=stale"})
    assert json.loads(reply.body) == {"who": "", "length": 0}


async def test_a_head_answer_has_no_body_but_its_length(rig: Rig) -> None:
    reply = await rig.ask("HEAD", "/nothing")
    assert reply.status == 404
    assert reply.body == b""
    assert int(reply.headers["content-length"]) > 0


async def test_a_routes_own_limit_and_the_apis_come_with_the_time_to_wait(rig: Rig) -> None:
    assert (await rig.ask("GET", "/rare", ADA)).status == 200
    refused = await rig.ask("GET", "/rare", ADA)
    assert refused.code == "rate_limited"
    assert 0 < int(refused.headers["retry-after"]) <= 60
    assert refused.headers["ratelimit"].startswith('"route";r=0;t=')
    assert (await rig.ask("GET", "/rare", BOB)).status == 200
    allowed = await rig.ask("GET", "/mine", ADA)
    assert allowed.headers["ratelimit-policy"] == '"api";q=100;w=60'
    rig.clock.advance(60)
    assert (await rig.ask("GET", "/rare", ADA)).status == 200


async def test_a_flood_is_refused_before_anything_is_looked_up() -> None:
    rig = Rig(POLICY, Echo(), settings=replace(PRODUCTION, limit_address=Limit(3, 60)))
    rig.tokens.broken = RuntimeError("asked")
    codes = [(await rig.ask("GET", "/public")).status for _ in range(5)]
    assert codes == [200, 200, 200, 429, 429]
    assert (await rig.ask("GET", "/mine", ADA)).code == "rate_limited"
    assert (await rig.ask("GET", "/health/live")).status == 204


async def test_a_route_that_appears_late_is_undecided() -> None:
    rig = Rig([], Echo(), late=lambda scope: scope["path"] == "/late")
    rig.person("ada")
    assert (await rig.ask("GET", "/late")).code == "unauthenticated"
    assert (await rig.ask("GET", "/late", ADA)).code == "undecided"
    assert (await rig.ask("GET", "/later", ADA)).code == "not_found"


# Errors deny


def explode(call: Call) -> Answer | None:
    raise RuntimeError("canary in a layer")


@pytest.mark.parametrize("place", ["arrival", "before"])
@pytest.mark.parametrize("target", ["/public", "/mine", "/nothing", "/health/live"])
async def test_an_error_in_a_layer_denies(place: str, target: str) -> None:
    rig = Rig(POLICY, Echo(), **{place: [explode]})  # type: ignore[arg-type]
    rig.person("ada")
    reply = await rig.ask("GET", target, ADA)
    if target == "/health/live":
        assert reply.status == (503 if place == "arrival" else 204)
    else:
        assert reply.status in ({404} if (place, target) == ("before", "/nothing") else {500})
    assert b"canary" not in reply.body
    assert rig.app.runs == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (store_error(), 503, "store_unavailable"),
        (RuntimeError("canary"), 500, "internal"),
        (TimeoutError("canary"), 500, "internal"),
        (RecursionError("canary"), 500, "internal"),
    ],
)
@pytest.mark.parametrize("target", ["/public", "/mine"])
@pytest.mark.parametrize("headers", [ADA, ADA_BY_COOKIE])
async def test_an_error_while_asking_who_it_is_denies(
    error: Exception, status: int, code: str, target: str, headers: dict[str, str], rig: Rig
) -> None:
    rig.tokens.broken = rig.cookies.broken = error
    reply = await rig.ask("GET", target, headers)
    assert (reply.status, reply.code) == (status, code)
    assert b"canary" not in reply.body
    assert ("retry-after" in reply.headers) == (status == 503)
    assert rig.app.runs == 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", [ADA, ADA_BY_COOKIE])
@pytest.mark.parametrize("media", ["text/plain", "application/json"])
@pytest.mark.parametrize("target", ["/mine", "/public"])
@pytest.mark.parametrize("end", ["session", "account", "time", "key", None])
async def test_a_body_is_not_read_on_for_a_credential_that_ended_meanwhile(
    rig: Rig, by: dict[str, str], media: str, target: str, end: str | None
) -> None:
    rig.tokens.known["ada"].kid = "kid-1"
    going_on = await opened(
        rig,
        "http",
        target,
        {**by, "content-type": media, "transfer-encoding": "chunked"},
        until="http.response.start",
        method="POST",
        body=b"[",
    )
    if end == "time":
        rig.clock.advance(2e9)
    elif end == "key":
        rig.streams.end_keys({"kid-1"})
    elif end is not None:
        rig.view.applied(end, {"session": "ses_ada", "account": "ada"}[end], 2)
    going_on.inbox.put_nowait({"type": "http.request", "body": b"]"})
    await asyncio.wait_for(going_on.task, 5)
    reply = Reply(going_on.sent)
    if end is None:
        assert json.loads(reply.body)["who"] == "ada"
    elif (target, by, media) == ("/public", ADA_BY_COOKIE, "application/json"):
        assert json.loads(reply.body)["who"] == "", "a dead cookie is anonymous there"
    else:
        assert (reply.status, reply.code) == (401, "invalid_token")


@pytest.mark.parametrize("media", ["text/plain", "application/json"])
@pytest.mark.parametrize("are_heard", [True, False])
async def test_the_end_of_a_body_waits_for_news_and_without_them_nothing_is_done(
    rig: Rig, media: str, are_heard: bool
) -> None:
    going_on = await opened(
        rig,
        "http",
        "/mine",
        {**ADA, "content-type": media, "transfer-encoding": "chunked"},
        until="http.response.start",
        method="POST",
        body=b"[",
    )
    rig.clock.advance(3)
    going_on.inbox.put_nowait({"type": "http.request", "body": b"]"})
    await asyncio.sleep(0.05)
    assert not going_on.task.done()
    if are_heard:
        rig.view.polled(rig.clock.boot())
    await asyncio.wait_for(going_on.task, 5)
    reply = Reply(going_on.sent)
    if are_heard:
        assert json.loads(reply.body)["who"] == "ada"
    else:
        assert (reply.status, reply.code, reply.headers["retry-after"]) == (503, "store_unavailable", "1")


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("media", ["text/plain", "application/json"])
async def test_over_http_2_every_method_may_have_a_body_of_no_declared_length(
    rig: Rig, method: str, media: str
) -> None:
    sent = {**ADA, "content-type": media, "transfer-encoding": ""}
    small, large = [b"[]"], [b"1" * 600_000] * 2
    assert (await rig.ask(method, "/mine", sent, chunks=small, http_version="2")).status == 200
    assert (await rig.ask(method, "/mine", sent, chunks=large, http_version="2")).code == "body_too_large"
    assert (await rig.ask(method, "/mine", {**ADA, "transfer-encoding": ""}, http_version="2")).status == 200


@pytest.mark.parametrize("kind", ["account", "foreign"])
async def test_whoever_is_called_like_the_owner_by_another_issuer_is_somebody_else(rig: Rig, kind: Any) -> None:
    rig = Rig([("GET", "/tasks/{task_id}", allow(owner=owner_of, scope="tasks:read", or_role="admin"))], Echo())
    rig.person("ada", kind=kind, scopes=frozenset({"tasks:read"}), delegated=True, via="jwt")
    rig.person("chief", kind=kind, scopes=frozenset({"tasks:read"}), roles=frozenset({"admin"}), delegated=True)
    assert (await rig.ask("GET", "/tasks/1", ADA)).code == ("" if kind == "account" else "not_found")
    assert (await rig.ask("GET", "/tasks/1", {"authorization": "Bearer chief"})).status == 200


async def test_an_owner_check_that_hangs_is_given_up() -> None:
    async def never(task_id: str) -> str | None:
        await asyncio.Event().wait()
        return None

    rig = Rig(
        [("GET", "/tasks/{task_id}", allow(owner=never))], Echo(), settings=replace(PRODUCTION, owner_deadline_s=0.01)
    )
    rig.person("ada")
    assert (await rig.ask("GET", "/tasks/1", ADA)).code == "owner_check_failed"
    assert [type(error) for error in rig.owner_failures] == [TimeoutError]


async def test_an_error_of_the_app_is_told_inside_only(rig: Rig) -> None:
    with structlog.testing.capture_logs() as logs:
        reply = await rig.ask("POST", "/breaks?token=canary-query", body=b'{"password": "canary-body"}')
    assert (reply.status, reply.code) == (500, "internal")
    [failed] = [line for line in logs if line["event"] == "failed"]
    assert failed["request_id"] == reply.headers["x-request-id"]
    assert "RuntimeError" in failed["exception"]
    assert "canary" not in str(logs)
    assert b"RuntimeError" not in reply.body


@pytest.mark.parametrize("body", [b"[" * 60_000, b"\xff" * 100, b"9" * 9000, b"\x00{\x00}", b'"\\ud800"'])
async def test_no_body_keeps_a_failure_out_of_the_log(body: bytes, rig: Rig) -> None:
    with structlog.testing.capture_logs() as logs:
        reply = await rig.ask("POST", "/breaks", {"content-type": "text/plain"}, body=body)
    assert (reply.status, reply.code) == (500, "internal")
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["failed"]


def test_what_a_request_carried_is_taken_out_in_every_spelling() -> None:
    call = Call({"type": "http", "method": "GET", "query_string": b"q=secret%20in%20query"})
    call.headers = {b"authorization": b"Bearer secret-token", b"cookie": b"a=secret-cookie; b=2"}
    call.params = {"id": "secret-param"}
    call.seen = [b"field=secret+in+form&x=1"]
    text = "secret in query, secret-token secret-cookie secret-param 'secret in form' and the rest"
    assert "secret" not in redacted(text, call)
    assert redacted(text, call).endswith("and the rest")


async def test_an_app_that_breaks_in_the_middle_of_its_answer_ends_it_there() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    rig = Rig([("GET", "/half", public)], app)
    reply = await rig.ask("GET", "/half")
    assert (reply.status, reply.body, reply.whole) == (200, b"half", False)


async def test_a_test_clients_app_raises_in_the_test(rig: Rig) -> None:
    with pytest.raises(RuntimeError, match="make sense"):
        await rig.ask("GET", "/breaks", client=("testclient", 1))


async def test_a_client_that_goes_away_is_no_failure(rig: Rig) -> None:
    with structlog.testing.capture_logs() as logs:
        reply = await rig.ask("POST", "/public", {"content-type": "text/plain"}, chunks=[b"a"], leaves=True)
    assert reply.messages == []
    assert logs == []


async def test_an_app_that_swallows_the_refusal_of_its_body_cannot_answer_otherwise() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            while (await receive()).get("more_body"):
                pass
        except Exception:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"fine"})

    rig = Rig([("POST", "/up", public)], app)
    reply = await rig.ask("POST", "/up", chunks=[b"1" * 600_000] * 2)
    assert reply.code == "body_too_large"
    assert reply.headers["connection"] == "close"


# Streams


@dataclass
class Streaming:
    """A Starlette app with an event stream and a web socket that go on until they are cut."""

    done: list[str] = field(default_factory=list)
    release: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/events", self.events),
                Route("/export", self.export),
                Route("/background", self.background, methods=["POST"]),
                Route("/read", self.read, methods=["POST"]),
                WebSocketRoute("/chat", self.chat),
            ]
        )

    async def events(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            try:
                yield "data: 1\n\n"
                await asyncio.Event().wait()
            finally:
                self.done.append("events")

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def export(self, request: Request) -> Response:
        async def lines() -> AsyncIterator[str]:
            yield "a"
            yield "b"

        return StreamingResponse(lines(), background=BackgroundTask(self.later))

    async def background(self, request: Request) -> Response:
        return JSONResponse({}, background=BackgroundTask(self.later))

    async def read(self, request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def later(self) -> None:
        await self.release.wait()
        self.done.append("later")

    async def chat(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                text = await socket.receive_text()
                if text == "break":
                    raise RuntimeError
                if text == "close":
                    await socket.close()
                    raise RuntimeError
                await socket.send_text(text)
        finally:
            self.done.append("chat")


STREAMS: list[tuple[str, str, Rule | None]] = [
    ("GET", "/events", allow(signed_in=True)),
    ("GET", "/export", allow(signed_in=True)),
    ("POST", "/background", allow(signed_in=True)),
    ("POST", "/read", allow(signed_in=True)),
    ("WS", "/chat", allow(signed_in=True)),
]
Cut = Callable[[Rig], None]


def session_ends(rig: Rig) -> None:
    rig.view.applied("session", "ses_ada", 2)


def account_changes(rig: Rig) -> None:
    rig.view.applied("account", "ada", 2)


def credential_expires(rig: Rig) -> None:
    rig.clock.advance(3600)
    rig.view.polled(rig.clock.boot())
    rig.streams.sweep(rig.clock.now())


def news_stop(rig: Rig) -> None:
    rig.clock.advance(2)
    rig.streams.sweep(rig.clock.now())


def streaming() -> tuple[Streaming, Rig]:
    app = Streaming()
    rig = Rig(STREAMS, app.app())
    rig.person("ada", expires_in_s=3600)
    rig.person("bob", expires_in_s=1e9)
    return app, rig


async def ends(task: "asyncio.Task[None]") -> None:
    await asyncio.wait_for(asyncio.shield(task), 5)


ENDS = pytest.mark.parametrize("cut", [session_ends, account_changes, credential_expires, news_stop])


@ENDS
@pytest.mark.parametrize("spec_version", ["2.0", "2.4"])
async def test_an_event_stream_is_cut_when_its_right_ends(cut: Cut, spec_version: str) -> None:
    app, rig = streaming()
    asgi = {"version": "3.0", "spec_version": spec_version}
    stream = await opened(rig, "http", "/events", ADA, until="http.response.body", asgi=asgi)
    other = await opened(rig, "http", "/events", BOB, until="http.response.body", asgi=asgi)
    assert len(rig.streams) == 2
    cut(rig)
    await ends(stream.task)
    assert stream.sent[-1].get("more_body") is True  # never ended in order: a client must not take it for whole
    assert "events" in app.done
    if cut is not news_stop:
        assert not other.task.done()
        assert len(rig.streams) == 1
        other.task.cancel()
    await asyncio.wait({other.task}, timeout=5)
    assert len(rig.streams) == 0


@ENDS
async def test_a_web_socket_is_closed_when_its_right_ends(cut: Cut) -> None:
    app, rig = streaming()
    socket = await opened(rig, "websocket", "/chat", ADA, until="websocket.accept")
    cut(rig)
    await ends(socket.task)
    assert socket.sent[-1] == {"type": "websocket.close", "code": 1008, "reason": "session ended"}
    assert app.done == ["chat"]
    assert len(rig.streams) == 0


async def test_news_of_others_and_old_news_cut_nothing() -> None:
    _, rig = streaming()
    stream = await opened(rig, "http", "/events", ADA, until="http.response.body")
    rig.view.applied("session", "ses_bob", 2)
    rig.view.applied("account", "bob", 2)
    rig.view.applied("account", "ses_ada", 2)
    rig.view.applied("session", "ada", 2)
    rig.view.applied("session", "ses_ada", 1)  # what the credential rests on already
    rig.streams.sweep(rig.clock.now())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not stream.task.done()
    session_ends(rig)
    await ends(stream.task)


@pytest.mark.parametrize("ended", [None, "revoked", "deaf"])
async def test_a_process_that_was_frozen_takes_nothing_from_a_web_socket_before_it_has_heard(ended: str | None) -> None:
    app, rig = streaming()
    socket = await opened(rig, "websocket", "/chat", ADA, until="websocket.accept")
    rig.clock.advance(3)
    socket.inbox.put_nowait({"type": "websocket.receive", "text": "hello"})
    await asyncio.sleep(0.05)
    assert socket.types == ["websocket.accept"]
    if ended == "revoked":
        session_ends(rig)
    if ended != "deaf":
        rig.view.polled(rig.clock.boot())
    if ended is None:
        await asyncio.sleep(0.1)
        assert socket.types == ["websocket.accept", "websocket.send"]
        session_ends(rig)
    await ends(socket.task)
    assert socket.types[-1] == "websocket.close"
    assert socket.types.count("websocket.send") == (ended is None)
    assert app.done == ["chat"]


async def test_news_between_the_check_and_the_first_byte_cuts() -> None:
    _, rig = streaming()
    rig.view.applied("session", "ses_ada", 2)  # the keyring is a cache that has not noticed
    stream = await opened(rig, "http", "/events", ADA, until="nothing")
    await ends(stream.task)
    assert not any(message["type"] == "http.response.body" and not message["more_body"] for message in stream.sent)
    socket = await opened(rig, "websocket", "/chat", ADA, until="nothing")
    await ends(socket.task)
    assert socket.types[-1] == "websocket.close"
    assert len(rig.streams) == 0


async def test_a_cut_that_comes_too_late_cancels_nothing_else() -> None:
    """The task of a request may serve the next one, so what was a stream's must not be cancelled after its end."""
    app, rig = streaming()
    app.release.set()

    async def connection() -> str:
        reply = await rig.ask("GET", "/export", ADA)
        assert reply.whole
        await asyncio.sleep(0.01)
        return "the next request"

    class Late(Streams):
        __slots__ = ()

        def close(self, call: Call) -> None:
            session_ends(rig)  # in the last moment, while the call is still registered
            super().close(call)

    rig.streams.__class__ = Late
    assert await connection() == "the next request"


async def test_answers_of_known_length_are_no_streams_and_run_to_their_end() -> None:
    app, rig = streaming()
    app.release.set()
    reply = await rig.ask("POST", "/background", ADA)
    assert reply.whole
    assert app.done == ["later"]
    assert len(rig.streams) == 0


@pytest.mark.parametrize(
    ("method", "target", "headers"), [("POST", "/background", ADA), ("GET", "/export", ADA), ("GET", "/export", BOB)]
)
async def test_what_the_app_does_after_its_answer_is_no_stream_any_more(
    method: str, target: str, headers: dict[str, str]
) -> None:
    app, rig = streaming()
    stream = await opened(rig, "http", target, headers, until="http.response.start", method=method)
    while stream.types[-1] != "http.response.body" or stream.sent[-1].get("more_body"):
        await asyncio.sleep(0)
    assert len(rig.streams) == 0
    session_ends(rig)
    account_changes(rig)
    app.release.set()
    await ends(stream.task)
    assert app.done == ["later"]


async def test_a_public_stream_of_nobody_goes_on() -> None:
    app = Streaming()
    rig = Rig([("GET", "/events", public)], app.app())
    stream = await opened(rig, "http", "/events", {}, until="http.response.body")
    assert len(rig.streams) == 0
    news_stop(rig)
    await asyncio.sleep(0)
    assert not stream.task.done()
    stream.inbox.put_nowait({"type": "http.disconnect"})
    stream.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stream.task


# Web sockets


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "unauthenticated"),
        ({"authorization": "Bearer stale"}, "invalid_token"),
        ({**ADA_BY_COOKIE, "origin": "https://evil.com"}, "cross_site"),
        ({**ADA, "origin": "https://evil.com"}, "cross_site"),
        ({**ADA, "host": "evil.com"}, "bad_host"),
    ],
)
async def test_a_handshake_is_refused_with_a_problem_where_the_server_can(headers: dict[str, str], code: str) -> None:
    app, rig = streaming()
    extensions: dict[str, Any] = {"websocket.http.response": {}}
    told = await opened(rig, "websocket", "/chat", headers, until="nothing", extensions=extensions)
    assert told.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert Reply(told.sent).code == code
    closed = await opened(rig, "websocket", "/chat", headers, until="nothing")
    assert closed.sent == [{"type": "websocket.close", "code": 1008, "reason": ""}]
    assert app.done == []


@pytest.mark.parametrize("error", [RuntimeError("canary"), store_error()])
async def test_an_error_before_the_handshake_denies(error: Exception) -> None:
    app, rig = streaming()
    rig.tokens.broken = error
    closed = await opened(rig, "websocket", "/chat", ADA, until="nothing")
    assert closed.types == ["websocket.close"]
    assert app.done == []


async def test_a_web_socket_speaks_until_the_client_leaves() -> None:
    _, rig = streaming()
    with structlog.testing.capture_logs() as logs:
        socket = await opened(rig, "websocket", "/chat", ADA, until="websocket.accept")
        socket.inbox.put_nowait({"type": "websocket.receive", "text": "hello"})
        socket.inbox.put_nowait({"type": "websocket.disconnect", "code": 1001})
        await ends(socket.task)
    assert socket.types == ["websocket.accept", "websocket.send"]
    assert logs == []
    assert len(rig.streams) == 0


@pytest.mark.parametrize(("text", "code"), [("break", 1011), ("close", 1000)])
async def test_a_web_socket_whose_handler_breaks_is_closed_once(text: str, code: int) -> None:
    _, rig = streaming()
    with structlog.testing.capture_logs() as logs:
        socket = await opened(rig, "websocket", "/chat", ADA, until="websocket.accept")
        socket.inbox.put_nowait({"type": "websocket.receive", "text": text})
        await ends(socket.task)
    assert [message["code"] for message in socket.sent if message["type"] == "websocket.close"] == [code]
    assert [line["event"] for line in logs] == ["failed"]


async def test_an_outside_cancellation_stays_one() -> None:
    """A server that shuts down cancels what is open; only our own cut is taken back."""
    _, rig = streaming()
    for kind, target, until in (("http", "/events", "http.response.body"), ("websocket", "/chat", "websocket.accept")):
        stream = await opened(rig, kind, target, ADA, until=until)
        stream.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stream.task
    assert len(rig.streams) == 0


# What is counted


async def test_refusals_are_counted_by_who_and_where_and_bounded(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await rig.ask("GET", "/reports", ADA)
    await rig.ask("GET", "/reports")
    await rig.ask("GET", "/reports", client=("2001:db8::1", 1))
    counts, overflow = rig.refusals.drain()
    found = {(key.code, key.who, key.route): count for key, count in counts.items()}
    assert found == {
        ("forbidden", "ada", "GET /reports"): 3,
        ("unauthenticated", "192.0.2.1", "GET /reports"): 1,
        ("unauthenticated", "2001:db8::/64", "GET /reports"): 1,
    }
    assert overflow == 0
    rig.refusals.restore(counts, 2)
    assert rig.refusals.drain() == (counts, 2)
    assert rig.refusals.drain() == ({}, 0)
    monkeypatch.setattr("garrison.guard.audit.MAX_KEYS", 2)
    rig.clock.advance(60)
    for number in range(5):
        await rig.ask("GET", "/mine", client=(f"192.0.2.{number}", 1))
    counts, overflow = rig.refusals.drain()
    assert (len(counts), overflow) == (2, 3)
    rig.refusals.restore({**counts, next(iter(counts))._replace(who="x"): 4}, overflow)
    assert rig.refusals.drain() == (counts, 7)
