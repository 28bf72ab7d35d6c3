"""An OIDC issuer as far as verifiers know one, a real one over TCP, and tokens of it shown to a process."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from garrison.core.clock import ManualClock
from garrison.identity.issuers.model import ForeignIssuer
from garrison.identity.issuers.verifier import ForeignTokens
from garrison.identity.signing.jose import VerifyingKey, generate_key, public_jwk, sign
from garrison.wire.call import Call

AUDIENCE = "https://api.example.com"
SUBJECT = "auth0|7"


@dataclass
class Issuer:
    """Answers with its keys, or as `mode` says."""

    keys: list[VerifyingKey] = field(default_factory=list)
    mode: str = "up"
    fetched: int = 0
    max_age_s: int = 300
    url: str = ""
    held: asyncio.Event | None = None
    """What answers wait for."""

    async def discovery(self, _request: web.Request) -> web.Response:
        return await self._answer({"issuer": self.url, "jwks_uri": self.url.rstrip("/") + "/jwks"})

    async def jwks(self, _request: web.Request) -> web.Response:
        self.fetched += 1
        shown = [{**public_jwk(key.key), "kid": key.kid, "alg": key.algorithm, "use": "sig"} for key in self.keys]
        return await self._answer({"keys": [{"kty": "EC", "kid": "odd"}, "no key", *shown]})

    async def _answer(self, document: Mapping[str, Any]) -> web.Response:
        if self.held is not None:
            await self.held.wait()
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
            "sub": SUBJECT,
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


@asynccontextmanager
async def issuing() -> AsyncIterator[Issuer]:
    """Run an issuer with one key as long as the context lasts."""
    made = Issuer(keys=[key("one")])
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/jwks", made.jwks)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    try:
        yield made
    finally:
        await runner.cleanup()


def configured(issuer: Issuer) -> ForeignIssuer:
    """What a process is told of it."""
    return ForeignIssuer(issuer.url, AUDIENCE, scopes={"read:tasks": "tasks:read"}, roles={"Boss": "admin"})


async def show(tokens: ForeignTokens, token: bytes, clock: ManualClock, *, fresh: bool = True) -> Any:
    """Show a token to a process that has just heard the news, or (`fresh=False`) not for a while."""
    if fresh:
        tokens._view.polled(clock.boot())
    call = Call({"type": "http"})
    call.now, call.boot = clock.now(), clock.boot()
    found = tokens.show(token[-32:], token, call)
    return await found if asyncio.iscoroutine(found) else found
