"""Fixtures of this room: real stores, a manual clock, cheap hashes, the guard's own checks around endpoints."""

import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from garrison.core.clock import ManualClock
from garrison.core.errors import Denied, StoreError
from garrison.core.network import bucket
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.guard.own import answer_own
from garrison.guard.plan import Planner
from garrison.guard.renewal import offer_renewal
from garrison.guard.revocation import RevocationView
from garrison.guard.settings import GuardSettings
from garrison.identity.accounts.routes import account_endpoints
from garrison.identity.accounts.service import AccountService
from garrison.identity.changes import Changes
from garrison.identity.issuers.fetch import fetch
from garrison.identity.issuers.service import IssuerService
from garrison.identity.issuers.verifier import ForeignTokens
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.passwords.pool import HashPool
from garrison.identity.passwords.routes import password_endpoints
from garrison.identity.passwords.service import PasswordService
from garrison.identity.providers.remote import RemoteProvider
from garrison.identity.providers.routes import provider_endpoints
from garrison.identity.providers.service import ProviderService
from garrison.identity.sessions.authenticator import CookieAuthenticator
from garrison.identity.sessions.cache import SessionCache
from garrison.identity.sessions.routes import session_endpoints
from garrison.identity.sessions.service import SessionService
from garrison.identity.settings import IdentitySettings, PasswordCost
from garrison.identity.sign_in.password_check import PasswordCheck
from garrison.identity.sign_in.routes import sign_in_endpoints
from garrison.identity.sign_in.service import SignInService
from garrison.identity.sign_in.throttle import Throttle
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.routes import signing_endpoints
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.authenticator import AccessTokenAuthenticator
from garrison.identity.tokens.cookie import JwtCookieAuthenticator
from garrison.identity.tokens.dpop import Proofs
from garrison.identity.tokens.routes import token_endpoints
from garrison.identity.tokens.service import TokenService
from garrison.store.audit import events
from garrison.store.database import Database, Rows
from garrison.store.log import READ_AFTER
from garrison.store.schema import metadata
from garrison.wire.answer import Answer, Message
from garrison.wire.call import Call
from garrison.wire.problem import problem, problem_of
from tests.stores import open_store

