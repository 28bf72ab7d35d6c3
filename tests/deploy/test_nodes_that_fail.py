"""T17: nodes are killed, restarted, added and told to end while people work, through HAProxy.

Each person keeps a ledger of what was acknowledged (a 2xx that arrived). What was asked and not answered may have
happened or not. Nobody signed in sees a 401, or a 5xx but for a write that lay with the node as it was killed: that is
not repeated, since it may have been carried out.

    NODES_S=60 .venv/bin/pytest -s tests/deploy/test_nodes_that_fail.py        a kill and an end each second for so long
"""

import itertools
import os
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.deploy.nodes import DEPLOY, LOOPBACK, NAMES, Nodes, haproxy
from tests.process.server import sign_in, sign_up

pytestmark = pytest.mark.alone
NODES_S = float(os.environ.get("NODES_S", "0"))
SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 32))))
PEOPLE = 4
AFTER_KILL_S = 2.0
"""What the proxy had sent to a node when that was killed fails by then."""
Failure = tuple[float, str, str]


@dataclass
class Person:
    """One person's work and ledger. `tasks` is what was acknowledged: id → every state that it may be in."""

    name: str
    client: httpx2.Client
    dice: random.Random
    tasks: dict[str, list[dict[str, Any] | None]] = field(default_factory=dict)
    maybe: set[str] = field(default_factory=set)
    failures: list[Failure] = field(default_factory=list)
    requests: int = 0
    tokens: dict[str, Any] = field(default_factory=dict)

    def begin(self) -> None:
        sign_up(self.client, f"{self.name}@example.com")
        self.tokens = sign_in(self.client, f"{self.name}@example.com", deliver="token").json()

    def ask(self, method: str, path: str, expected: int, body: object = None) -> Any:
        """Return the answer's document (True where it has none); None where no answer came, which is noted."""
        self.requests += 1
        headers = {"authorization": f"Bearer {self.tokens['access_token']}"}
        try:
            answer = self.client.request(method, path, headers=headers, json=body)
        except httpx2.TransportError as error:
            self.failures.append((time.monotonic(), method, type(error).__name__))
            return None
        if answer.status_code >= 500:
            self.failures.append((time.monotonic(), method, str(answer.status_code)))
            return None
        assert answer.status_code == expected, (method, path, answer.status_code, answer.text)
        return answer.json() if answer.content else True

    def act(self) -> None:
        choice = self.dice.random()
        if choice < 0.3 or not self.tasks:
            title = f"{self.name} {self.dice.getrandbits(64):x}"
            made = self.ask("POST", "/tasks", 201, {"title": title})
            if made is None:
                self.maybe.add(title)
            else:
                self.tasks[made["id"]] = [made]
        elif choice < 0.5:
            task = self.dice.choice(sorted(self.tasks))
            states = self.tasks[task]
            done = self.dice.random() < 0.5
            after = [state and {**state, "done": done} for state in states]
            self.tasks[task] = [*states, *after]
            if self.gone_perhaps(task):
                return
            changed = self.ask("PATCH", f"/tasks/{task}", 200, {"done": done})
            if changed is not None:
                assert changed in after
                self.tasks[task] = [changed]
        elif choice < 0.6:
            task = self.dice.choice(sorted(self.tasks))
            if self.gone_perhaps(task):
                return
            self.tasks[task].append(None)
            if self.ask("DELETE", f"/tasks/{task}", 204):
                del self.tasks[task]
        elif choice < 0.65:
            body = {"refresh_token": self.tokens["refresh_token"]}
            answer = self.ask("POST", "/auth/refresh", 200, body)
            if answer is None:  # an honest client asks again with what it has
                answer = self.ask("POST", "/auth/refresh", 200, body)
            self.tokens = answer or self.tokens
        elif choice < 0.95:
            task = self.dice.choice(sorted(self.tasks))
            if not self.gone_perhaps(task):
                found = self.ask("GET", f"/tasks/{task}", 200)
                assert found is None or found in self.tasks[task], (found, self.tasks[task])
        else:
            self.check()

    def gone_perhaps(self, task: str) -> bool:
        """Say whether a deletion of it was not answered; `check` settles that."""
        return None in self.tasks[task]

    def check(self) -> None:
        """Hold the ledger against what is there."""
        listed = self.ask("GET", "/tasks", 200)
        if listed is None:
            return
        there = {task["id"]: task for task in listed}
        for task, states in list(self.tasks.items()):
            assert there.get(task) in states, f"{self.name}: an acknowledged write is lost: {states}, {there.get(task)}"
            if task in there:
                self.tasks[task] = [there[task]]
            else:
                del self.tasks[task]
        for task in there.keys() - self.tasks.keys():
            assert there[task]["title"] in self.maybe, f"{self.name}: nobody asked for this: {there[task]}"
            self.tasks[task] = [there[task]]


