"""T1: kill -9 at random moments of everything that writes, on SQLite and on PostgreSQL.

Sign-up, sign-in, rotation of refresh tokens, sign-out, sign-out everywhere, change of password, API keys made, rotated
and revoked, and keys that sign rotated by command (the command is killed, too). What must hold: `ledger.py`.

    FAULT_N=1000 .venv/bin/pytest tests/fault/test_kill.py        the long run, of each store
    FAULT_SEED=7 .venv/bin/pytest tests/fault/test_kill.py        the same kills again
"""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx2
import pytest

from tests.fault.ledger import APP, Person, Refused
from tests.process import forks
from tests.process.forks import Process
from tests.process.server import GARRISON, RAISED, ROOT, Server

KILLS = int(os.environ.get("FAULT_N", "5"))
SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
PEOPLE = 3
ROTATE_EVERY = 5
"""Every fifth time a command that rotates keys is started, and killed, beside the server."""
CHEAP = {
    **RAISED,
    "GARRISON_PASSWORD_COST": "m=64,t=1,p=1",
    "GARRISON_JWKS_MAX_AGE": "1s",  # or a planned key would not begin to sign within the test
    "GARRISON_REVOCATION_BOUND": "0.5s",
}


class Rotation:
    """`garrison keys rotate` in a process of its own. Acknowledged where it ended well."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._said = directory / "said.json"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
        self._environment = {**inherited, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **environment}
        self._process: Process | None = None
        self._took_s = 0.0
        self.acknowledged = 0

    def begin(self) -> None:
        self._process = self._command("rotate")

    def wait(self, share: float) -> None:
        """Wait until it has ended, or for this share of what the last one took."""
        if self._process is not None:
            began = time.monotonic()
            try:
                self._process.wait(self._took_s * share if self._took_s else 60)
            except subprocess.TimeoutExpired:
                return
            self._took_s = time.monotonic() - began

    def settle(self) -> None:
        """Kill it, unless it has ended; hold what it acknowledged against what is listed."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        if process.wait(30) != 0:
            return
        self.acknowledged += 1
        signs_from = json.loads(self._said.read_text())["signs_from"]
        assert self._command("list").wait(30) == 0
        keys = json.loads(self._said.read_text())["items"]
        begun = [key["signs_from"] for key in keys if key["state"] in ("next", "active") and key["signs_from"]]
        assert any(
            abs(_seconds(one) - _seconds(signs_from)) <= 2 or _seconds(one) < _seconds(signs_from) for one in begun
        )
        assert sum(key["state"] == "active" for key in keys) == 1
        assert sum(key["state"] == "next" for key in keys) == 1

    def _command(self, verb: str) -> Process:
        with self._said.open("wb") as said, open(os.devnull, "r+b") as nothing:
            files = {"stdin": nothing.fileno(), "stdout": said.fileno(), "stderr": nothing.fileno()}
            return forks.start([GARRISON, "keys", verb, "--json"], self._directory, self._environment, **files)


def _seconds(moment: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(moment).timestamp()


@pytest.fixture(params=["sqlite", "postgresql"])
def environment(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The settings of one store, empty."""
    if request.param == "sqlite":
        return CHEAP
    return {**CHEAP, "GARRISON_DATABASE_URL": request.getfixturevalue("url")}


def test_nothing_acknowledged_is_lost_and_nothing_revoked_lives_over_kills(
    tmp_path: Path, environment: Mapping[str, str]
) -> None:
    print(f"seed {SEED}, {KILLS} kills; again with FAULT_SEED={SEED}", file=sys.stderr)
    dice = random.Random(SEED)
    people = [Person(f"p{number}") for number in range(PEOPLE)]
    (tmp_path / "guarded.py").write_text(APP)
    server = Server(tmp_path, environment=environment, app="guarded:app")
    rotation = Rotation(tmp_path, environment)
    slowest_start = 0.0
    try:
        server.start()
        for round_number in range(KILLS):
            failures: list[BaseException] = []
            seeds = [dice.getrandbits(64) for _ in people]

            def live(person: Person, seed: int, failures: list[BaseException] = failures) -> None:
                own = random.Random(seed)
                with httpx2.Client(base_url=server.url, timeout=20) as client:
                    try:
                        while True:
                            person.act(client, own)
                    except httpx2.TransportError:
                        return
                    except BaseException as error:
                        failures.append(error)

            threads = [threading.Thread(target=live, args=pair) for pair in zip(people, seeds, strict=True)]
            rotates = round_number % ROTATE_EVERY == 0
            if rotates:
                rotation.begin()
            for thread in threads:
                thread.start()
            if rotates:
                rotation.wait(dice.uniform(0.5, 1.0))
            time.sleep(dice.uniform(0.02, 0.35))
            server.kill()
            for thread in threads:
                thread.join(30)
            assert not failures, failures
            rotation.settle()
            started = time.monotonic()
            server.start()
            slowest_start = max(slowest_start, time.monotonic() - started)
            with server.client() as client:
                for person in people:
                    person.check(client, dice)
            if (round_number + 1) % 25 == 0:
                print(f"{round_number + 1} kills", file=sys.stderr)
    except Refused:
        pytest.fail(f"a store that nothing was done to is refused: {server.log.read_text()[-2000:]}")
    finally:
        server.stop()
    acknowledged = sum((person.acknowledged for person in people), Counter[str]())
    told = ", ".join(f"{count} {what}" for what, count in acknowledged.most_common())
    print(
        f"{KILLS} kills, acknowledged: {told}, {rotation.acknowledged} keys rotate;"
        f" slowest start {slowest_start:.2f} s",
        file=sys.stderr,
    )
    assert acknowledged.total() > KILLS, "the kills came before anything was acknowledged: this shows nothing"
