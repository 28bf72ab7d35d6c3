"""SIGTERM with `GARRISON_DRAIN`: not ready at once, and serving on until the proxy has looked."""

import signal
import time
from pathlib import Path

import httpx2
import pytest

from tests.process.server import RAISED, Server

DRAIN_S = 2.0
DRAINING = {**RAISED, "GARRISON_DRAIN": f"{DRAIN_S:.0f}s"}


@pytest.mark.parametrize("workers", [1, 2])
def test_it_says_that_it_is_not_ready_and_serves_on(tmp_path: Path, workers: int) -> None:
    with Server(tmp_path, app=None, workers=workers, environment=DRAINING) as server, server.client() as kept:
        assert kept.get("/auth/openapi.json").headers.get("connection") != "close"
        assert server.process is not None
        began = time.monotonic()
        server.process.terminate()
        while httpx2.get(f"{server.url}/health/ready").status_code == 200:
            assert time.monotonic() - began < DRAIN_S
            time.sleep(0.02)
        document = httpx2.get(f"{server.url}/health/ready").json()
        assert document["status"] == "not ready"
        assert document["parts"] == {**dict.fromkeys(document["parts"], True), "serving": False}
        answer = httpx2.get(f"{server.url}/auth/openapi.json")  # by a connection that came after the signal
        assert (answer.status_code, answer.headers["connection"]) == (200, "close")
        assert kept.get("/auth/openapi.json").headers["connection"] == "close", "an older one ends with its next answer"
        assert server.process.wait(10) == 0
        assert DRAIN_S <= time.monotonic() - began < 10


def test_control_c_waits_for_no_proxy(tmp_path: Path) -> None:
    with Server(tmp_path, app=None, environment=DRAINING) as server:
        assert server.process is not None
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(10) == 0
        assert time.monotonic() - began < DRAIN_S
