"""What is asked of a provider: its endpoints, the tokens for a code, and who that is (OpenID Connect Core 1.0).

Bounded like everything that is fetched. An ID token is taken from the token endpoint, over TLS, and verified all the
same: signature, issuer, audience, authorized party, times, nonce (section 3.1.3.7). Who the person is, it alone says;
their address it may leave to userinfo, and with the code flow it usually does (section 5.4).
"""

import asyncio
import hmac
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import structlog

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.identity.issuers.claims import is_subject
from garrison.identity.issuers.fetch import fetch, get_with_token, post_form, read_object
from garrison.identity.issuers.model import is_fetchable
from garrison.identity.issuers.remote_keys import NoKeysError, RemoteKeys
from garrison.identity.providers.configured import Provider
from garrison.identity.providers.flow import Flow
from garrison.identity.signing.jose import TokenRefused, numeric_date, peek, verify_with

_KEEP_S, _PAUSE_S = 3600.0, 2.0
_ID_TYPES = frozenset({"", "jwt", "id+jwt"})
_RETRY_SOON = ((b"retry-after", b"2"),)
_log = structlog.get_logger("garrison")


class Endpoints(NamedTuple):
    """Of a discovery document, what we use."""

    authorize: str
    token: str
    userinfo: str
    """Empty where there is none."""
    sends_issuer: bool
    """True where the callback must name the issuer (RFC 9207)."""


class Person(NamedTuple):
    """Who signed in, as the provider says."""

    issuer: str
    subject: str
    email: str
    """Empty unless the provider has verified it."""


class RemoteProvider:
    """One provider, from one process."""

    __slots__ = ("_clock", "_due_at", "_endpoints", "_keys", "_leeway_s", "_running", "provider")

    def __init__(self, provider: Provider, clock: Clock, *, leeway_s: float) -> None:
        self.provider = provider
        self._clock = clock
        self._leeway_s = leeway_s
        self._keys = RemoteKeys(provider.as_issuer, fetch, clock)
        self._endpoints: Endpoints | None = None
        self._due_at = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def endpoints(self) -> Endpoints:
        """Return the provider's endpoints, fetched once an hour, for all who wait; they stay while it is down.

        Raises Denied(`issuer_unavailable`).
        """
        if self._clock.boot() >= self._due_at:
            await asyncio.shield(self._start())
        if self._endpoints is None:
            raise Denied("issuer_unavailable", headers=_RETRY_SOON)
        return self._endpoints

    def _start(self) -> "asyncio.Task[None]":
        """Return the fetch under way, or a new one."""
        loop = asyncio.get_running_loop()
        if self._running is None or self._running.done() or self._running.get_loop() is not loop:
            self._running = loop.create_task(self._run(), name=f"endpoints of {self.provider.issuer}")
        return self._running

    async def _run(self) -> None:
        try:
            body, _ = await fetch(self.provider.as_issuer.discovery_url)
            self._endpoints = _endpoints_of(read_object(body), self.provider.issuer)
            self._due_at = self._clock.boot() + _KEEP_S
        except (OSError, ValueError) as error:
            self._due_at = self._clock.boot() + _PAUSE_S
            _log.warning("provider_endpoints", issuer=self.provider.issuer, problem=type(error).__name__)

    async def authorize_url(self, flow: Flow, redirect_uri: str) -> str:
        """Return where the browser goes. Raises Denied(`issuer_unavailable`)."""
        endpoints = await self.endpoints()
        query = urlencode(
            {
                "response_type": "code",
                "client_id": self.provider.client_id,
                "redirect_uri": redirect_uri,
                "scope": self.provider.scopes,
                "state": flow.state,
                "nonce": flow.nonce,
                "code_challenge": flow.challenge,
                "code_challenge_method": "S256",
            }
        )
        return endpoints.authorize + ("&" if "?" in endpoints.authorize else "?") + query

    async def person(self, flow: Flow, code: str, redirect_uri: str) -> Person:
        """Return who signed in. Raises Denied(`provider_refused`, `issuer_unavailable`)."""
        endpoints = await self.endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": flow.verifier,
        }
        user = (quote(self.provider.client_id, safe=""), quote(self.provider.client_secret, safe=""))
        answer = await _answered(post_form(endpoints.token, form, user))
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise Denied("provider_refused")
        claims = await self._claims(token.encode("utf-8", "replace"), flow)
        told = claims
        if "email" not in claims and endpoints.userinfo:
            told = await _userinfo(endpoints.userinfo, answer.get("access_token"), claims["sub"])
        return Person(self.provider.issuer, claims["sub"], _verified_email(told))

    async def _claims(self, token: bytes, flow: Flow) -> Mapping[str, Any]:
        try:
            header, issuer = peek(token)
            key = await self._keys.find(header.kid)
            if key is None or issuer != self.provider.issuer or header.typ not in _ID_TYPES:
                raise Denied("provider_refused")
            claims = verify_with(token, header, key)
        except TokenRefused:
            raise Denied("provider_refused") from None
        except NoKeysError:
            raise Denied("issuer_unavailable", headers=_RETRY_SOON) from None
        if not self._is_for_us(claims, flow):
            raise Denied("provider_refused")
        return claims

    def _is_for_us(self, claims: Mapping[str, Any], flow: Flow) -> bool:
        """OpenID Connect Core 1.0 section 3.1.3.7."""
        ours, now = self.provider.client_id, self._clock.now()
        audience, party = claims.get("aud"), claims.get("azp", ours)
        expires_at, issued_at = numeric_date(claims.get("exp")), numeric_date(claims.get("iat"))
        nonce, subject = claims.get("nonce"), claims.get("sub")
        several = isinstance(audience, list) and len(audience) > 1
        return (
            (audience == ours or (isinstance(audience, list) and ours in audience))
            and party == ours
            and (not several or "azp" in claims)
            and is_subject(subject)
            and len(subject) <= 255
            and expires_at is not None
            and issued_at is not None
            and now < expires_at + self._leeway_s
            and issued_at <= now + self._leeway_s
            and isinstance(nonce, str)
            and hmac.compare_digest(nonce.encode(), flow.nonce.encode())
        )


