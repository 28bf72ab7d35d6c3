"""Signing and verifying compact JWS: the one place (RFC 7515, RFC 7519, RFC 8725; ASVS 5.0 V9.1).

    size ▸ three segments ▸ header: strict JSON, only names we know ▸ `typ` ▸ key by `kid` ▸ `alg` is the key's
    ▸ base 64 of payload and signature ▸ signature ▸ payload: strict JSON

The algorithm comes from the key and is only compared with the header. What would let a token choose its own key
(`jwk jku x5u x5c`), extensions (`crit`, `b64`, `zip`), duplicate members, and base 64 that is not canonical are
refused before any cryptography. joserfc makes the keys and computes; nothing here knows a curve or a padding.
"""

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from garrison.core.errors import GarrisonError

JoseKey = RSAKey | ECKey | OKPKey | OctKey
MAX_TOKEN_BYTES = 8192
MAX_DEPTH = 8
ALGORITHMS = ("RS256", "ES256", "EdDSA", "HS256")
MIN_HMAC_BYTES = 32
PRIVATE_MEMBERS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members of a JWK that nobody shows (RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1)."""
_RSA_BITS = 2048
_MOST_CHARACTERS = {"n": 1368, "e": 12}
"""Of 8,192 and 64 bits in base 64, padded if need be; all other members of a public key have 32 bytes."""
_MOST_OTHERS = 44
_CURVES = {"ES256": "P-256", "EdDSA": "Ed25519"}
_KINDS: Mapping[str, Any] = {"RS256": RSAKey, "ES256": ECKey, "EdDSA": OKPKey, "HS256": OctKey}
_HEADER_NAMES = frozenset({"alg", "kid", "typ"})
_FOREIGN_NAMES = _HEADER_NAMES | {"x5t", "x5t#S256", "nonce"}
"""Of others' tokens: fingerprints of certificates that nobody reads here, and what one provider adds."""
_MOST_HEADERS = 256
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/...")
"""The alphabet of URLs in the place of the standard one, whose own characters become what no decoder takes."""
_PADDING = (b"", b"", b"==", b"=")
_LAST = (frozenset(range(256)), frozenset[int](), frozenset(b"AQgw"), frozenset(b"AEIMQUYcgkosw048"))
"""By length modulo 4: what a segment may end with, which is whatever leaves no bit over that is set."""
_NESTED = re.compile(rb'"(?:[^"\\]|\\.)*"|[^\[\]{}"]+')
_MODELS = {name: JWSRegistry.algorithms[name] for name in ALGORITHMS}


class TokenRefused(GarrisonError):
    """The token is not one of ours, or not any more. `code` says why, for logs and tests; clients hear one answer."""


class VerifyingKey(NamedTuple):
    """A key that tokens may be signed with, and the one algorithm it is for."""

    kid: str
    algorithm: str
    key: JoseKey


class Header(NamedTuple):
    """The three members we know; `typ` in lower case, without `application/` (RFC 7515 section 4.1.9)."""

    alg: str
    kid: str
    typ: str


class Verified(NamedTuple):
    """A token whose signature is right: what it claims, and the key that signed it."""

    claims: Mapping[str, Any]
    kid: str


FindKey = Callable[[str], VerifyingKey | None]
_headers: dict[bytes, Header] = {}
"""Header segment → what it says: the same for all tokens of one key, and nobody's secret."""


def generate_key(algorithm: str) -> JoseKey:
    """Make a private key for RS256 (2,048 bits), ES256 or EdDSA."""
    if algorithm == "RS256":
        return RSAKey.generate_key(_RSA_BITS)
    if algorithm == "ES256":
        return ECKey.generate_key("P-256")
    return OKPKey.generate_key("Ed25519")


