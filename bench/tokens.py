"""What tokens cost in process: warm and first seen, beside raw verification by the cryptography library; JWT cookies.

First seen is what a request costs more with a token that this process never saw, than with one it saw a moment ago:
taking it apart, signature, claims, and one read of the store. Raw is `public_key.verify` on the very same bytes.
"""

import base64
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from bench.apps import guarded
from bench.inprocess import Nowhere, answer_to, receive_nothing, scope_of, settings, started
from garrison.identity.tokens.service import Family
from garrison.serve.frameworks import guard_of
from garrison.serve.settings import Settings
from garrison.wire.answer import ASGIApp, Scope

GOAL_RATIO = 2.0
_SHOWN = {"email": "bench@example.com", "password": "a long walk to the sea"}


@dataclass(frozen=True, slots=True)
class Tokens:
    """Microseconds, medians over the rounds; the ratios are medians of the rounds' own."""

    raw_verify_us: float
    first_seen_us: float
    """More than a warm one."""
    first_seen_ratio: float
    session_warm_us: float
    token_warm_us: float
    warm_ratio: float
    """A warm token ÷ a warm session: whole requests."""
    cookie_jwt_warm_us: float
    signed_per_s: float


async def measure(directory: Path, *, rounds: int, count: int, said: Callable[[str], None]) -> Tokens:
    """Return the figures; `count` tokens a round."""
    base = settings(directory)
    app, other = guarded("raw ASGI", base), guarded("raw ASGI", _jwt_cookies(base, directory))
    async with started(app), started(other):
        session, family = await _signed_in(app)
        cookie_jwt, _ = await _signed_in(other)
        service = guard_of(app)._runtime._identity.tokens
        key = service._ring.signing.key.get_op_key("verify")
        raw: list[float] = []
        first: list[float] = []
        warm: list[tuple[float, float, float]] = []
        signing: list[float] = []
        for number in range(rounds):
            said(f"tokens, round {number + 1} of {rounds}")
            began = time.perf_counter()
            tokens = [(await service.issue(family)).access_token for _ in range(count)]
            signing.append(count / (time.perf_counter() - began))
            requests = [scope_of("/private", (b"authorization", f"Bearer {token}".encode())) for token in tokens]
            raw.append(_raw(key, tokens))
            cold = await _timed(app, requests)
            again = await _timed(app, requests)
            first.append(cold - again)
            warm.append((await _timed(app, [session] * count), again, await _timed(other, [cookie_jwt] * count)))
    median = statistics.median
    return Tokens(
        median(raw),
        median(first),
        median(seen / verified for seen, verified in zip(first, raw, strict=True)),
        median(one for one, _, _ in warm),
        median(one for _, one, _ in warm),
        median(token / session for session, token, _ in warm),
        median(one for _, _, one in warm),
        median(signing),
    )


def _jwt_cookies(base: Settings, directory: Path) -> Settings:
    values = {name: getattr(base, name) for name in base.model_fields_set}
    return Settings(**{**values, "session_format": "jwt", "database_url": f"sqlite:///{directory / 'jwt.db'}"})


async def _signed_in(app: ASGIApp) -> tuple[Scope, Family]:
    """Return the scope of a request with a session's cookie, and the family of a sign-in by token."""
    await answer_to(app, "POST", "/auth/sign-up", _SHOWN)
    _, headers, _ = await answer_to(app, "POST", "/auth/sign-in", _SHOWN)
    cookie = next(value for name, value in headers if name == b"set-cookie" and value.startswith(b"garrison="))
    _, _, body = await answer_to(app, "POST", "/auth/sign-in", {**_SHOWN, "deliver": "token"})
    payload = json.loads(body)["access_token"].split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    family = Family(claims["sid"], claims["sub"], frozenset({"member"}), 1, "", 0.0)
    return scope_of("/private", (b"cookie", cookie.partition(b";")[0])), family


def _raw(key: Any, tokens: Sequence[str]) -> float:
    """Return microseconds for one verification by the library alone."""
    pairs = []
    for token in tokens:
        signed, _, last = token.encode().rpartition(b".")
        pairs.append((signed, base64.urlsafe_b64decode(last + b"==")))
    scheme, digest = padding.PKCS1v15(), hashes.SHA256()
    began = time.perf_counter()
    for signed, signature in pairs:
        key.verify(signature, signed, scheme, digest)
    return (time.perf_counter() - began) / len(pairs) * 1e6


async def _timed(app: ASGIApp, requests: Sequence[Scope]) -> float:
    """Return microseconds a request."""
    copies = [dict(one) for one in requests]
    receive, send = receive_nothing, Nowhere().send
    began = time.perf_counter()
    for scope in copies:
        await app(scope, receive, send)
    return (time.perf_counter() - began) / len(copies) * 1e6
