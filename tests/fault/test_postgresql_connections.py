"""What becomes of connections to PostgreSQL, and of who waits for them: cut at any byte, silent, half open, slow.

Whatever was acknowledged is there; whoever cannot be served is told so, as an outage, within a stated time; and what
comes back is used again at once. `FAULT_N` scales the rounds; `FAULT_SEED` replays them.
"""

import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, text

from garrison.core.errors import StoreError
from garrison.store.postgresql import IDLE_S, LOCK_S, READERS, STATEMENT_S, PostgresDatabase, open_postgresql
from garrison.store.postgresql_aside import COLD_S
from garrison.store.postgresql_link import CONNECT_S
from garrison.store.worker import PATIENCE_S
from tests.fault.proxy import BLACK_HOLE, DROP, HALF_OPEN, PASS, Fault, FaultProxy, delay, reset, truncate
from tests.store.pooler import pooler, turn
from tests.store.private_postgresql import PrivatePostgreSQL

pytestmark = pytest.mark.anyio
ROUNDS = max(20, int(os.environ.get("FAULT_N", "20")))
SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
SLACK_S = 1.5
"""What a busy machine may take on top of a time-out."""


@pytest.fixture
def proxy(postgresql: PrivatePostgreSQL) -> Iterator[FaultProxy]:
    print(f"seed {SEED}; again with FAULT_SEED={SEED}", file=sys.stderr)
    with FaultProxy("127.0.0.1", postgresql.port, seed=SEED) as proxy:
        yield proxy


@pytest.fixture
def through(proxy: FaultProxy, url: str, postgresql: PrivatePostgreSQL) -> str:
    """The address of a table `kept`, through the proxy."""
    asyncio.run(postgresql.execute("CREATE TABLE kept (n int PRIMARY KEY)", url.rpartition("/")[2]))
    return url.replace(f":{postgresql.port}/", f":{proxy.port}/")


def keep(number: int) -> Callable[[Connection], int]:
    def work(connection: Connection) -> int:
        connection.execute(text("INSERT INTO kept VALUES (:n)"), {"n": number})
        return number

    return work


def count(connection: Connection) -> int:
    return int(connection.execute(text("SELECT count(*) FROM kept")).scalar_one())


async def cold(store: PostgresDatabase) -> int:
    return int((await store.cold("SELECT count(*) FROM kept", ()))[0][0])


async def took(ask: Awaitable[object]) -> tuple[str, float]:
    """Return the outage's code, "fine" for none, and the seconds until it was told."""
    began = time.monotonic()
    try:
        await ask
    except StoreError as error:
        return error.code, time.monotonic() - began
    return "fine", time.monotonic() - began


async def test_connections_cut_at_any_byte_lose_nothing_that_was_acknowledged(proxy: FaultProxy, through: str) -> None:
    store, acknowledged, refused, dice = open_postgresql(through), set[int](), set[int](), random.Random(SEED)
    for number in range(ROUNDS):
        if number % 4 == 0:  # a connection that lives on is cut somewhere in its transactions
            proxy.set(PASS)
            await store.write(count)
            proxy.set(dice.choice((reset, truncate))(dice.choice((300, 1500, 6000))))
        try:
            await store.write(keep(number))
            acknowledged.add(number)
        except StoreError:
            refused.add(number)
        for ask in (cold(store), store.read(count)):
            code, _ = await took(ask)
            assert code in ("fine", "store_unavailable")
    proxy.set(PASS)
    there = {number for (number,) in await store.cold("SELECT n FROM kept", ())}
    assert acknowledged <= there, "an acknowledged write is lost"
    assert there <= acknowledged | refused
    assert refused, "nothing was cut: this shows nothing"
    await store.close()


