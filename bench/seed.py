"""Fills a database with many accounts, sessions, keys and what comes with them, so that growth can be measured.

    python bench/seed.py sqlite:///big.db --accounts 1000000

Every row has the shape the product writes: digests of real secrets, ids of the real form, times that are still good.
All of it is drawn from a seed, which is printed: `Population` tells the secret of the n-th session or key again, so
any row can be used over HTTP afterwards. `PASSWORDS` accounts, spread over all, have a password with a cheap hash; the
others' hashes match nothing.

The tables are made by the product's own migrations. SQLite is written with `synchronous=OFF`, since a file that is not
finished is made anew; PostgreSQL by COPY. A database that has accounts already is refused.
"""

import argparse
import asyncio
import base64
import contextlib
import secrets
import sqlite3
import struct
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b, sha256
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
from argon2.low_level import Type, hash_secret
from sqlalchemy import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is run by its name

from garrison.core.ids import digest  # noqa: E402
from garrison.identity.accounts.model import accounts  # noqa: E402
from garrison.identity.clients.model import PURPOSE as CLIENT_PURPOSE  # noqa: E402
from garrison.identity.clients.model import clients  # noqa: E402
from garrison.identity.devices.model import PURPOSE as DEVICE_PURPOSE  # noqa: E402
from garrison.identity.devices.model import devices  # noqa: E402
from garrison.identity.issuers.refused import refused_subjects  # noqa: E402
from garrison.identity.keys.model import api_keys  # noqa: E402
from garrison.identity.keys.secret import PREFIX as KEY_PREFIX  # noqa: E402
from garrison.identity.keys.secret import PURPOSE as KEY_PURPOSE  # noqa: E402
from garrison.identity.keys.secret import with_checksum  # noqa: E402
from garrison.identity.oauth.assertions import used_assertions  # noqa: E402
from garrison.identity.oauth.codes import PURPOSE as CODE_PURPOSE  # noqa: E402
from garrison.identity.oauth.codes import codes  # noqa: E402
from garrison.identity.oauth.device_codes import DEVICE_PURPOSE as DEVICE_CODE_PURPOSE  # noqa: E402
from garrison.identity.oauth.device_codes import USER_PURPOSE, device_codes  # noqa: E402
from garrison.identity.oauth.revoked import revoked_tokens  # noqa: E402
from garrison.identity.providers.model import identities  # noqa: E402
from garrison.identity.sessions.model import COOKIE_PURPOSE, NO_PURPOSE, sessions  # noqa: E402
from garrison.identity.tokens.model import PREFIX as REFRESH_PREFIX  # noqa: E402
from garrison.identity.tokens.model import PURPOSE as REFRESH_PURPOSE  # noqa: E402
from garrison.identity.tokens.model import refresh_tokens  # noqa: E402
from garrison.store.audit import events, refusals  # noqa: E402
from garrison.store.counters import counters  # noqa: E402
from garrison.store.log import changes  # noqa: E402
from garrison.store.migrate import upgrade  # noqa: E402
from garrison.store.opening import is_postgresql  # noqa: E402
from garrison.store.sqlite import sqlite_path  # noqa: E402

Said = Callable[[str], None]
Row = tuple[Any, ...]
PASSWORDS = 1000
"""Accounts, spread evenly, that can sign in by password."""
COST = {"time_cost": 1, "memory_cost": 8, "parallelism": 1}
"""Of their hashes: m=8,t=1,p=1."""
_DAY_S = 86_400.0
_FOUR = struct.Struct("4Q")
_CHUNK = 50_000
_COOKIES_OF_5 = 3
"""Of five sessions three are cookies, two are families of refresh tokens."""
_CROCKFORD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789abcdefghjkmnpqrstvwxyz")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NAMES = ("ada", "alan", "barbara", "edsger", "frances", "grace", "john", "margaret", "niklaus", "radia")
_DOMAINS = ("example.com", "example.net", "example.org", "mail.example.com", "post.example.net")
_AGENTS = ("Firefox on Linux", "Firefox on Windows", "Safari on iPhone", "Chrome on Android", "Chrome on macOS")
_EVENTS = ("session.created", "session.revoked", "account.created", "password.changed", "key.created", "refresh.reused")
_REFUSALS = ("missing_token", "invalid_token", "rate_limited", "insufficient_role", "origin_refused")


