"""Verification: what is believed, for how long, and what is asked again when in doubt."""

import asyncio
import time
from typing import Any

import pytest

from garrison.core.clock import ManualClock
from garrison.core.errors import StoreError
from garrison.core.ids import digest, new_secret
from garrison.guard.authenticate import REFUSED
from garrison.identity.sessions.cache import SessionCache, SessionEntry
from garrison.identity.sessions.client import describe_client
from garrison.identity.sessions.queries import COLD_READ
from garrison.wire.call import Call
from tests.identity.conftest import CHEAP, Client, OpenProcess, Process, scopes_of

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"


@pytest.fixture
async def ada(client: Client) -> Client:
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL)
    return client


@pytest.fixture
async def phone(process: Process, ada: Client) -> Client:
    phone = Client(process)
    await phone.sign_in(EMAIL, deliver="token")
    return phone


class CountingStore:
    """The real store, counting cold reads; `broken` makes them fail as an outage does."""

    def __init__(self, process: Process) -> None:
        self.reads = 0
        self.broken = False
        self._cold = process.database.cold
        process.cache._cold = self.cold

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Any:
        self.reads += 1
        if self.broken:
            raise StoreError("store_unavailable")
        return self._cold(sql, parameters)


# Carriers


async def test_a_cookies_value_is_no_token_and_a_tokens_no_cookie(ada: Client, phone: Client) -> None:
    cookie, token = ada.cookies["garrison"], phone.token
    assert not await Client(ada.process, token=cookie).is_signed_in()
    for shown in (token, *token.split(".")):
        assert not await Client(ada.process, cookies={"garrison": shown}).is_signed_in()


async def test_over_tls_only_the_host_bound_name_is_read_and_over_http_only_the_other(process: Process) -> None:
    plain, tls = Client(process), Client(process, secure=True)
    await plain.sign_up(EMAIL)
    await plain.sign_in(EMAIL)
    await tls.sign_in(EMAIL)
    for client, name, right in ((plain, "garrison", False), (tls, "__Host-garrison", True)):
        value = client.cookies[name]
        assert await client.is_signed_in()
        wrong = "garrison" if right else "__Host-garrison"
        assert not await Client(process, secure=right, cookies={wrong: value}).is_signed_in()


async def test_production_never_reads_the_name_without_prefix(open_process: OpenProcess) -> None:
    async with open_process() as development:
        client = Client(development)
        await client.sign_up(EMAIL)
        await client.sign_in(EMAIL)
        value = client.cookies["garrison"]
        assert await client.is_signed_in()
        async with open_process(development=False, password_cost=type(CHEAP.password_cost)()) as production:
            for secure in (False, True):
                assert not await Client(production, secure=secure, cookies={"garrison": value}).is_signed_in()
            assert await Client(production, secure=True, cookies={"__Host-garrison": value}).is_signed_in()


async def test_development_reads_no_cookie_over_http_from_beyond_this_machine(ada: Client) -> None:
    assert not await Client(ada.process, peer="192.0.2.1", cookies=ada.cookies).is_signed_in()
    assert await Client(ada.process, peer="127.8.8.8", cookies=ada.cookies).is_signed_in()
    assert await Client(ada.process, peer="testclient", cookies=ada.cookies).is_signed_in()


async def test_the_cookie_is_found_wherever_it_stands_and_not_inside_others(ada: Client) -> None:
    value = ada.cookies["garrison"]
    for header, found in [
        (f"garrison={value}", True),
        (f"a=b; garrison={value}", True),
        (f"garrison={value}; a=b", True),
        (f"garrison={value};a=garrison=", True),
        (f"garrison={value}; garrison={value}", True),
        (f"garrison={value}; garrison={new_secret()}", False),
        (f"garrison={new_secret()}; garrison={value}", False),
        (f"xgarrison={value}", False),
        (f"a=garrison={value}", False),
        (f"GARRISON={value}", False),
        (f"garrison-device={value}", False),
        (f"garrison={value}x", False),
        (f"garrison={value[:-1]}", False),
        ("garrison=", False),
        ("garrison", False),
    ]:
        reply = await ada.process.call("GET", "/auth/session", headers={"cookie": header})
        assert (reply.status == 200) is found, header


async def test_a_token_is_read_in_any_case_of_its_scheme_and_in_no_other_form(phone: Client) -> None:
    token = phone.token
    for header, found in [
        (f"Bearer {token}", True),
        (f"bearer {token}", True),
        (f"BEARER  {token}", True),
        (f"Basic {token}", False),
        (f"{token}", False),
        (f"Bearer {token} ", True),
        (f"Bearer {token}x", False),
        (f"Bearer {token[:-1]}", False),
        (f"Bearer{token}", False),
        (f"Bearer {token},{token}", False),
        ("Bearer", False),
        ("Bearer a.b.c", False),
        (f"Bearer {token.upper()}", False),
    ]:
        reply = await phone.process.call("GET", "/auth/session", headers={"authorization": header})
        assert (reply.status == 200) is found, header


