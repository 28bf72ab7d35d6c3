"""T1: kill -9 at random moments of sign-up, sign-in, sign-out and password change.

Each person writes down what was acknowledged (a 2xx that arrived). After the restart the ledger is replayed over HTTP:
nothing acknowledged is lost, nothing revoked is alive. What was asked and not answered may have happened or not, but
must be one of the two.

    FAULT_N=1000 .venv/bin/pytest tests/fault/test_kill.py        the long run
    FAULT_SEED=7 .venv/bin/pytest tests/fault/test_kill.py        the same kills again
"""

import os
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.process.server import RAISED, Server

KILLS = int(os.environ.get("FAULT_N", "100"))
SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
PEOPLE = 3
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}


@dataclass
class Person:
    """One person's ledger. `passwords` holds more than one entry only while a change was not acknowledged."""

    name: str
    email: str = ""
    passwords: list[str] = field(default_factory=list)
    alive: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    accounts: int = 0
    acknowledged: int = 0

    def act(self, client: httpx2.Client, dice: random.Random) -> None:
        """Do one random thing; raises TransportError when the server dies under it."""
        choice = dice.random()
        if not self.email or choice < 0.15:
            self.accounts += 1
            email, password = (
                f"{self.name}-{self.accounts}-{dice.getrandbits(32):x}@example.com",
                f"pass {dice.getrandbits(64):x}",
            )
            answer = client.post("/auth/sign-up", json={"email": email, "password": password})
            assert answer.status_code == 202, answer.text
            self.email, self.passwords = email, [password]
            self.alive, self.dead, self.unknown = set(), set(), set()
        elif choice < 0.55 or not self.alive:
            token = self.sign_in(client)
            assert token is not None, f"{self.email}: an acknowledged account cannot sign in"
            self.alive.add(token)
        elif choice < 0.8:
            token = dice.choice(sorted(self.alive))
            self.alive.discard(token)
            self.unknown.add(token)
            answer = client.post("/auth/sign-out", headers=bearer(token))
            assert answer.status_code == 204, answer.text
            self.unknown.discard(token)
            self.dead.add(token)
        else:
            token, new = dice.choice(sorted(self.alive)), f"pass {dice.getrandbits(64):x}"
            current, others = self.passwords[0], self.alive - {token}
            self.passwords = [current, new]
            self.alive, self.unknown = {token}, self.unknown | others
            body = {"current": current, "new": new}
            answer = client.post("/auth/password/change", json=body, headers=bearer(token))
            assert answer.status_code == 204, answer.text
            self.passwords = [new]
            self.dead |= others
            self.unknown -= others
        self.acknowledged += 1

    def sign_in(self, client: httpx2.Client) -> str | None:
        """Sign in with whichever password is right; settles an unanswered change of password."""
        for password in list(self.passwords):
            body = {"email": self.email, "password": password, "deliver": "token"}
            answer = client.post("/auth/sign-in", json=body)
            if answer.status_code == 200:
                self.passwords = [password]
                return str(answer.json()["access_token"])
            assert answer.status_code == 401, answer.text
        return None

    def check(self, client: httpx2.Client) -> None:
        """Hold the ledger against the restarted server."""
        if not self.email:
            return
        changing = len(self.passwords) > 1
        for token in self.alive:
            assert lives(client, token), f"{self.email}: an acknowledged session is lost"
        for token in self.dead:
            assert not lives(client, token), f"{self.email}: a revoked session is alive"
        fresh = self.sign_in(client)
        assert fresh is not None, f"{self.email}: an acknowledged account is lost"
        if changing and self.unknown:  # the change happened or it did not, and the other sessions know which
            alive = {one for one in self.unknown if lives(client, one)}
            assert len(alive) in (0, len(self.unknown)) or len(self.unknown) > 1
        self.alive.add(fresh)
        self.unknown = set()


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def lives(client: httpx2.Client, token: str) -> bool:
    status = client.get("/auth/session", headers=bearer(token)).status_code
    assert status in (200, 401), status
    return status == 200


def test_nothing_acknowledged_is_lost_and_nothing_revoked_lives_over_kills(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills; again with FAULT_SEED={SEED}", file=sys.stderr)
    dice = random.Random(SEED)
    people = [Person(f"p{number}") for number in range(PEOPLE)]
    server = Server(tmp_path, environment=CHEAP, app=None)
    slowest_start = 0.0
    server.start()
    try:
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
            for thread in threads:
                thread.start()
            time.sleep(dice.uniform(0.02, 0.35))
            server.kill()
            for thread in threads:
                thread.join(30)
            assert not failures, failures
            started = time.monotonic()
            server.start()
            slowest_start = max(slowest_start, time.monotonic() - started)
            with server.client() as client:
                for person in people:
                    person.check(client)
            if (round_number + 1) % 25 == 0:
                print(f"{round_number + 1} kills, {sum(p.acknowledged for p in people)} acknowledged", file=sys.stderr)
    finally:
        server.stop()
    acknowledged = sum(person.acknowledged for person in people)
    print(f"{KILLS} kills, {acknowledged} acknowledged, slowest start {slowest_start:.2f} s", file=sys.stderr)
    assert acknowledged > KILLS, "the kills came before anything was acknowledged: this shows nothing"
