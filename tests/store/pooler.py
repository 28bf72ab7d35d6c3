"""A PgBouncer of a test's own in transaction mode: after each transaction the server's process may be another one."""

import asyncio
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest


@contextmanager
def pooler(address: str, directory: Path, *, connections: int) -> Iterator[str]:
    """Put a pooler with so many connections in front of a database; give its address. Skips where it is missing."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("no pgbouncer: make system installs it")
    parts = urlsplit(address)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    users = directory / "users.txt"
    users.write_text(f'"{parts.username}" ""\n')
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        f"[databases]\n* = host={parts.hostname} port={parts.port or 5432}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = trust\nauth_file = {users}\nadmin_users = {parts.username}\npool_mode = transaction\n"
        f"default_pool_size = {connections}\nmax_client_conn = 200\nignore_startup_parameters = extra_float_digits\n"
    )
    command = [program, str(settings)]
    if os.getuid() == 0:  # which it refuses
        for directory in (settings.parent, *settings.parent.parents):
            if directory.stat().st_mode & 0o005 != 0o005 and directory != Path("/"):
                directory.chmod(directory.stat().st_mode | 0o005)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
    log = directory / "pgbouncer.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.02)
            yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
        finally:
            process.terminate()
            process.wait(10)


def turn(pooled: str, directory: Path, address: str) -> None:
    """Let the pooler at this address, whose files are in `directory`, turn to another server: no client is cut off."""
    old, new = urlsplit(pooled), urlsplit(address)
    settings = directory / "pgbouncer.ini"
    lines = settings.read_text().splitlines()
    lines[1] = f"* = host={new.hostname} port={new.port or 5432}"
    settings.write_text("\n".join(lines) + "\n")

    async def reload() -> None:
        connection = await asyncpg.connect(old._replace(path="/pgbouncer").geturl(), timeout=5)
        try:
            await connection.execute("RELOAD")
        finally:
            connection.terminate()

    asyncio.run(reload())
