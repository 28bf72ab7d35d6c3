"""Signing keys are rotated again and again under load, by command and by age: nobody hears a false 401.

Two workers; people with access tokens, who refresh or sign in anew, and people with cookies, opaque ones or JWTs, each
request by a connection of its own; somebody who floods with random `kid`s; and verifiers outside who know one address,
keep the JWKS for exactly as long as they may, and never ask before. `ROTATE_S` seconds each way (`make soak`: 60). With
opaque cookies a retired key is forgotten seconds later; with JWTs in them it lives as long as a session may be idle.
"""

import base64
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from tests.process import forks
from tests.process.server import GARRISON, RAISED, Server, sign_in, sign_up
from tests.process.test_workers import APP

pytestmark = pytest.mark.alone
ROTATE_S = float(os.environ.get("ROTATE_S", "5"))
LEAST_KIDS = 3
ACCESS_TTL_S, USED_S = 10, 5
EMAIL = "ada@example.com"
SHORT = {
    **RAISED,
    "GARRISON_PASSWORD_COST": "m=64,t=1,p=1",
    "GARRISON_JWKS_MAX_AGE": "2s",
    "GARRISON_REVOCATION_BOUND": "0.5s",
    "GARRISON_ACCESS_TTL": f"{ACCESS_TTL_S}s",
    "GARRISON_LEEWAY": "1s",
}


class Load:
    """What goes on around the rotations, each part in a thread of its own; what went wrong stands in `wrong`."""

    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.over = threading.Event()
        self.wrong: list[str] = []
        self.done: Counter[str] = Counter()
        self.workers: set[int] = set()
        self.kids: dict[str, float] = {}
        """`kid` → when a token of it was first seen."""
        self.issued: list[tuple[float, str]] = []
        """Access tokens with the time they were received, the youngest last."""

    def run(self, parts: list[Callable[[], None]]) -> list[threading.Thread]:
        threads = [threading.Thread(target=self._part, args=(part,)) for part in parts]
        for thread in threads:
            thread.start()
        return threads

    def _part(self, part: Callable[[], None]) -> None:
        try:
            part()
        except Exception as error:
            self.wrong.append(f"{part.__name__}: {error!r}")

    def client(self) -> httpx2.Client:
        """Return a client that takes a new connection for each request, so whichever worker."""
        return httpx2.Client(base_url=self.url, timeout=20, limits=httpx2.Limits(max_keepalive_connections=0))

    def ask(self, client: httpx2.Client, what: str, token: str, headers: dict[str, str] | None = None) -> None:
        answer = client.get("/whoami", headers=headers)
        if answer.status_code == 200:
            self.done[what] += 1
            self.workers.add(answer.json()["pid"])
        else:
            self.wrong.append(f"{what}: {answer.status_code} for {token.partition('.')[0]} {self.age_of(token)}")
        time.sleep(0.03)

    def saw(self, token: str) -> None:
        if token.count(".") == 2:
            self.kids.setdefault(kid_of(token), time.monotonic())

    def age_of(self, token: str) -> str:
        now, known = time.monotonic(), {token: received for received, token in self.issued}
        key = self.kids.get(kid_of(token), now) if token.count(".") == 2 else now
        return f"key {(now - key) * 1e3:.0f} ms, token {(now - known.get(token, now)) * 1e3:.0f} ms old"

    def person_with_tokens(self) -> None:
        with self.client() as client:
            while not self.over.is_set():
                answer = sign_in(client, EMAIL, deliver="token")
                for _ in range(4):
                    received, found = time.monotonic(), answer.json()
                    token = found["access_token"]
                    self.saw(token)
                    self.issued.append((received, token))
                    headers = {"authorization": f"Bearer {token}"}
                    until = received + (0.4 if self.done["refreshed"] % 2 else USED_S)
                    while time.monotonic() < until and not self.over.is_set():
                        self.ask(client, "token", token, headers)
                    answer = client.post("/auth/refresh", json={"refresh_token": found["refresh_token"]})
                    assert answer.status_code == 200, answer.text
                    self.done["refreshed"] += 1

    def person_with_cookie(self) -> None:
        with self.client() as client:
            sign_in(client, EMAIL)
            while not self.over.is_set():
                self.saw(client.cookies["garrison"])
                self.ask(client, "cookie", client.cookies["garrison"])

    def person_with_new_cookies(self) -> None:
        with self.client() as client:
            while not self.over.is_set():
                client.cookies.clear()
                sign_in(client, EMAIL)
                self.saw(client.cookies["garrison"])
                for _ in range(2):
                    self.ask(client, "new cookie", client.cookies["garrison"])

    def flood(self) -> None:
        """Show tokens of keys that never were: they must take nothing from those that have only just begun to sign."""
        body = base64.urlsafe_b64encode(b'{"iss":"x"}').decode().rstrip("=")
        with self.client() as client:
            while not self.over.is_set():
                self.done["flood"] += 1
                head = b'{"alg":"RS256","kid":"%d","typ":"at+jwt"}' % self.done["flood"]
                token = f"{base64.urlsafe_b64encode(head).decode().rstrip('=')}.{body}.{'A' * 342}"
                assert client.get("/whoami", headers={"authorization": f"Bearer {token}"}).status_code == 401
                time.sleep(0.02)

    def verifier(self) -> None:
        """Verify each token, all its life long, with keys that are kept as Cache-Control says."""
        kept_until, keys = 0.0, KeySet([])
        with self.client() as client:
            while not self.over.is_set():
                if time.monotonic() >= kept_until:
                    answer = client.get("/.well-known/jwks.json")
                    assert answer.status_code == 200
                    keys = KeySet.import_key_set(answer.json())
                    max_age_s = int(answer.headers["cache-control"].partition("max-age=")[2])
                    kept_until = time.monotonic() + max_age_s
                    self.done["JWKS fetched"] += 1
                for received, token in reversed(self.issued):
                    if time.monotonic() > received + USED_S:
                        break
                    try:
                        jwt.decode(token, keys, algorithms=["RS256"])
                        self.done["verified outside"] += 1
                    except (JoseError, ValueError) as error:
                        self.wrong.append(f"outside: {error!r} {self.age_of(token)}")
                time.sleep(0.03)