def import_public(jwk: Mapping[str, Any], algorithm: str) -> JoseKey:
    """Return the public key of a JWK for this algorithm (RFC 7517). Raises ValueError where they do not fit together.

    RSA keys have 2,048 to 8,192 bits (NIST SP 800-131A; longer ones cost whoever verifies), and a short exponent: a
    long one makes each verification as dear as signing. What is longer is not even read: 190 kB of modulus take 0.1 s.
    """
    kty = {"RS256": "RSA", "ES256": "EC", "EdDSA": "OKP"}.get(algorithm)
    if kty is None or jwk.get("kty") != kty or jwk.get("crv") != _CURVES.get(algorithm):
        raise ValueError("the key is not for this algorithm")
    members = {name: value for name, value in jwk.items() if name in ("kty", "crv", "x", "y", "n", "e")}
    if any(
        isinstance(value, str) and len(value) > _MOST_CHARACTERS.get(name, _MOST_OTHERS)
        for name, value in members.items()
    ):
        raise ValueError("a member is too long")
    try:
        key: JoseKey = _KINDS[algorithm].import_key(members)
        bits = key.get_op_key("verify").key_size if isinstance(key, RSAKey) else _RSA_BITS
    except Exception:  # whatever the library says of somebody else's key
        raise ValueError("the key cannot be read") from None
    if not _RSA_BITS <= bits <= 4 * _RSA_BITS:
        raise ValueError("RSA keys have 2,048 to 8,192 bits")
    return key


def private_bytes(key: JoseKey) -> bytes:
    """Return the private half for sealing: PKCS #8 in PEM, or the octets of a shared secret."""
    return key.raw_value if isinstance(key, OctKey) else key.as_pem(private=True)


def load_private(raw: bytes, algorithm: str) -> JoseKey:
    """Return the key that `private_bytes` wrote."""
    key: JoseKey = _KINDS[algorithm].import_key(raw)
    return key


def public_jwk(key: JoseKey) -> Mapping[str, Any]:
    """Return the public half as a JWK, empty for a shared secret, which has none."""
    return {} if isinstance(key, OctKey) else key.as_dict(private=False)


def thumbprint(key: JoseKey) -> str:
    """Return the JWK thumbprint (RFC 7638): the `kid` of our own keys."""
    return str(key.thumbprint())


def sign(header: Mapping[str, str], claims: Mapping[str, Any], key: VerifyingKey) -> str:
    """Return the compact JWS of `claims`. 0.3 ms for RS256."""
    head = _encoded({"alg": key.algorithm, "kid": key.kid, **header})
    body = _encoded(claims)
    signature = _MODELS[key.algorithm].sign(head + b"." + body, key.key)
    return (head + b"." + body + b"." + _base64(signature)).decode()


def verify(token: bytes, find_key: FindKey, *, typ: str) -> Verified:
    """Return what a token of this `typ` says, whose signature is right. Raises TokenRefused.

    What the claims say (issuer, audience, times) is not looked at here.
    """
    head, body, last = _split(token)
    header = _headers.get(head) or _read_header(head, _HEADER_NAMES)
    if header.typ != typ:
        raise TokenRefused("typ")
    key = find_key(header.kid)
    if key is None:
        raise TokenRefused("kid")
    claims = _claims_of(token, body, last, header, key)
    if len(_headers) < _MOST_HEADERS:
        _headers[head] = header
    return Verified(claims, header.kid)


def peek(token: bytes, *, needs_kid: bool = True) -> tuple[Header, str]:
    """Return header and issuer of a token that somebody else may have signed, **unverified**: to find whose it is.

    Its header may have a thumbprint or nonce beside what ours have. Raises TokenRefused.
    """
    head, body, _ = _split(token)
    header = _read_header(head, _FOREIGN_NAMES, needs_kid=needs_kid)
    issuer = strict_object(_decoded(body)).get("iss")
    return header, issuer if isinstance(issuer, str) else ""


def verify_with(token: bytes, header: Header, key: VerifyingKey) -> Mapping[str, Any]:
    """Return the claims of a token that `peek` read, if this key signed it. Raises TokenRefused."""
    _, body, last = _split(token)
    return _claims_of(token, body, last, header, key)


