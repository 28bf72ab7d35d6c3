"""What a request costs with few accounts and with many, measured in one run, in turn, on SQLite and on PostgreSQL.

    python bench/growth.py --accounts 1000000

Seeds a small and a large database (`bench/seed.py`), does the same work in both, one round here, one round there, and
prints medians and their ratio (goal: 1.3 at most). Work goes through the product's own services and authenticators,
on rows chosen at random among all there are; what is called cold was never seen by this process, what is called warm a
moment ago. The sessions that are warm are as many in both: how many one process keeps does not grow with the accounts.
Signatures are ES256 and password hashes cheap, since neither grows, and either would hide what does.

Afterwards every statement of the product is explained in the large database (`bench/statements.py`); the exit code is 1
where one reads a whole table, be it because the planner chose so or because no index would serve.
Whatever was made is deleted.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is run by its name

from bench import statements  # noqa: E402
from bench.apps import guarded  # noqa: E402
from bench.asking import receive_nothing, scope_of, settings, started  # noqa: E402
from bench.asking import run as run_in_loop  # noqa: E402
from bench.plans import Plan, Statement, explain_postgresql, explain_sqlite, is_list  # noqa: E402
from bench.seed import Filled, Population, fill, say  # noqa: E402
from garrison.core.clock import SystemClock  # noqa: E402
from garrison.core.ids import digest  # noqa: E402
from garrison.core.network import bucket  # noqa: E402
from garrison.core.sealing import Sealer  # noqa: E402
from garrison.guard.authenticate import REFUSED  # noqa: E402
from garrison.guard.limit_table import LimitTable  # noqa: E402
from garrison.guard.revocation import RevocationView  # noqa: E402
from garrison.identity.accounts.queries import find_credentials  # noqa: E402
from garrison.identity.keys.authenticator import KeyAuthenticator  # noqa: E402
from garrison.identity.keys.queries import KEY_READ  # noqa: E402
from garrison.identity.keys.secret import PURPOSE as KEY_PURPOSE  # noqa: E402
from garrison.identity.sessions.authenticator import CookieAuthenticator  # noqa: E402
from garrison.identity.sessions.model import COOKIE_PURPOSE  # noqa: E402
from garrison.identity.sessions.queries import COLD_READ  # noqa: E402
from garrison.identity.settings import IdentitySettings, PasswordCost  # noqa: E402
from garrison.identity.tokens.authenticator import AccessTokenAuthenticator  # noqa: E402
from garrison.identity.tokens.queries import ACCESS_READ  # noqa: E402
from garrison.identity.tokens.service import Family  # noqa: E402
from garrison.serve.frameworks import guard_of  # noqa: E402
from garrison.serve.settings import Settings  # noqa: E402
from garrison.serve.wiring import SWEPT, wire_identity  # noqa: E402
from garrison.store.database import Database  # noqa: E402
from garrison.store.postgresql import open_postgresql  # noqa: E402
from garrison.store.sqlite import open_sqlite, sqlite_path  # noqa: E402
from garrison.store.sweeper import store_sweeps, sweep_batch  # noqa: E402
from garrison.wire.answer import Message  # noqa: E402
from garrison.wire.call import Call  # noqa: E402

GOAL_RATIO = 1.3
SMALL = 1000
LARGE_TABLE = 10_000
"""Rows from which on reading a whole table is never the right way; below, the planner may choose it."""
STORES = ("sqlite", "postgresql")
SETTINGS = IdentitySettings(
    development=True, password_cost=PasswordCost(8, 1, 1), hash_threads=1, signing_algorithm="ES256"
)
Item = Any
_SCOPES = frozenset({"tasks:read"})


@dataclass(frozen=True, slots=True)
class Line:
    """Medians of one kind of work, microseconds, and what one grew to."""

    name: str
    small_us: float
    large_us: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Scan:
    """A statement that reads whole tables in the large database."""

    of: str
    sql: str
    tables: tuple[str, ...]
    lines: tuple[str, ...]


class Side:
    """One database with the product on it."""

    def __init__(self, database: Database, people: Population, seed: int, served: Settings) -> None:
        self.people = people
        self.database = database
        self.random = random.Random(seed)
        self.clock = SystemClock()
        self.view = RevocationView(self.clock, bound_s=3600.0)
        self.view.polled(self.clock.boot())
        self.sealer = Sealer(served.secrets())
        self.identity = wire_identity(
            database, self.clock, self.view, self.sealer, SETTINGS, lambda roles: _SCOPES, LimitTable()
        )
        self.by_cookie = self._one(CookieAuthenticator)
        self.by_key = self._one(KeyAuthenticator)
        self.by_token = self._one(AccessTokenAuthenticator)
        self.sign_in = next(one for one in self.identity.endpoints if one.path == "/auth/sign-in")
        self.newest: dict[int, str] = {}
        """Family → its newest refresh token, where it was rotated since."""
        self.app = guarded("FastAPI", served)
        """A guarded app of its own on the same database; it has to be started."""

    def call(self, **headers: str) -> Call:
        """Return a call with these headers, as the guard hands it to an authenticator."""
        call = Call({"type": "http", "method": "POST"})
        call.headers = {b"cookie": b""} | {
            name.replace("_", "-").encode(): one.encode() for name, one in headers.items()
        }
        call.peer, call.network, call.secure = "127.0.0.1", bucket("127.0.0.1"), False
        call.now, call.boot = self.clock.now(), self.clock.boot()
        return call

    def _one(self, kind: type) -> Any:
        return next(one for one in self.identity.authenticators if isinstance(one, kind))

    def cookie_session(self) -> int:
        """Return some session that is shown by cookie."""
        return self.people.cookie_session(self.random.randrange(self.people.cookie_sessions()))

    def family(self) -> int:
        """Return some family that is first party."""
        while True:
            found = self.people.family(self.random.randrange(self.people.families()))
            if found % 20 != 4:
                return found


class Kind:
    """One kind of work: `items` are made beforehand, `work` is timed for each; both belong to a side."""

    name: str

    def __init__(self, side: Side) -> None:
        self.side = side

    async def items(self, count: int) -> Sequence[Item]:
        """Return what the work will be done on."""
        raise NotImplementedError

    def work(self, item: Item) -> Any:
        """Do it; an awaitable is waited for. REFUSED and None are no results."""
        raise NotImplementedError


class SignInLookup(Kind):
    """The account of an address."""

    name = "sign-in, look-up by address"

    async def items(self, count: int) -> Sequence[Item]:
        people, at = self.side.people, self.side.random.randrange
        return [people.email(at(people.accounts)) for _ in range(count)]

    def work(self, item: Item) -> Any:
        return self.side.database.read(partial(find_credentials, email_key=item))


class SignIn(Kind):
    """All of it: throttle, hash, session, device, events."""

    name = "sign-in, whole"

    async def items(self, count: int) -> Sequence[Item]:
        people, body = self.side.people, self.side.sign_in.body
        if body is None:
            raise RuntimeError("sign-in takes a body")
        chosen = self.side.random.choices(people.with_password(), k=count)
        return [(self.side.call(), body(email=people.email(n), password=people.password(n))) for n in chosen]

    def work(self, item: Item) -> Any:
        return self.side.sign_in.handler(*item)


class SessionRead(Kind):
    """The guard's read of a session, by the driver alone."""

    name = "session, the read alone"

    async def items(self, count: int) -> Sequence[Item]:
        secret = self.side.people.session_secret
        return [(digest(secret(self.side.cookie_session()), purpose=COOKIE_PURPOSE),) for _ in range(count)]

    def work(self, item: Item) -> Any:
        return _found(self.side.database.cold(COLD_READ, item))


