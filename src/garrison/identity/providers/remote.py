"""What is asked of a provider: its endpoints, and the tokens for a code (OpenID Connect Core 1.0 section 3.1).

Bounded like everything that is fetched. An ID token is taken from the token endpoint, over TLS, and verified all the
same: signature, issuer, audience, authorized party, times, nonce.
"""

import hmac
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.identity.issuers.fetch import fetch, post_form
from garrison.identity.issuers.model import is_fetchable
from garrison.identity.issuers.remote_keys import NoKeysError, RemoteKeys
from garrison.identity.providers.configured import Provider
from garrison.identity.providers.flow import Flow
from garrison.identity.signing.jose import TokenRefused, numeric_date, peek, verify_with

_KEEP_S = 3600.0
_ID_TYPES = frozenset({"", "jwt", "id+jwt"})
_RETRY_SOON = ((b"retry-after", b"2"),)


class Endpoints(NamedTuple):
    """Of a discovery document, what we use."""

    authorize: str
    token: str
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

    __slots__ = ("_clock", "_endpoints", "_kept_until", "_keys", "_leeway_s", "provider")

    def __init__(self, provider: Provider, clock: Clock, *, leeway_s: float) -> None:
        self.provider = provider
        self._clock = clock
        self._leeway_s = leeway_s
        self._keys = RemoteKeys(provider.as_issuer, fetch, clock)
        self._endpoints: Endpoints | None = None
        self._kept_until = float("-inf")

    async def endpoints(self) -> Endpoints:
        """Return the provider's endpoints, fetched at most once an hour. Raises Denied(`issuer_unavailable`)."""
        boot = self._clock.boot()
        if self._endpoints is not None and boot < self._kept_until:
            return self._endpoints
        try:
            body, _ = await fetch(self.provider.as_issuer.discovery_url)
            self._endpoints = _endpoints_of(json.loads(body.decode()), self.provider.issuer)
        except (OSError, ValueError, RecursionError):
            raise Denied("issuer_unavailable", headers=_RETRY_SOON) from None
        self._kept_until = boot + _KEEP_S
        return self._endpoints

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
        try:
            status, body = await post_form(endpoints.token, form, user)
            answer = json.loads(body.decode())
        except (OSError, ValueError, RecursionError):
            raise Denied("issuer_unavailable", headers=_RETRY_SOON) from None
        token = answer.get("id_token") if isinstance(answer, dict) else None
        if status != 200 or not isinstance(token, str):
            raise Denied("provider_refused")
        return _person_of(await self._claims(token.encode("utf-8", "replace"), flow), self.provider.issuer)

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
        nonce = claims.get("nonce")
        several = isinstance(audience, list) and len(audience) > 1
        return (
            (audience == ours or (isinstance(audience, list) and ours in audience))
            and party == ours
            and (not several or "azp" in claims)
            and isinstance(claims.get("sub"), str)
            and 0 < len(claims["sub"]) <= 255
            and expires_at is not None
            and issued_at is not None
            and now < expires_at + self._leeway_s
            and issued_at <= now + self._leeway_s
            and isinstance(nonce, str)
            and hmac.compare_digest(nonce.encode(), flow.nonce.encode())
        )


def _endpoints_of(document: Any, issuer: str) -> Endpoints:
    if not isinstance(document, dict) or document.get("issuer") != issuer:
        raise ValueError("the discovery document is another issuer's")
    authorize, token = document.get("authorization_endpoint"), document.get("token_endpoint")
    if not (isinstance(authorize, str) and isinstance(token, str) and is_fetchable(authorize) and is_fetchable(token)):
        raise ValueError("the discovery document names no endpoints")
    return Endpoints(authorize, token, document.get("authorization_response_iss_parameter_supported") is True)


def _person_of(claims: Mapping[str, Any], issuer: str) -> Person:
    email, verified = claims.get("email"), claims.get("email_verified")
    known = isinstance(email, str) and verified is True
    return Person(issuer, claims["sub"], str(email) if known else "")
