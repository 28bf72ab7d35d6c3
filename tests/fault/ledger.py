"""What people were told, so that it can be held against a server that was killed meanwhile.

Each person writes down what was acknowledged (a 2xx that arrived). Afterwards the ledger is replayed over HTTP: nothing
acknowledged is lost, nothing revoked is alive. What was asked and not answered may have happened or not, but must be
one of the two; a 503 is the same.
"""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx2

APP = """
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from garrison import Garrison, allow

@allow(credentials="key session bearer")
async def whoami(request: Request) -> PlainTextResponse:
    return PlainTextResponse(request.user.id)

app = Starlette(routes=[Route("/whoami", whoami)])
Garrison().protect(app)
"""
"""An app of one route that takes every kind of credential; a file `guarded.py` for `guarded:app`."""
_MOST_KEYS = 6


class Refused(Exception):
    """The server said 503: what was asked may have happened or not."""


@dataclass(slots=True)
class Family:
    """One sign-in: an access token, and the refresh token that was acknowledged last."""

    access: str
    refresh: str

    def __hash__(self) -> int:
        return id(self)


@dataclass
class Person:
    """One person's ledger. `passwords` holds more than one entry only while a change was not acknowledged."""

    name: str
    email: str = ""
    passwords: list[str] = field(default_factory=list)
    alive: list[Family] = field(default_factory=list)
    dead: list[Family] = field(default_factory=list)
    unknown: list[Family] = field(default_factory=list)
    keys: dict[str, list[str]] = field(default_factory=dict)
    """Id of a key → its secrets that are good."""
    dead_keys: list[str] = field(default_factory=list)
    accounts: int = 0
    acknowledged: Counter[str] = field(default_factory=Counter)
    refused: int = 0

    def act(self, client: httpx2.Client, dice: random.Random) -> None:
        """Do one random thing; raises TransportError when the server dies under it, Refused for 503."""
        doable: list[tuple[Callable[[httpx2.Client, random.Random], None], int]] = [
            (self._sign_up, 3 if self.email else 1)
        ]
        if self.email:
            doable.append((self._sign_in, 22))
        if self.alive:
            doable += [
                (self._refresh, 24),
                (self._sign_out, 12),
                (self._sign_out_everywhere, 5),
                (self._change_password, 8),
                (self._make_key if len(self.keys) < _MOST_KEYS else self._revoke_key, 10),
            ]
            if self.keys:
                doable += [(self._rotate_key, 10), (self._revoke_key, 8)]
        chosen = dice.choices([one for one, _ in doable], [weight for _, weight in doable])[0]
        chosen(client, dice)
        self.acknowledged[chosen.__name__.strip("_").replace("_", " ")] += 1

    def check(self, client: httpx2.Client, dice: random.Random) -> None:
        """Hold the ledger against the server. Raises AssertionError, Refused."""
        if not self.email:
            return
        for family in self.alive:
            assert lives(client, family.access), f"{self.email}: an acknowledged session is lost"
        for family in self.dead:
            assert not lives(client, family.access), f"{self.email}: a revoked session is alive"
        for family in dice.sample(self.dead, min(2, len(self.dead))):
            status = self._ask(client, "/auth/refresh", {"refresh_token": family.refresh}).status_code
            assert status == 400, f"{self.email}: a revoked refresh token is answered with {status}"
        for secrets in self.keys.values():
            for secret in secrets:
                assert takes(client, secret), f"{self.email}: an acknowledged key is lost"
        for secret in self.dead_keys:
            assert not takes(client, secret), f"{self.email}: a revoked key is alive"
        for family in dice.sample(self.alive, min(2, len(self.alive))):  # what was acknowledged last goes on
            self._renew(client, family)
        fresh = self._signed_in(client)
        assert fresh is not None, f"{self.email}: an acknowledged account is lost"
        self.alive.append(fresh)
        self.unknown = []

    def _sign_up(self, client: httpx2.Client, dice: random.Random) -> None:
        self.accounts += 1
        email = f"{self.name}-{self.accounts}-{dice.getrandbits(32):x}@example.com"
        password = f"pass {dice.getrandbits(64):x}"
        self._ask(client, "/auth/sign-up", {"email": email, "password": password}, expected=202)
        self.email, self.passwords = email, [password]
        self.alive, self.dead, self.unknown, self.keys, self.dead_keys = [], [], [], {}, []

    def _sign_in(self, client: httpx2.Client, dice: random.Random) -> None:
        family = self._signed_in(client)
        assert family is not None, f"{self.email}: an acknowledged account cannot sign in"
        self.alive.append(family)

    def _refresh(self, client: httpx2.Client, dice: random.Random) -> None:
        self._renew(client, dice.choice(self.alive))

    def _sign_out(self, client: httpx2.Client, dice: random.Random) -> None:
        family = self.alive.pop(dice.randrange(len(self.alive)))
        self.unknown.append(family)
        self._ask(client, "/auth/sign-out", headers=bearer(family.access), expected=204)
        self.unknown.remove(family)
        self.dead.append(family)

    def _sign_out_everywhere(self, client: httpx2.Client, dice: random.Random) -> None:
        family, ended = dice.choice(self.alive), [*self.alive, *self.unknown]
        self.alive, self.unknown = [], ended
        self._ask(client, "/auth/sign-out-everywhere", headers=bearer(family.access), expected=204)
        self.dead += ended
        self.unknown = []

    def _change_password(self, client: httpx2.Client, dice: random.Random) -> None:
        family, new = dice.choice(self.alive), f"pass {dice.getrandbits(64):x}"
        current = self.passwords[0]
        others = [one for one in (*self.alive, *self.unknown) if one is not family]
        self.passwords, self.alive, self.unknown = [current, new], [family], others
        body = {"current": current, "new": new}
        self._ask(client, "/auth/password/change", body, headers=bearer(family.access), expected=204)
        self.passwords, self.unknown = [new], []
        self.dead += others

    def _make_key(self, client: httpx2.Client, dice: random.Random) -> None:
        made = self._ask(client, "/auth/keys", {"name": "one"}, headers=self._shown(dice), expected=201).json()
        self.keys[made["id"]] = [made["key"]]

    def _rotate_key(self, client: httpx2.Client, dice: random.Random) -> None:
        key = dice.choice(sorted(self.keys))
        self.keys[key] = self.keys[key][-1:]  # of two rotations, the secret before the last is good no more
        shown = self.keys.pop(key)
        answer = self._ask(client, f"/auth/keys/{key}/rotate", headers=self._shown(dice), expected=200)
        self.keys[key] = [*shown, answer.json()["key"]]

    def _revoke_key(self, client: httpx2.Client, dice: random.Random) -> None:
        key = dice.choice(sorted(self.keys))
        secrets = self.keys.pop(key)
        answer = client.delete(f"/auth/keys/{key}", headers=self._shown(dice))
        self._settle(answer, 204)
        self.dead_keys += secrets

    def _renew(self, client: httpx2.Client, family: Family) -> None:
        """Rotate; where the answer was lost, the token before is good again, and gives the same successor."""
        document = self._ask(client, "/auth/refresh", {"refresh_token": family.refresh}, expected=200).json()
        family.access, family.refresh = document["access_token"], document["refresh_token"]

    def _signed_in(self, client: httpx2.Client) -> Family | None:
        """Sign in with whichever password is right; settles an unanswered change of password."""
        for password in list(self.passwords):
            body = {"email": self.email, "password": password, "deliver": "token"}
            answer = self._ask(client, "/auth/sign-in", body)
            if answer.status_code == 200:
                self.passwords = [password]
                document = answer.json()
                return Family(document["access_token"], document["refresh_token"])
            assert answer.status_code == 401, answer.text
        return None

    def _shown(self, dice: random.Random) -> dict[str, str]:
        return bearer(dice.choice(self.alive).access)

    def _ask(
        self,
        client: httpx2.Client,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        expected: int | None = None,
    ) -> httpx2.Response:
        return self._settle(client.post(path, json=body, headers=headers or {}), expected)

    def _settle(self, answer: httpx2.Response, expected: int | None) -> httpx2.Response:
        check_503(answer)
        if answer.status_code == 503:
            self.refused += 1
            raise Refused
        assert expected is None or answer.status_code == expected, f"{self.email}: {answer.url.path} {answer.text}"
        return answer


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def lives(client: httpx2.Client, token: str) -> bool:
    """Say whether an access token is taken. Raises Refused where that could not be found out."""
    return _taken(client.get("/whoami", headers=bearer(token)))


def takes(client: httpx2.Client, key: str) -> bool:
    """Say whether a key is taken. Raises Refused where that could not be found out."""
    return _taken(client.get("/whoami", headers={"x-api-key": key}))


def check_503(answer: httpx2.Response) -> None:
    """Hold that a failure is a 503 with `Retry-After`, and never another 5xx."""
    if answer.status_code >= 500:
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"].isdecimal()


def _taken(answer: httpx2.Response) -> bool:
    check_503(answer)
    if answer.status_code == 503:
        raise Refused
    assert answer.status_code in (200, 401), answer.text
    return answer.status_code == 200
