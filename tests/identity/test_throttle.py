"""Guessing: what counts, what is refused, and that no stranger locks anybody out."""

import asyncio
import time

import pytest

from garrison.core.clock import ManualClock
from garrison.core.durations import Limit
from tests.identity.conftest import Client, OpenProcess, Process

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"
WRONG = "wrong password"
UNDELAYED = {"account_free": Limit(1_000_000, 900)}


@pytest.fixture
async def ada(client: Client) -> Client:
    await client.sign_up(EMAIL)
    return client


async def guess(process: Process, peer: str, times: int = 1, *, email: str = EMAIL) -> list[int]:
    client = Client(process, peer=peer)
    return [(await client.sign_in(email, WRONG, deliver="token")).status for _ in range(times)]


async def signs_in(process: Process, peer: str, **more: str) -> int:
    return (await Client(process, peer=peer).sign_in(EMAIL, deliver="token", **more)).status


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com", "no address at all"])
async def test_five_failures_in_15_minutes_then_429_whoever_it_is(ada: Client, email: str, clock: ManualClock) -> None:
    process = ada.process
    assert await guess(process, "192.0.2.1", 7, email=email) == [401] * 5 + [429] * 2
    clock.advance(179)
    assert await guess(process, "192.0.2.1", 1, email=email) == [429]
    clock.advance(1)
    assert await guess(process, "192.0.2.1", 2, email=email) == [401, 429]
    clock.advance(900)
    assert await guess(process, "192.0.2.1", 6, email=email) == [401] * 5 + [429]


async def test_throttled_is_the_same_for_the_right_password_and_costs_no_hash(ada: Client) -> None:
    await guess(ada.process, "192.0.2.1", 5)
    await guess(ada.process, "192.0.2.2", 5, email="nobody@example.com")
    before = ada.process.pool.runs
    right = await Client(ada.process, peer="192.0.2.1").sign_in(EMAIL, deliver="token")
    wrong = await Client(ada.process, peer="192.0.2.1").sign_in(EMAIL, WRONG, deliver="token")
    unknown = await Client(ada.process, peer="192.0.2.2").sign_in("nobody@example.com", WRONG, deliver="token")
    assert (right.status, right.code) == (429, "rate_limited")
    assert right.header(b"retry-after") == "180"
    assert (wrong.headers, wrong.body) == (right.headers, right.body) == (unknown.headers, unknown.body)
    assert ada.process.pool.runs == before


async def test_success_is_no_failure_however_often(ada: Client) -> None:
    assert [await signs_in(ada.process, "192.0.2.1") for _ in range(60)] == [200] * 60
    assert await guess(ada.process, "192.0.2.1", 6) == [401] * 5 + [429]


async def test_success_does_not_forgive_earlier_failures(ada: Client) -> None:
    assert await guess(ada.process, "192.0.2.1", 4) == [401] * 4
    assert await signs_in(ada.process, "192.0.2.1") == 200
    assert await guess(ada.process, "192.0.2.1", 2) == [401, 429]


async def test_parallel_guesses_count_one_by_one(ada: Client) -> None:
    before = ada.process.pool.runs
    replies = await asyncio.gather(*(guess(ada.process, "192.0.2.1") for _ in range(40)))
    assert sorted(status for (status,) in replies) == [401] * 5 + [429] * 35
    assert ada.process.pool.runs - before == 5