class SessionCold(Kind):
    """A session's cookie that this process sees for the first time."""

    name = "session, cold"

    async def items(self, count: int) -> Sequence[Item]:
        secrets_ = [self.side.people.session_secret(self.side.cookie_session()) for _ in range(count)]
        for one in secrets_:
            self.side.identity.cache.forget_one(digest(one, purpose=COOKIE_PURPOSE))
        return [self.side.call(cookie=f"garrison={one}") for one in dict.fromkeys(secrets_)]

    def work(self, item: Item) -> Any:
        return self.side.by_cookie.check(item)


class SessionWarm(SessionCold):
    """The same a moment later."""

    name = "session, warm"

    async def items(self, count: int) -> Sequence[Item]:
        calls = await super().items(count)
        for call in calls:
            await _waited(self.side.by_cookie.check(call))
        return calls


class RequestCold(Kind):
    """A whole request of FastAPI in process, with a session's cookie that the guard sees for the first time."""

    name = "request with a session, cold"

    async def items(self, count: int) -> Sequence[Item]:
        secrets_ = [self.side.people.session_secret(self.side.cookie_session()) for _ in range(count)]
        for one in secrets_:
            guard_of(self.side.app)._runtime._identity.cache.forget_one(digest(one, purpose=COOKIE_PURPOSE))
        return [scope_of("/private", (b"cookie", f"garrison={one}".encode())) for one in dict.fromkeys(secrets_)]

    async def work(self, item: Item) -> Any:
        statuses: list[int] = []

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await self.side.app(dict(item), receive_nothing, send)
        return statuses == [200] or None


