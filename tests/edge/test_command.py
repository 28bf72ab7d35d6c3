"""`garrison serve` that cannot begin says why in one message, and its exit code tells which kind of why."""

import os
import socket
from pathlib import Path

import pytest

from tests.edge.rig import free_port
from tests.process import forks
from tests.process.server import GARRISON

APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from garrison import Garrison, public

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("the lake is frozen")
    yield

broken = FastAPI(lifespan=lifespan)
sound = FastAPI()
for app in (broken, sound):
    app.get("/")(public(lambda: "boat"))
    Garrison().protect(app)
"""


def serve(directory: Path, app: str, port: int, workers: int) -> tuple[int, list[str]]:
    """Run the command, which is expected to end by itself; return its exit code and the lines on stderr."""
    (directory / "boats.py").write_text(APP)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
    command = [GARRISON, "serve", app, "--port", str(port), "--workers", str(workers)]
    done = forks.run(command, directory, inherited, timeout=30)
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_broken_start_of_the_app_is_one_line_and_code_1(tmp_path: Path, workers: int) -> None:
    code, told = serve(tmp_path, "boats:broken", free_port(), workers)
    assert code == 1, told
    assert [line for line in told if line.startswith("garrison serve:")] == [told[-1]], told
    assert "RuntimeError: the lake is frozen" in told[-1]
    assert not any("Traceback" in line for line in told), told


@pytest.mark.parametrize("workers", [1, 2])
def test_a_taken_port_is_one_sentence_and_code_2(tmp_path: Path, workers: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        code, told = serve(tmp_path, "boats:sound", port, workers)
    assert code == 2, told
    assert [line for line in told if line.startswith("garrison serve:")] == [
        f"garrison serve: 127.0.0.1:{port} is taken by another program; choose another with --port or PORT=."
    ]
    assert not any("Traceback" in line for line in told), told