@dataclass
class World:
    nodes: Nodes
    socket: Path
    pem: Path
    dice: random.Random

    def proxy(self, command: str) -> str:
        """Give HAProxy's runtime API a command."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    def wait_for(self, name: str, state: str) -> None:
        """Wait until the proxy takes this node to be UP or DOWN."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            for line in self.proxy("show stat").splitlines():
                columns = line.split(",")
                if columns[:2] == ["nodes", name] and columns[17].startswith(state):
                    return
            time.sleep(0.02)
        raise AssertionError(f"{name} is not {state}")

    @contextmanager
    def people_at_work(self) -> Iterator[list[Person]]:
        """Let people work as long as the context lasts, then hold every ledger against every node."""
        people = [
            Person(f"p{self.dice.getrandbits(48):x}", self.nodes.client(self.pem), self.dice) for _ in range(PEOPLE)
        ]
        for person in people:
            person.dice = random.Random(self.dice.getrandbits(64))
            person.begin()
        ended, broken = threading.Event(), []

        def work(person: Person) -> None:
            try:
                while not ended.is_set():
                    person.act()
            except BaseException as error:
                broken.append(error)

        threads = [threading.Thread(target=work, args=(person,)) for person in people]
        for thread in threads:
            thread.start()
        try:
            yield people
        finally:
            ended.set()
            for thread in threads:
                thread.join(30)
        if broken:
            raise broken[0]
        for person in people:
            before = len(person.failures)
            for _ in range(2 * len(self.nodes.nodes)):
                person.check()
            assert len(person.failures) == before
            person.client.close()


@pytest.fixture(scope="module")
def world(nodes: Nodes, pem: Path) -> Iterator[World]:
    print(f"again with FAULT_SEED={SEED}")
    with haproxy(nodes, pem) as runtime:
        world = World(nodes, runtime, pem, random.Random(SEED))
        for name in NAMES:
            world.wait_for(name, "UP")
        yield world


def report(what: str, people: list[Person], times: int) -> list[Failure]:
    failures = sorted(itertools.chain.from_iterable(person.failures for person in people))
    requests = sum(person.requests for person in people)
    kinds = dict(Counter(f"{method} {kind}" for _, method, kind in failures))
    share = 100 * len(failures) / max(1, requests)
    print(f"{what}: {times} times, {requests} requests, {len(failures)} not answered ({share:.3f} %): {kinds}")
    return failures


def test_a_node_that_is_killed_takes_nothing_along_but_what_lay_with_it(world: World) -> None:
    nodes, kills = world.nodes, list[float]()

    def kill(name: str) -> None:
        kills.append(time.monotonic())
        nodes.nodes[name].kill()

    with world.people_at_work() as people:
        time.sleep(0.5)
        kill("b")
        world.wait_for("b", "DOWN")
        nodes.start("b")
        world.wait_for("b", "UP")
        added = nodes.make("e")
        nodes.start("e")
        line = re.search(r'echo "(add server .+)" \\\n +"(.+)" \|', (DEPLOY / "README.md").read_text())
        assert line is not None
        command = f"{line[1]} {line[2]}".replace("10.89.0.15:8000", f"{LOOPBACK}:{added.port}")
        answer = world.proxy(command)
        assert "New server registered" in answer, answer
        world.wait_for("e", "UP")
        served = {people[0].ask("GET", "/node", 200) for _ in range(20)}
        assert added.process is not None
        assert added.process.pid in served
        kill("a")
        time.sleep(0.5)
        nodes.start("a")
        down = world.dice.choice("bcd")
        end = time.monotonic() + NODES_S
        while time.monotonic() < end:  # the long run: one is killed each second, the one before comes back
            kill(down)
            before, down = down, world.dice.choice([name for name in NAMES if name != down])
            restart = threading.Thread(target=nodes.start, args=(before,))
            restart.start()
            time.sleep(1)
            restart.join()
        for name in NAMES:
            world.wait_for(name, "UP")
    failures = report("killed", people, len(kills))
    assert len(failures) <= PEOPLE * len(kills)
    for at, method, kind in failures:
        assert method not in ("GET", "HEAD"), "what changes nothing goes to another node"
        assert any(0 <= at - killed < AFTER_KILL_S for killed in kills), (at, method, kind)


def test_a_node_that_is_told_to_end_fails_nobody(world: World) -> None:
    nodes, ends = world.nodes, 0
    until = time.monotonic() + NODES_S
    with world.people_at_work() as people:
        names = itertools.cycle(NAMES)
        while ends < 2 or time.monotonic() < until:
            name = next(names)
            began = time.monotonic()
            assert nodes.nodes[name].terminate() == 0
            assert time.monotonic() - began < 10
            ends += 1
            nodes.start(name)
            world.wait_for(name, "UP")
    assert report("told to end", people, ends) == []
