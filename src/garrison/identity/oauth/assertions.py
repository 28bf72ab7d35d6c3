"""`private_key_jwt`: a client signs who it is, for us, once (RFC 7523 section 2.2, OpenID Connect Core 1.0 section 9).

Its keys are those it registered, each for its one algorithm; an assertion names nobody but us as its audience, lives an
hour at most, and its id is kept in the store until it would have ended, so that it is good once, whichever process is
asked.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Double, Index, LargeBinary, Table

from garrison.core.ids import digest
from garrison.identity.changes import Change, Changes
from garrison.identity.clients.keys import keys_of
from garrison.identity.clients.model import Client
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import Header, TokenRefused, VerifyingKey, numeric_date, peek, verify_with
from garrison.store.schema import metadata
from garrison.store.statements import insert_new

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LONGEST_S = 3600.0
"""As long as one client library makes them live, whatever it is told."""
_TYPES = frozenset({"", "jwt", "client-authentication+jwt"})
_PURPOSE = "client assertion"

used_assertions = Table(
    "used_assertions",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("expires_at", Double, nullable=False),
    Index("used_assertions_by_expiry", "expires_at"),
)


class Assertions:
    """Verifies them; `paths` are those of our endpoints that an assertion may name instead of the issuer."""

    def __init__(self, changes: Changes, settings: IdentitySettings, paths: tuple[str, ...]) -> None:
        self._changes = changes
        self._leeway_s = settings.leeway_s
        base = settings.issuer.rstrip("/")
        self._audiences = frozenset({settings.issuer, *(base + path for path in paths)})

    async def is_right(self, client: Client, assertion: str) -> bool:
        """Say whether the assertion is this client's, in force, and new. Raises StoreError."""
        raw = assertion.encode("utf-8", "replace")
        try:
            header, _ = peek(raw, needs_kid=False)
            keys = [key for key in keys_of(client.jwks) if key.algorithm == header.alg and header.kid in ("", key.kid)]
            claims = _signed_by_one_of(raw, header, keys) if header.typ in _TYPES else None
        except TokenRefused:
            return False
        if claims is None or claims.get("iss") != client.id or claims.get("sub") != client.id:
            return False
        audience, jti = claims.get("aud"), claims.get("jti")
        expires_at = numeric_date(claims.get("exp"))
        starts_at = numeric_date(claims.get("nbf", claims.get("iat", 0)))
        if isinstance(audience, list) and len(audience) == 1:
            audience = audience[0]
        if not isinstance(audience, str) or audience not in self._audiences:
            return False
        if expires_at is None or starts_at is None or not isinstance(jti, str) or not 0 < len(jti) <= 256:
            return False
        shown, leeway_s = digest(f"{client.id} {jti}", purpose=_PURPOSE), self._leeway_s

        def change(change: Change) -> bool:
            now = change.now
            if not now - leeway_s < expires_at <= now + LONGEST_S + leeway_s or starts_at > now + leeway_s:
                return False
            row = {"digest": shown, "expires_at": expires_at + leeway_s}
            return insert_new(change.connection, used_assertions, row, unique=("digest",))

        return await self._changes.make(change)


def client_id_of(assertion: str) -> str:
    """Return whom an assertion claims to be, **unverified**; empty for what is none."""
    try:
        return peek(assertion.encode("utf-8", "replace"), needs_kid=False)[1]
    except TokenRefused:
        return ""


def _signed_by_one_of(raw: bytes, header: Header, keys: Sequence[VerifyingKey]) -> Mapping[str, Any] | None:
    for key in keys:
        try:
            return verify_with(raw, header, key)
        except TokenRefused as refused:
            if refused.code != "signature":
                raise
    return None
