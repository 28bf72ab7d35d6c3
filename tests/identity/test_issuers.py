"""Tokens of other issuers, against a real one over TCP: its keys rotated, it down, slow, talking rubbish, flooded."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from joserfc.jws import serialize_compact

from garrison.core.clock import ManualClock
from garrison.core.errors import Denied
from garrison.guard.authenticate import REFUSED
from garrison.identity.issuers.fetch import MAX_BYTES, read_object
from garrison.identity.issuers.model import ForeignIssuer, parse_issuers
from garrison.identity.issuers.refused import subject_id
from garrison.identity.issuers.remote_keys import FETCHES_A_MINUTE, MAX_KEYS, MOST_WAITING, RemoteKeys
from garrison.identity.issuers.verifier import ForeignEntry, ForeignTokens
from garrison.identity.signing.jose import VerifyingKey, generate_key, public_jwk
from tests.identity.conftest import OpenProcess
from tests.identity.foreign import AUDIENCE, Issuer, configured, issuing, key, show

pytestmark = pytest.mark.anyio


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def tokens(issuer: Issuer, open_process: OpenProcess) -> AsyncIterator[ForeignTokens]:
    async with open_process(foreign_issuers=(configured(issuer),)) as process:
        yield process.foreign


async def test_roles_and_scopes_are_what_the_maps_make_of_them(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    entry = await show(tokens, issuer.token(issuer.keys[0], clock.now()), clock)
    principal = entry.principal
    assert (principal.kind, principal.issuer, principal.id) == ("foreign", issuer.url, "auth0|7")
    assert principal.scopes == {"tasks:read"}
    assert principal.roles == {"admin"}
    assert principal.delegated
    assert (entry.account_id, entry.session_id) == (subject_id(issuer.url, "auth0|7"), "")


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
        {"sub": "auth0|7\x00"},
        {"exp": None},
        {"exp": "never"},
        {"exp": True},
        {"iat": True},
        {"exp": 10**400},
        {"iat": -(10**400)},
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


async def test_a_subject_that_no_store_can_hold_is_refused(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    """JSON may spell half a character; what asked the store for it, or showed it, would fail with a 5xx."""
    own, now = issuer.keys[0], int(clock.now())
    claims = {"iss": issuer.url, "aud": AUDIENCE, "iat": now, "exp": now + 600}
    for subject, is_fine in (("a\ud800", False), ("a\u00e9", True)):
        payload = json.dumps({**claims, "sub": subject})
        token = serialize_compact({"alg": "ES256", "kid": own.kid, "typ": "at+jwt"}, payload, own.key).encode()
        assert ((await show(tokens, token, clock)) not in (None, REFUSED)) == is_fine


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


async def test_a_slow_issuer_does_not_gather_a_crowd_that_goes_on_at_once(
    issuer: Issuer, tokens: ForeignTokens, clock: ManualClock
) -> None:
    """Whoever waits for one fetch goes on in one turn of the loop; beyond a hundred, nobody can tell."""
    assert isinstance(await show(tokens, issuer.token(issuer.keys[0], clock.now()), clock), ForeignEntry)
    coming = key("coming")
    answered = asyncio.Event()
    issuer.held = answered
    waiting = [
        asyncio.create_task(show(tokens, issuer.token(coming, clock.now(), jti=number), clock))
        for number in range(MOST_WAITING)
    ]
    await asyncio.sleep(0.05)
    for number in range(50):
        with pytest.raises(Denied) as caught:
            await show(tokens, issuer.token(key("another"), clock.now(), jti=number), clock)
        assert (caught.value.code, caught.value.problem.status) == ("issuer_unavailable", 503)
    issuer.keys.append(coming)
    answered.set()
    assert all(isinstance(one, ForeignEntry) for one in await asyncio.gather(*waiting))
    issuer.held = None
    clock.advance(15)
    assert await show(tokens, issuer.token(key("another"), clock.now()), clock) is REFUSED, (
        "their places are free again"
    )


async def test_the_loop_has_its_turn_between_two_keys(clock: ManualClock) -> None:
    """A hundred RSA keys of 8,192 bits take 60 ms."""
    public = public_jwk(generate_key("RS256"))
    body = json.dumps({"keys": [{**public, "kid": str(n), "alg": "RS256"} for n in range(2 * MAX_KEYS)]}).encode()

    async def fetch_many(_url: str) -> tuple[bytes, float]:
        return body, 300.0

    remote = RemoteKeys(
        ForeignIssuer("https://a.example.com", "a", jwks_uri="https://a.example.com/j"), fetch_many, clock
    )
    finding = asyncio.create_task(remote.find("0"))
    turns = 0
    while not finding.done():
        await asyncio.sleep(0)
        turns += 1
    assert await finding is not None
    assert turns > MAX_KEYS
    assert remote.known(str(MAX_KEYS)) is None


@pytest.mark.parametrize(
    ("one", "between"),
    [(b"[]", b","), (b"{}", b","), (b"1e5", b","), (b"[", b""), (b'{"a":', b""), (b"9" * 4300, b",")],
)
def test_no_body_of_the_size_of_a_key_set_holds_up_the_loop(one: bytes, between: bytes) -> None:
    """256 KB of small lists took 70 ms, of long numbers 20."""
    times = (MAX_BYTES - 20) // len(one + between)
    body = b'{"keys":[' + between.join([one] * times) + b"]}"
    with pytest.raises(ValueError, match=r"nested|digits|more than|Expecting"):
        read_object(body)


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
