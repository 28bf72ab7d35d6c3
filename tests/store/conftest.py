"""Fixtures of this room: real files, and processes of our own where one process cannot show it."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

pytest.register_assert_rewrite("tests.store.contract", "tests.store.table_contracts")

from garrison.store.database import Database  # noqa: E402 - after the line that makes its asserts speak
from garrison.store.migrate import upgrade  # noqa: E402
from garrison.store.sqlite import open_sqlite  # noqa: E402

OpenStore = Callable[[], Database]
Python = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with the tables in it."""
    path = tmp_path / "garrison.db"
    upgrade(path)
    return path


@pytest.fixture
def open_store(path: Path) -> Iterator[OpenStore]:
    """Open the same store again and again, as several processes do. A suite for another store overrides this one."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(open_sqlite(path))
        return opened[-1]

    yield open_one
    for store in opened:
        asyncio.run(store.close())


@pytest.fixture
def store(open_store: OpenStore) -> Database:
    return open_store()


@pytest.fixture
def python(path: Path) -> Iterator[Python]:
    """Start a Python process with this code, the database's path and further arguments; all are ended afterwards."""
    started: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: object, of: Path = path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, str(of), *map(str, arguments)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()
