"""A server whose store is restarted, falls silent, fails over or is full: what its clients are told meanwhile.

Never a 200 where a check could not be made, never a 5xx but 503 with `Retry-After`, nothing acknowledged lost, nothing
revoked alive; and it goes on by itself when the store does. T2, T3 and T4; the figures are printed.

    FAULT_N=1000 .venv/bin/pytest -s tests/fault/test_outages.py        100 restarts
"""

import asyncio
import os
import random
import re
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import httpx2
import pytest

from garrison.serve.server import KILL_AFTER_S
from garrison.store.postgresql import LOCK
from garrison.store.postgresql_aside import COLD_S
from tests.fault.ledger import APP, Person, Refused, bearer, check_503, lives
from tests.fault.proxy import BLACK_HOLE, HALF_OPEN, PASS, Fault, FaultProxy
from tests.process import forks
from tests.process.server import GARRISON, RAISED, ROOT, Server
from tests.store.private_postgresql import PrivatePostgreSQL, fill, small_disk

FAULTS = int(os.environ.get("FAULT_N", "30"))
RESTARTS = max(2, FAULTS // 10)
SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
BOUND_S = 2.0
SLACK_S = 3.0
"""What a busy machine may take on top of what is stated."""
PEOPLE = 3
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}


@contextmanager
def serving(directory: Path, url: str) -> Iterator[Server]:
    (directory / "guarded.py").write_text(APP)
    with Server(directory, app="guarded:app", environment={**CHEAP, "GARRISON_DATABASE_URL": url}) as server:
        yield server


class Load:
    """People who act all the time, and one who only shows a credential that is known already."""

    def __init__(self, server: Server) -> None:
        print(f"seed {SEED}; again with FAULT_SEED={SEED}", file=sys.stderr)
        self._server = server
        self._over = threading.Event()
        self._failures: list[BaseException] = []
        self.people = [Person(f"p{number}") for number in range(PEOPLE)]
        self.acknowledged_at: list[float] = []
        self.shown: Counter[int] = Counter()

    def __enter__(self) -> "Load":
        dice = random.Random(SEED)
        works: list[Callable[[], None]] = [
            partial(self._live, person, random.Random(dice.getrandbits(64))) for person in self.people
        ]
        self._threads = [threading.Thread(target=self._guarded, args=(work,)) for work in (*works, self._show)]
        for thread in self._threads:
            thread.start()
        end = time.monotonic() + 60
        while not self.shown and not self._failures and time.monotonic() < end:
            time.sleep(0.01)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)
        if kind is None:
            assert not self._failures, self._failures

    def recovered_s(self, since: float) -> float:
        """Wait for an acknowledged write after this moment; return how many seconds after it came."""
        while time.monotonic() - since < 60 and not self._failures:
            later = [at for at in self.acknowledged_at if at > since]
            if later:
                return later[0] - since
            time.sleep(0.005)
        raise AssertionError(f"no write for a minute: {self._failures}")

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self._failures.append(error)

    def _live(self, person: Person, dice: random.Random) -> None:
        with httpx2.Client(base_url=self._server.url, timeout=30) as client:
            while not self._over.is_set():
                try:
                    person.act(client, dice)
                    self.acknowledged_at.append(time.monotonic())
                except Refused:
                    self._settle(client, person, dice)

    def _settle(self, client: httpx2.Client, person: Person, dice: random.Random) -> None:
        """Find out what became of that, as soon as there is somebody to ask."""
        while not self._over.is_set():
            try:
                person.check(client, dice)
                return
            except Refused:
                time.sleep(0.02)

    def _show(self) -> None:
        person = Person("reader")
        dice = random.Random(SEED)
        with httpx2.Client(base_url=self._server.url, timeout=30) as client:
            person._sign_up(client, dice)
            person._sign_in(client, dice)
            shown = bearer(person.alive[0].access)
            while not self._over.is_set():
                answer = client.get("/whoami", headers=shown)
                check_503(answer)
                self.shown[answer.status_code] += 1
                time.sleep(0.005)


def hold(server: Server, people: list[Person]) -> None:
    """Hold the ledgers against the server."""
    dice = random.Random(SEED)
    with httpx2.Client(base_url=server.url, timeout=30) as client:
        for person in people:
            person.check(client, dice)


