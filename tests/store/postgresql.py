"""A PostgreSQL database of a test's own, on the server that is there."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
import pytest

SERVER = os.environ.get("GARRISON_TEST_POSTGRESQL", "postgresql://postgres@127.0.0.1:5432")
"""Address of a server, without a database, as a user who may make databases."""


async def _admin(statement: str) -> None:
    connection = await asyncpg.connect(f"{SERVER}/postgres", timeout=3)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


@contextmanager
def database(*, template: str = "template1") -> Iterator[str]:
    """Make a database as a copy of another, give its address, and drop it. Skips where no server is to be had."""
    name = f"garrison_test_{os.getpid()}_{secrets.token_hex(4)}"
    try:
        asyncio.run(_admin(f"CREATE DATABASE {name} TEMPLATE {template}"))
    except (OSError, TimeoutError) as error:
        pytest.skip(f"no PostgreSQL at {SERVER.rpartition('@')[2]}: {type(error).__name__}")
    try:
        yield f"{SERVER}/{name}"
    finally:
        asyncio.run(_admin(f"DROP DATABASE {name} WITH (FORCE)"))


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
