"""A body may take minutes to come: whose session ended meanwhile has nothing done in their name any more.

A thief who is about to lose a stolen session would else keep requests in readiness, each a byte short of complete.
"""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.server import RAISED, Server, sign_in, sign_up

EMAIL = "ada@example.com"
APP = """
from fastapi import FastAPI, Request
from garrison import Garrison, allow
from garrison.fastapi import Me

app = FastAPI()
Garrison().protect(app)

@app.post("/json")
@allow(credentials="session bearer key basic")
async def parsed(body: dict, me: Me): return {"done": True}

@app.post("/stream")
@allow(credentials="session bearer key basic")
async def streamed(request: Request, me: Me):
    try:
        await request.body()
    except Exception:
        return {"caught": True}
    return {"done": True}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory: Path = tmp_path_factory.mktemp("slow")
    (directory / "slow.py").write_text(APP)
    environment = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
    with Server(directory, app="slow:app", workers=2, environment=environment) as server:
        sign_up(server.client(), EMAIL)
        yield server


@pytest.mark.parametrize(("path", "media"), [("/json", "application/json"), ("/stream", "text/plain")])
@pytest.mark.parametrize("ends", [True, False])
def test_nothing_is_done_for_a_session_that_ended_before_its_body_was_complete(
    server: Server, path: str, media: str, ends: bool
) -> None:
    client = server.client()
    cookie = sign_in(client, EMAIL).headers["set-cookie"].partition(";")[0]
    with begun(server, path, media, cookie) as connection:
        if ends:
            assert client.post("/auth/sign-out").status_code == 204
        time.sleep(2.2)  # the bound
        assert finished(connection) == (401 if ends else 200)


@pytest.mark.parametrize("ends", [True, False])
def test_no_key_is_made_by_a_session_that_ended_before_its_body_was_complete(server: Server, ends: bool) -> None:
    client = server.client()
    cookie = sign_in(client, EMAIL).headers["set-cookie"].partition(";")[0]
    with begun(server, "/auth/keys", "application/json", cookie) as connection:
        if ends:
            assert client.post("/auth/sign-out-everywhere").status_code == 204
        time.sleep(2.2)
        assert finished(connection) == (401 if ends else 201)


BODY = '{"name": "late"}'


def begun(server: Server, path: str, media: str, cookie: str, *, body: str = BODY) -> socket.socket:
    """Send a request but for the last byte of its body."""
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncookie: {cookie}\r\ncontent-type: {media}\r\n"
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    connection.sendall(f"{head}content-length: {len(body)}\r\n\r\n{body[:-1]}".encode())
    time.sleep(0.3)
    return connection


def finished(connection: socket.socket) -> int:
    """Send the last byte; return the status."""
    connection.sendall(b"}")
    return int(connection.recv(65_536).split(b" ")[1])


def test_a_sign_out_whose_session_ended_meanwhile_is_a_sign_out(server: Server) -> None:
    client = server.client()
    cookie = sign_in(client, EMAIL).headers["set-cookie"].partition(";")[0]
    with begun(server, "/auth/sign-out", "application/json", cookie, body="{}") as connection:
        assert client.post("/auth/sign-out").status_code == 204
        time.sleep(2.2)
        assert finished(connection) == 204
