"""Who is asking: a client shows its secret by HTTP Basic or in the body (RFC 6749 section 2.3.1), never by both.

The answer to a wrong secret, an unknown client and a disabled one is the same.
"""

import base64
import binascii
from urllib.parse import unquote_plus

from garrison.identity.clients.model import Client
from garrison.identity.clients.service import ClientService
from garrison.identity.oauth.errors import OAuthError
from garrison.identity.oauth.parameters import Parameters
from garrison.wire.call import Call

_MOST = 512


def shown_credentials(call: Call, parameters: Parameters) -> tuple[str, str]:
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


async def authenticated(clients: ClientService, client_id: str, secret: str) -> Client:
    """Return the client; a public one shows no secret, since it has none.

    Raises OAuthError(`invalid_client`), StoreError.
    """
    client = None
    if client_id and not secret and len(client_id) <= _MOST:
        found = await clients.find(client_id)
        client = found if found is not None and found.is_public and found.status == "active" else None
    elif client_id and secret and len(client_id) <= _MOST and len(secret) <= _MOST:
        client = await clients.authenticate(client_id, secret)
    if client is None:
        raise OAuthError("invalid_client")
    return client


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