@pytest.mark.parametrize("cut", [reset(0), truncate(0)], ids=["RST", "FIN"])
async def test_after_connections_were_cut_the_next_who_asks_is_served(
    proxy: FaultProxy, through: str, cut: Fault
) -> None:
    """Nothing had begun on them, so whoever comes next need not hear of it."""
    store = open_postgresql(through)
    await asyncio.gather(*(cold(store) for _ in range(20)), *(store.read(count) for _ in range(4)), store.write(count))
    proxy.set(cut)
    await asyncio.sleep(0.05)
    proxy.set(PASS)
    assert await store.write(keep(1)) == 1
    assert await asyncio.gather(*(store.read(count) for _ in range(4))) == [1] * 4
    assert await asyncio.gather(*(cold(store) for _ in range(20))) == [1] * 20
    await store.close()


@pytest.mark.parametrize("fault", [BLACK_HOLE, HALF_OPEN, DROP] if "FAULT_N" in os.environ else [HALF_OPEN])
async def test_a_server_that_falls_silent_is_an_outage_in_time_and_used_again_when_it_speaks(
    proxy: FaultProxy, through: str, fault: Fault
) -> None:
    store = open_postgresql(through)
    await asyncio.gather(*(cold(store) for _ in range(20)), store.read(count), store.write(count))
    proxy.set(fault)
    cold_ones = [asyncio.create_task(took(cold(store))) for _ in range(40)]
    reads = [asyncio.create_task(took(store.read(count))) for _ in range(3)]
    writes = [asyncio.create_task(took(store.write(keep(number)))) for number in range(6)]
    for code, seconds in await asyncio.gather(*cold_ones):
        assert code == "store_unavailable"
        assert seconds < COLD_S + SLACK_S
    code, seconds = await took(cold(store))
    assert code == "store_unavailable", "and another one is told, too: no connection is waited for for ever"
    assert seconds < COLD_S + SLACK_S
    for code, seconds in await asyncio.gather(*reads, *writes):
        assert code in ("store_unavailable", "store_busy")
        assert seconds < PATIENCE_S + SLACK_S
    proxy.set(PASS)
    began = time.monotonic()
    assert await cold(store) >= 0
    assert time.monotonic() - began < SLACK_S, "the guard does not wait for what is stuck"
    code = ""
    while code != "fine":  # the writer first has to give up what it waits for
        code, _ = await took(store.write(keep(100)))
        assert time.monotonic() - began < STATEMENT_S + 1 + CONNECT_S + SLACK_S
    assert (await took(store.read(count)))[0] == "fine"
    await store.close()


async def test_a_slow_network_is_no_outage(proxy: FaultProxy, through: str) -> None:
    store = open_postgresql(through)
    proxy.set(delay(0.02))
    assert await store.write(keep(1)) == 1
    assert await asyncio.gather(*(cold(store) for _ in range(20))) == [1] * 20
    await store.close()


async def test_a_restart_is_waited_out_by_cold_reads(
    postgresql: PrivatePostgreSQL, through: str, proxy: FaultProxy
) -> None:
    """An immediate restart takes a third of a second: whoever asks the store within it is late and not refused."""
    store = open_postgresql(through)
    await asyncio.gather(*(cold(store) for _ in range(20)))
    postgresql.stop()
    asked = [asyncio.create_task(took(cold(store))) for _ in range(50)]
    await asyncio.sleep(0.05)
    down = postgresql.start()
    results = await asyncio.gather(*asked)
    print(f"restarted in {down:.2f} s, the slowest of {len(results)} waited {max(s for _, s in results):.2f} s")
    if down < COLD_S / 2:
        assert {code for code, _ in results} == {"fine"}
    assert proxy.connections < 20, "and they do not all connect"
    await store.close()


async def test_a_server_that_stays_away_is_told_at_once(postgresql: PrivatePostgreSQL, through: str) -> None:
    store = open_postgresql(through)
    postgresql.stop()
    await took(cold(store))
    began = time.monotonic()
    for _ in range(20):
        assert (await took(cold(store)))[0] == "store_unavailable"
    assert time.monotonic() - began < COLD_S, "whom it is known of nobody waits for it again"
    postgresql.start()
    began = time.monotonic()
    while (await took(cold(store)))[0] != "fine":
        assert time.monotonic() - began < 1 + SLACK_S
    await store.close()


