"""What machines cost in process: a warm API key beside a session under the same rule, and tokens for clients.

The rule names a scope, since a key passes no other. A client's token is a whole `POST /oauth/token`: form, client and
secret looked up in the store, limits, signature, answer; raw is `private_key.sign` of as many bytes by the cryptography
library, without anything. Both are processor time, of all threads; tokens a second are by the clock. `AT_ONCE` requests
are under way together, as from several clients, since a look at the store waits for another thread.
"""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from bench.apps import guarded
from bench.asking import (
    Nowhere,
    Reads,
    answer,
    demand_open,
    heard,
    medians,
    scope_of,
    settings,
    signed_in,
    started,
    timed,
)
from garrison import Policy, allow
from garrison.serve.frameworks import guard_of
from garrison.wire.answer import ASGIApp, Message, Scope

SCOPE = "bench:read"
POLICY = Policy(("GET /scoped", allow(scope=SCOPE)))
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Machines:
    """Microseconds, medians over the rounds; the ratios are medians of the rounds' own."""

    session_us: float
    """Warm, under a rule that names a scope."""
    key_us: float
    """Warm, under the same."""
    key_ratio: float
    raw_sign_us: float
    client_token_us: float
    client_token_ratio: float
    """A client's token ÷ a raw signature."""
    client_tokens_per_s: float
    reads_when_warm: int
    """How often a request that is called warm asked the store: any but 0, and the figures are none."""


async def measure(directory: Path, *, rounds: int, count: int, said: Callable[[str], None]) -> Machines:
    """Return the figures; `count` requests with a key and a fourth as many tokens a round."""
    app = guarded("raw ASGI", settings(directory), POLICY)
    async with started(app):
        cookie, _ = await signed_in(app)
        identity = guard_of(app)._runtime._identity
        session = scope_of("/scoped", cookie)
        key = scope_of("/scoped", (b"x-api-key", await _key(app, session, identity)))
        token_request, form = await _token_request(identity)
        status, _, body = await answer(app, token_request, form)
        if status != 200:
            raise RuntimeError(f"/oauth/token: {status}, not 200")
        signed = json.loads(body)["access_token"].rpartition(".")[0].encode()
        private, reads = identity.keyring.signing.key.get_op_key("sign"), Reads(app)
        rows: list[dict[str, float]] = []
        warm_reads = 0
        for number in range(rounds):
            said(f"machines, round {number + 1} of {rounds}")
            raw = _raw(private, signed, count // 4)
            token, rate = await _tokens(app, token_request, form, count // 4)
            await heard(app)
            await demand_open(app, session, key)
            before = reads.count
            by_session, by_key = await timed(app, [session] * count), await timed(app, [key] * count)
            warm_reads += reads.count - before
            rows.append(
                {
                    "session_us": by_session,
                    "key_us": by_key,
                    "key_ratio": by_key / by_session,
                    "raw_sign_us": raw,
                    "client_token_us": token,
                    "client_token_ratio": token / raw,
                    "client_tokens_per_s": rate,
                }
            )
    return Machines(**medians(rows), reads_when_warm=warm_reads)


async def _key(app: ASGIApp, session: Scope, identity: Any) -> bytes:
    """Return the secret of a key of the account whose session this is."""
    _, _, body = await answer(app, {**session, "path": "/auth/session", "raw_path": b"/auth/session"})
    made = await identity.keys.create(json.loads(body)["account"]["id"], "bench", scopes=[SCOPE])
    secret: str = made.secret
    return secret.encode()


async def _token_request(identity: Any) -> tuple[Scope, bytes]:
    """Make a client; return its request for a token, and the form in it."""
    made = await identity.clients.create("bench", audiences=["https://api.example.com"], scopes=[SCOPE])
    fields = {"grant_type": "client_credentials", "client_id": made.client.id, "client_secret": made.secret}
    form = urlencode(fields).encode()
    headers = (b"content-type", b"application/x-www-form-urlencoded"), (b"content-length", b"%d" % len(form))
    return scope_of("/oauth/token", *headers, method="POST"), form


async def _tokens(app: ASGIApp, scope: Scope, form: bytes, count: int) -> tuple[float, float]:
    """Return microseconds for a token, `AT_ONCE` under way together, and tokens a second."""
    send = Nowhere().send

    async def receive() -> Message:
        return {"type": "http.request", "body": form, "more_body": False}

    async def some() -> None:
        for _ in range(count // AT_ONCE + 1):
            await app(dict(scope), receive, send)

    made = AT_ONCE * (count // AT_ONCE + 1)
    began, spent = time.perf_counter(), time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(some())
    return (time.process_time() - spent) / made * 1e6, made / (time.perf_counter() - began)


def _raw(key: Any, signed: bytes, count: int) -> float:
    """Return microseconds for one signature by the library alone."""
    scheme, digest = padding.PKCS1v15(), hashes.SHA256()
    began = time.process_time()
    for _ in range(count):
        key.sign(signed, scheme, digest)
    return (time.process_time() - began) / count * 1e6
