"""Several worker processes on one file share sessions, revocations, roles and throttles; open streams are cut."""

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.process import forks
from tests.process.server import GARRISON, RAISED, Server, children, person, sign_in, sign_up

pytestmark = pytest.mark.alone
WORKERS = 3
BOUND_S = 2.0
APP = """
import asyncio, os
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from garrison import Garrison, allow, public
from garrison.fastapi import Me

app = FastAPI()
Garrison().protect(app)

@app.get("/whoami")
@allow(signed_in=True)
async def whoami(me: Me): return {"id": me.id, "pid": os.getpid(), "roles": sorted(me.roles)}

@app.get("/stream")
@allow(signed_in=True)
async def stream(me: Me):
    async def lines():
        while True:
            yield f"data: {me.id}\\n\\n"
            await asyncio.sleep(0.05)
    return StreamingResponse(lines(), media_type="text/event-stream")

@app.websocket("/live")
@allow(signed_in=True)
async def live(socket: WebSocket):
    await socket.accept()
    while True:
        await socket.send_text("tick")
        await asyncio.sleep(0.05)
"""
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("workers")
    (directory / "streaming.py").write_text(APP)
    with Server(directory, app="streaming:app", workers=WORKERS, environment=CHEAP) as server:
        yield server


def each_worker(server: Server, headers: dict[str, str]) -> dict[int, httpx2.Client]:
    """Return one keep-alive client for each worker: a connection stays with the worker that took it."""
    found: dict[int, httpx2.Client] = {}
    for _ in range(200):
        client = server.client()
        client.headers.update(headers)
        found.setdefault(client.get("/whoami").json()["pid"], client)
        if len(found) == WORKERS:
            return found
    raise AssertionError(f"only {len(found)} of {WORKERS} workers were met")


def as_bearer(server: Server, email: str) -> dict[str, str]:
    token = sign_in(server.client(), email, deliver="token").json()["access_token"]
    return {"authorization": f"Bearer {token}"}


def test_a_session_made_by_one_worker_is_valid_on_every_other_at_once(server: Server) -> None:
    sign_up(server.client(), "shared@example.com")
    for _ in range(10):
        headers = as_bearer(server, "shared@example.com")
        for _ in range(6):
            assert httpx2.get(f"{server.url}/whoami", headers=headers).status_code == 200


@pytest.mark.parametrize("way", ["sign-out", "sign-out-everywhere", "password change", "disable"])
def test_a_revocation_reaches_every_worker_within_the_bound(server: Server, way: str) -> None:
    email = f"{way.replace(' ', '-')}@example.com"
    sign_up(server.client(), email)
    headers, other = as_bearer(server, email), as_bearer(server, email)
    workers = each_worker(server, headers)
    asking = server.client()
    if way == "sign-out":
        answer = asking.post("/auth/sign-out", headers=headers)
    elif way == "sign-out-everywhere":
        answer = asking.post("/auth/sign-out-everywhere", headers=other)
    elif way == "password change":
        body = {"current": "a long walk to the sea", "new": "another long walk"}
        answer = asking.post("/auth/password/change", headers=other, json=body)
    else:
        account(server, "disable", email)
        answer = None
    began = time.monotonic()
    assert answer is None or answer.status_code == 204, answer.text
    slowest = 0.0
    for client in workers.values():
        while client.get("/whoami").status_code == 200:
            assert time.monotonic() - began < BOUND_S, "a revoked session lives beyond the bound"
            time.sleep(0.005)
        slowest = max(slowest, time.monotonic() - began)
    print(f"{way}: dead on {len(workers)} workers after {slowest * 1000:.0f} ms")
    for client in workers.values():
        assert client.get("/whoami").status_code == 401


def account(server: Server, *arguments: str) -> None:
    done = forks.run([GARRISON, "account", *arguments], server.directory, {"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr


def test_a_role_reaches_live_sessions_on_every_worker(server: Server) -> None:
    sign_up(server.client(), "role@example.com")
    workers = each_worker(server, as_bearer(server, "role@example.com"))
    account(server, "set-role", "role@example.com", "editor")
    began = time.monotonic()
    for client in workers.values():
        while "editor" not in client.get("/whoami").json()["roles"]:
            assert time.monotonic() - began < BOUND_S


def test_throttles_count_across_workers(tmp_path: Path) -> None:
    environment = {name: value for name, value in CHEAP.items() if not name.startswith("GARRISON_LIMIT_SIGN_IN")}
    with Server(tmp_path, app=None, workers=WORKERS, environment=environment) as server:
        sign_up(server.client(), "guessed@example.com")
        statuses: list[int] = []
        lock = threading.Lock()

        def guess() -> None:
            with httpx2.Client() as client:  # a connection of its own, so whichever worker
                body = {"email": "guessed@example.com", "password": "wrong"}
                status = client.post(f"{server.url}/auth/sign-in", json=body).status_code
            with lock:
                statuses.append(status)

        threads = [threading.Thread(target=guess) for _ in range(24)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert statuses.count(401) == 5, statuses
    assert statuses.count(429) == 19, statuses


def test_an_open_stream_is_cut_when_its_session_ends(server: Server) -> None:
    sign_up(server.client(), "stream@example.com")
    headers, other = as_bearer(server, "stream@example.com"), as_bearer(server, "stream@example.com")
    with httpx2.Client() as client, client.stream("GET", f"{server.url}/stream", headers=headers, timeout=5) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        assert re.fullmatch(r"data: acc_[0-9a-z]+", next(lines))
        assert server.client().post("/auth/sign-out-everywhere", headers=other).status_code == 204
        began = time.monotonic()
        try:
            for _ in lines:
                assert time.monotonic() - began < BOUND_S, "the stream outlives its session"
        except httpx2.TransportError:
            pass
    print(f"cut after {(time.monotonic() - began) * 1000:.0f} ms")


def test_an_open_web_socket_is_cut_when_its_session_ends(server: Server) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    client = person(server, "socket")
    cookie = {"cookie": "garrison=" + client.cookies["garrison"]}
    url = f"ws://127.0.0.1:{server.port}/live"
    with connect(url, additional_headers=cookie, origin=server.url) as socket:  # type: ignore[call-overload]
        assert socket.recv(timeout=5) == "tick"
        assert client.post("/auth/sign-out").status_code == 204
        began = time.monotonic()
        code = None
        while code is None:
            try:
                socket.recv(timeout=5)
            except ConnectionClosed as closed:
                code = closed.rcvd.code if closed.rcvd is not None else 0
            assert time.monotonic() - began < BOUND_S, "the web socket outlives its session"
    assert code == 1008


def test_a_worker_that_was_stopped_does_not_serve_from_its_stale_cache(server: Server) -> None:
    """SIGSTOP for longer than the bound: on waking it has not heard the news, so it must ask the store."""
    assert server.process is not None
    sign_up(server.client(), "stopped@example.com")
    headers = as_bearer(server, "stopped@example.com")
    workers = each_worker(server, headers)
    stopped, client = next(iter(workers.items()))
    assert stopped in children(server.process.pid)
    other = next(worker for pid, worker in workers.items() if pid != stopped)
    for _ in range(5):
        assert client.get("/whoami").status_code == 200  # warm
    os.kill(stopped, signal.SIGSTOP)
    try:
        fresh = other.post("/auth/sign-out-everywhere")
        assert fresh.status_code == 204
        time.sleep(BOUND_S + 0.2)
    finally:
        os.kill(stopped, signal.SIGCONT)
    assert client.get("/whoami").status_code == 401