PASSWORD = "a long walk to the sea"
CHEAP = IdentitySettings(
    development=True,
    password_cost=PasswordCost(8, 1, 1),
    hash_threads=2,
    hash_queue=256,
    signing_algorithm="ES256",
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Reply:
    """What a call was answered with."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: Any

    @property
    def code(self) -> str:
        return str(self.body.get("code", "")) if isinstance(self.body, dict) else ""

    def header(self, name: bytes) -> str:
        return b", ".join(value for key, value in self.headers if key == name).decode()

    @property
    def cookies(self) -> "SimpleCookie":
        found = SimpleCookie()
        for name, value in self.headers:
            if name == b"set-cookie":
                found.load(value.decode())
        return found


class CountingPool(HashPool):
    """The real pool, counting what it is asked for."""

    runs = 0

    async def run(self, work: Callable[[], Any]) -> Any:
        self.runs += 1
        return await super().run(work)


class Process:
    """Identity as one process runs it: its own caches and view over a store that others may share."""

    def __init__(self, database: Database, clock: ManualClock, settings: IdentitySettings) -> None:
        self.database, self.clock, self.settings = database, clock, settings
        self.view = RevocationView(clock)
        self.view.polled(clock.boot())
        self.position = 0
        self.pool = CountingPool(
            threads=settings.hash_threads, queue=settings.hash_queue, timeout_s=settings.hash_queue_timeout_s
        )
        self.passwords = Passwords(settings.password_cost, self.pool)
        changes = self.changes = Changes(database, clock, self.view)
        sealer = Sealer([b"s" * 32])
        throttle = Throttle(sealer, settings)
        check = PasswordCheck(database, clock, self.passwords, throttle, settings)
        self.accounts = AccountService(changes, database, clock, self.passwords)
        self.sessions = SessionService(changes, database, clock, settings)
        self.keyring = Keyring(sealer, settings)
        self.signing = SigningService(changes, database, clock, sealer, self.keyring, settings)
        self.tokens = TokenService(changes, database, clock, self.keyring, self.signing, scopes_of, settings)
        self.sign_in = SignInService(changes, check, self.sessions, self.tokens, settings)
        self.cache = SessionCache(database, self.view, scopes_of, settings)
        self.keyring.listen(self.cache.forget)
        self.view.listen(self.signing.hear)
        proofs, proofs_of_tokens = Proofs(leeway_s=settings.leeway_s), Proofs(leeway_s=settings.leeway_s)
        foreign = self.foreign = ForeignTokens(
            settings.foreign_issuers, fetch, database, clock, self.view, leeway_s=settings.leeway_s
        )
        self.issuers = IssuerService(changes, database, settings.foreign_issuers)
        self.authenticators = (
            AccessTokenAuthenticator(
                self.cache, self.keyring, self.signing, self.tokens, foreign, proofs_of_tokens, settings
            ),
            JwtCookieAuthenticator(self.cache, self.keyring, self.signing, self.tokens, settings)
            if settings.session_format == "jwt"
            else CookieAuthenticator(self.cache, development=settings.development),
        )
        endpoints = (
            *account_endpoints(self.accounts, settings),
            *sign_in_endpoints(self.sign_in, self.tokens, proofs, settings),
            *token_endpoints(self.tokens, proofs, settings),
            *signing_endpoints(self.signing, self.keyring, settings),
            *provider_endpoints(
                {one.name: RemoteProvider(one, clock, leeway_s=settings.leeway_s) for one in settings.providers},
                ProviderService(changes, self.sessions, settings),
                self.tokens,
                sealer,
                settings,
            ),
            *session_endpoints(self.sessions, settings),
            *password_endpoints(PasswordService(changes, database, self.passwords, check), settings),
        )
        planner = Planner(
            GuardSettings(development=settings.development, issuer=settings.issuer),
            self.authenticators,
            api_limit=None,
            route_limit=lambda rule: (),
            endpoint_limit=lambda endpoint: (),
            owner_failed=lambda call, error: None,
        )
        self.endpoints = [(endpoint, planner.of_endpoint(endpoint)) for endpoint in endpoints]

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
        secure: bool = False,
        fresh: bool = True,
        query: str = "",
    ) -> Reply:
        """Send one call through the guard's checks to the endpoint."""
        if fresh:
            self.view.polled(self.clock.boot())
        content = b"" if body is None else json.dumps(body).encode()
        listed = {name.lower().encode(): value.encode() for name, value in (headers or {}).items()}
        if body is not None:
            listed |= {b"content-type": b"application/json", b"content-length": str(len(content)).encode()}
        call = Call(
            {
                "type": "http",
                "method": method,
                "http_version": "1.1",
                "headers": list(listed.items()),
                "path": path,
                "raw_path": path.encode(),
                "query_string": query.encode(),
            }
        )
        call.headers, call.path, call.request_id = listed, path, "req"
        call.peer, call.network, call.secure = peer, bucket(peer), secure
        call.now, call.boot = self.clock.now(), self.clock.boot()
        endpoint, plan = self._route(method, path, call)

        async def receive() -> Message:
            return {"type": "http.request", "body": content, "more_body": False}

        answer = await _answer(call, endpoint, plan.checks, receive)
        document = json.loads(answer.body) if answer.body else None
        offer_renewal(call, answer.headers, stored=False)
        return Reply(answer.status, [*answer.headers, *call.added.fields], document)

    async def cold(self, sql: str, parameters: tuple[Any, ...] = ()) -> Rows:
        """Ask the driver itself, whether it answers at once or later."""
        found = self.database.cold(sql, parameters)
        return found if isinstance(found, list) else await found

    async def poll(self) -> None:
        """Read the log on, as the background work of a process does."""
        started_at = self.clock.boot()
        found = await self.cold(READ_AFTER, (self.position, 1000))
        for self.position, kind, subject, version in found:
            self.view.applied(kind, subject, version)
        if self.signing.is_stale:
            await self.signing.load()
        self.view.polled(started_at)

    async def events(self) -> list[dict[str, Any]]:
        """Return the event rows in the order they were written."""
        query = select(events).order_by(events.c.position)
        return await self.database.read(lambda connection: [dict(row._mapping) for row in connection.execute(query)])

    async def contents(self) -> bytes:
        """Return every value in every table, one after the other."""

        def read(connection: Connection) -> bytes:
            values = [
                value for table in metadata.sorted_tables for row in connection.execute(table.select()) for value in row
            ]
            return b"\n".join(value if isinstance(value, bytes) else str(value).encode() for value in values)

        return await self.database.read(read)

    def _route(self, method: str, path: str, call: Call) -> tuple[Endpoint, Any]:
        for endpoint, plan in self.endpoints:
            pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", endpoint.path)
            match = re.fullmatch(pattern, path)
            if endpoint.method == method and match is not None:
                call.params = match.groupdict()
                return endpoint, plan
        raise LookupError(f"{method} {path}")

    def close(self) -> None:
        self.passwords.close()


async def _answer(call: Call, endpoint: Endpoint, checks: Any, receive: Any) -> Answer:
    try:
        for check in checks:
            found = check(call)
            answer = found if found is None or isinstance(found, Answer) else await found
            if answer is not None:
                return answer
        return await answer_own(call, endpoint, receive)
    except Denied as denied:
        return problem_of(denied, call.request_id)
    except StoreError:
        return problem("store_unavailable", call.request_id)


def scopes_of(roles: frozenset[str]) -> frozenset[str]:
    """Members hold `tasks:read`; editors `tasks:write` beside it."""
    return frozenset({"tasks:read"} | ({"tasks:write"} if "editor" in roles else set()))


@dataclass
class Client:
    """A browser or an app: keeps its cookies, or its token."""

    process: Process
    peer: str = "127.0.0.1"
    secure: bool = False
    cookies: dict[str, str] = field(default_factory=dict)
    token: str = ""
    agent: str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"

    async def call(self, method: str, path: str, body: Any = None, **options: Any) -> Reply:
        headers = {"user-agent": self.agent}
        if self.cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.token:
            headers["authorization"] = f"Bearer {self.token}"
        headers |= options.pop("headers", {})
        reply = await self.process.call(
            method, path, body, headers=headers, peer=self.peer, secure=self.secure, **options
        )
        for name, morsel in reply.cookies.items():
            if morsel["max-age"] == "0":
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = morsel.value
        return reply

    async def sign_up(self, email: str, password: str = PASSWORD) -> Reply:
        return await self.call("POST", "/auth/sign-up", {"email": email, "password": password})

    async def sign_in(self, email: str, password: str = PASSWORD, **more: Any) -> Reply:
        reply = await self.call("POST", "/auth/sign-in", {"email": email, "password": password, **more})
        if reply.status == 200 and "access_token" in reply.body:
            self.token = reply.body["access_token"]
        return reply

    async def is_signed_in(self, **options: Any) -> bool:
        reply = await self.call("GET", "/auth/session", **options)
        assert reply.status in (200, 401), reply
        return reply.status == 200


async def account_id(client: Client, email: str = "ada@example.com") -> str:
    """Return the id of the account with this address."""
    account = await client.process.accounts.find(email)
    assert account is not None
    return account.id


OpenProcess = Callable[..., AbstractAsyncContextManager[Process]]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def session_format() -> str:
    """What cookies hold; a module that tests both has a fixture of this name with two parameters."""
    return "opaque"


@pytest.fixture
def open_database(tmp_path: Path) -> Callable[[], Database]:
    """Open the test's database; several may."""
    return lambda: open_store(tmp_path / "garrison.db")


@pytest.fixture
def open_process(open_database: Callable[[], Database], clock: ManualClock, session_format: str) -> OpenProcess:
    """Return a context manager that opens a process over the test's database; several share it."""

    @asynccontextmanager
    async def opened(**changes: Any) -> AsyncIterator[Process]:
        database = open_database()
        process = Process(database, clock, replace(CHEAP, **{"session_format": session_format, **changes}))
        try:
            yield process
        finally:
            process.close()
            await database.close()

    return opened


@pytest.fixture
async def process(open_process: OpenProcess) -> AsyncIterator[Process]:
    async with open_process() as process:
        yield process


@pytest.fixture
def client(process: Process) -> Client:
    return Client(process)