@dataclass(frozen=True)
class Population:
    """Who is in the database, and what they show. Everything follows from the fields; `now` is Unix seconds."""

    seed: str
    accounts: int
    sessions: int
    keys: int
    now: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        if self.accounts < 1 or self.sessions < 0 or self.keys < 0:
            raise ValueError("at least one account; sessions and keys not below none")

    @cached_property
    def _key(self) -> bytes:
        return sha256(self.seed.encode()).digest()

    def _bytes(self, what: str, n: int, size: int = 32) -> bytes:
        return blake2b(b"%b%b %d" % (self._key, what.encode(), n), digest_size=size).digest()

    def draw(self, what: str, n: int, below: int) -> int:
        """Return a number from 0 to `below` - 1, the same one each time."""
        return int.from_bytes(self._bytes(what, n, 8)) % below

    def shares(self, what: str, n: int) -> tuple[float, ...]:
        """Return four numbers from 0 to below 1, the same ones each time."""
        return tuple((number >> 11) / (1 << 53) for number in _FOUR.unpack(self._bytes(what, n)))

    def _id(self, prefix: str, n: int) -> str:
        return f"{prefix}_{base64.b32encode(self._bytes(prefix, n, 15)).translate(_CROCKFORD).decode()}"

    def _secret(self, what: str, n: int) -> str:
        return base64.urlsafe_b64encode(self._bytes(what, n)).rstrip(b"=").decode()

    def account_id(self, n: int) -> str:
        """Return the id of account `n`, from 0."""
        return self._id("acc", n)

    def email(self, n: int) -> str:
        """Return the address of account `n`, in normal form."""
        tail = self._bytes("email", n, 5).hex()
        return f"{_NAMES[n % len(_NAMES)]}.{tail}{n}@{_DOMAINS[self.draw('domain', n, len(_DOMAINS))]}"

    def with_password(self) -> Sequence[int]:
        """Return the accounts that have a password."""
        return range(0, self.accounts, max(1, self.accounts // PASSWORDS))

    def password(self, n: int) -> str:
        """Return the password of account `n`, which is one of `with_password`."""
        return self._secret("password", n)

    def session_id(self, n: int) -> str:
        """Return the public id of session `n`."""
        return self._id("ses", n)

    def session_secret(self, n: int) -> str:
        """Return what the cookie of session `n` holds."""
        return self._secret("session", n)

    def account_of_session(self, n: int) -> int:
        """Return whose session `n` is."""
        return self.draw("account of session", n, self.accounts)

    def cookie_sessions(self) -> int:
        """Return how many sessions are shown by cookie; `cookie_session` names them."""
        return sum(max(0, (self.sessions + 4 - rest) // 5) for rest in range(_COOKIES_OF_5))

    def cookie_session(self, n: int) -> int:
        """Return which session the `n`-th cookie session is."""
        return n // _COOKIES_OF_5 * 5 + n % _COOKIES_OF_5

    def families(self) -> int:
        """Return how many sessions are families of refresh tokens; `family` names them."""
        return self.sessions - self.cookie_sessions()

    def family(self, n: int) -> int:
        """Return which session the `n`-th family is."""
        return n // (5 - _COOKIES_OF_5) * 5 + _COOKIES_OF_5 + n % (5 - _COOKIES_OF_5)

    def last_number(self, session: int) -> int:
        """Return the number of the newest token of a family: how often it was rotated, plus one."""
        return 1 + self.draw("rotations", session, 4)

    def refresh_token(self, session: int, number: int) -> str:
        """Return token `number` of a family."""
        return REFRESH_PREFIX + self._secret("refresh", session * 4096 + number)

    def key_id(self, n: int) -> str:
        """Return the public id of key `n`."""
        return self._id("key", n)

    def key(self, n: int) -> str:
        """Return key `n` as it is shown."""
        number, body = int.from_bytes(self._bytes("api key", n)), []
        for _ in range(43):
            number, at = divmod(number, len(_BASE62))
            body.append(_BASE62[at])
        return with_checksum(KEY_PREFIX + "".join(body))

    def account_of_key(self, n: int) -> int:
        """Return who made key `n`."""
        return self.draw("account of key", n, self.accounts)

    def device_secret(self, n: int) -> str:
        """Return the secret of device `n`, a device of account 2 `n`."""
        return self._secret("device", n)

    def client_id(self, n: int) -> str:
        """Return the id of client `n` of `clients`."""
        return self._id("cli", n)

    def client_secret(self, n: int) -> str:
        """Return the secret of client `n`."""
        return "grc_" + self._secret("client", n)

    def refused_subject(self, n: int) -> str:
        """Return the name of refused subject `n`, of https://accounts.example.com."""
        return self._secret("refused", n)

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return 5 + self.accounts // 10_000

    def fill(self) -> "Iterator[Filling]":
        """Return the tables in the order in which foreign keys allow them, each with its rows."""
        tenth, hundredth = self.accounts // 10, self.accounts // 100
        yield Filling(accounts, self.accounts, self._account)
        yield Filling(clients, self.clients, self._client)
        yield Filling(sessions, self.sessions, self._session)
        yield Filling(refresh_tokens, self.families(), self._tokens, is_many=True)
        yield Filling(api_keys, self.keys, self._api_key)
        yield Filling(devices, self.accounts // 2, self._device)
        yield Filling(identities, self.accounts // 20, self._identity)
        yield Filling(codes, hundredth, self._code)
        yield Filling(device_codes, hundredth, self._device_code)
        yield Filling(used_assertions, hundredth, self._assertion)
        yield Filling(revoked_tokens, hundredth, self._revoked)
        yield Filling(refused_subjects, hundredth, self._refused)
        yield Filling(changes, tenth, self._change)
        yield Filling(events, self.accounts, self._event)
        yield Filling(refusals, tenth, self._refusal)
        yield Filling(counters, tenth, self._counter)

    def _account(self, n: int) -> Row:
        roles = ("admin", "editor")[n % 2] if n % 20 == 0 else ""
        email, created_at = self.email(n), self.now - self.shares("signed up", n)[0] * 700 * _DAY_S
        has_password = n % max(1, self.accounts // PASSWORDS) == 0
        encoded = self._hash(n) if has_password else self._unmatched(n)
        return (self.account_id(n), email, email, encoded, 1, roles, "active", 1, 1, created_at)

    def _hash(self, n: int) -> str:
        salt = self._bytes("salt", n, 16)
        return hash_secret(self.password(n).encode(), salt, hash_len=32, type=Type.ID, **COST).decode()

    def _unmatched(self, n: int) -> str:
        salt = base64.b64encode(self._bytes("salt", n, 16)).rstrip(b"=").decode()
        result = base64.b64encode(self._bytes("hash", n)).rstrip(b"=").decode()
        return f"$argon2id$v=19$m=19456,t=2,p=1${salt}${result}"

    def _client(self, n: int) -> Row:
        secret = digest(self.client_secret(n), purpose=CLIENT_PURPOSE)
        grants, to = "authorization_code refresh_token client_credentials", "https://app.example.com/callback"
        row = (self.client_id(n), f"Client {n}", secret, None, None, grants, "https://api.example.com", "tasks:read")
        return (*row, to, "active", 1, 1, self.now - 30 * _DAY_S, False, None, False)

    def _session(self, n: int) -> Row:
        is_cookie = n % 5 < _COOKIES_OF_5
        account = self.account_of_session(n)
        secret = digest(self.session_secret(n), purpose=COOKIE_PURPOSE if is_cookie else NO_PURPOSE)
        signed_in, seen, client, network = self.shares("signed in", n)
        created_at = self.now - signed_in * 20 * _DAY_S
        seen_at = max(created_at, self.now - seen * 10 * _DAY_S)
        expires_at = created_at + (30 if is_cookie else 90) * _DAY_S
        device_id = self._id("dev", account // 2) if account % 2 == 0 else None
        is_clients = n % 20 == 4
        return (
            self.session_id(n),
            secret,
            self.account_id(account),
            1,
            "cookie" if is_cookie else "token",
            f'[["password",{created_at!r}]]',
            device_id,
            False,
            _AGENTS[n % len(_AGENTS)],
            _network(network, n),
            created_at,
            seen_at,
            min(seen_at + 14 * _DAY_S, expires_at),
            expires_at,
            1,
            None,
            self.client_id(int(client * self.clients)) if is_clients else None,
            "tasks:read" if is_clients else None,
            "https://api.example.com" if is_clients else None,
        )

    def _tokens(self, n: int) -> Iterable[Row]:
        session = self.family(n)
        session_id, last = self.session_id(session), self.last_number(session)
        newest_at = self.now - self.shares("refreshed", n)[0] * _DAY_S
        for number in range(1, last + 1):
            shown = digest(self.refresh_token(session, number), purpose=REFRESH_PURPOSE)
            is_used = number < last
            made_at = newest_at - (last - number) * 900.0
            successor = self._bytes("successor", session * 4096 + number, 64) + bytes(11) if is_used else None
            used_at = made_at + 900.0 if is_used else None
            yield (shown, session_id, number, made_at + 7 * _DAY_S, used_at, successor, number < last - 1)

    def _api_key(self, n: int) -> Row:
        secret, account = digest(self.key(n), purpose=KEY_PURPOSE), self.account_id(self.account_of_key(n))
        expires_at = self.now + 365 * _DAY_S if n % 2 else None
        rest = (secret, None, None, "tasks:read", "", "", expires_at, self.now - 50 * _DAY_S, None, 1)
        return (self.key_id(n), account, "api", f"Key {n}", *rest)

    def _device(self, n: int) -> Row:
        secret = digest(self.device_secret(n), purpose=DEVICE_PURPOSE)
        used_at = self.now - self.shares("device", n)[0] * 100 * _DAY_S
        account = self.account_id(2 * n)
        return (self._id("dev", n), secret, account, used_at, used_at, used_at + 400 * _DAY_S)

    def _identity(self, n: int) -> Row:
        return ("https://accounts.example.com", self._secret("subject", n), self.account_id(20 * n), self.now - _DAY_S)

    def _code(self, n: int) -> Row:
        made, client_share, _, _ = self.shares("code made", n)
        shown, made_at = digest(self._secret("code", n), purpose=CODE_PURPOSE), self.now - made * 3000
        client = self.client_id(int(client_share * self.clients))
        row = (shown, client, self.account_id(n), 1, "https://app.example.com/callback", "openid", "")
        challenge, session_id = self._secret("challenge", n), self.session_id(n)
        return (*row, challenge, "", made_at, made_at + 60, made_at + 3600, session_id, None)

    def _device_code(self, n: int) -> Row:
        shown = digest(self._secret("device code", n), purpose=DEVICE_CODE_PURPOSE)
        typed = digest(self._secret("user code", n), purpose=USER_PURPOSE)
        client, left, _, _ = self.shares("device code made", n)
        expires_at = self.now + 60 + left * 540
        row = (
            shown,
            typed,
            self.client_id(int(client * self.clients)),
            "openid",
            "",
            5.0,
            self.now,
            expires_at,
            "pending",
        )
        return (*row, None, None, None, None)

    def _assertion(self, n: int) -> Row:
        return (self._bytes("assertion", n), self.now + 60 + self.shares("assertion ends", n)[0] * 3600)

    def _revoked(self, n: int) -> Row:
        return (self._secret("jti", n), self.now + 60 + self.shares("revoked ends", n)[0] * 900)

    def _refused(self, n: int) -> Row:
        return ("https://accounts.example.com", self.refused_subject(n), n % 2 == 0, self.now - n, 1)

    def _change(self, n: int) -> Row:
        kind, subject = ("account", self.account_id(n)) if n % 2 else ("session", self._id("gone", n))
        return (kind, subject, 2, self._in_order(n, self.accounts // 10, 0.9 * _DAY_S))

    def _event(self, n: int) -> Row:
        who, network, _, _ = self.shares("event", n)
        at, account = self._in_order(n, self.accounts, 300 * _DAY_S), self.account_id(int(who * self.accounts))
        kind = _EVENTS[0] if n % 4 else _EVENTS[n // 4 % len(_EVENTS)]
        row = (self._id("evt", n), at, kind, account, account if n % 2 else self._id("ses", n), _network(network, n))
        return (*row, "POST /auth/sign-in", f"{n:016x}", '{"carrier":"cookie"}')

    def _refusal(self, n: int) -> Row:
        ago, who, network, _ = self.shares("refusal", n)
        refused = self.account_id(int(who * self.accounts)) if n % 2 else _network(network, n)
        minute = int(self.now // 60 - ago * 80 * 1440)
        return (_REFUSALS[n % len(_REFUSALS)], refused, f"GET /tasks/{n}", minute, 1 + n % 9)

    def _counter(self, n: int) -> Row:
        at = self.now + 1 + self.shares("counter ends", n)[0] * 900
        return (self._bytes("counter", n), at, at)

    def _in_order(self, n: int, of: int, span_s: float) -> float:
        return self.now - 1 - span_s * (1 - n / max(1, of))


@dataclass(frozen=True, slots=True)
class Filling:
    """`count` rows of a table, or `count` times several where `is_many`; numbered rows leave their numbers to it."""

    table: Table
    count: int
    make: Callable[[int], Any]
    is_many: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that rows have values for, in their order."""
        return tuple(column.name for column in self.table.columns if column.name != "position")

    def rows(self) -> Iterator[Row]:
        """Make the rows, one after the other."""
        for n in range(self.count):
            if self.is_many:
                yield from self.make(n)
            else:
                yield self.make(n)


class Filled(NamedTuple):
    """How many rows went into a table, and how long that took."""

    table: str
    rows: int
    seconds: float


def fill(url: str, population: Population, said: Said) -> list[Filled]:
    """Migrate the database, fill it, and gather its planner's figures (ANALYZE).

    Raises ValueError where there are accounts in it, or where it is another kind of database; StoreError.
    """
    upgrade(url)
    if is_postgresql(url):
        return asyncio.run(_fill_postgresql(url, population, said))
    return _fill_sqlite(sqlite_path(url), population, said)


def _chunks(filling: Filling, said: Said) -> Iterator[list[Row]]:
    rows, done = filling.rows(), 0
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk
        done += len(chunk)
        said(f"{filling.table.name}: {done:,} rows")


def _fill_sqlite(path: Path, population: Population, said: Said) -> list[Filled]:
    filled: list[Filled] = []
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as driver:
        driver.execute("PRAGMA synchronous=OFF")
        driver.execute(
            "PRAGMA cache_size=-2000000"
        )  # 2 GB at most: keys come in no order, and every page of an index is wanted
        _demand_empty(driver.execute("SELECT count(*) FROM accounts").fetchone()[0])
        for filling in population.fill():
            began, names = time.perf_counter(), filling.columns
            places = ", ".join("?" * len(names))
            sql = f"INSERT INTO {filling.table.name} ({', '.join(names)}) VALUES ({places})"
            rows = 0
            for chunk in _chunks(filling, said):
                driver.execute("BEGIN IMMEDIATE")
                driver.executemany(sql, chunk)
                driver.execute("COMMIT")
                rows += len(chunk)
            filled.append(Filled(filling.table.name, rows, time.perf_counter() - began))
        said("ANALYZE")
        driver.execute("ANALYZE")
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return filled


async def _fill_postgresql(url: str, population: Population, said: Said) -> list[Filled]:
    filled: list[Filled] = []
    connection = await asyncpg.connect(url, timeout=10)
    try:
        _demand_empty(await connection.fetchval("SELECT count(*) FROM accounts"))
        await connection.execute("SET synchronous_commit = off")
        for filling in population.fill():
            began, rows = time.perf_counter(), 0
            for chunk in _chunks(filling, said):
                await connection.copy_records_to_table(filling.table.name, records=chunk, columns=filling.columns)
                rows += len(chunk)
            filled.append(Filled(filling.table.name, rows, time.perf_counter() - began))
        said("VACUUM ANALYZE")
        await connection.execute("VACUUM ANALYZE")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()
    return filled


def _demand_empty(found: int) -> None:
    if found:
        raise ValueError(f"there are {found:,} accounts in this database: seed an empty one")


def _network(share: float, n: int) -> str:
    return f"203.0.113.{int(share * 256)}" if n % 3 else f"2001:db8:0:{n % 65536:x}::/64"


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill a database, print what is in it, return the exit code: 0, or 2 for what cannot be."""
    parser = argparse.ArgumentParser(
        prog="bench/seed.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n"
        "  python bench/seed.py sqlite:///big.db\n"
        "  python bench/seed.py sqlite:///big.db --accounts 1000000 --seed spring\n"
        "  python bench/seed.py postgresql://postgres@127.0.0.1/big --accounts 50000 --sessions 200000 --keys 0",
    )
    parser.add_argument("url", help="sqlite:///FILE or postgresql://USER@HOST:PORT/DATABASE, which exists")
    parser.add_argument("--accounts", type=int, default=100_000, help="how many (100,000)")
    parser.add_argument("--sessions", type=int, help="how many (as many as accounts)")
    parser.add_argument("--keys", type=int, help="how many (a tenth of the accounts)")
    parser.add_argument("--seed", default="", help="any word; the same word, numbers and --now make the same rows")
    parser.add_argument("--now", type=float, help="Unix time that all rows are written for (the clock's)")
    chosen = parser.parse_args(arguments)
    try:
        population = Population(
            seed=chosen.seed or secrets.token_hex(8),
            accounts=chosen.accounts,
            sessions=chosen.accounts if chosen.sessions is None else chosen.sessions,
            keys=chosen.accounts // 10 if chosen.keys is None else chosen.keys,
            now=time.time() if chosen.now is None else chosen.now,
        )
        print(f"--seed {population.seed} --now {population.now!r}")
        began = time.perf_counter()
        filled = fill(chosen.url, population, say)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    for one in filled:
        print(f"  {one.table:<20}{one.rows:>11,} rows{one.seconds:8.1f} s")
    print(f"  {'in all':<20}{sum(one.rows for one in filled):>11,} rows{time.perf_counter() - began:8.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