def read_proof_header(token: bytes, typ: str) -> tuple[Header, Mapping[str, Any]]:
    """Return header and public key of a proof that names its own key (RFC 9449 section 4.2), **unverified**.

    Raises TokenRefused. Only proofs are read so: a token that could bring its own key would be anybody's.
    """
    found = strict_object(_decoded(_split(token)[0]))
    alg, jwk = found.get("alg"), found.get("jwk")
    if found.keys() != {"typ", "alg", "jwk"} or found["typ"] != typ or not isinstance(jwk, dict):
        raise TokenRefused("header")
    if not isinstance(alg, str) or alg not in _MODELS or alg == "HS256":
        raise TokenRefused("alg")
    if jwk.keys() & PRIVATE_MEMBERS:
        raise TokenRefused("jwk")
    return Header(alg, "", typ), jwk


def _split(token: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the three segments. Raises TokenRefused."""
    if len(token) > MAX_TOKEN_BYTES:
        raise TokenRefused("too_long")
    parts = token.split(b".", 3)
    if len(parts) != 3:
        raise TokenRefused("malformed")
    head, body, last = parts
    return head, body, last


def _claims_of(token: bytes, body: bytes, last: bytes, header: Header, key: VerifyingKey) -> Mapping[str, Any]:
    if key.algorithm != header.alg:
        raise TokenRefused("alg")
    payload, signature = _decoded(body), _decoded(last)
    try:
        right = _MODELS[key.algorithm].verify(token[: -len(last) - 1], signature, key.key)
    except Exception:  # a key or signature that the library cannot work with is no signature
        right = False
    if right is not True:
        raise TokenRefused("signature")
    return strict_object(payload)


def numeric_date(value: Any) -> float | None:
    """Return a NumericDate (RFC 7519 section 2), Unix seconds; None for what is none, or beyond the year 33,000."""
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not -1e12 < value < 1e12:
        return None
    return float(value)


def _read_header(segment: bytes, names: frozenset[str], *, needs_kid: bool = True) -> Header:
    """Read a header that has none but these members. Raises TokenRefused."""
    found = strict_object(_decoded(segment))
    if found.keys() - names:
        raise TokenRefused("header")
    alg, kid = found.get("alg"), found.get("kid", None if needs_kid else "")
    typ = found.get("typ", "" if names is _FOREIGN_NAMES else None)
    if not (isinstance(alg, str) and isinstance(kid, str) and isinstance(typ, str)) or len(kid) > 256:
        raise TokenRefused("header")
    if alg not in _MODELS:
        raise TokenRefused("alg")
    return Header(alg, kid, typ.lower().removeprefix("application/"))


def strict_object(raw: bytes) -> dict[str, Any]:
    """Return a JSON object without duplicate members, NaN, half characters, deep nesting.

    Raises TokenRefused(`malformed`).
    """
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH:
        depth = deepest = 0
        for bracket in _NESTED.sub(b"", raw):
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        if deepest > MAX_DEPTH:
            raise TokenRefused("malformed")
    try:
        found = _JSON.decode(raw.decode())
        if b"\\u" in raw:  # half of a surrogate pair is no text (RFC 7493 section 2.1), and cannot be written down
            json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise TokenRefused("malformed") from None
    if not isinstance(found, dict):
        raise TokenRefused("malformed")
    return found


def unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, for a decoder's `object_pairs_hook`. Raises ValueError: two readers pick different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member comes twice")
    return found


def _no_constant(_name: str) -> None:
    raise ValueError


_JSON = json.JSONDecoder(object_pairs_hook=unique_members, parse_constant=_no_constant)


def _encoded(document: Mapping[str, Any]) -> bytes:
    return _base64(json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode())


def _base64(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _decoded(segment: bytes) -> bytes:
    """Decode canonical base 64 without padding (RFC 7515 section 2, RFC 4648 section 5). Raises TokenRefused.

    Every other spelling of the same bytes is refused: the standard alphabet, padding, white space, bits left over.
    """
    over = len(segment) % 4
    if not segment or segment[-1] not in _LAST[over]:
        raise TokenRefused("malformed")
    try:
        return binascii.a2b_base64(segment.translate(_TO_STANDARD) + _PADDING[over], strict_mode=True)
    except ValueError:
        raise TokenRefused("malformed") from None
