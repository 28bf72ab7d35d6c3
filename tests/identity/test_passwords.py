"""New passwords, hashes, and the pool that makes them."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator

import pytest

from garrison.core.errors import Denied, SettingsError
from garrison.identity.passwords.common import check_new_password, common_passwords
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.passwords.pool import NICENESS, HashPool
from garrison.identity.settings import IdentitySettings, PasswordCost, parse_cost

CHEAP = PasswordCost(8, 1, 1)
pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Iterator[HashPool]:
    pool = HashPool(threads=1, queue=2, timeout_s=0.2)
    yield pool
    pool.close()


# New passwords


@pytest.mark.parametrize("password", ["password", "PASSWORD", "12345678", "QwertyUiop", "password123", "Iloveyou"])
def test_a_common_password_is_refused_in_any_case(password: str) -> None:
    with pytest.raises(Denied) as refused:
        check_new_password(password)
    assert refused.value.code == "common_password"


@pytest.mark.parametrize(
    "password",
    [
        "a password among others",
        "password?!",
        " password",
        "pässword",
        "\N{SNOWMAN}" * 8,
        "x" * 256,
        "pass word",
        "𝐩assword",
    ],
)
def test_only_equality_with_a_line_refuses(password: str) -> None:
    check_new_password(password)


@pytest.mark.parametrize("password", ["", "short", "1234567", "x" * 257, "\N{SNOWMAN}" * 7, "surrogate \ud800"])
def test_length_is_counted_in_characters_and_text_must_be_text(password: str) -> None:
    with pytest.raises(Denied) as refused:
        check_new_password(password)
    assert refused.value.code == "validation"


def test_the_bundled_list_is_a_real_one() -> None:
    lines = common_passwords()
    assert len(lines) > 8000
    assert all(len(line) >= 8 and line == line.casefold() for line in lines)


# Hashes


async def test_a_password_matches_only_itself_exactly_as_it_came(pool: HashPool) -> None:
    passwords = Passwords(CHEAP, pool)
    encoded = await passwords.hash("Cafe\u0301 \N{SNOWMAN} " + "x" * 80)
    assert (await passwords.verify(encoded, "Cafe\u0301 \N{SNOWMAN} " + "x" * 80)).matches
    for other in (
        "Caf\u00e9 \N{SNOWMAN} " + "x" * 80,
        "cafe\u0301 \N{SNOWMAN} " + "x" * 80,
        "Cafe\u0301 \N{SNOWMAN} " + "x" * 79,
    ):
        assert not (await passwords.verify(encoded, other)).matches


async def test_hashes_are_argon2id_with_owasps_parameters_by_default(pool: HashPool) -> None:
    encoded = await Passwords(PasswordCost(), pool).hash("a long walk to the sea")
    assert encoded.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.alone
def test_an_unknown_account_costs_a_hash_of_the_same_parameters() -> None:
    """In processor time of this thread, so that what else runs does not count."""
    passwords = Passwords(PasswordCost(), HashPool(threads=1))
    encoded = passwords._hasher.hash("a long walk to the sea")

    def median_s(stored: str | None) -> float:
        times = []
        for _ in range(9):
            started = time.thread_time()
            assert not passwords._verify(stored, "wrong").matches
            times.append(time.thread_time() - started)
        return sorted(times)[4]

    known, unknown = median_s(encoded), median_s(None)
    assert 0.5 < unknown / known < 2
    assert not passwords._verify(None, "").matches


async def test_a_hash_with_other_parameters_is_made_anew_only_for_the_right_password(pool: HashPool) -> None:
    old = await Passwords(CHEAP, pool).hash("a long walk to the sea")
    passwords = Passwords(PasswordCost(16, 1, 1), pool)
    assert await passwords.verify(old, "wrong") == (False, None)
    matches, upgraded = await passwords.verify(old, "a long walk to the sea")
    assert matches
    assert upgraded is not None
    assert "m=16,t=1,p=1" in upgraded
    assert await passwords.verify(upgraded, "a long walk to the sea") == (True, None)


@pytest.mark.parametrize("stored", ["", "plain", "$argon2id$broken", "$2b$12$" + "x" * 53])
async def test_a_broken_hash_matches_nothing(pool: HashPool, stored: str) -> None:
    assert not (await Passwords(CHEAP, pool).verify(stored, stored)).matches


def test_production_refuses_cheap_hashes() -> None:
    with pytest.raises(SettingsError):
        IdentitySettings(development=False, password_cost=parse_cost("m=64,t=1,p=1"))
    IdentitySettings(development=False, password_cost=parse_cost("m=65536,t=3,p=4"))


@pytest.mark.parametrize(
    "text", ["", "m=64", "m=64,t=0,p=1", "m=4,t=1,p=1", "m=-1,t=1,p=1", "t=1,m=64,p=1", "m=64,t=1,p=1x"]
)
def test_a_cost_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write the cost"):
        parse_cost(text)


# The pool


async def test_work_runs_in_a_thread_of_lower_priority(pool: HashPool) -> None:
    def look() -> tuple[int, int]:
        return threading.get_ident(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    own = threading.get_ident(), os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    thread, niceness = await pool.run(look)
    assert thread != own[0]
    assert niceness == NICENESS
    assert own[1] < NICENESS


async def test_the_event_loop_goes_on_while_a_password_is_hashed(pool: HashPool) -> None:
    passwords = Passwords(PasswordCost(), pool)
    hashing = asyncio.create_task(passwords.hash("a long walk to the sea"))
    turns = 0
    while not hashing.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns > 10


async def test_what_the_work_raises_reaches_the_caller_and_the_thread_lives_on(pool: HashPool) -> None:
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 // 0)
    assert await pool.run(lambda: 5) == 5


async def test_a_full_queue_sheds_at_once(pool: HashPool) -> None:
    release = threading.Event()
    begun = threading.Event()

    def begun_and_held() -> bool:
        begun.set()
        return release.wait()

    waiting = [asyncio.create_task(pool.run(begun_and_held))]
    while not begun.is_set():
        await asyncio.sleep(0.001)
    waiting += [asyncio.create_task(pool.run(release.wait)) for _ in range(2)]
    while not pool.is_full():
        await asyncio.sleep(0)
    started = time.monotonic()
    with pytest.raises(Denied) as shed:
        await pool.run(lambda: None)
    assert time.monotonic() - started < 0.2, "it waited as long as one that has a place"
    assert shed.value.code == "overloaded"
    assert dict(shed.value.headers)[b"retry-after"].isdigit()
    release.set()
    await asyncio.gather(*waiting)


async def test_whoever_waits_too_long_is_shed_at_the_bound_and_never_runs(pool: HashPool) -> None:
    release, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(pool.run(release.wait))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    with pytest.raises(Denied) as shed:
        await pool.run(ran.set)
    assert shed.value.code == "overloaded"
    assert 0.19 < time.monotonic() - started < 1.0  # 50 ms when nothing else runs: bench/storm.py measures it
    release.set()
    await first
    assert await pool.run(lambda: 1) == 1
    assert not ran.is_set()


async def test_a_caller_that_goes_away_takes_its_place_in_the_queue_along(pool: HashPool) -> None:
    release, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(pool.run(release.wait))
    second = asyncio.create_task(pool.run(ran.set))
    await asyncio.sleep(0.01)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    release.set()
    await first
    assert await pool.run(lambda: 1) == 1
    assert not ran.is_set()


async def test_no_more_run_at_once_than_there_are_threads() -> None:
    pool = HashPool(threads=2, queue=50, timeout_s=5)
    running, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    await asyncio.gather(*(pool.run(work) for _ in range(40)))
    assert most == 2
    pool.close()


def test_every_call_may_come_from_a_new_event_loop(pool: HashPool) -> None:
    assert [asyncio.run(pool.run(lambda: 7)) for _ in range(3)] == [7, 7, 7]


def test_a_loop_that_is_gone_before_the_result_does_no_harm(pool: HashPool) -> None:
    begun, release = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        release.wait()

    async def leave() -> None:
        asking = asyncio.create_task(pool.run(work))
        while not begun.is_set():
            await asyncio.sleep(0.001)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)

    asyncio.run(leave())
    release.set()
    assert asyncio.run(pool.run(lambda: 3)) == 3


async def test_closing_sheds_who_waits_and_refuses_who_comes(pool: HashPool) -> None:
    release = threading.Event()
    begun = threading.Event()

    def begun_and_held() -> bool:
        begun.set()
        return release.wait()

    first = asyncio.create_task(pool.run(begun_and_held))
    while not begun.is_set():
        await asyncio.sleep(0.001)
    second = asyncio.create_task(pool.run(lambda: None))
    await asyncio.sleep(0)
    release.set()
    await asyncio.to_thread(pool.close)
    with pytest.raises(Denied):
        await pool.run(lambda: None)
    assert await first
    await asyncio.gather(second, return_exceptions=True)
