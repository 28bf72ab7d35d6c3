"""`POST /oauth/token`: client credentials (RFC 6749 section 4.4, RFC 8707, RFC 9068), and the grants of `grants.py`.

A client gets a token for one of the audiences it is registered for (`audience` or `resource`; the first one where it
names none) and for some or all of its scopes. Failed authentications are counted by address, calls by client.
"""

import secrets
from collections.abc import Callable, Sequence

from garrison.core.clock import Clock
from garrison.core.errors import StoreError
from garrison.guard.endpoint import Endpoint
from garrison.guard.limit_table import Limiter
from garrison.identity.clients.model import GRANTS, Client
from garrison.identity.clients.service import ClientService
from garrison.identity.oauth.client_authentication import authenticated, shown_credentials
from garrison.identity.oauth.errors import NO_STORE, OAuthError, answer_of, as_oauth, error_answer
from garrison.identity.oauth.grants import Grants
from garrison.identity.oauth.parameters import Parameters, read_parameters
from garrison.identity.origins import origin_of
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import TokenRefused, sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.dpop import Proofs
from garrison.identity.tokens.service import ACCESS_TYP
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

OPEN = Rule(public=True, csrf=False)
"""Of endpoints that read and set no cookie: nothing there can be forged across sites."""
_RETRY_SOON = ((b"retry-after", b"1"),)


class TokenEndpoint:
    """The endpoint and what it needs; `limits` are (calls by client, failures by address)."""

    def __init__(
        self,
        clients: ClientService,
        keyring: Keyring,
        signing: SigningService,
        clock: Clock,
        settings: IdentitySettings,
        limits: Callable[[], tuple[Limiter, Limiter]],
        proofs: Proofs,
        grants: Grants,
    ) -> None:
        self._clients = clients
        self._ring = keyring
        self._signing = signing
        self._clock = clock
        self._settings = settings
        self._by_client, self._failed = limits()
        self._proofs = proofs
        self._grants = grants

    def endpoint(self) -> Endpoint:
        """Return it as data."""
        return Endpoint(
            "POST",
            "/oauth/token",
            OPEN,
            self._handle,
            "Get a token",
            is_raw=True,
            authenticates=True,
            says_errors=as_oauth,
            in_openapi=False,
        )

    async def _handle(self, call: Call, body: bytes) -> Answer:
        by_basic = bool(call.header(b"authorization"))
        try:
            parameters = read_parameters(call.header(b"content-type"), body)
            grant = parameters.one("grant_type")
            if not grant:
                raise OAuthError("invalid_request", "grant_type is missing")
            client = await self._client(call, parameters)
            if grant not in GRANTS:
                raise OAuthError("unsupported_grant_type")
            if grant not in client.grants:
                raise OAuthError("unauthorized_client")
            jkt, origin = self._proved(call), origin_of(call)
            if grant == "client_credentials":
                return await self._client_credentials(client, parameters, jkt)
            if grant == "refresh_token":
                document = await self._grants.by_refresh(client, parameters, jkt, origin=origin)
            else:
                document = await self._grants.by_code(client, parameters, jkt, network=call.network, origin=origin)
            return json_answer(200, document, NO_STORE)
        except _TooManyError as error:
            headers = ((b"retry-after", b"%d" % error.after_s),)
            return error_answer("temporarily_unavailable", 429, headers=headers)
        except OAuthError as error:
            return answer_of(error, by_basic=by_basic)
        except StoreError:
            return error_answer("temporarily_unavailable", 503, headers=_RETRY_SOON)

    async def _client(self, call: Call, parameters: Parameters) -> Client:
        try:
            client_id, secret = shown_credentials(call, parameters)
            client = await authenticated(self._clients, client_id, secret)
        except OAuthError as error:
            if error.code == "invalid_client":
                _take(self._failed, call.network, call.boot)
            raise
        _take(self._by_client, client.id, call.boot)
        return client

    def _proved(self, call: Call) -> str:
        """Return the thumbprint of the key that the token is to be bound to, empty without a proof."""
        if b"dpop" not in call.headers:
            return ""
        try:
            return self._proofs.verified(call)
        except TokenRefused:
            raise OAuthError("invalid_dpop_proof") from None

    async def _client_credentials(self, client: Client, parameters: Parameters, jkt: str) -> Answer:
        audience = _audience(client, (*parameters.all("audience"), *parameters.all("resource")))
        asked = parameters.one("scope").split()
        if set(asked) - set(client.scopes):
            raise OAuthError("invalid_scope")
        scope = " ".join(sorted(set(asked) or set(client.scopes)))
        await self._signing.keep()
        settings, now = self._settings, self._clock.now()
        claims = {
            "iss": settings.issuer,
            "sub": client.id,
            "aud": audience,
            "client_id": client.id,
            "iat": int(now),
            "exp": int(now + settings.access_ttl_s),
            "jti": secrets.token_urlsafe(16),
            "scope": scope,
            "epoch": client.epoch,
            **({"cnf": {"jkt": jkt}} if jkt else {}),
        }
        document = {
            "access_token": sign({"typ": ACCESS_TYP}, claims, self._ring.signing),
            "token_type": "DPoP" if jkt else "Bearer",
            "expires_in": int(settings.access_ttl_s),
            "scope": scope,
        }
        return json_answer(200, document, NO_STORE)


class _TooManyError(Exception):
    """A limit is used up for `after_s` seconds."""

    def __init__(self, after_s: int) -> None:
        super().__init__()
        self.after_s = after_s


def _take(limiter: Limiter, key: str, boot: float) -> None:
    left = limiter.take(key, boot)
    if left < 0.0:
        raise _TooManyError(max(1, int(-left) + 1))


def _audience(client: Client, asked: Sequence[str]) -> str:
    """Return the one audience of the token. Raises OAuthError(`invalid_target`)."""
    wanted = set(asked)
    if len(wanted) > 1 or (wanted and not wanted <= set(client.audiences)) or not client.audiences:
        raise OAuthError("invalid_target")
    return wanted.pop() if wanted else client.audiences[0]
