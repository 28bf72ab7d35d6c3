"""Tokens that are bound to a key of the client's: DPoP (RFC 9449; ASVS 5.0 V10.3).

A proof is a JWT that the client makes for each request: its public key, the method and address asked for, the time, an
id, and, where a token goes with it, the token's hash. It is verified each time, since it is never the same; an id that
comes again while its time has not run out is a replay. Ids are remembered by each process for itself, as digests,
and so many at most: then no proof is taken. Where a token goes with a proof, an id is remembered once the token turned
out to be right, since anybody can make keys and proofs.
"""

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from garrison.core.ids import digest
from garrison.identity.signing.jose import (
    Header,
    TokenRefused,
    VerifyingKey,
    import_public,
    numeric_date,
    read_proof_header,
    thumbprint,
    verify_with,
)
from garrison.wire.call import Call

TYP = "dpop+jwt"
ALGORITHMS = ("ES256", "RS256", "EdDSA")
CHALLENGE = (b"www-authenticate", b'DPoP error="invalid_token", algs="ES256 RS256 EdDSA"')
MOST_REMEMBERED = 100_000
"""In each of two sets: 25 MB."""
_PURPOSE = "proof"
_PORTS = {"http": 80, "https": 443}


class Proof(NamedTuple):
    """A proof that is right for its request: the thumbprint (RFC 7638) of its key, and its id."""

    jkt: str
    jti: str


class Proofs:
    """Verifies proofs, and remembers their ids for as long as they could be replayed."""

    __slots__ = ("_earlier", "_leeway_s", "_seen", "_turned_at")

    def __init__(self, *, leeway_s: float) -> None:
        self._leeway_s = leeway_s
        self._seen: set[bytes] = set()
        self._earlier: set[bytes] = set()
        self._turned_at = float("-inf")

    def verified(self, call: Call) -> str:
        """Return the thumbprint of the key that this request's proof is made with, and remember the proof.

        Raises TokenRefused: no proof, one that is not right, or again.
        """
        proof = self.read(call)
        self.spend(proof, call.now)
        return proof.jkt

    def read(self, call: Call, *, token: bytes | None = None) -> Proof:
        """Return this request's proof, which is good only if `spend` takes it, too.

        `token`: the access token that goes with it. Raises TokenRefused: no proof, or one that is not right.
        """
        header, jwk = read_proof_header(call.header(b"dpop"), TYP)
        try:
            key = VerifyingKey("", header.alg, import_public(jwk, header.alg))
        except ValueError:
            raise TokenRefused("jwk") from None
        claims = verify_with(call.header(b"dpop"), Header(header.alg, "", TYP), key)
        self._check(claims, call, token)
        return Proof(thumbprint(key.key), claims["jti"])

    def _check(self, claims: Mapping[str, Any], call: Call, token: bytes | None) -> None:
        issued_at, jti = numeric_date(claims.get("iat")), claims.get("jti")
        if (
            claims.get("htm") != call.method
            or not _same_address(claims.get("htu"), call)
            or issued_at is None
            or abs(call.now - issued_at) > self._leeway_s
            or not isinstance(jti, str)
            or not 0 < len(jti) <= 256
        ):
            raise TokenRefused("proof")
        if token is not None:
            hashed = base64.urlsafe_b64encode(sha256(token).digest()).rstrip(b"=").decode()
            said = claims.get("ath")
            if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "replace"), hashed.encode()):
                raise TokenRefused("ath")

    def spend(self, proof: Proof, now: float) -> None:
        """Remember the proof. Raises TokenRefused for one that comes again, or where there is no room.

        Two sets take turns: a proof is remembered for at least the time in which it is taken.
        """
        if now - self._turned_at >= 2 * self._leeway_s:
            self._earlier, self._seen, self._turned_at = self._seen, set(), now
        one = digest(f"{proof.jkt} {proof.jti}", purpose=_PURPOSE)[:16]
        if one in self._seen or one in self._earlier:
            raise TokenRefused("replayed")
        if len(self._seen) >= MOST_REMEMBERED:
            raise TokenRefused("too_many")
        self._seen.add(one)


def _same_address(said: Any, call: Call) -> bool:
    """Compare `htu` with the address asked for, without query and fragment (RFC 9449 section 4.3)."""
    if not isinstance(said, str) or len(said) > 2048:
        return False
    try:
        parts = urlsplit(said)
        port = parts.port
    except ValueError:
        return False
    scheme = "https" if call.secure else "http"
    host, _, asked_port = call.header(b"host").decode("latin-1").lower().rpartition(":")
    if not asked_port.isdigit() or host.endswith(":"):
        host, asked_port = call.header(b"host").decode("latin-1").lower(), ""
    raw = call.scope.get("raw_path") or call.scope["path"].encode()
    return (
        parts.scheme == scheme
        and (parts.hostname or "") == host.strip("[]")
        and (port or _PORTS[scheme]) == int(asked_port or _PORTS[scheme])
        and parts.path.encode() == raw.partition(b"?")[0]
    )
