"""Ways around a rule, over raw sockets against a real server: each must end in a refusal, never in the handler.

The app has a public catch-all beside private routes, which is what makes spelling matter: where nothing else matches,
another spelling is a plain 404 anyway.
"""

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.process.server import Server, person

APP = """
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import PlainTextResponse
from garrison import Garrison, Policy, allow, public

app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
SECRET = "the private answer"

@app.api_route("/private", methods=["GET", "POST"])
@allow(role="admin")
async def private(): return PlainTextResponse(SECRET)

@app.get("/private/{name}")
@allow(role="admin")
async def private_name(name: str): return PlainTextResponse(SECRET)

@app.get("/Mixed/Case")
@allow(role="admin")
async def mixed(): return PlainTextResponse(SECRET)

@app.websocket("/live")
@allow(signed_in=True)
async def live(socket: WebSocket):
    await socket.accept()
    await socket.send_text(SECRET)
    await socket.close()

@app.api_route("/{path:path}", methods=["GET", "POST", "DELETE", "PUT", "PATCH"])
@public
async def everything(path: str, request: Request): return PlainTextResponse("public")

Garrison().protect(app)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("bypass")
    (directory / "bypassed.py").write_text(APP)
    with Server(directory, app="bypassed:app") as server:
        yield server


def raw(server: Server, request: bytes) -> bytes:
    """Send bytes, return everything that comes back until the server closes or falls silent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        connection.sendall(request)
        connection.settimeout(1.5)
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
                if b"\r\n\r\n" in received and b"Connection: close" not in request:
                    break
        except TimeoutError:
            pass
        return received


def get(server: Server, target: str, *lines: str, method: str = "GET") -> tuple[int, bytes]:
    head = [f"{method} {target} HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close", *lines, "", ""]
    answer = raw(server, "\r\n".join(head).encode("latin-1"))
    status = int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0
    return status, answer


SPELLINGS = [
    "/PRIVATE", "/Private", "/private/", "/private//", "//private", "///private", "/./private", "/x/../private",
    "/private/.", "/private/..", "/private/../private", "/%70rivate", "/%2570rivate", "/private%2f", "/private%2F",
    "/private%252f", "/%2e/private", "/%2e%2e/private", "/x/%2e%2e/private", "/x/..%2fprivate",
    "/private%00",
    "/private;x", "/private;x=1", "/private;/", "/;/private", "/private%3bx", "/private%20", "/private%09",
    "/private%0a",
    "/private\\", "/private%5c", "/\\private", "/x\\..\\private", "/private%c0%af", "/private%ff", "/private%ef%bc%8f",
    "/private/;", "/private/..;/private", "/x/..;/private", "/.;/private", "/private?", "/private#x", "/private%23",
    "/private%3f", "/PRIVATE/", "/Private;X", "/private/%2e", "/mixed/case", "/MIXED/CASE", "/mixed%2fcase",
    "/Mixed//Case", "/Mixed/Case/", "/private/a/", "/private/a;b", "/PRIVATE/a", "/private/%2561",
]  # fmt: skip


@pytest.mark.parametrize("target", SPELLINGS)
def test_no_spelling_of_a_private_path_reaches_another_decision(server: Server, target: str) -> None:
    status, answer = get(server, target)
    assert b"the private answer" not in answer
    assert status in (400, 401, 404), (target, answer)


def test_what_is_public_stays_public_and_what_is_private_private(server: Server) -> None:
    assert get(server, "/anything/else")[0] == 200
    assert get(server, "/private")[0] == 401
    assert get(server, "/private?x=/../test")[0] == 401


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "GETX", "POST"])
def test_no_method_reaches_the_private_handler(server: Server, method: str) -> None:
    status, answer = get(server, "/private", "Content-Length: 0", method=method)
    assert b"the private answer" not in answer
    assert status in (400, 401, 405), (method, answer)


def test_another_method_is_the_catch_alls_as_in_the_framework(server: Server) -> None:
    for method in ("DELETE", "PUT", "PATCH"):
        status, answer = get(server, "/private", "Content-Length: 0", method=method)
        assert status == 200
        assert answer.endswith(b"public")


@pytest.mark.parametrize(
    "line",
    [
        "X-HTTP-Method-Override: DELETE", "X-HTTP-Method: GET", "X-Method-Override: PUT", "X-Original-URL: /public",
        "X-Rewrite-URL: /public", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-For: 10.0.0.1, 127.0.0.1",
        "X-Real-IP: 127.0.0.1", "Forwarded: for=127.0.0.1;proto=https", "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: /x", "X-Middleware-Subrequest: middleware",
        "X-User: admin", "X-Remote-User: admin", "Remote-User: admin", "X-Forwarded-User: admin",
        "X-Auth-Request-User: admin", "X-Garrison: granted", "Garrison: granted", "X-Principal: acc_admin",
        "X-Request-Id: ../../x", "Cookie: garrison=" + "A" * 43, "Cookie: __Host-garrison=" + "A" * 43,
        "Cookie: garrison=; garrison=", "Authorization: Bearer", "Authorization: Basic YWRtaW46YWRtaW4=",
        "X-API-Key: x", "Upgrade: h2c", "Connection: upgrade", "Sec-WebSocket-Protocol: x", "TE: trailers",
    ],
)  # fmt: skip
def test_no_header_changes_a_decision(server: Server, line: str) -> None:
    status, answer = get(server, "/private", line)
    assert b"the private answer" not in answer
    assert status in (400, 401), (line, answer)


