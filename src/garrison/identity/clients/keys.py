"""The public keys of a client that authenticates by signature (RFC 7517, RFC 7523), as it registered them."""

import json
from collections.abc import Sequence
from typing import Any

from garrison.identity.signing.jose import (
    PRIVATE_MEMBERS,
    TokenRefused,
    VerifyingKey,
    import_public,
    public_jwk,
    strict_object,
)

ALGORITHMS = ("ES256", "EdDSA", "RS256")
MOST_KEYS, MOST_BYTES = 8, 32_768
_OF_TYPE = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}


def read_jwks(text: str) -> str:
    """Return a key set as it is kept: public members alone. Raises ValueError, saying what is wrong."""
    if len(text.encode("utf-8", "replace")) > MOST_BYTES:
        raise ValueError("a key set has at most 32 KiB")
    try:
        listed = strict_object(text.encode("utf-8", "replace")).get("keys")
    except TokenRefused:
        listed = None
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_KEYS:
        raise ValueError(f'a key set is {{"keys": […]}} with 1 to {MOST_KEYS} keys')
    return json.dumps({"keys": [_kept(one) for one in listed]}, separators=(",", ":"), sort_keys=True)


def keys_of(jwks: str) -> Sequence[VerifyingKey]:
    """Return the keys of a set that `read_jwks` returned."""
    return [
        VerifyingKey(one.get("kid", ""), one["alg"], import_public(one, one["alg"])) for one in json.loads(jwks)["keys"]
    ]


def _kept(jwk: Any) -> dict[str, Any]:
    if not isinstance(jwk, dict):
        raise ValueError("a key is a JSON object")
    if jwk.keys() & PRIVATE_MEMBERS:
        raise ValueError("a private key was given away: make another, and send its public half alone")
    kty, kid = jwk.get("kty"), jwk.get("kid", "")
    algorithm = jwk.get("alg", _OF_TYPE.get(kty) if isinstance(kty, str) else None)
    if algorithm not in ALGORITHMS or jwk.get("use", "sig") != "sig" or not isinstance(kid, str) or len(kid) > 256:
        raise ValueError(f"a key is for signing, by {' '.join(ALGORITHMS)}, with a kid of at most 256 characters")
    key = import_public(jwk, algorithm)
    return {**public_jwk(key), "alg": algorithm, **({"kid": kid} if kid else {})}
