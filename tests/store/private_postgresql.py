"""A PostgreSQL of the tests' own, which may be killed, filled up and made a standby of another; never the shared one.

    with PrivatePostgreSQL() as primary:                     # initdb, then started
        with primary.standby() as standby:                   # pg_basebackup, follows the primary
            primary.kill()
            standby.promote()

It listens on 127.0.0.1 alone, at a port of its own, and trusts who connects. Everything is in one temporary directory,
which goes with it. PostgreSQL refuses to run as root: there it runs as `postgres` or `nobody`. The kernel ends it with
whoever started it (SIGQUIT, an immediate stop), however that ends. Where its programs are missing the test is skipped,
by name.
"""

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import pytest

from tests.ports import free_port

BINARIES = os.environ.get("TEST_POSTGRESQL_BIN", "")
"""Directory of initdb, postgres and pg_basebackup, where it is not one of the usual ones."""
_USUAL = ("/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/16/bin", "/usr/lib/postgresql/17/bin")
_PR_SET_PDEATHSIG = 1
_START_S = 30.0
_CONFIGURATION = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = on
full_page_writes = on
max_connections = 60
shared_buffers = 16MB
wal_level = replica
max_wal_senders = 4
min_wal_size = 4MB
max_wal_size = 16MB
hot_standby = on
logging_collector = off
autovacuum_naptime = 60
"""


def binaries() -> Path:
    """Return the directory of PostgreSQL's programs. Skips where there is none."""
    beside = shutil.which("initdb")
    for directory in (BINARIES, *_USUAL, *([str(Path(beside).parent)] if beside else [])):
        if directory and (Path(directory) / "initdb").exists() and (Path(directory) / "pg_basebackup").exists():
            return Path(directory)
    pytest.skip("no initdb and pg_basebackup of PostgreSQL here (TEST_POSTGRESQL_BIN says where they are)")


class PrivatePostgreSQL:
    """One instance. `data` may be made already (`standby`); else it is made by the first start."""

    def __init__(self, directory: Path | None = None) -> None:
        self._binaries = binaries()
        self._made = directory is None
        self.directory = directory or Path(tempfile.mkdtemp(prefix="garrison-postgresql-"))
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._user = _unprivileged()
        if self._user is not None:
            os.chown(self.directory, self._user.pw_uid, self._user.pw_gid)

    def __enter__(self) -> Self:
        try:
            if not self.data.exists():
                self._run("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--wal-segsize=1")
                self.configure(_CONFIGURATION)
            self.start()
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove()

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database of this instance."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def configure(self, lines: str) -> None:
        """Add lines to the configuration; a server that runs has to be told (`reload`)."""
        with (self.data / "postgresql.conf").open("a") as file:
            file.write(lines + "\n")

    def start(self) -> float:
        """Start it; return the seconds until it takes connections. Raises RuntimeError where it does not.

        On a thread that lasts, since it is the thread whose end the kernel tells it.
        """
        began = time.monotonic()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [str(self._binaries / "postgres"), "-D", str(self.data), "-p", str(self.port)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_end_with_parent,
                **self._as_user(),
            )
        while time.monotonic() - began < _START_S:
            if self._process.poll() is not None:
                break
            # pg_ctl's way of knowing: the last line of the file says what it is up to
            with contextlib.suppress(OSError, IndexError):
                lines = (self.data / "postmaster.pid").read_text().splitlines()
                if lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                    return time.monotonic() - began
            time.sleep(0.005)
        raise RuntimeError(f"PostgreSQL did not start: {self.log.read_text(errors='replace')[-2000:]}")

    @property
    def runs(self) -> bool:
        """Say whether its first process is there."""
        return self._process is not None and self._process.poll() is None

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop it: SIGQUIT is `pg_ctl -m immediate`, a crash without a farewell; SIGINT is `fast`. Again is fine."""
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(how)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                return
        self._process = None

    def kill(self) -> None:
        """Kill -9 its first process; the others end when they see that it has gone."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait(10)
        with contextlib.suppress(OSError, IndexError, ValueError):
            segment = (self.data / "postmaster.pid").read_text().splitlines()[6].split()[1]
            for _ in range(500):  # as long as one of them is attached, it cannot be removed
                if not _is_attached(segment):
                    break
                time.sleep(0.01)
            subprocess.run(["ipcrm", "-m", segment], check=False, capture_output=True)

    def reload(self) -> None:
        """Let it read its configuration anew."""
        if self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    @contextlib.contextmanager
    def standby(self, *, synchronous: bool) -> "Iterator[PrivatePostgreSQL]":
        """Give a standby that follows this one; with `synchronous`, commits here wait until it has them on its disk."""
        directory = Path(tempfile.mkdtemp(prefix="garrison-postgresql-"))
        standby = PrivatePostgreSQL(directory)
        standby._made = True
        self._run(
            "pg_basebackup", "-D", standby.data, "-d", f"{self.url()}?application_name=standby", "-c", "fast", "-R"
        )
        with standby:
            if synchronous:
                self.configure("synchronous_standby_names = 'standby'")
                self.reload()
            yield standby

    def promote(self) -> float:
        """Make this standby a primary; return the seconds it took until it took writes."""
        began = time.monotonic()
        self._run("pg_ctl", "promote", "-D", self.data, "-w")
        return time.monotonic() - began

    async def execute(self, statement: str, database: str = "postgres") -> str:
        """Run one statement as the administrator; return its first value."""
        connection = await asyncpg.connect(self.url(database), timeout=5)
        try:
            return str(await connection.fetchval(statement))
        finally:
            await connection.close()

    def own(self, directory: Path) -> None:
        """Make a directory that this instance may use."""
        directory.mkdir(mode=0o700)
        if self._user is not None:
            os.chown(directory, self._user.pw_uid, self._user.pw_gid)

    def _run(self, program: str, *arguments: object) -> None:
        command = [str(self._binaries / program), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **self._as_user())
        if done.returncode != 0:
            raise RuntimeError(f"{program}: {done.stderr[-2000:]}")

    def _as_user(self) -> dict[str, Any]:
        if self._user is None:
            return {"cwd": self.directory}
        return {
            "cwd": self.directory,
            "user": self._user.pw_uid,
            "group": self._user.pw_gid,
            "extra_groups": (),
            "env": {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": str(self.directory), "LC_ALL": "C"},
        }

    def _remove(self) -> None:
        if self._made:
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    """Mount a file system in memory of this size, and unmount it. Skips without the right to."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root alone")
    directory = Path(tempfile.mkdtemp(prefix="garrison-disk-"))
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0755", "tmpfs", str(directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        directory.rmdir()
        pytest.skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=False)
        directory.rmdir()


def fill(directory: Path, *, leave: int = 0) -> Path:
    """Write a file that takes all the space but so many bytes; return it. Deleting it frees the space."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\x00" * 65_536)
    with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"\x00" * 512)
    if leave:
        os.truncate(ballast, max(0, ballast.stat().st_size - leave))
    return ballast


def _unprivileged() -> pwd.struct_passwd | None:
    """Return whom to run as; None for ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    pytest.skip("PostgreSQL does not run as root, and there is neither postgres nor nobody")


_libc = ctypes.CDLL(None, use_errno=True)


def _end_with_parent() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)


def _is_attached(segment: str) -> bool:
    listed = subprocess.run(["ipcs", "-m", "-i", segment], capture_output=True, text=True, check=False)
    return "nattch=0" not in listed.stdout and listed.returncode == 0
