"""Fixtures of this room: one PostgreSQL of its own for all its tests, and databases on it."""

import asyncio
import secrets
from collections.abc import Iterator

import pytest

from tests.store.private_postgresql import PrivatePostgreSQL


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def instance() -> Iterator[PrivatePostgreSQL]:
    """The instance, made once; whoever stops it starts it again."""
    with PrivatePostgreSQL() as instance:
        yield instance


@pytest.fixture
def postgresql(instance: PrivatePostgreSQL) -> PrivatePostgreSQL:
    """The instance, running."""
    if not instance.runs:
        instance.start()
    return instance


@pytest.fixture
def url(postgresql: PrivatePostgreSQL) -> Iterator[str]:
    """An empty database of this test's own."""
    name = f"garrison_{secrets.token_hex(4)}"
    asyncio.run(postgresql.execute(f"CREATE DATABASE {name}"))
    yield postgresql.url(name)
    if not postgresql.runs:
        postgresql.start()
    asyncio.run(postgresql.execute(f"DROP DATABASE {name} WITH (FORCE)"))