def kid_of(token: str) -> str:
    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


@pytest.mark.parametrize(("way", "form", "lifetime"), [("command", "opaque", "90d"), ("age", "jwt", "1s")])
def test_no_rotation_refuses_anybody(tmp_path: Path, way: str, form: str, lifetime: str) -> None:
    (tmp_path / "streaming.py").write_text(APP)
    environment = {**SHORT, "GARRISON_SESSION_FORMAT": form, "GARRISON_KEY_LIFETIME": lifetime}
    with Server(tmp_path, app="streaming:app", workers=2, environment=environment) as server:
        sign_up(server.client(), EMAIL)
        load = Load(server)
        people = [load.person_with_tokens] * 3 + [load.person_with_cookie, load.person_with_new_cookies]
        threads = load.run([*people, load.flood, *[load.verifier] * 4])
        began = time.monotonic()
        try:
            while time.monotonic() < began + ROTATE_S or len(load.kids) < LEAST_KIDS:
                assert time.monotonic() < began + ROTATE_S + 60, f"no more than {len(load.kids)} keys ever signed"
                if way == "command":
                    rotate(server)
                time.sleep(0.2)
        finally:
            load.over.set()
            for thread in threads:
                thread.join()
    counted = ", ".join(f"{count} {what}" for what, count in sorted(load.done.items()))
    print(f"by {way}: {len(load.kids)} keys signed in {time.monotonic() - began:.0f} s: {counted}")
    assert not load.wrong, f"{len(load.wrong)} false refusals, such as {Counter(load.wrong).most_common(5)}"
    assert len(load.workers) == 2
    for what in ("token", "cookie", "new cookie", "refreshed", "verified outside", "JWKS fetched"):
        assert load.done[what] >= ROTATE_S, what


def rotate(server: Server) -> None:
    environment = {**os.environ, **server.environment}
    done = forks.run([GARRISON, "keys", "rotate"], server.directory, environment)
    assert done.returncode == 0, done.stderr