def test_no_header_name_in_our_own_source_changes_a_decision(server: Server) -> None:
    """Next.js CVE-2025-29927: a header of the framework's own skipped its middleware."""
    import re

    from tests.process.server import ROOT

    names = set()
    for file in (ROOT / "src" / "garrison").rglob("*.py"):
        names.update(re.findall(r'b"([a-z][a-z-]{2,40})"', file.read_text()))
    names -= {"host", "connection", "content-length", "transfer-encoding", "upgrade", "expect"}
    assert len(names) > 20
    for name in sorted(names):
        for value in ("1", "admin", "127.0.0.1", "https"):
            status, answer = get(server, "/private", f"{name}: {value}")
            assert b"the private answer" not in answer, name
            assert status in (400, 401), (name, value, answer)


@pytest.mark.parametrize(
    "lines",
    [
        ("Authorization: Bearer x", "Authorization: Bearer y"),
        ("Content-Type: application/json", "Content-Type: text/plain"),
        ("Origin: http://a.example", "Origin: http://b.example"),
        ("Content-Length: 0", "Content-Length: 0"),
        ("X-API-Key: a", "X-API-Key: b"),
    ],
)
def test_headers_that_may_come_once_are_refused_twice(server: Server, lines: tuple[str, str]) -> None:
    status, answer = get(server, "/anything", *lines, method="POST")
    assert status == 400, answer


def test_absolute_form_is_the_same_request_or_refused(server: Server) -> None:
    own = f"http://127.0.0.1:{server.port}/private"
    assert get(server, own)[0] in (400, 401)
    status, answer = get(server, "http://evil.example/private")
    assert status == 400, answer


def test_a_foreign_or_missing_host_is_refused(server: Server) -> None:
    for head in (
        b"GET /anything HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /anything HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET /anything HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
    ):
        assert raw(server, head).startswith(b"HTTP/1.1 400"), head


@pytest.mark.parametrize("path", ["/live", "/LIVE", "/live/", "/live;x", "/%6cive", "/other", "/private"])
def test_a_web_socket_is_closed_by_default(server: Server, path: str) -> None:
    status, answer = get(
        server, path, "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    assert status != 101
    assert b"the private answer" not in answer
    assert 400 <= status < 500, answer


def test_a_web_socket_needs_its_own_origin_and_a_session(server: Server) -> None:
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    client = person(server, "ws")
    cookie = {"cookie": "garrison=" + client.cookies["garrison"]}
    url = f"ws://127.0.0.1:{server.port}/live"
    with connect(url, additional_headers=cookie, origin=f"http://127.0.0.1:{server.port}") as own:  # type: ignore[call-overload]
        assert own.recv(timeout=5) == "the private answer"
    for headers, origin in ((cookie, "http://evil.example"), ({}, f"http://127.0.0.1:{server.port}"), (cookie, "null")):
        with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers=headers, origin=origin):  # type: ignore[call-overload]
            pass
        assert refused.value.response.status_code in (401, 403)


def test_cross_site_requests_with_a_cookie_are_refused(server: Server) -> None:
    client = person(server, "csrf")
    for headers in (
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": f"http://127.0.0.1:{server.port}.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ):
        refused = client.post("/anything", headers=headers)
        assert (refused.status_code, refused.json()["code"]) == (403, "cross_site"), headers
        signing_in = client.post("/auth/sign-in", json={"email": "a@b.example", "password": "x"}, headers=headers)
        assert signing_in.status_code == 403, "login CSRF"
    for fine in ({}, {"sec-fetch-site": "same-origin"}, {"origin": f"http://127.0.0.1:{server.port}"}):
        assert client.post("/anything", headers=fine).status_code == 200


def test_spoofed_forwarding_headers_do_not_change_who_is_counted(tmp_path: Path) -> None:
    with Server(tmp_path, environment={"GARRISON_LIMIT_API": "5/minute"}) as server, httpx2.Client() as client:
        statuses = [
            client.get(
                f"{server.url}/test", headers={"x-forwarded-for": f"203.0.113.{n}", "forwarded": f"for=203.0.113.{n}"}
            ).status_code
            for n in range(8)
        ]
        limited = client.get(f"{server.url}/test")
    assert statuses == [200] * 5 + [429] * 3
    assert limited.json()["code"] == "rate_limited"
    assert int(limited.headers["retry-after"]) >= 1