async def test_parallel_guesses_of_two_processes_share_one_count(open_process: OpenProcess) -> None:
    async with open_process() as one, open_process() as two:
        await Client(one).sign_up(EMAIL)
        replies = await asyncio.gather(*(guess(process, "192.0.2.1") for process in (one, two) * 15))
        assert sorted(status for (status,) in replies) == [401] * 5 + [429] * 25


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        ("192.0.2.1", "192.0.2.254", True),
        ("192.0.2.1", "192.0.3.1", False),
        ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2", True),
        ("2001:db8:1:1::1", "2001:0DB8:0001:0001:0:0:0:1", True),
        ("2001:db8:1:1::1", "2001:db8:1:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
async def test_a_network_is_a_24_or_a_64_in_any_spelling(ada: Client, first: str, second: str, shared: bool) -> None:
    assert await guess(ada.process, first, 5) == [401] * 5
    assert await guess(ada.process, second) == [429 if shared else 401]


async def test_one_address_has_50_failures_over_all_accounts(ada: Client) -> None:
    statuses = [(await guess(ada.process, "192.0.2.1", email=f"a{n}@example.com"))[0] for n in range(52)]
    assert statuses == [401] * 50 + [429] * 2
    assert await guess(ada.process, "192.0.2.2", email="other@example.com") == [401]


async def test_a_48_as_a_whole_has_16_times_as_many(open_process: OpenProcess) -> None:
    async with open_process(limit_sign_in_address=Limit(2, 900)) as process:
        statuses = [(await guess(process, f"2001:db8:1:{n:x}::1", email=f"a{n}@example.com"))[0] for n in range(34)]
        assert statuses == [401] * 32 + [429] * 2
        assert await guess(process, "2001:db8:2::1", email="b@example.com") == [401]


async def test_what_is_refused_in_one_count_is_counted_in_none(ada: Client) -> None:
    """Else a stranger's 429s on one account would use up the address for everybody behind it."""
    await guess(ada.process, "192.0.2.1", 60)
    assert await guess(ada.process, "192.0.2.1", 5, email="other@example.com") == [401] * 5


# Lock-out as an attack


async def test_a_stranger_elsewhere_cannot_lock_the_owner_out(open_process: OpenProcess) -> None:
    async with open_process(**UNDELAYED) as process:
        await Client(process).sign_up(EMAIL)
        for network in range(40):
            await guess(process, f"198.51.{network}.1", 6)
        assert await signs_in(process, "192.0.2.1") == 200


async def test_a_stranger_in_the_same_network_cannot_lock_a_known_device_out(ada: Client) -> None:
    process = ada.process
    device = (await Client(process, peer="192.0.2.1").sign_in(EMAIL, deliver="token")).body["device_token"]
    await guess(process, "192.0.2.1", 20)
    for n in range(60):
        await guess(process, "192.0.2.1", email=f"a{n}@example.com")
    assert await signs_in(process, "192.0.2.1") == 429
    assert await signs_in(process, "192.0.2.1", device_token=device) == 200


async def test_a_known_browser_is_known_by_its_device_cookie_even_after_signing_out(ada: Client) -> None:
    await ada.sign_in(EMAIL)
    await ada.call("POST", "/auth/sign-out")
    await guess(ada.process, ada.peer, 20)
    assert (await Client(ada.process).sign_in(EMAIL)).status == 429
    assert (await ada.sign_in(EMAIL)).status == 200


async def test_a_device_has_a_budget_too_and_it_is_its_own(ada: Client) -> None:
    process = ada.process
    device = (await Client(process, peer="192.0.2.1").sign_in(EMAIL, deliver="token")).body["device_token"]
    client = Client(process, peer="192.0.2.1")
    guesses = [(await client.sign_in(EMAIL, WRONG, deliver="token", device_token=device)).status for _ in range(7)]
    assert guesses == [401] * 5 + [429] * 2
    assert await signs_in(process, "192.0.2.1") == 200, "the network's budget was not touched"


async def test_another_accounts_device_gives_no_budget(ada: Client) -> None:
    process = ada.process
    eve = Client(process, peer="198.51.100.1")
    await eve.sign_up("eve@example.com")
    device = (await eve.sign_in("eve@example.com", deliver="token")).body["device_token"]
    eve.token = ""
    statuses = [(await eve.sign_in(EMAIL, WRONG, deliver="token", device_token=device)).status for _ in range(7)]
    assert statuses == [401] * 5 + [429] * 2


async def test_an_invented_device_gives_no_budget(ada: Client) -> None:
    client = Client(ada.process, peer="192.0.2.1")
    statuses = [
        (await client.sign_in(EMAIL, WRONG, deliver="token", device_token=f"device-{n}")).status for n in range(7)
    ]
    assert statuses == [401] * 5 + [429] * 2


async def test_a_device_is_forgotten_in_the_end(ada: Client, clock: ManualClock) -> None:
    device = (await Client(ada.process, peer="192.0.2.1").sign_in(EMAIL, deliver="token")).body["device_token"]
    clock.advance(401 * 86_400)
    await guess(ada.process, "192.0.2.1", 5)
    assert await signs_in(ada.process, "192.0.2.1", device_token=device) == 429


# An account under attack from everywhere


@pytest.mark.parametrize("email", [EMAIL, "nobody@example.com"])
async def test_an_attack_from_everywhere_delays_and_never_refuses(open_process: OpenProcess, email: str) -> None:
    async with open_process(account_free=Limit(3, 900), account_delay_max_s=0.12) as process:
        await Client(process).sign_up(EMAIL)

        async def timed(network: int, password: str) -> tuple[int, float]:
            started = time.monotonic()
            client = Client(process, peer=f"198.51.{network}.1")
            status = (await client.sign_in(email, password, deliver="token")).status
            return status, time.monotonic() - started

        for network in range(3):
            status, took_s = await timed(network, WRONG)
            assert status == 401
            assert took_s < 0.1
        for network in range(3, 8):
            status, took_s = await timed(network, WRONG)
            assert status == 401
            assert 0.1 < took_s < 0.5


async def test_the_owner_gets_in_during_an_attack_from_everywhere(open_process: OpenProcess) -> None:
    async with open_process(account_free=Limit(3, 900), account_delay_max_s=0.3) as process:
        owner = Client(process, peer="192.0.2.1")
        await owner.sign_up(EMAIL)
        device = (await owner.sign_in(EMAIL, deliver="token")).body["device_token"]
        for network in range(12):
            await guess(process, f"198.51.{network}.1")
        started = time.monotonic()
        assert await signs_in(process, "203.0.113.1", device_token=device) == 200
        assert time.monotonic() - started < 0.25, "a known device does not wait"
        assert await signs_in(process, "203.0.113.1") == 200, "an unknown one waits, and gets in"
        assert time.monotonic() - started > 0.25


async def test_delayed_sign_ins_are_bounded(open_process: OpenProcess) -> None:
    async with open_process(account_free=Limit(1, 900), account_delay_max_s=0.3, max_delayed=2) as process:
        await guess(process, "198.51.0.1")
        replies = await asyncio.gather(*(guess(process, f"198.51.{n}.1") for n in range(1, 7)))
        assert sorted(status for (status,) in replies) == [401] * 2 + [503] * 4


async def test_those_delayed_at_one_account_take_no_places_of_another(open_process: OpenProcess) -> None:
    slow = {"account_free": Limit(1, 900), "account_delay_max_s": 0.3}
    async with open_process(**slow, max_delayed_account=2, max_delayed=100) as process:
        await Client(process).sign_up(EMAIL)
        await guess(process, "198.51.0.1")
        decoys = [asyncio.create_task(guess(process, f"198.51.{n}.1", email="decoy@example.com")) for n in range(1, 12)]
        await asyncio.sleep(0.05)
        assert await signs_in(process, "203.0.113.9") == 200
        statuses = [status for (status,) in await asyncio.gather(*decoys)]
        assert statuses.count(503) >= 6