async def test_a_token_decides_and_a_cookie_beside_it_is_ignored(ada: Client, phone: Client) -> None:
    bob = Client(ada.process)
    await bob.sign_up("bob@example.com")
    await bob.sign_in("bob@example.com")
    both = Client(ada.process, cookies=bob.cookies, token=phone.token)
    assert (await both.call("GET", "/auth/session")).body["account"]["email"] == EMAIL
    assert not await Client(ada.process, cookies=bob.cookies, token=phone.token + "x").is_signed_in()


async def test_the_digest_on_the_warm_path_is_the_one_that_is_stored(ada: Client, phone: Client) -> None:
    assert len(await ada.process.cold(COLD_READ, (digest(ada.cookies["garrison"], purpose="session"),))) == 1


# Warm and cold


async def test_a_warm_check_asks_nobody(ada: Client) -> None:
    await ada.is_signed_in()
    store = CountingStore(ada.process)
    assert all([await ada.is_signed_in() for _ in range(10)])
    assert store.reads == 0


async def test_without_fresh_news_every_check_asks_the_store(ada: Client, clock: ManualClock) -> None:
    await ada.is_signed_in()
    store = CountingStore(ada.process)
    clock.advance(2.0)
    assert all([await ada.is_signed_in(fresh=False) for _ in range(3)])
    assert store.reads == 3
    assert await ada.is_signed_in()
    assert store.reads == 3


async def test_without_news_and_without_store_it_is_503_never_200(ada: Client, clock: ManualClock) -> None:
    await ada.is_signed_in()
    store = CountingStore(ada.process)
    store.broken = True
    assert await ada.is_signed_in(), "while news is fresh, the store is not needed"
    clock.advance(2.0)
    assert (await ada.call("GET", "/auth/session", fresh=False)).status == 503
    assert (await ada.call("GET", "/auth/session", fresh=False)).status == 503


async def test_a_verification_is_not_served_beyond_its_time(ada: Client, clock: ManualClock) -> None:
    await ada.is_signed_in()
    store = CountingStore(ada.process)
    clock.advance(299)
    assert await ada.is_signed_in()
    assert store.reads == 0
    clock.advance(2)
    assert await ada.is_signed_in()
    assert store.reads == 1


async def test_unknown_secrets_are_asked_each_time_and_never_remembered(process: Process) -> None:
    store = CountingStore(process)
    for _ in range(50):
        assert not await Client(process, cookies={"garrison": new_secret()}).is_signed_in()
    assert store.reads == 50
    assert len(process.cache) == 0
    for wrong in ("short", "x" * 44, "é" * 20):
        await process.call("GET", "/auth/session", headers={"cookie": f"garrison={wrong}"})
    assert store.reads == 50, "what is not of our form is not asked"


async def test_the_cache_is_bounded(open_process: OpenProcess) -> None:
    async with open_process(cache_entries=3) as process:
        clients = [Client(process) for _ in range(6)]
        await clients[0].sign_up(EMAIL)
        for client in clients:
            await client.sign_in(EMAIL)
        for _ in range(2):
            assert all([await client.is_signed_in() for client in clients])
        assert len(process.cache) == 3