class RequestWarm(RequestCold):
    """The same a moment later."""

    name = "request with a session, warm"

    async def items(self, count: int) -> Sequence[Item]:
        scopes = await super().items(count)
        for scope in scopes:
            await self.work(scope)
        return scopes


class TokenRead(Kind):
    """The guard's read of an access token, by the driver alone."""

    name = "JWT, the read alone"

    async def items(self, count: int) -> Sequence[Item]:
        kid, side = self.side.identity.keyring.signing.kid, self.side
        return [(kid, side.people.session_id(side.family())) for _ in range(count)]

    def work(self, item: Item) -> Any:
        return _found(self.side.database.cold(ACCESS_READ, item))


class TokenCold(Kind):
    """An access token that this process sees for the first time."""

    name = "JWT, cold"

    async def items(self, count: int) -> Sequence[Item]:
        people, found = self.side.people, []
        for _ in range(count):
            session = self.side.family()
            account = people.account_id(people.account_of_session(session))
            family = Family(people.session_id(session), account, frozenset({"member"}), 1, "", 0.0)
            issued = await self.side.identity.tokens.issue(family)
            found.append(self.side.call(authorization=f"Bearer {issued.access_token}"))
        return found

    def work(self, item: Item) -> Any:
        return self.side.by_token.check(item)


class TokenWarm(TokenCold):
    """The same a moment later."""

    name = "JWT, warm"

    async def items(self, count: int) -> Sequence[Item]:
        calls = await super().items(count)
        for call in calls:
            await _waited(self.side.by_token.check(call))
        return calls


class Refresh(Kind):
    """A rotation: the whole transaction, and a new access token."""

    name = "refresh"

    async def items(self, count: int) -> Sequence[Item]:
        return list(dict.fromkeys(self.side.family() for _ in range(count)))

    async def work(self, item: Item) -> Any:
        people, newest = self.side.people, self.side.newest
        token = newest.get(item) or people.refresh_token(item, people.last_number(item))
        issued = await self.side.identity.tokens.refresh(token, device_secret=None)
        newest[item] = issued.refresh_token
        return issued


class KeyRead(Kind):
    """The guard's read of an API key, by the driver alone."""

    name = "API key, the read alone"

    async def items(self, count: int) -> Sequence[Item]:
        people, at = self.side.people, self.side.random.randrange
        return [(digest(people.key(at(people.keys)), purpose=KEY_PURPOSE),) * 3 for _ in range(count)]

    def work(self, item: Item) -> Any:
        return _found(self.side.database.cold(KEY_READ, item))


class KeyCold(Kind):
    """A key that this process sees for the first time."""

    name = "API key, cold"

    async def items(self, count: int) -> Sequence[Item]:
        people, at = self.side.people, self.side.random.randrange
        keys = list(dict.fromkeys(people.key(at(people.keys)) for _ in range(count)))
        for one in keys:
            self.side.identity.cache.forget_one(digest(one, purpose=KEY_PURPOSE))
        return [self.side.call(x_api_key=one) for one in keys]

    def work(self, item: Item) -> Any:
        return self.side.by_key.check(item)


class SessionList(Kind):
    """What somebody's sessions are."""

    name = "list of sessions"

    async def items(self, count: int) -> Sequence[Item]:
        people = self.side.people
        return [people.account_id(people.account_of_session(self.side.cookie_session())) for _ in range(count)]

    def work(self, item: Item) -> Any:
        return self.side.identity.sessions.list(item)


class Sweeping(Kind):
    """One transaction of the sweeper, with nothing to sweep."""

    name = "sweep, nothing expired"

    async def items(self, count: int) -> Sequence[Item]:
        sweeps, now = (*SWEPT, *store_sweeps()), self.side.people.now
        return [lambda connection: sweep_batch(connection, sweeps, now)] * count

    async def work(self, item: Item) -> Any:
        swept = await self.side.database.write(item)
        if swept:
            raise RuntimeError(f"{swept} rows were there to sweep")
        return swept


KINDS: tuple[type[Kind], ...] = (
    SignInLookup,
    SignIn,
    SessionRead,
    SessionCold,
    SessionWarm,
    RequestCold,
    RequestWarm,
    TokenRead,
    TokenCold,
    TokenWarm,
    Refresh,
    KeyRead,
    KeyCold,
    SessionList,
    Sweeping,
)