def _endpoints_of(document: Mapping[str, Any], issuer: str) -> Endpoints:
    if document.get("issuer") != issuer:
        raise ValueError("the discovery document is another issuer's")
    authorize, token = document.get("authorization_endpoint"), document.get("token_endpoint")
    if not (isinstance(authorize, str) and isinstance(token, str) and is_fetchable(authorize) and is_fetchable(token)):
        raise ValueError("the discovery document names no endpoints")
    userinfo = document.get("userinfo_endpoint")
    if not isinstance(userinfo, str) or not is_fetchable(userinfo):
        userinfo = ""
    return Endpoints(authorize, token, userinfo, document.get("authorization_response_iss_parameter_supported") is True)


async def _userinfo(url: str, access_token: Any, subject: str) -> Mapping[str, Any]:
    """Return what is told of this subject; of another one, nothing counts (section 5.3.2)."""
    if not isinstance(access_token, str) or not access_token.isascii() or not access_token.isprintable():
        raise Denied("provider_refused")
    told = await _answered(get_with_token(url, access_token))
    if told.get("sub") != subject:
        raise Denied("provider_refused")
    return told


async def _answered(asking: Awaitable[tuple[int, bytes]]) -> Mapping[str, Any]:
    """Return the JSON object of a 200. Raises Denied(`provider_refused`; `issuer_unavailable`: it is broken)."""
    try:
        status, body = await asking
        document = read_object(body)
    except (OSError, ValueError):
        raise Denied("issuer_unavailable", headers=_RETRY_SOON) from None
    if status >= 500:
        raise Denied("issuer_unavailable", headers=_RETRY_SOON)
    if status != 200:
        raise Denied("provider_refused")
    return document


def _verified_email(told: Mapping[str, Any]) -> str:
    email = told.get("email")
    return email if isinstance(email, str) and told.get("email_verified") is True else ""
