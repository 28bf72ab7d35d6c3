"""Targets and headers are bounded behind every server: by the edge of `garrison serve`, elsewhere by the guard."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx2
import pytest

from tests.process.server import RAISED, ROOT, Server, free_port

MANY = {f"x-{number}": "1" for number in range(101)}


@pytest.fixture(scope="module", params=["garrison serve", "uvicorn"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("bounds")
    if request.param == "garrison serve":
        with Server(directory) as server:
            yield server.url
        return
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "examples.tasks.app:app", "--port", str(port), "--log-level", "error"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "GARRISON_ENV": "development", **RAISED},
    )
    try:
        end = time.monotonic() + 20
        while True:
            try:
                httpx2.get(f"http://127.0.0.1:{port}/health/live")
                break
            except httpx2.TransportError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(15)


@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [("/test?" + "a" * 9000, {}, 414), ("/test", {"x-big": "x" * 33_000}, 431), ("/test", MANY, 431)],
)
def test_too_much_is_refused_whatever_the_server(url: str, target: str, headers: dict[str, str], status: int) -> None:
    answer = httpx2.get(url + target, headers=headers)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert httpx2.get(url + "/test").status_code == 200
