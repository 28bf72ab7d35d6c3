"""A PostgreSQL database of a test's own: on the server that is there, else on a private one, else it is skipped."""

import asyncio
import atexit
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import asyncpg
import pytest

from garrison.store.database import Database
from garrison.store.postgresql import open_postgresql
from tests.store.private_postgresql import PrivatePostgreSQL

ADDRESS = os.environ.get("TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")
"""Address of a server, without a database, as a user who may make databases."""
_found: list[str] = []


def server() -> str:
    """Return the address of a server, without a database. Where none is there, start one, which ends with us.

    Skips where PostgreSQL is not installed, either.
    """
    if not _found:
        try:
            asyncio.run(_ask(f"{ADDRESS}/postgres", "SELECT 1"))
            _found.append(ADDRESS)
        except (OSError, TimeoutError, asyncpg.PostgresError) as error:
            if "TEST_POSTGRESQL" in os.environ:
                pytest.skip(f"no PostgreSQL at {ADDRESS.rpartition('@')[2]}: {type(error).__name__}")
            private = PrivatePostgreSQL().__enter__()
            atexit.register(private.__exit__, None, None, None)
            _found.append(private.url("").rstrip("/"))
    return _found[0]


async def _ask(address: str, statement: str) -> None:
    connection = await asyncpg.connect(address, timeout=3)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def database(*, template: str = "template1") -> Iterator[str]:
    """Make a database as a copy of another, give its address, and drop it. Skips where no server is to be had."""
    name = f"garrison_test_{os.getpid()}_{secrets.token_hex(4)}"
    admin = f"{server()}/postgres"
    asyncio.run(_ask(admin, f"CREATE DATABASE {name} TEMPLATE {template}"))
    try:
        yield f"{server()}/{name}"
    finally:
        asyncio.run(_ask(admin, f"DROP DATABASE {name} WITH (FORCE)"))


def empty(address: str) -> None:
    """Delete every row of our tables."""

    async def truncate() -> None:
        connection = await asyncpg.connect(address, timeout=3, statement_cache_size=0)
        try:
            async with connection.transaction():
                rows = await connection.fetch(
                    "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'garrison_version'"
                )
                listed = ", ".join(row["tablename"] for row in rows)
                await connection.execute(f"TRUNCATE {listed} RESTART IDENTITY")
        finally:
            await connection.close()

    asyncio.run(truncate())


@contextmanager
def stores(address: str) -> Iterator[Callable[[], Database]]:
    """Give what opens one more store at this address; close them all afterwards."""
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(open_postgresql(address))
        return opened[-1]

    yield open_one
    for store in opened:
        asyncio.run(store.close())