def _found(rows: Any) -> Any:
    """Return the rows, or an awaitable of them; none at all are no result."""
    return rows or None


async def _waited(result: Any) -> Any:
    found = await result if isinstance(result, Awaitable) else result
    if found is None or found is REFUSED or found == []:
        raise RuntimeError("nothing was found, or it was refused: that is no figure")
    return found


async def measure(small: Side, large: Side, *, rounds: int, count: int, said: Callable[[str], None]) -> list[Line]:
    """Return a line for each kind of work: medians over `rounds` times `count`, after one round that does not count."""
    for side in (small, large):
        await side.identity.signing.keep()
    lines: list[Line] = []
    for kind in KINDS:
        said(kind.name)
        works = kind(small), kind(large)
        spent: tuple[list[float], list[float]] = [], []
        for number in range(rounds + 1):
            for at in (0, 1) if number % 2 else (1, 0):
                found = await _timed(works[at], count)
                spent[at].extend(found if number else ())
        small_us, large_us = (statistics.median(one) * 1e6 for one in spent)
        lines.append(Line(kind.name, small_us, large_us, large_us / small_us))
    return lines


async def _timed(kind: Kind, count: int) -> list[float]:
    spent: list[float] = []
    for item in await kind.items(count):
        began = time.perf_counter()
        result = kind.work(item)
        found = await result if isinstance(result, Awaitable) else result
        spent.append(time.perf_counter() - began)
        await _waited(found)
    return spent


def scans_of(url: str, recorded: Sequence[Statement], filled: Sequence[Filled]) -> list[Scan]:
    """Return the statements that read a whole table: a large one as the planner chose, or any for want of an index."""
    large = frozenset(one.table for one in filled if one.rows >= LARGE_TABLE)
    chosen, needed = (explain(url, recorded, prefer_indexes=one) for one in (False, True))
    read = [
        (plan, tuple(large.intersection(plan.scans)) or need.scans) for plan, need in zip(chosen, needed, strict=True)
    ]
    return [
        Scan(one.of, one.sql, tables, plan.lines)
        for one, (plan, tables) in zip(recorded, read, strict=True)
        if tables and not is_list(one)
    ]


def explain(url: str, recorded: Sequence[Statement], *, prefer_indexes: bool = False) -> list[Plan]:
    """Return the plan of each statement in this database."""
    if url.startswith("sqlite"):
        return explain_sqlite(sqlite_path(url), recorded, prefer_indexes=prefer_indexes)
    return explain_postgresql(url, recorded, prefer_indexes=prefer_indexes)


