"""`GET /.well-known/jwks.json`: the keys that verify our tokens (RFC 7517), for as long as they may be kept."""

from pydantic import BaseModel, ConfigDict

from garrison.guard.endpoint import Endpoint
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.policy.rules import public
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call


class Jwk(BaseModel):
    """A public key; further members depend on its kind (RFC 7518 section 6)."""

    model_config = ConfigDict(extra="allow")
    kty: str
    kid: str
    use: str
    alg: str


class JwksAnswer(BaseModel):
    """A JSON Web Key Set."""

    keys: list[Jwk]


def signing_endpoints(signing: SigningService, keyring: Keyring, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""
    kept = (b"cache-control", b"public, max-age=%d" % int(settings.jwks_max_age_s))

    async def show(_call: Call, _body: None) -> Answer:
        await signing.keep()
        return json_answer(200, keyring.jwks, (kept,))

    return (
        Endpoint("GET", "/.well-known/jwks.json", public, show, "The keys that verify our tokens", answer=JwksAnswer),
    )
