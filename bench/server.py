"""One server under measurement, as a process: `python -m bench.server FRAMEWORK bare|guarded|plain|awaited PORT`.

`bare` and `guarded` run as `garrison serve` runs an app, on the same protocol class; `plain` is the bare app on
uvicorn's own httptools protocol with the same options, to show what the edge costs; `awaited` is guarded, with limits
as `bench/shared.py` compares them.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import uvicorn

import garrison.serve.start
from bench.apps import bare, guarded
from garrison.serve.server import BACKLOG, KEEP_ALIVE_S, serve

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("plain", "bare", "guarded")
_PLENTY = "100000000/minute"
RAISED = {
    f"GARRISON_LIMIT_{name}": _PLENTY for name in ("ADDRESS", "API", "SIGN_IN", "SIGN_IN_ADDRESS", "SIGN_UP", "REFRESH")
}
"""Limits raised, every layer in place."""
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
EMAIL, PASSWORD = "bench@example.com", "a long walk to the sea"


class Server:
    """A server process in a directory of its own, pinned to a core if one is given; used as a context manager."""

    def __init__(
        self, framework: str, kind: str, *, core: int | None = None, environment: Mapping[str, str] = CHEAP
    ) -> None:
        self._arguments = [framework, kind]
        self._core = core
        self._environment = environment
        self.port = _free_port()

    def __enter__(self) -> "Server":
        self._directory = tempfile.TemporaryDirectory(prefix="garrison-bench-")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
        self._log = open(Path(self._directory.name) / "log", "w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.server", *self._arguments, str(self.port)],
            cwd=self._directory.name,
            env={**inherited, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "PORT": str(self.port), **self._environment},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(15)
        self._log.close()
        self._directory.cleanup()

    @property
    def pid(self) -> int:
        """The process whose CPU time is the server's."""
        return self._process.pid

    def ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request on a connection of its own; return status, headers (lower case) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {} if body is None else {"content-type": "application/json"})
            answer = connection.getresponse()
            headers = {name.lower(): value for name, value in reversed(answer.getheaders())}  # of several the first
            return answer.status, headers, answer.read()
        finally:
            connection.close()

    def credentials(self) -> dict[str, dict[str, str]]:
        """Sign up, sign in both ways, and return the headers of a request for each."""
        shown = {"email": EMAIL, "password": PASSWORD}
        self.ask("POST", "/auth/sign-up", shown)
        _, _, body = self.ask("POST", "/auth/sign-in", {**shown, "deliver": "token"})
        _, headers, _ = self.ask("POST", "/auth/sign-in", shown)
        return {
            "public": {},
            "cookie": {"cookie": headers["set-cookie"].partition(";")[0]},
            "token": {"authorization": f"Bearer {json.loads(body)['access_token']}"},
        }

    def _wait(self) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"the server ended: {self._log.read()[-2000:]}")
            try:
                if self.ask("GET", "/public")[0] == 200:
                    return
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the server is not ready after 30 s")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main(framework: str, kind: str, port: int) -> int:
    """Serve until SIGTERM; return the exit code."""
    if kind == "awaited":
        from bench.shared import AwaitedLimits

        garrison.serve.start.SharedLimits = AwaitedLimits  # type: ignore[attr-defined]
    if kind != "plain":
        return serve(bare(framework) if kind == "bare" else guarded(framework), host="127.0.0.1", port=port)
    uvicorn.run(
        bare(framework),
        host="127.0.0.1",
        port=port,
        http="httptools",
        ws="none",
        loop="uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        backlog=BACKLOG,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
