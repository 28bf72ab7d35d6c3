"""Tokens of other issuers, against a real one over TCP: its keys rotated, it down, slow, talking rubbish, flooded."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web

from garrison.core.clock import ManualClock
from garrison.core.errors import Denied
from garrison.guard.authenticate import REFUSED
from garrison.identity.issuers.fetch import fetch
from garrison.identity.issuers.model import ForeignIssuer, parse_issuers
from garrison.identity.issuers.remote_keys import FETCHES_A_MINUTE
from garrison.identity.issuers.verifier import ForeignEntry, ForeignTokens
from garrison.identity.signing.jose import VerifyingKey, generate_key, public_jwk, sign
from garrison.wire.call import Call

pytestmark = pytest.mark.anyio
AUDIENCE = "https://api.example.com"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@dataclass
class Issuer:
    """An OIDC issuer as far as verifiers know one."""

    keys: list[VerifyingKey] = field(default_factory=list)
    mode: str = "up"
    fetched: int = 0
    max_age_s: int = 300
    url: str = ""

    async def discovery(self, _request: web.Request) -> web.Response:
        return await self._answer({"issuer": self.url, "jwks_uri": self.url.rstrip("/") + "/jwks"})

    async def jwks(self, _request: web.Request) -> web.Response:
        self.fetched += 1
        shown = [{**public_jwk(key.key), "kid": key.kid, "alg": key.algorithm, "use": "sig"} for key in self.keys]
        return await self._answer({"keys": [{"kty": "EC", "kid": "odd"}, "no key", *shown]})

    async def _answer(self, document: Mapping[str, Any]) -> web.Response:
        if self.mode == "slow":
            await asyncio.sleep(30)
        if self.mode == "down":
            return web.Response(status=500)
        if self.mode == "garbage":
            return web.Response(body=b"\xff{" * 100)
        if self.mode == "huge":
            return web.Response(body=b" " * 1_000_000)
        headers = {"cache-control": f"public, max-age={self.max_age_s}"}
        return web.Response(body=json.dumps(document), headers=headers)

    def token(self, key: VerifyingKey, now: float, *, typ: str = "at+jwt", **claims: Any) -> bytes:
        whole = {
            "iss": self.url,
            "sub": "auth0|7",
            "aud": AUDIENCE,
            "iat": int(now),
            "exp": int(now) + 600,
            "scope": "read:tasks openid",
            "roles": ["Boss", "nobody"],
            **claims,
        }
        return sign({"typ": typ}, {name: value for name, value in whole.items() if value is not None}, key).encode()


def key(kid: str, algorithm: str = "ES256") -> VerifyingKey:
    return VerifyingKey(kid, algorithm, generate_key(algorithm))


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    made = Issuer(keys=[key("one")])
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/jwks", made.jwks)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield made
    await runner.cleanup()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def tokens(issuer: Issuer, clock: ManualClock) -> ForeignTokens:
    configured = ForeignIssuer(issuer.url, AUDIENCE, scopes={"read:tasks": "tasks:read"}, roles={"Boss": "admin"})
    return ForeignTokens([configured], fetch, clock, leeway_s=60)


async def show(tokens: ForeignTokens, token: bytes, clock: ManualClock) -> Any:
    call = Call({"type": "http"})
    call.now, call.boot = clock.now(), clock.boot()
    found = tokens.show(token[-32:], token, call)
    return await found if asyncio.iscoroutine(found) else found


async def test_roles_and_scopes_are_what_the_maps_make_of_them(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    entry = await show(tokens, issuer.token(issuer.keys[0], clock.now()), clock)
    principal = entry.principal
    assert (principal.kind, principal.issuer, principal.id) == ("foreign", issuer.url, "auth0|7")
    assert principal.scopes == {"tasks:read"}
    assert principal.roles == {"admin"}
    assert principal.delegated
    assert entry.account_id == entry.session_id == ""


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
async def test_every_algorithm_that_is_taken(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock, algorithm: str
) -> None:
    issuer.keys = [key("its", algorithm)]
    assert isinstance(await show(tokens, issuer.token(issuer.keys[0], clock.now(), typ="JWT"), clock), ForeignEntry)


async def test_what_is_no_token_for_us_is_refused(issuer: Issuer, tokens: ForeignTokens, clock: ManualClock) -> None:
    now, own = clock.now(), issuer.keys[0]
    wrong: list[dict[str, Any]] = [
        {"aud": "https://other.example.com"},
        {"aud": ["https://other.example.com"]},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"exp": int(now) - 60},
        {"iat": int(now) + 61},
        {"exp": 10**400},
        {"nbf": int(now) + 61},
        {"nbf": "soon"},
        {"typ": "session+jwt"},
    ]
    for claims in wrong:
        assert await show(tokens, issuer.token(own, now, **claims), clock) is REFUSED, claims
    for claims in ({"exp": int(now) - 59}, {"iat": int(now) + 60}, {"aud": ["x", AUDIENCE]}):
        assert isinstance(await show(tokens, issuer.token(own, now, **claims), clock), ForeignEntry), claims
    forged = issuer.token(key("one"), now)
    assert await show(tokens, forged, clock) is REFUSED
    stranger = issuer.token(own, now, iss="https://else.example.com")
    assert await show(tokens, stranger, clock) is None, "not of an issuer that is configured: another's to judge"


async def test_a_new_key_is_fetched_once_and_an_old_one_dies_with_the_next_fetch(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    old, new = issuer.keys[0], key("two")
    token = issuer.token(old, clock.now())
    assert isinstance(await show(tokens, token, clock), ForeignEntry)
    issuer.keys = [new]
    found = await asyncio.gather(*(show(tokens, issuer.token(new, clock.now(), jti=n), clock) for n in range(50)))
    assert all(isinstance(one, ForeignEntry) for one in found)
    assert issuer.fetched == 2
    assert await show(tokens, token, clock) is REFUSED


async def test_the_issuers_failures_take_no_key_away(issuer: Issuer, tokens: ForeignTokens, clock: ManualClock) -> None:
    token = issuer.token(issuer.keys[0], clock.now(), exp=int(clock.now()) + 9_000)
    assert isinstance(await show(tokens, token, clock), ForeignEntry)
    for mode in ("down", "garbage", "huge"):
        issuer.mode = mode
        clock.advance(400)
        tokens.refresh_if_due()
        await asyncio.sleep(0.1)
        assert isinstance(await show(tokens, token, clock), ForeignEntry), mode
        assert await show(tokens, issuer.token(key("unknown"), clock.now()), clock) is REFUSED


async def test_without_any_keys_nobody_can_tell(issuer: Issuer, tokens: ForeignTokens, clock: ManualClock) -> None:
    issuer.mode = "down"
    with pytest.raises(Denied) as caught:
        await show(tokens, issuer.token(issuer.keys[0], clock.now()), clock)
    assert (caught.value.code, caught.value.problem.status) == ("issuer_unavailable", 503)
    issuer.mode = "up"
    clock.advance(15)
    assert isinstance(await show(tokens, issuer.token(issuer.keys[0], clock.now()), clock), ForeignEntry)


async def test_ten_thousand_random_kids_cost_five_fetches_and_refuse_nobody(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    good = issuer.token(issuer.keys[0], clock.now())
    assert isinstance(await show(tokens, good, clock), ForeignEntry)
    stranger = key("x")
    flood = [issuer.token(VerifyingKey(f"kid-{n}", "ES256", stranger.key), clock.now()) for n in range(1_000)]
    longest = 0.0
    for number in range(10_000):
        began = time.perf_counter()
        assert await show(tokens, flood[number % 1_000], clock) is REFUSED
        longest = max(longest, time.perf_counter() - began)
        if number % 500 == 0:
            assert isinstance(await show(tokens, good, clock), ForeignEntry)
            assert isinstance(
                await show(tokens, issuer.token(issuer.keys[0], clock.now(), jti=number), clock), ForeignEntry
            )
    assert issuer.fetched <= FETCHES_A_MINUTE
    print(f"longest of 10,000: {longest * 1000:.1f} ms")


async def test_a_slow_issuer_holds_up_only_whoever_needs_it(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    good = issuer.token(issuer.keys[0], clock.now())
    assert isinstance(await show(tokens, good, clock), ForeignEntry)
    issuer.mode = "slow"
    clock.advance(100)
    waiting = asyncio.create_task(show(tokens, issuer.token(key("new"), clock.now()), clock))
    await asyncio.sleep(0.05)
    for number in range(100):
        fresh = issuer.token(issuer.keys[0], clock.now(), jti=number)
        assert isinstance(await asyncio.wait_for(show(tokens, fresh, clock), 1), ForeignEntry)
    assert not waiting.done()
    waiting.cancel()
    tokens_running = next(iter(tokens._issuers.values()))[1]._running
    assert tokens_running is not None
    tokens_running.cancel()


def test_what_is_configured_wrong_is_told() -> None:
    fine = {"issuer": "https://login.example.com/", "audience": "api"}
    assert parse_issuers([fine])[0].issuer == "https://login.example.com/"
    for wrong, says in [
        ({}, "list"),
        (["x"], "issuer 1 is no JSON object"),
        ([{"audience": "a"}], "needs issuer"),
        ([{**fine, "audience": ""}], "needs audience"),
        ([{**fine, "scope": {}}], "unknown members: scope"),
        ([{**fine, "scopes": ["a"]}], "maps their words to ours"),
        ([{**fine, "issuer": "http://login.example.com"}], "https://"),
        ([{**fine, "jwks_uri": "file:///etc/passwd"}], "https://"),
        ([fine, fine], "listed twice"),
    ]:
        with pytest.raises(ValueError, match=says):
            parse_issuers(wrong)
