"""`POST /oauth/par`: a client brings its request itself, before it sends anybody here (RFC 9126).

What it gets to put into the link is the request, checked and sealed for this client, good for 90 seconds: nothing is
kept, and nothing of it can be read or changed on the way through the browser. (Whoever has the link may open it twice
within that time; what a page may do is bound to the session that sees it all the same.) A proof that comes along names
the key that the code will be for (RFC 9449 section 10.1), as `dpop_jkt` does.
"""

import json
from collections.abc import Mapping

from garrison.core.clock import Clock
from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.identity.clients.model import Client
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.endpoint import client_endpoint
from garrison.identity.oauth.errors import NO_STORE, OAuthError
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.oauth.proof import proved_key
from garrison.identity.oauth.request import BadRequestError, RefusedError, checked_request
from garrison.identity.settings import IdentitySettings
from garrison.identity.tokens.dpop import Proofs
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

LIFETIME_S = 90.0
URN = "urn:ietf:params:oauth:request_uri:"
_PLACE = "link/pushed authorization request"
_TAKEN = (
    "response_type",
    "response_mode",
    "redirect_uri",
    "scope",
    "state",
    "nonce",
    "code_challenge",
    "code_challenge_method",
    "resource",
    "audience",
    "prompt",
    "max_age",
    "dpop_jkt",
    "request",
)


def par_endpoint(
    authentication: ClientAuthentication, proofs: Proofs, sealer: Sealer, clock: Clock, settings: IdentitySettings
) -> Endpoint:
    """Return the endpoint."""

    async def push(call: Call, client: Client, parameters: Parameters) -> Answer:
        if parameters.one("request_uri"):
            raise OAuthError("invalid_request", "request_uri cannot be pushed")
        given, jkt = {"client_id": client.id, **_taken(parameters)}, proved_key(call, proofs)
        if jkt and given.setdefault("dpop_jkt", jkt) != jkt:
            raise OAuthError("invalid_dpop_proof", "dpop_jkt is another key than the proof's")
        try:
            checked_request(given, client)
        except BadRequestError:
            raise OAuthError("invalid_request", "redirect_uri or state is not one that is taken") from None
        except RefusedError as refused:
            raise OAuthError(refused.code, refused.detail) from None
        request_uri = push_request(given, sealer, clock.now())
        return json_answer(201, {"request_uri": request_uri, "expires_in": int(LIFETIME_S)}, NO_STORE)

    summary = "Push an authorization request"
    return client_endpoint(
        "/oauth/par", summary, push, authentication, limit=settings.limit_oauth_lookups, document="fetched"
    )


def push_request(given: Mapping[str, str], sealer: Sealer, now: float) -> str:
    """Return what stands for the parameters in a link."""
    return URN + sealer.seal(json.dumps([given, now + LIFETIME_S]).encode(), place=_PLACE).hex()


def pushed_request(request_uri: str, client_id: str, sealer: Sealer, now: float) -> Mapping[str, str]:
    """Return the parameters that this client pushed. Raises BadRequestError."""
    try:
        given, until = json.loads(sealer.open(bytes.fromhex(request_uri.removeprefix(URN)), place=_PLACE))
    except (ValueError, TypeError, GarrisonError):
        raise BadRequestError("invalid_request_uri", "This link was not made here.") from None
    if now >= until or not client_id or given["client_id"] != client_id:
        raise BadRequestError("invalid_request_uri", "This link is too old, or another app's.")
    found: dict[str, str] = given
    return found


def _taken(parameters: Parameters) -> dict[str, str]:
    found = {name: parameters.one(name) for name in _TAKEN}
    return {name: value for name, value in found.items() if value}