async def test_a_full_cache_costs_what_an_empty_one_does(open_process: OpenProcess) -> None:
    """A dict as the queue looked for its oldest key through the places of all that had left: 50 times as much here."""

    def seconds(cache: SessionCache, entry: SessionEntry, kept: int) -> float:
        cache._most = kept
        for number in range(kept + kept // 20):
            cache._add(b"%d" % number, entry)
        keys = [b"%d" % number for number in range(10**6, 10**6 + 5000)]
        began = time.perf_counter()
        for key in keys:
            cache._add(key, entry)
        assert len(cache) == kept
        return time.perf_counter() - began

    async with open_process() as process:
        ada = Client(process)
        await ada.sign_up(EMAIL)
        await ada.sign_in(EMAIL)
        assert await ada.is_signed_in()
        (entry,) = process.cache._entries.values()
        process.cache._entries.clear()
        few = min(seconds(process.cache, entry, 100) for _ in range(3))
        process.cache._entries.clear()
        many = min(seconds(process.cache, entry, 100_000) for _ in range(3))
    assert many < 10 * few, f"{many / few:.1f} times"


async def test_use_that_waits_to_be_written_is_one_entry_a_session_however_often_the_store_is_asked(
    ada: Client, clock: ManualClock
) -> None:
    clock.advance(5)
    for _ in range(20):
        assert await ada.is_signed_in(fresh=False)
    assert len(ada.process.cache._touched) == 1


async def test_use_that_could_not_be_written_is_written_later(ada: Client, clock: ManualClock) -> None:
    process = ada.process
    write = process.database.write
    await ada.is_signed_in()

    async def broken(work: Any) -> Any:
        raise StoreError("store_unavailable")

    process.cache._database = type("Broken", (), {"write": staticmethod(broken)})()
    with pytest.raises(StoreError):
        await process.cache.flush(clock.now(), force=True)
    assert len(process.cache._touched) == 1
    process.cache._database = type("Back", (), {"write": staticmethod(write)})()
    await process.cache.flush(clock.now(), force=True)
    assert process.cache._touched == {}


# What changes is known at once here, and by the log elsewhere


async def test_another_process_hears_of_it_by_the_log_and_then_asks(open_process: OpenProcess) -> None:
    async with open_process() as here, open_process() as there:
        client = Client(here)
        await client.sign_up(EMAIL)
        await client.sign_in(EMAIL, deliver="token")
        elsewhere = Client(there, token=client.token)
        assert await elsewhere.is_signed_in()
        await client.call("POST", "/auth/sign-out")
        assert not await client.is_signed_in()
        await there.poll()
        assert not await elsewhere.is_signed_in()


@pytest.mark.parametrize("change", ["sign_out", "everywhere", "disable", "password"])
async def test_whatever_ends_a_session_is_in_the_log(open_process: OpenProcess, change: str) -> None:
    async with open_process() as here, open_process() as there:
        client, other = Client(here), Client(here)
        await client.sign_up(EMAIL)
        await client.sign_in(EMAIL, deliver="token")
        await other.sign_in(EMAIL, deliver="token")
        elsewhere = Client(there, token=client.token)
        assert await elsewhere.is_signed_in()
        match change:
            case "sign_out":
                await client.call("POST", "/auth/sign-out")
            case "everywhere":
                await other.call("POST", "/auth/sign-out-everywhere")
            case "disable":
                await here.accounts.disable(EMAIL)
            case "password":
                body = {"current": "a long walk to the sea", "new": "quite another password"}
                assert (await other.call("POST", "/auth/password/change", body)).status == 204
        await there.poll()
        assert not await elsewhere.is_signed_in()


async def test_a_role_reaches_live_sessions_at_once_here_and_by_the_log_elsewhere(open_process: OpenProcess) -> None:
    async with open_process() as here, open_process() as there:
        client = Client(here)
        await client.sign_up(EMAIL)
        await client.sign_in(EMAIL, deliver="token")
        elsewhere = Client(there, token=client.token)

        async def roles(client: Client) -> list[str]:
            account = (await client.call("GET", "/auth/session")).body["account"]
            assert ("tasks:write" in account["scopes"]) is ("editor" in account["roles"])
            return list(account["roles"])

        assert await roles(client) == await roles(elsewhere) == ["member"]
        for role, expected in [
            ("editor", ["editor", "member"]),
            ("admin", ["admin", "member"]),
            ("member", ["member"]),
        ]:
            await here.accounts.set_role(EMAIL, role)
            assert await roles(client) == expected
            await there.poll()
            assert await roles(elsewhere) == expected


async def test_news_that_overtakes_the_stores_answer_is_asked_about_again(ada: Client, clock: ManualClock) -> None:
    """The answer is on its way while the account is disabled."""
    process = ada.process
    secret_digest = digest(ada.cookies["garrison"], purpose="session")
    arrived, may_answer = asyncio.Event(), asyncio.Event()

    class Slow:
        first = True

        def cold(self, sql: str, parameters: tuple[Any, ...]) -> Any:
            async def answer() -> Any:
                rows = await process.cold(sql, parameters)
                if self.first:
                    self.first = False
                    arrived.set()
                    await may_answer.wait()
                return rows

            return answer()

    cache = SessionCache(Slow(), process.view, scopes_of, CHEAP)  # type: ignore[arg-type]
    call = Call({"type": "http"})
    call.now, call.boot = clock.now(), clock.boot()
    outcome: Any = cache.verify(secret_digest, call)
    asking = asyncio.ensure_future(outcome)
    await arrived.wait()
    await process.accounts.disable(EMAIL)
    may_answer.set()
    assert await asking is REFUSED
    await process.accounts.enable(EMAIL)
    await ada.sign_in(EMAIL)
    found: Any = await cache.verify(digest(ada.cookies["garrison"], purpose="session"), call)  # type: ignore[misc]
    assert isinstance(found, SessionEntry)


async def test_a_store_that_answers_with_an_older_state_than_announced_is_an_outage(ada: Client) -> None:
    process = ada.process
    account = await process.accounts.find(EMAIL)
    assert account is not None
    process.view.applied("account", account.id, account.version + 1)
    assert (await ada.call("GET", "/auth/session")).status == 503


# Hints


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        (b"", ""),
        (b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Firefox on Linux"),
        (
            b"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
            b"Chrome/140.0 Safari/537.36 Edg/140.0",
            "Edge on Windows",
        ),
        (
            b"Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 "
            b"Version/18.0 Mobile/15E148 Safari/604.1",
            "Safari on iPhone",
        ),
        (
            b"Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 Chrome/140.0 Mobile Safari/537.36",
            "Chrome on Android",
        ),
        (b"curl/8.5.0", "curl"),
        (b"<script>alert(1)</script> canary-c8f1", ""),
        (b"canary-c8f1 curl/8 canary-c8f1", "curl"),
    ],
)
def test_a_client_is_described_in_words_of_ours(agent: bytes, words: str) -> None:
    assert describe_client(agent) == words
