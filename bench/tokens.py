"""What tokens of people cost in process: first seen, beside raw verification by the cryptography library, and warm.

Raw is `public_key.verify` on the very same bytes. First seen is told twice: `jose.verify` alone, which takes the token
apart besides; and the whole request with a token that this process never saw, less the same request a moment later:
signature, claims, one read of the store, and the guard's own code again, which all of that has pushed out of the
processor's nearest caches.

Warm, one session's cookie, one JWT and one JWT in a cookie take turns; the ratios are to the session.
"""

import base64
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from bench.apps import guarded
from bench.asking import Reads, demand_open, heard, medians, scope_of, settings, signed_in, started, timed
from garrison.identity.signing.jose import FindKey, verify
from garrison.identity.tokens.service import ACCESS_TYP, Family
from garrison.serve.frameworks import guard_of
from garrison.serve.settings import Settings
from garrison.wire.answer import Scope

GOAL_RATIO = 2.0


@dataclass(frozen=True, slots=True)
class Tokens:
    """Microseconds, medians over the rounds; the ratios are medians of the rounds' own."""

    raw_verify_us: float
    verify_us: float
    verify_ratio: float
    """`jose.verify` ÷ raw."""
    first_seen_us: float
    """A whole request, more than a warm one."""
    first_seen_ratio: float
    """That ÷ raw."""
    session_warm_us: float
    token_warm_us: float
    warm_ratio: float
    """A warm token ÷ a warm session: whole requests."""
    cookie_jwt_warm_us: float
    cookie_jwt_ratio: float
    reads_when_warm: int
    """How often a request that is called warm asked the store: any but 0, and the figures are none."""


async def measure(directory: Path, *, rounds: int, count: int, said: Callable[[str], None]) -> Tokens:
    """Return the figures; `count` tokens a round."""
    base = settings(directory)
    app, other = guarded("raw ASGI", base), guarded("raw ASGI", _jwt_cookies(base, directory))
    async with started(app), started(other):
        cookie, token = await signed_in(app)
        cookie_jwt, _ = await signed_in(other)
        session, warm, jwt_session = scope_of("/private", cookie), _shown(token), scope_of("/private", cookie_jwt)
        identity = guard_of(app)._runtime._identity
        family, find_key = _family(token), identity.keyring.verifying.get
        key = identity.keyring.signing.key.get_op_key("verify")
        reads, other_reads = Reads(app), Reads(other)
        rows: list[dict[str, float]] = []
        warm_reads = 0
        for number in range(rounds):
            said(f"tokens, round {number + 1} of {rounds}")
            tokens = [(await identity.tokens.issue(family)).access_token for _ in range(count)]
            requests = [_shown(one) for one in tokens]
            await heard(app)
            await heard(other)
            await demand_open(app, session, warm)
            await demand_open(other, jwt_session)
            raw, verified = _raw(key, tokens), _verified(tokens, find_key)
            before = reads.count
            cold = await timed(app, requests)
            if reads.count - before != count:
                raise RuntimeError("a token that was never seen is asked about once")
            before = reads.count + other_reads.count
            first = cold - await timed(app, requests)
            by_session = await timed(app, [session] * count)
            by_token = await timed(app, [warm] * count)
            by_cookie_jwt = await timed(other, [jwt_session] * count)
            warm_reads += reads.count + other_reads.count - before
            rows.append(
                {
                    "raw_verify_us": raw,
                    "verify_us": verified,
                    "verify_ratio": verified / raw,
                    "first_seen_us": first,
                    "first_seen_ratio": first / raw,
                    "session_warm_us": by_session,
                    "token_warm_us": by_token,
                    "warm_ratio": by_token / by_session,
                    "cookie_jwt_warm_us": by_cookie_jwt,
                    "cookie_jwt_ratio": by_cookie_jwt / by_session,
                }
            )
    return Tokens(**medians(rows), reads_when_warm=warm_reads)


def _jwt_cookies(base: Settings, directory: Path) -> Settings:
    values = {name: getattr(base, name) for name in base.model_fields_set}
    return Settings(**{**values, "session_format": "jwt", "database_url": f"sqlite:///{directory / 'jwt.db'}"})


def _shown(token: str) -> Scope:
    return scope_of("/private", (b"authorization", f"Bearer {token}".encode()))


def _family(token: str) -> Family:
    """Return what more tokens of the same sign-in are made of."""
    payload = token.split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return Family(claims["sid"], claims["sub"], frozenset({"member"}), 1, "", 0.0)


def _raw(key: Any, tokens: Sequence[str]) -> float:
    """Return microseconds for one verification by the library alone."""
    pairs = []
    for token in tokens:
        signed, _, last = token.encode().rpartition(b".")
        pairs.append((signed, base64.urlsafe_b64decode(last + b"==")))
    scheme, digest = padding.PKCS1v15(), hashes.SHA256()
    began = time.thread_time()
    for signed, signature in pairs:
        key.verify(signature, signed, scheme, digest)
    return (time.thread_time() - began) / len(pairs) * 1e6


def _verified(tokens: Sequence[str], find_key: FindKey) -> float:
    """Return microseconds for one verification by ours."""
    shown = [token.encode() for token in tokens]
    began = time.thread_time()
    for token in shown:
        verify(token, find_key, typ=ACCESS_TYP)
    return (time.thread_time() - began) / len(shown) * 1e6