@contextlib.contextmanager
def databases(store: str, directory: str | None, server: str) -> Iterator[tuple[str, str]]:
    """Make two empty databases, return their addresses, and delete them afterwards."""
    if store == "sqlite":
        with tempfile.TemporaryDirectory(prefix="garrison-growth-", dir=directory) as made:
            yield f"sqlite:///{made}/small.db", f"sqlite:///{made}/large.db"
        return
    names = [f"garrison_growth_{os.getpid()}_{secrets.token_hex(4)}_{size}" for size in ("small", "large")]
    try:
        for name in names:
            asyncio.run(_ask(f"{server}/postgres", f"CREATE DATABASE {name}"))
        small, large = (f"{server}/{name}" for name in names)
        yield small, large
    finally:
        for name in names:
            asyncio.run(_ask(f"{server}/postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))


async def _ask(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def warm(url: str) -> None:
    """Read the whole database once, so that neither is measured from the disk."""
    if url.startswith("sqlite"):
        with sqlite_path(url).open("rb") as file:
            while file.read(1 << 24):
                pass
        return
    statement = "SELECT sum(pg_prewarm(oid, 'read')) FROM pg_class WHERE relkind IN ('r', 'i') AND oid > 16383"
    asyncio.run(_ask(url, f"CREATE EXTENSION IF NOT EXISTS pg_prewarm; {statement}"))


@contextlib.asynccontextmanager
async def opened(url: str, people: Population, seed: int) -> AsyncIterator[Side]:
    """Open the product on a seeded database."""
    database: Database = open_sqlite(url) if url.startswith("sqlite") else open_postgresql(url)
    side = Side(database, people, seed, settings(Path(), database_url=url))
    try:
        async with started(side.app):
            yield side
    finally:
        side.identity.passwords.close()
        await database.close()


def grow(store: str, people: Sequence[Population], chosen: argparse.Namespace) -> dict[str, Any]:
    """Seed both databases of a store, measure in them, look at the plans; return the report."""
    with databases(store, chosen.directory, chosen.postgresql) as urls:
        filled: list[list[Filled]] = []
        for url, one in zip(urls, people, strict=True):
            say(f"{store}: {one.accounts:,} accounts …")
            filled.append(fill(url, one, say))
        for url in urls:
            warm(url)

        async def work() -> tuple[list[Line], list[Statement]]:
            async with opened(urls[0], people[0], 1) as small, opened(urls[1], people[1], 2) as large:
                lines = await measure(small, large, rounds=chosen.rounds, count=chosen.count, said=say)
                recorded = await statements.record(large.database, people[1], large.clock, large.sealer, SETTINGS)
                return lines, recorded

        lines, recorded = run_in_loop(work)
        say(f"{store}: plans")
        return {
            "store": store,
            "filled": [one._asdict() for one in filled[1]],
            "lines": [asdict(line) for line in lines],
            "statements": len(recorded),
            "scans": [asdict(scan) for scan in scans_of(urls[1], recorded, filled[1])],
            "plans": _plans(urls[1], recorded) if chosen.plans else [],
        }


def _plans(url: str, recorded: Sequence[Statement]) -> list[Mapping[str, Any]]:
    plans = zip(recorded, explain(url, recorded), strict=True)
    return [{"of": one.of, "sql": one.sql, "lines": plan.lines} for one, plan in plans]


def show(report: Mapping[str, Any], people: Sequence[Population]) -> None:
    """Print the report of one store for people."""
    small, large = (f"{one.accounts:,}" for one in people)
    rows, seconds = (sum(one[name] for one in report["filled"]) for name in ("rows", "seconds"))
    print(f"\n{report['store']}: {rows:,} rows for {large} accounts, seeded in {seconds:.0f} s")
    print(f"  {'median, µs':<30}{small:>12}{large:>12}{'ratio':>8}   goal {GOAL_RATIO:g}")
    for line in report["lines"]:
        name, ratio = line["name"], line["ratio"]
        print(f"  {name:<30}{line['small_us']:>12.1f}{line['large_us']:>12.1f}{ratio:>8.2f}")
    for plan in report["plans"]:
        print(f"\n  {plan['of']}: {' '.join(plan['sql'].split())}")
        print("\n".join(f"      {line}" for line in plan["lines"]))
    print(f"  {report['statements']} statements explained, {len(report['scans'])} read a whole table")
    for scan in report["scans"]:
        print(f"    {scan['of']} reads {', '.join(scan['tables'])}: {' '.join(scan['sql'].split())}")
        print("\n".join(f"      {line}" for line in scan["lines"]))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit code: 1 where a statement reads a whole table, 2 for what cannot be, else 0."""
    parser = argparse.ArgumentParser(
        prog="bench/growth.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python bench/growth.py\n"
        "  python bench/growth.py --accounts 1000000 --directory /var/tmp\n"
        "  python bench/growth.py --stores sqlite --accounts 20000 --rounds 3 --json",
    )
    parser.add_argument("--accounts", type=int, default=100_000, help="of the large database (100,000)")
    parser.add_argument("--small", type=int, default=SMALL, help="of the small one (1,000)")
    parser.add_argument("--stores", nargs="+", choices=STORES, default=STORES, help="which (both)")
    parser.add_argument("--postgresql", default="postgresql://postgres@127.0.0.1:5432", help="server, without database")
    parser.add_argument("--directory", help="where SQLite's files are made: 2.5 GB for 1,000,000 accounts")
    parser.add_argument("--rounds", type=int, default=15, help="how often each database takes its turn (15)")
    parser.add_argument("--count", type=int, default=40, help="how much is done in a turn (40)")
    parser.add_argument("--seed", default="", help="any word; which is used is printed")
    parser.add_argument("--plans", action="store_true", help="print the plan of every statement, too")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args(arguments)
    if chosen.small < 100 or chosen.accounts < chosen.small:
        print("at least 100 accounts in the small database, and no fewer in the large one", file=sys.stderr)
        return 2
    seed, now = chosen.seed or secrets.token_hex(8), time.time()
    people = [Population(seed, n, n, n // 10, now) for n in (chosen.small, chosen.accounts)]
    if not chosen.json:
        print(f"--seed {seed}")
    reports = []
    for store in chosen.stores:
        reports.append(grow(store, people, chosen))
        if not chosen.json:
            show(reports[-1], people)
    if chosen.json:
        print(json.dumps({"seed": seed, "accounts": [one.accounts for one in people], "stores": reports}, indent=2))
    return 1 if any(report["scans"] for report in reports) else 0


if __name__ == "__main__":
    sys.exit(main())
