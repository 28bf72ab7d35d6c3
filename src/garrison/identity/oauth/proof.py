"""The key that a client proves to have where it asks for something (RFC 9449 sections 5 and 10.1)."""

from garrison.identity.oauth.errors import OAuthError
from garrison.identity.signing.jose import TokenRefused
from garrison.identity.tokens.dpop import Proofs
from garrison.wire.call import Call


def proved_key(call: Call, proofs: Proofs) -> str:
    """Return the thumbprint of the proof's key, empty without a proof. Raises OAuthError(`invalid_dpop_proof`)."""
    if b"dpop" not in call.headers:
        return ""
    try:
        return proofs.verified(call)
    except TokenRefused:
        raise OAuthError("invalid_dpop_proof") from None
