"""From the acknowledged revocation to the first refusal by another worker: p50, p99, max, for every kind of credential.

A stream that the other worker holds open is refused by being cut; it says nothing after its first event, so that only
the cut can end it.

`REVOKE_N` of each kind (`make soak`: 1,000). None may take longer than the bound; with news by poll of the log, every
100 ms, half of that is usual.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from tests.process.server import RAISED, Server, sign_in, sign_up
from tests.process.test_workers import APP

pytestmark = pytest.mark.alone
REVOKE_N = int(os.environ.get("REVOKE_N", "25"))
BOUND_S = 2.0
EMAIL = "ada@example.com"
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
KEYED = (
    APP
    + """
@app.get("/keyed")
@allow(credentials="key session bearer")
async def keyed(me: Me): return {"id": me.id, "pid": os.getpid()}

@app.get("/held")
@allow(signed_in=True)
async def held(me: Me):
    async def events():
        yield f"data: {os.getpid()}\\n\\n"
        await asyncio.sleep(3600)
    return StreamingResponse(events(), media_type="text/event-stream")
"""
)


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Server]]:
    directory: Path = tmp_path_factory.mktemp("revocation")
    (directory / "keyed.py").write_text(KEYED)
    environment = {**CHEAP, "GARRISON_SESSION_FORMAT": request.param}
    with Server(directory, app="keyed:app", workers=2, environment=environment) as server:
        sign_up(server.client(), EMAIL)
        yield request.param, server


def two_workers(server: Server) -> dict[int, httpx2.Client]:
    """Return process id → a connection to each worker: it stays with the worker that took it."""
    found: dict[int, httpx2.Client] = {}
    cookie = sign_in(server.client(), EMAIL).headers["set-cookie"].partition(";")[0]
    for _ in range(200):
        client = server.client()
        found.setdefault(client.get("/whoami", headers={"cookie": cookie}).json()["pid"], client)
        if len(found) == 2:
            return found
    raise AssertionError("only one worker was met")


@pytest.mark.parametrize(
    ("server", "kind"),
    [("opaque", "cookie"), ("opaque", "access token"), ("opaque", "key"), ("jwt", "cookie")],
    indirect=["server"],
)
def test_how_long_a_revocation_takes_to_the_other_worker(server: tuple[str, Server], kind: str) -> None:
    form, running = server
    here, there = two_workers(running).values()
    owner = sign_in(running.client(), EMAIL, deliver="token").json()["access_token"]
    fresh = {"authorization": f"Bearer {owner}"}

    def begin() -> tuple[dict[str, str], Callable[[], httpx2.Response]]:
        if kind == "key":
            made = here.post("/auth/keys", json={"name": "x"}, headers=fresh).json()
            return {"x-api-key": made["key"]}, lambda: here.delete(f"/auth/keys/{made['id']}", headers=fresh)
        if kind == "cookie":
            shown = {"cookie": sign_in(running.client(), EMAIL).headers["set-cookie"].partition(";")[0]}
        else:
            token = sign_in(running.client(), EMAIL, deliver="token").json()["access_token"]
            shown = {"authorization": f"Bearer {token}"}
        return shown, lambda: here.post("/auth/sign-out", headers=shown)

    took: list[float] = []
    for _ in range(REVOKE_N):
        shown, revoke = begin()
        here.cookies.clear()
        there.cookies.clear()
        assert there.get("/keyed", headers=shown).status_code == 200
        assert here.get("/keyed", headers=shown).status_code == 200
        assert revoke().status_code == 204
        began = time.monotonic()
        here.cookies.clear()
        assert here.get("/keyed", headers=shown).status_code == 401, "where it was revoked, it is dead at once"
        while there.get("/keyed", headers=shown).status_code == 200:
            assert time.monotonic() - began < BOUND_S
            time.sleep(0.001)
        took.append(time.monotonic() - began)
    report(f"{'jwt ' if form == 'jwt' else ''}{kind}", took)


@pytest.mark.parametrize("server", ["opaque", "jwt"], indirect=True)
def test_how_long_a_stream_at_the_other_worker_outlives_its_session(server: tuple[str, Server]) -> None:
    form, running = server
    (_, here), (other, _) = two_workers(running).items()
    took: list[float] = []
    for _ in range(REVOKE_N):
        if form == "jwt":
            shown = {"cookie": sign_in(running.client(), EMAIL).headers["set-cookie"].partition(";")[0]}
        else:
            token = sign_in(running.client(), EMAIL, deliver="token").json()["access_token"]
            shown = {"authorization": f"Bearer {token}"}
        with held_by(other, running, shown) as events:
            here.cookies.clear()
            assert here.post("/auth/sign-out", headers=shown).status_code == 204
            began = time.monotonic()
            with suppress(httpx2.RemoteProtocolError):  # a time-out is no cut: it fails the test
                assert not any(events), "a stream that was to be silent"
            took.append(time.monotonic() - began)
        assert took[-1] < BOUND_S
    report(f"stream of a {'jwt cookie' if form == 'jwt' else 'token'}", took)


@contextmanager
def held_by(pid: int, server: Server, shown: dict[str, str]) -> Iterator[Iterator[str]]:
    """Open streams, each by a connection of its own, until this process holds one; give what it says after that."""
    for _ in range(200):
        with (
            httpx2.Client(base_url=server.url, timeout=BOUND_S + 1) as client,
            client.stream("GET", "/held", headers=shown) as answer,
        ):
            assert answer.status_code == 200
            lines = answer.iter_lines()
            if next(lines) == f"data: {pid}":
                assert next(lines) == ""
                yield lines
                return
    raise AssertionError("the other worker was not met")


def report(what: str, took: list[float]) -> None:
    took.sort()
    p50, p99 = statistics.median(took), took[min(len(took) - 1, int(len(took) * 0.99))]
    figures = ", ".join(f"{name} {s * 1e3:.0f} ms" for name, s in (("p50", p50), ("p99", p99), ("max", took[-1])))
    print(f"{what}: {len(took)} revoked, {figures}")