def told(people: list[Person]) -> str:
    acknowledged = sum((person.acknowledged for person in people), Counter[str]()).total()
    return f"{acknowledged} writes acknowledged, {sum(person.refused for person in people)} refused"


def test_restarts_lose_nothing_and_known_credentials_are_served_through_them(
    tmp_path: Path, postgresql: PrivatePostgreSQL, url: str
) -> None:
    dice, down, back = random.Random(SEED), list[float](), list[float]()
    with serving(tmp_path, url) as server:
        with Load(server) as load:
            load.recovered_s(time.monotonic())
            for _ in range(RESTARTS):
                time.sleep(dice.uniform(0.2, 0.6))
                began = time.monotonic()
                postgresql.stop()
                postgresql.start()
                down.append(time.monotonic() - began)
                back.append(load.recovered_s(time.monotonic()))
        hold(server, load.people)
    print(
        f"{RESTARTS} restarts, down {min(down):.2f} to {max(down):.2f} s, first write {max(back):.2f} s later at most;"
        f" {told(load.people)}; known credential: {dict(load.shown)}",
        file=sys.stderr,
    )
    assert set(load.shown) <= {200, 503}
    if max(down) < BOUND_S / 2:
        assert set(load.shown) == {200}, "within the bound, what is known needs no store"


@pytest.mark.parametrize("fault", [BLACK_HOLE, HALF_OPEN] if "FAULT_N" in os.environ else [BLACK_HOLE])
def test_a_guard_that_cannot_ask_says_503_and_never_200_beyond_the_bound(
    tmp_path: Path, postgresql: PrivatePostgreSQL, url: str, fault: Fault
) -> None:
    with (
        FaultProxy("127.0.0.1", postgresql.port, seed=SEED) as proxy,
        serving(tmp_path, url.replace(f":{postgresql.port}/", f":{proxy.port}/")) as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        dice, staying, leaving = random.Random(SEED), Person("stays"), Person("leaves")
        for person in (staying, leaving):
            for act in (person._sign_up, person._sign_in, person._sign_in):
                act(client, dice)
            assert lives(client, person.alive[0].access)
        proxy.set(fault)
        began = time.monotonic()
        seen: list[tuple[float, int]] = []
        while time.monotonic() - began < BOUND_S + COLD_S + 1:
            asked = time.monotonic() - began
            answer = client.get("/whoami", headers=bearer(staying.alive[0].access))
            check_503(answer)
            seen.append((asked, answer.status_code))
            assert time.monotonic() - began - asked < COLD_S + SLACK_S
        assert {status for _, status in seen} == {200, 503}
        assert [(asked, status) for asked, status in seen if status == 200 and asked >= BOUND_S] == []
        asked = time.monotonic()
        cold = client.get("/whoami", headers=bearer(staying.alive[1].access))
        assert (cold.status_code, cold.headers["retry-after"]) == (503, "1")
        cold_s = time.monotonic() - asked
        assert cold_s < COLD_S + SLACK_S
        asked = time.monotonic()
        assert client.post("/auth/sign-out", headers=bearer(staying.alive[1].access)).status_code == 503
        write_s = time.monotonic() - asked
        disable(tmp_path, url, leaving.email)
        for family in leaving.alive:
            assert client.get("/whoami", headers=bearer(family.access)).status_code == 503
        proxy.set(PASS)
        healed = time.monotonic()
        while (status := client.get("/whoami", headers=bearer(staying.alive[0].access)).status_code) == 503:
            assert time.monotonic() - healed < COLD_S + SLACK_S
        assert status == 200
        back_s = time.monotonic() - healed
        for family in leaving.alive:
            assert not lives(client, family.access), "what ended meanwhile is not alive for a moment"
    last = max(asked for asked, status in seen if status == 200)
    print(
        f"{fault.kind}: known credential taken for {last:.2f} s, then 503; unknown 503 after {cold_s:.2f} s, write"
        f" {write_s:.2f} s; served again {back_s:.2f} s after",
        file=sys.stderr,
    )


def test_writes_that_wait_hold_up_no_news(tmp_path: Path, postgresql: PrivatePostgreSQL, url: str) -> None:
    """Whoever holds the lock of writes holds up writes: no node is taken out for it, and no stream is cut."""
    over, holds = threading.Event(), threading.Event()

    async def hold_lock() -> None:
        connection = await asyncpg.connect(url)
        async with connection.transaction():
            await connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})")
            holds.set()
            await asyncio.to_thread(over.wait)
        await connection.close()

    with serving(tmp_path, url) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
        dice, person = random.Random(SEED), Person("p")
        for act in (person._sign_up, person._sign_in, person._refresh):
            act(client, dice)
        holder = threading.Thread(target=asyncio.run, args=(hold_lock(),))
        holder.start()
        try:
            assert holds.wait(10)
            assert lives(client, person.alive[0].access), "which is to be written down"
            began = time.monotonic()
            while time.monotonic() - began < 2 * BOUND_S:
                assert client.get("/health/ready").json()["parts"]["news"]
                time.sleep(0.05)
        finally:
            over.set()
            holder.join()


