"""The store that tests run on: SQLite files, or with TEST_STORE=postgresql databases of that server.

A test says where its store is to be, as it would for a file: asked twice for one place, it gets one store twice. Each
is a copy of one that was migrated once for this process of pytest (on PostgreSQL 0.1 s instead of 2.6 s), and is put
away after the test. What is about the SQLite file itself says so: `needs_sqlite_file`.
"""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from garrison.store import opening
from garrison.store.database import Database
from garrison.store.migrate import upgrade
from tests.store.postgresql import database

STORE = os.environ.get("TEST_STORE", "sqlite")
if STORE not in ("sqlite", "postgresql"):
    raise ValueError("TEST_STORE is sqlite or postgresql")
REDIS = os.environ.get("TEST_REDIS", "")
"""Address of a Redis that server processes of tests are to use, such as redis://127.0.0.1:6379/9."""
needs_sqlite_file = pytest.mark.skipif(STORE != "sqlite", reason="is about the SQLite file itself")

_template: list[tuple[ExitStack, str]] = []
_copies: dict[Path, tuple[ExitStack, str]] = {}


def store_url(place: Path) -> str:
    """Return the address of the store at this place, with its tables in it. Skips where there is no server."""
    if place not in _copies:
        _aside(lambda: _copy(place))
    return _copies[place][1]


def open_store(place: Path) -> Database:
    """Open the store at this place, with its tables in it."""
    return opening.open_store(store_url(place))


@contextmanager
def put_away() -> Iterator[None]:
    """Put away the stores that were made since. Whatever still holds a connection to PostgreSQL loses it."""
    before = set(_copies)
    yield
    drop_stores(_copies.keys() - before)


def drop_stores(places: Collection[Path]) -> None:
    """Put these away."""
    for stack, _ in [_copies.pop(place) for place in places]:
        _aside(stack.close)


def drop_all() -> None:
    """Put away all of them, and what copies are made of."""
    drop_stores(list(_copies))
    while _template:
        _aside(_template.pop()[0].close)


def _copy(place: Path) -> None:
    if not _template:
        _template.append(_migrated())
    original, stack = _template[0][1], ExitStack()
    if STORE == "sqlite":
        shutil.copy(original, place)
        _copies[place] = stack, f"sqlite:///{place}"
    else:
        _copies[place] = stack, stack.enter_context(database(template=original.rpartition("/")[2]))


def _migrated() -> tuple[ExitStack, str]:
    stack = ExitStack()
    if STORE == "sqlite":
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "template.db"
        upgrade(path)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return stack, str(path)
    url = stack.enter_context(database())
    upgrade(url)
    return stack, url


def _aside(work: Callable[[], None]) -> None:
    """Run `work` on a thread without a loop: the test may be on one, and these run loops of their own."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(work).result()
