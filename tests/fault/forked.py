"""`garrison serve` again and again without its imports, which take a hundred times as long as all else of a start.

A process that has imported what the server needs, and opened nothing, forks one server for each start. What is killed
is that server: a whole process with everything it has opened.
"""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.process.server import ROOT, Server, free_port

_PARENT = """
import asyncio, ctypes, os, signal, sys
import alembic.command, alembic.config, alembic.runtime.migration
import argon2, asyncpg, httptools, joserfc.jwt, sqlalchemy.dialects.postgresql.asyncpg, sqlalchemy.dialects.sqlite
import starlette.applications, uvicorn.lifespan.on, uvicorn.loops.uvloop, uvloop, websockets
import garrison.cli.main, garrison.cli.serve, garrison.serve.frameworks.starlette, garrison.serve.runtime
import garrison.serve.server, garrison.store.postgresql

libc = ctypes.CDLL(None)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:
    pid = os.fork()
    if not pid:
        libc.prctl(1, signal.SIGKILL)  # it ends with its parent
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        garrison.cli.main.main()
        os._exit(0)
    print(pid, flush=True)
"""


@dataclass
class ForkedServer(Server):
    """A `Server` whose starts after the first are quick. `kill` ends the server, `stop` the parent, too."""

    pid: int = 0

    def start(self) -> "ForkedServer":
        if self.process is None:
            self.port = self.port or free_port()
            arguments = ["garrison", "serve", "--port", str(self.port), *([self.app] if self.app else [])]
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-c", f"import sys; sys.argv = {arguments!r}\n{_PARENT}"],
                    cwd=self.directory,
                    env={**inherited, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **self.environment},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    bufsize=0,
                )
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("its pipes are closed")
        self.process.stdin.write(b"start\n")
        self.pid = int(self.process.stdout.readline() or b"0")
        self.wait_ready()
        return self

    def kill(self) -> None:
        """Kill -9 the server."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        try:
            self._end(signal.SIGTERM)
        finally:
            process, self.process = self.process, None
            if process is not None:
                for pipe in (process.stdin, process.stdout):
                    if pipe is not None:
                        pipe.close()
                process.wait(10)

    def _end(self, how: signal.Signals) -> None:
        pid, self.pid = self.pid, 0
        if not pid:
            return
        try:
            os.kill(pid, how)
            end = time.monotonic() + 15
            while time.monotonic() < end:
                os.kill(pid, 0)
                time.sleep(0.002)
        except ProcessLookupError:
            return
        raise RuntimeError(f"the server did not end after {how.name}")
