"""T6: from the acknowledged revocation to the refusal by the last of four nodes, with NOTIFY and with the bus cut.

    REVOKE_N=10000 .venv/bin/pytest -s tests/deploy/test_revocation_over_nodes.py        the long run

Only the stated bound decides; how fast it usually is is printed (goals: p99 below 50 ms with NOTIFY, 1 s without).
"""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import asyncpg
import httpx2
import pytest

from tests.deploy.nodes import NAMES, Nodes
from tests.process.server import PASSWORD, sign_up
from tests.process.test_revocation import report

pytestmark = pytest.mark.alone
REVOKE_N = int(os.environ.get("REVOKE_N", "20"))
BOUND_S = 2.0
EMAIL = "revoked@example.com"
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND (query ILIKE 'LISTEN%' OR query = 'SELECT 1')
"""


@pytest.fixture(scope="module")
def everyone(nodes: Nodes) -> list[httpx2.Client]:
    """A connection to each node, held open."""
    clients = [nodes.nodes[name].direct(nodes.host) for name in NAMES]
    sign_up(clients[0], EMAIL)
    return clients


@contextmanager
def no_bus(database_url: str) -> Iterator[list[int]]:
    """Cut every connection that listens, again and again; gives how many were, so far."""
    ended, cuts = threading.Event(), [0]

    async def cut() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            while not ended.is_set():
                cuts[0] += len(await connection.fetch(CUT))
                await asyncio.sleep(0.01)
        finally:
            await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(cut()))
    thread.start()
    try:
        end = time.monotonic() + 20
        while cuts[0] < len(NAMES):
            assert time.monotonic() < end, "nothing listened: this shows nothing"
            time.sleep(0.01)
        yield cuts
    finally:
        ended.set()
        thread.join()


@pytest.mark.parametrize("bus", ["NOTIFY", "bus cut"])
def test_a_revoked_credential_is_dead_on_every_node_within_the_bound(
    nodes: Nodes, everyone: list[httpx2.Client], bus: str
) -> None:
    took: list[float] = []
    dead: list[dict[str, str]] = []
    with no_bus(nodes.database_url) if bus == "bus cut" else nullcontext():
        for number in range(REVOKE_N):
            here = everyone[number % len(everyone)]
            shown = credential(here, "cookie" if number % 2 else "token")
            for client in everyone:
                assert whoami(client, shown) == 200
            signed_out = here.post("/auth/sign-out", headers=shown)
            assert signed_out.status_code == 204
            began = time.monotonic()
            assert whoami(here, shown) == 401, "where it was revoked, it is dead at once"
            alive = [client for client in everyone if client is not here]
            while alive:
                asked = time.monotonic()
                alive = [client for client in alive if whoami(client, shown) == 200]
                assert not alive or asked - began < BOUND_S, "accepted after the bound"
            took.append(time.monotonic() - began)
            dead.append(shown)
    report(f"four nodes, {bus}", took)
    for shown in dead:
        for client in everyone:
            assert whoami(client, shown) == 401, "a revoked credential is alive again"


def credential(client: httpx2.Client, kind: str) -> dict[str, str]:
    """Sign in, and return the headers that show it."""
    body = {"email": EMAIL, "password": PASSWORD, "deliver": kind}
    answer = client.post("/auth/sign-in", json=body)
    client.cookies.clear()
    assert answer.status_code == 200, answer.text
    if kind == "cookie":
        return {"cookie": answer.headers["set-cookie"].partition(";")[0]}
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def whoami(client: httpx2.Client, shown: dict[str, str]) -> int:
    status = client.get("/whoami", headers=shown).status_code
    assert status in (200, 401), status
    client.cookies.clear()
    return status