async def test_a_first_host_that_answers_nothing_does_not_keep_from_the_second(
    proxy: FaultProxy, through: str, postgresql: PrivatePostgreSQL
) -> None:
    name = through.rpartition("/")[2]
    hosts = f"127.0.0.1:{proxy.port},127.0.0.1:{postgresql.port}"
    store = open_postgresql(f"postgresql://postgres@{hosts}/{name}?target_session_attrs=read-write")
    proxy.set(BLACK_HOLE)
    assert await store.write(keep(1)) == 1
    assert (await took(cold(store)))[0] == "fine"
    await store.close()


FROZEN = """
import asyncio, os, signal, sys, time
from sqlalchemy import text
from garrison.store.postgresql import open_postgresql

def work(connection):
    connection.execute(text("SELECT 1"))
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)

asyncio.run(open_postgresql(sys.argv[1]).write(work))
"""


async def test_a_node_that_is_frozen_in_a_write_keeps_nobody_else_from_writing(through: str) -> None:
    """A virtual machine that is moved or suspended, a link that is cut: it holds the lock of all writes."""
    node = subprocess.Popen([sys.executable, "-c", FROZEN, through])  # noqa: ASYNC220 - nothing else runs yet
    store = open_postgresql(through)
    try:
        await asyncio.to_thread(os.waitid, os.P_PID, node.pid, os.WSTOPPED | os.WNOWAIT)
        began = time.monotonic()
        assert await store.write(keep(1)) == 1
        took_s = time.monotonic() - began
    finally:
        node.kill()
        node.wait()
        await store.close()
    assert IDLE_S / 2 < took_s < LOCK_S, "it did wait for the other, and not for ever"


async def test_a_standby_is_no_store_behind_a_pooler_either_and_who_took_over_is_another_history(
    postgresql: PrivatePostgreSQL, tmp_path: Path
) -> None:
    """What was revoked on the primary reaches it late or never, and the log it goes on with may be shorter."""
    await postgresql.execute("CREATE DATABASE followed")
    for statement in ("CREATE TABLE kept (n int)", "CREATE TABLE changes (position bigint)"):
        await postgresql.execute(statement, "followed")
    with (
        postgresql.standby(synchronous=False) as standby,
        pooler(postgresql.url("followed"), tmp_path, connections=3) as pooled,
    ):
        await standby.execute("SELECT pg_wal_replay_pause()")
        await postgresql.execute("INSERT INTO kept VALUES (1)", "followed")

        alone = open_postgresql(standby.url("followed"))
        assert (await took(cold(alone)))[0] == "store_unavailable"
        assert (await took(alone.read(count)))[0] == "store_unavailable"
        first = f"127.0.0.1:{standby.port},127.0.0.1:{postgresql.port}"
        several = open_postgresql(f"postgresql://postgres@{first}/followed")
        assert await cold(several) == await several.read(count) == 1, "the one that is no standby is found"

        behind = open_postgresql(pooled)
        assert await cold(behind) == 1
        assert [await behind.read(count) for _ in range(READERS)] == [1] * READERS
        await asyncio.to_thread(turn, pooled, tmp_path, standby.url())
        assert (await took(cold(behind)))[0] == "store_unavailable", "the pooler turned to the standby"
        for _ in range(2 * READERS):  # each of them
            assert (await took(behind.read(count)))[0] == "store_unavailable"
        await asyncio.to_thread(turn, pooled, tmp_path, postgresql.url())
        assert await behind.read(count) == 1
        assert await cold(behind) == 1
        history = (await behind.news()).history
        assert (await behind.news()).history == history
        await asyncio.to_thread(turn, pooled, tmp_path, standby.url())
        await standby.execute("SELECT pg_wal_replay_resume()")
        await asyncio.to_thread(standby.promote)
        assert (await behind.news()).history != history
        for store in (alone, several, behind):
            await store.close()
    await postgresql.execute("DROP DATABASE followed WITH (FORCE)")
