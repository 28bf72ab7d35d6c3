"""PostgreSQL behind a transaction pooler keeps the contract, too."""

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import text

from garrison.store.database import Database
from garrison.store.migrate import HEAD, current, upgrade
from tests.store.conftest import OpenStore
from tests.store.contract import DatabaseContract, cold
from tests.store.pooler import pooler
from tests.store.postgresql import database, empty, stores
from tests.store.table_contracts import CountersContract

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with database() as direct, pooler(direct, tmp_path_factory.mktemp("pooler"), connections=3) as address:
        upgrade(address)
        assert current(address) == HEAD
        yield address


@pytest.fixture
def open_store(pooled: str) -> Iterator[OpenStore]:
    empty(pooled)
    with stores(pooled) as open_one:
        yield open_one


class TestDatabase(DatabaseContract):
    pass


class TestCounters(CountersContract):
    pass


async def test_every_question_gets_its_own_answer(open_store: OpenStore) -> None:
    """Statements of equal names, prepared by other connections, must not answer."""
    stores = [open_store() for _ in range(4)]

    async def ask(store: Database, number: int) -> None:
        for turn in range(10):
            sql = f"SELECT {number}, CAST(? AS integer), {turn % 3}"
            assert await cold(store, sql, (turn,)) == [(number, turn, turn % 3)]
            query = text(f"SELECT {number}, :turn + 0")
            assert (await store.read(lambda connection, q=query, t=turn: connection.execute(q, {"turn": t}).one())) == (  # type: ignore[misc]
                number,
                turn,
            )

    await asyncio.gather(*(ask(store, number) for number, store in enumerate(stores * 3)))
