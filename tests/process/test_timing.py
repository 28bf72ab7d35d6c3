"""T14: whether an account exists cannot be told by status, headers, length or time; a planted early return is found.

Pairs of (known, unknown) are asked in turn over one connection, so that drift hits both alike. What is compared is the
difference of medians with a bootstrap confidence interval, as a share of what one hash costs: the planted fault, which
skips the hash for unknown accounts as Django's CVE-2024-39329 did, shows the whole of it.

    TIMING_N=10000 .venv/bin/pytest tests/process/test_timing.py -s        the long run
"""

import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx2
import pytest

from tests.process.server import RAISED, ROOT, Server, sign_up

pytestmark = [pytest.mark.alone, pytest.mark.parametrize("case", ["sign-in", "sign-up", "throttled"])]
PAIRS = int(os.environ.get("TIMING_N", "250"))
ACCOUNTS = max(25, PAIRS // 10)
"""Ten guesses at each: more would meet the delay that an account under attack imposes, alike for all."""
ENVIRONMENT = {**RAISED, "GARRISON_PASSWORD_COST": "m=2048,t=2,p=1"}
PLANTED = """
import sys
from garrison.identity.passwords.hashing import Passwords, Verdict
honest_verify = Passwords._verify
def verify(self, encoded, password):
    return Verdict(False) if encoded is None else honest_verify(self, encoded, password)
Passwords._verify = verify
from garrison.identity.accounts import service
honest_create = service.AccountService._create
async def create(self, email, password, roles, origin):
    if await self.find(email) is not None:
        return None
    return await honest_create(self, email, password, roles, origin)
service.AccountService._create = create
from garrison.cli.main import main
sys.exit(main())
"""
Ask = Callable[[httpx2.Client, str], httpx2.Response]


class PlantedServer(Server):
    """The same server with the fault in it."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", PLANTED]


def sign_in_wrong(client: httpx2.Client, email: str) -> httpx2.Response:
    return client.post("/auth/sign-in", json={"email": email, "password": "wrong password", "deliver": "token"})


def sign_up_again(client: httpx2.Client, email: str) -> httpx2.Response:
    return client.post("/auth/sign-up", json={"email": email, "password": "a long walk to the sea"})


def measure(server: Server, ask: Ask, known: Sequence[str], unknown: Sequence[str]) -> tuple[list[float], list[float]]:
    """Return seconds for each, asked in turn, in random order within a pair; the answers must be the same."""
    dice = random.Random(7)
    times: dict[bool, list[float]] = {True: [], False: []}
    shown: dict[bool, set[tuple[int, bytes, str]]] = {True: set(), False: set()}
    with httpx2.Client(base_url=server.url, timeout=20) as client:
        for pair in zip(known, unknown, strict=True):
            for is_known in dice.sample([True, False], 2):
                began = time.perf_counter()
                answer = ask(client, pair[0] if is_known else pair[1])
                times[is_known].append(time.perf_counter() - began)
                names = ",".join(sorted(answer.headers))
                shown[is_known].add((answer.status_code, str(len(answer.content)).encode(), names))
    assert shown[True] == shown[False], "the answers themselves tell them apart"
    return times[True], times[False]


def difference(known: Sequence[float], unknown: Sequence[float]) -> tuple[float, float, float]:
    """Return the difference of medians in seconds and its 99 % bootstrap interval."""
    dice = random.Random(11)
    found = sorted(
        statistics.median(dice.choices(known, k=len(known))) - statistics.median(dice.choices(unknown, k=len(unknown)))
        for _ in range(400)
    )
    return statistics.median(known) - statistics.median(unknown), found[2], found[-3]


def hash_cost_s(server: Server) -> float:
    code = (
        "import time,statistics\n"
        "from garrison.identity.passwords.hashing import Passwords\n"
        "from garrison.identity.passwords.pool import HashPool\n"
        "from garrison.identity.settings import parse_cost\n"
        "p=Passwords(parse_cost('m=2048,t=2,p=1'),HashPool(threads=1))\n"
        "def once():\n t=time.perf_counter(); p._verify(None,'x'); return time.perf_counter()-t\n"
        "print(statistics.median(once() for _ in range(50)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def compared(server: Server, case: str) -> tuple[float, float, float]:
    """Run one case against a server and return the difference with its interval."""
    with server.client() as client:
        if case == "sign-up":
            known = [f"known{n}@example.com" for n in range(PAIRS)]
            for email in known:
                sign_up(client, email)
            unknown = [f"newer{n}@example.com" for n in range(PAIRS)]
            return difference(*measure(server, sign_up_again, known, unknown))
        known, unknown = ([f"{name}{n % ACCOUNTS}@example.com" for n in range(PAIRS)] for name in ("known", "other"))
        for email in known[:ACCOUNTS]:
            sign_up(client, email)
        if case == "throttled":
            for email in (*known[:ACCOUNTS], *unknown[:ACCOUNTS]) * 6:
                sign_in_wrong(client, email)
    return difference(*measure(server, sign_in_wrong, known, unknown))


def environment_of(case: str) -> dict[str, str]:
    return ENVIRONMENT | ({"GARRISON_LIMIT_SIGN_IN": "5/15m"} if case == "throttled" else {})


def test_known_and_unknown_take_the_same_time(tmp_path: Path, case: str) -> None:
    with Server(tmp_path, app=None, environment=environment_of(case)) as server:
        cost = hash_cost_s(server)
        middle, low, high = compared(server, case)
    interval = f"{middle * 1e6:+.0f} µs [{low * 1e6:+.0f}, {high * 1e6:+.0f}]"
    text = f"{case}: {interval} of {PAIRS} pairs; a hash: {cost * 1e6:.0f} µs"
    print(text)
    assert abs(middle) < cost / 3, text


def test_a_planted_early_return_is_found(tmp_path: Path, case: str) -> None:
    if case == "throttled":
        pytest.skip("a throttled sign-in costs no hash for anybody: there is nothing to return early from")
    with PlantedServer(tmp_path, app=None, environment=environment_of(case)) as server:
        cost = hash_cost_s(server)
        middle, low, high = compared(server, case)
    text = f"{case}, planted: {middle * 1e6:+.0f} µs [{low * 1e6:+.0f}, {high * 1e6:+.0f}]; a hash: {cost * 1e6:.0f} µs"
    print(text)
    assert abs(middle) > cost / 3, text
    assert low > 0 or high < 0, text
