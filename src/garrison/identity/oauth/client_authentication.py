"""Who is asking: a client shows its secret by HTTP Basic or in the body (RFC 6749 section 2.3.1), or signs an assertion
(`assertions.py`); one way at a time, and one that has keys has no secret.

The answer to a wrong secret, an unknown client and a disabled one is the same. Failures are counted by address.
"""

import base64
import binascii
from typing import Literal
from urllib.parse import unquote_plus

from garrison.core.errors import GarrisonError
from garrison.guard.limiter import Limiter, left_of
from garrison.identity.clients.document import is_document_id
from garrison.identity.clients.model import Client
from garrison.identity.oauth.assertions import TYPE, Assertions, client_id_of
from garrison.identity.oauth.errors import OAuthError
from garrison.identity.oauth.known_clients import KnownClients
from garrison.identity.oauth.parameters import Parameters
from garrison.wire.call import Call

_MOST = 512

DocumentUse = Literal["fetched", "known", "unread"]
"""Of a client with a document: fetched where a stranger may ask, at hand, or not needed at all."""


class TooManyError(GarrisonError):
    """A limit is used up for `after_s` seconds."""

    def __init__(self, after_s: int) -> None:
        super().__init__("rate_limited")
        self.after_s = after_s


class ClientAuthentication:
    """Authenticates the clients of every endpoint that asks who they are; counts calls of those that bring a limit."""

    def __init__(self, clients: KnownClients, assertions: Assertions, by_client: Limiter, failed: Limiter) -> None:
        self._clients = clients
        self._assertions = assertions
        self._by_client = by_client
        self._failed = failed

    async def of(
        self, call: Call, parameters: Parameters, *, counts: bool = False, document: DocumentUse = "known"
    ) -> Client:
        """Return the client; a public one shows no secret, since it has none. `counts`: within the limit of its calls.

        Raises OAuthError(`invalid_client`, `invalid_request`), TooManyError, DocumentUnavailableError, StoreError.
        """
        try:
            if parameters.one("client_assertion") or parameters.one("client_assertion_type"):
                client = await self._by_assertion(call, parameters)
            else:
                client_id, secret = _shown(call, parameters)
                found = await self._described(client_id, call, parameters, document)
                client = await self._authenticated(client_id, secret) if found is None or secret else found
        except OAuthError as error:
            if error.code == "invalid_client":
                await _take(self._failed, call.network, call.boot)
            raise
        if counts:  # a public client's id is nobody's secret: strangers must not use its limit up
            await _take(self._by_client, f"{client.id} {call.network}" if client.is_public else client.id, call.boot)
        return client

    async def _described(
        self, client_id: str, call: Call, parameters: Parameters, document: DocumentUse
    ) -> Client | None:
        """Return the client, if it is one with a document (`known_clients.py`)."""
        if not is_document_id(client_id):
            return None
        match document:
            case "fetched":
                return await self._clients.asked_by(client_id, call.network)
            case "unread":
                return self._clients.by_id(client_id)
            case "known":
                await self._clients.meet_again(client_id, parameters)
                return await self._clients.find(client_id)

    async def _authenticated(self, client_id: str, secret: str) -> Client:
        client = None
        if client_id and not secret and len(client_id) <= _MOST:
            found = await self._clients.find(client_id)
            client = found if found is not None and found.is_public and found.status == "active" else None
        elif client_id and secret and len(client_id) <= _MOST and len(secret) <= _MOST:
            client = await self._clients.authenticate(client_id, secret)
        if client is None:
            raise OAuthError("invalid_client")
        return client

    async def _by_assertion(self, call: Call, parameters: Parameters) -> Client:
        if call.header(b"authorization") or parameters.one("client_secret"):
            raise OAuthError("invalid_request", "a client authenticates one way at a time")
        assertion, named = parameters.one("client_assertion"), parameters.one("client_id")
        client_id = client_id_of(assertion)
        if parameters.one("client_assertion_type") != TYPE or not client_id or named not in ("", client_id):
            raise OAuthError("invalid_client")
        client = await self._clients.find(client_id) if len(client_id) <= _MOST else None
        if client is None or client.status != "active" or not client.jwks:
            raise OAuthError("invalid_client")
        if not await self._assertions.is_right(client, assertion):
            raise OAuthError("invalid_client")
        return client


def _shown(call: Call, parameters: Parameters) -> tuple[str, str]:
    """Return client id and secret as they were shown, empty where they were not.

    Raises OAuthError(`invalid_request`) for two ways at once.
    """
    header = call.header(b"authorization")
    in_body = parameters.one("client_secret")
    if not header:
        return parameters.one("client_id"), in_body
    if in_body:
        raise OAuthError("invalid_request", "a client authenticates one way at a time")
    client_id, secret = _basic(header)
    named = parameters.one("client_id")
    if named and named != client_id:
        raise OAuthError("invalid_request", "client_id is not the client that authenticated")
    return client_id, secret


def _basic(header: bytes) -> tuple[str, str]:
    scheme, _, rest = header.partition(b" ")
    if scheme.lower() != b"basic" or len(rest) > 4 * _MOST:
        raise OAuthError("invalid_client")
    try:
        user, colon, secret = base64.b64decode(rest.strip(b" "), validate=True).decode().partition(":")
        if not colon:
            raise ValueError
        return unquote_plus(user, errors="strict"), unquote_plus(secret, errors="strict")
    except (ValueError, binascii.Error):
        raise OAuthError("invalid_client") from None


async def _take(limiter: Limiter, key: str, boot: float) -> None:
    left = await left_of(limiter.take(key, boot))
    if left < 0.0:
        raise TooManyError(max(1, int(-left) + 1))