def test_however_often_it_is_asked_whether_it_is_ready_the_store_is_not(
    tmp_path: Path, postgresql: PrivatePostgreSQL, url: str
) -> None:
    """Readiness is asked without credentials and without limits, by balancers and whoever else can reach it."""
    name = url.rpartition("/")[2]
    count = f"SELECT xact_commit FROM pg_stat_database WHERE datname = '{name}'"
    asked = 1000
    with serving(tmp_path, url) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
        time.sleep(1.5)  # PostgreSQL counts once a second
        before, began = int(asyncio.run(postgresql.execute(count))), time.monotonic()
        for _ in range(asked):
            assert client.get("/health/ready").status_code == 200
        took_s = time.monotonic() - began
        time.sleep(1.5)
        transactions = int(asyncio.run(postgresql.execute(count))) - before
    print(f"{asked} asked in {took_s:.2f} s: {transactions} transactions, the poll's among them", file=sys.stderr)
    assert transactions < asked / 2


def disable(directory: Path, url: str, email: str) -> None:
    """Disable an account by command, on a way of its own to the store."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **CHEAP, "GARRISON_DATABASE_URL": url}
    done = forks.run([GARRISON, "account", "disable", email], directory, environment)
    assert done.returncode == 0, done.stderr


def test_a_server_whose_store_is_silent_ends_in_time_and_says_what_is_lost(
    tmp_path: Path, postgresql: PrivatePostgreSQL, url: str
) -> None:
    with (
        FaultProxy("127.0.0.1", postgresql.port, seed=SEED) as proxy,
        serving(tmp_path, url.replace(f":{postgresql.port}/", f":{proxy.port}/")) as server,
        httpx2.Client(base_url=server.url, timeout=30) as client,
    ):
        assert client.get("/health/ready").status_code == 200
        proxy.set(BLACK_HOLE)
        for _ in range(20):
            assert client.get("/whoami").status_code == 401
        client.close()
        assert server.process is not None
        began = time.monotonic()
        server.process.terminate()
        assert server.process.wait(KILL_AFTER_S) == 0
        took_s = time.monotonic() - began
    lost = re.findall(r"refusals_lost .*count=(\d+)", server.log.read_text())
    print(f"SIGTERM while the store is silent: ended after {took_s:.1f} s, counts lost: {lost}", file=sys.stderr)
    assert lost == ["20"]


def test_a_synchronous_standby_takes_over_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    with PrivatePostgreSQL() as primary:
        asyncio.run(primary.execute("CREATE DATABASE garrison"))
        with primary.standby(synchronous=True) as standby:
            while asyncio.run(primary.execute("SELECT max(sync_state) FROM pg_stat_replication")) != "sync":
                time.sleep(0.02)
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            url = f"postgresql://postgres@{hosts}/garrison?target_session_attrs=read-write"
            with serving(tmp_path, url) as server:
                with Load(server) as load:
                    time.sleep(random.Random(SEED).uniform(0.5, 1.5))
                    load.recovered_s(time.monotonic())
                    killed = time.monotonic()
                    primary.kill()
                    promoted_s = standby.promote()
                    back_s = load.recovered_s(killed + promoted_s)
                    load.recovered_s(time.monotonic() + 0.2)
                hold(server, load.people)
    print(
        f"failover: promoted in {promoted_s:.2f} s, first write {back_s:.2f} s after that; {told(load.people)};"
        f" known credential: {dict(load.shown)}",
        file=sys.stderr,
    )
    assert set(load.shown) <= {200, 503}


@contextmanager
def full_sqlite(request: pytest.FixtureRequest, disk: Path) -> Iterator[tuple[str, Callable[[str], int]]]:
    path = disk / "garrison.db"

    def ask(sql: str) -> int:
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            return int(connection.execute(sql).fetchone()[0])

    yield f"sqlite:///{path}", ask


@contextmanager
def full_postgresql(request: pytest.FixtureRequest, disk: Path) -> Iterator[tuple[str, Callable[[str], int]]]:
    """The database alone is on the small disk. A disk that is too full for its log stops PostgreSQL itself."""
    postgresql: PrivatePostgreSQL = request.getfixturevalue("postgresql")
    place = disk / "tablespace"
    postgresql.own(place)
    asyncio.run(postgresql.execute(f"CREATE TABLESPACE small LOCATION '{place}'"))
    asyncio.run(postgresql.execute("CREATE DATABASE garrison_small TABLESPACE small"))

    def ask(sql: str) -> int:
        return int(asyncio.run(postgresql.execute(sql, "garrison_small")))

    try:
        yield postgresql.url("garrison_small"), ask
    finally:
        asyncio.run(postgresql.execute("DROP DATABASE garrison_small WITH (FORCE)"))
        asyncio.run(postgresql.execute("DROP TABLESPACE small"))


@pytest.mark.parametrize("store", [full_sqlite, full_postgresql], ids=["sqlite", "postgresql"])
def test_a_full_disk_refuses_writes_alone_and_counts_what_it_could_not_store(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    store: Callable[..., AbstractContextManager[tuple[str, Callable[[str], int]]]],
) -> None:
    with small_disk(40) as disk, store(request, disk) as (url, ask):
        dice, person = random.Random(SEED), Person("p")
        with serving(tmp_path, url) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
            for act in (person._sign_up, person._sign_in, person._sign_in, person._make_key):
                act(client, dice)
            assert lives(client, person.alive[0].access)
            ballast = fill(disk)
            until_refused(client, dice)
            assert lives(client, person.alive[0].access), "known credentials are taken"
            assert lives(client, person.alive[1].access), "and such as only the store knows"
            for _ in range(50):
                assert client.get("/whoami", headers=bearer("no.such.token")).status_code == 401
            assert client.get("/health/live").status_code == 200
            ballast.unlink()
            freed = time.monotonic()
            while True:
                try:
                    person.check(client, dice)
                    break
                except Refused:
                    assert time.monotonic() - freed < 5 + SLACK_S
            back_s = time.monotonic() - freed
            while ask(_COUNTED) < 50:
                assert time.monotonic() - freed < 10 + SLACK_S, "what was counted meanwhile is stored"
                time.sleep(0.1)
            ballast = fill(disk)
            until_refused(client, dice)
            for _ in range(50):
                client.get("/whoami", headers=bearer("no.such.token"))
        ballast.unlink()
        lost = sum(
            int(count) for count in re.findall(r"refusals_lost.*?count['\"]?[=:] ?(\d+)", server.log.read_text())
        )
        stored = ask(_COUNTED)
        assert stored + lost >= 100, "a refusal that could not be stored is told, with how many there were"
        print(
            f"full disk: written again after {back_s:.2f} s; {stored} refusals stored, {lost} told as lost",
            file=sys.stderr,
        )


_COUNTED = "SELECT coalesce(sum(count), 0) FROM refusals WHERE code = 'invalid_token'"


def until_refused(client: httpx2.Client, dice: random.Random) -> None:
    """Write until there is no place any more."""
    for _ in range(2000):
        body = {"email": f"x{dice.getrandbits(64):x}@example.com", "password": "x" * 200}
        answer = client.post("/auth/sign-up", json=body)
        check_503(answer)
        if answer.status_code == 503:
            return
    raise AssertionError("it was never full")
