"""Issuing access tokens and refresh families, and rotating them.

A family begins with its session, in one transaction. What is signed is signed after that transaction has committed, so
a token never speaks of a session that is not there. Acknowledgements that the guard notes are written in batches, off
the request path, within a second.
"""

import math
import os
import secrets
from typing import Any, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.core.ids import digest, new_secret
from garrison.identity.accounts.model import roles_of
from garrison.identity.accounts.queries import find_account
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.devices.queries import find_device
from garrison.identity.sessions.cache import IDENTITY_SCOPES, ScopesOf
from garrison.identity.sessions.service import Granted, end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.model import PREFIX, PURPOSE
from garrison.identity.tokens.queries import (
    Presented,
    acknowledge,
    bind_family,
    find_presented,
    insert_token,
    use_token,
)
from garrison.identity.tokens.rotation import Verdict, judge
from garrison.store.database import Database

ACCESS_TYP = "at+jwt"
COOKIE_TYP = "session+jwt"
COOKIE_AUDIENCE = "session"
FIRST_PARTY = "first-party"
"""`client_id` of tokens from our own sign-in (RFC 9068 section 2.2)."""
_MOST_NOTED = 16_384


class Family(NamedTuple):
    """What an access token is made of: the family, where it stands, and who it is."""

    session_id: str
    account_id: str
    roles: frozenset[str]
    number: int
    refresh_token: str
    expires_at: float
    """Of the refresh token."""
    jkt: str = ""
    """Thumbprint of the key it is bound to, if any."""
    granted: Granted | None = None
    """What it was given, where it is a client's."""


class Issued(NamedTuple):
    """A token answer; `expires_in` in seconds."""

    access_token: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int
    scope: str
    token_type: str = "Bearer"  # noqa: S105 - is public


class TokenService:
    """Issues and rotates."""

    def __init__(
        self,
        changes: Changes,
        database: Database,
        clock: Clock,
        keyring: Keyring,
        signing: SigningService,
        scopes_of: ScopesOf,
        settings: IdentitySettings,
    ) -> None:
        self._changes = changes
        self._database = database
        self._clock = clock
        self._ring = keyring
        self._signing = signing
        self._scopes_of = scopes_of
        self._settings = settings
        self._noted: dict[str, int] = {}
        self._written: dict[str, int] = {}

    def begin(
        self, change: Change, *, session_id: str, account_id: str, jkt: str = "", granted: Granted | None = None
    ) -> Family:
        """Begin a family for a session that begins in this change."""
        account = find_account(change.connection, account_id)
        if account is None:
            raise Denied("invalid_credentials")
        family = Family(session_id, account_id, account.roles, 1, "", 0.0, jkt, granted)
        return self._next(change, PREFIX + new_secret(), family, change.now + self._settings.refresh_max_s)

    async def issue(self, family: Family) -> Issued:
        """Sign the access token of a family as it stands. Raises StoreError."""
        await self._signing.keep()
        settings, now = self._settings, self._clock.now()
        scopes, granted = self._scopes_of(family.roles), family.granted
        if granted is not None:
            scopes = frozenset(granted.scope.split()) & (scopes | IDENTITY_SCOPES)
        scope = " ".join(sorted(scopes))
        claims: dict[str, Any] = {
            "iss": settings.issuer,
            "sub": family.account_id,
            "aud": settings.audience or settings.issuer if granted is None else granted.audience,
            "client_id": FIRST_PARTY if granted is None else granted.client_id,
            "iat": int(now),
            "exp": int(now + settings.access_ttl_s),
            "jti": secrets.token_urlsafe(16),
            "scope": scope,
            "sid": family.session_id,
            "rid": family.number,
        }
        if family.jkt:
            claims["cnf"] = {"jkt": family.jkt}
        token = sign({"typ": ACCESS_TYP}, claims, self._ring.signing)
        left = int(family.expires_at - now)
        kind = "DPoP" if family.jkt else "Bearer"
        return Issued(token, int(settings.access_ttl_s), family.refresh_token, left, scope, kind)

    async def cookie(self, session_id: str, account_id: str, ends_at: float) -> str:
        """Return what the cookie of a new session holds, with `SESSION_FORMAT=jwt`. Raises StoreError."""
        await self._signing.keep()
        return self.cookie_of(session_id, account_id, ends_at, self._clock.now())[0]

    def cookie_of(self, session_id: str, account_id: str, ends_at: float, now: float) -> tuple[str, float]:
        """Return a JWT about the session for its cookie, and when it ends: with the idle time, or the session."""
        expires_at = min(now + self._settings.session_idle_s, ends_at)
        claims = {
            "iss": self._settings.issuer,
            "aud": COOKIE_AUDIENCE,
            "sub": account_id,
            "sid": session_id,
            "iat": int(now),
            "exp": math.ceil(expires_at),
        }
        return sign({"typ": COOKIE_TYP}, claims, self._ring.signing), expires_at

    async def refresh(
        self,
        token: str,
        *,
        device_secret: str | None,
        by_cookie: bool = False,
        jkt: str = "",
        client_id: str | None = None,
        origin: Origin = Origin(),
    ) -> Issued:
        """Rotate, or repeat what the rotation gave; see `rotation.py`. `by_cookie`: only with the family's device.

        `jkt`: of the key that the request proved, if any. `client_id`: who authenticated; None: first party.

        Raises Denied(`invalid_grant`) and StoreError.
        """
        shown = digest(token, purpose=PURPOSE)

        def change(change: Change) -> Family | None:
            found = find_presented(change.connection, shown)
            now = change.now
            if found is None or not _is_alive(found, now):
                return None
            device_id = _device(change.connection, device_secret, found.account_id, now)
            shows_device = device_id is not None and device_id == found.device_id
            is_its_own = found.client_id == client_id
            if by_cookie and not shows_device:
                return None
            shows_key = found.jkt is None or found.jkt == jkt
            verdict = judge(
                used_at=found.used_at,
                acknowledged=found.acknowledged,
                now=now,
                grace_s=self._settings.refresh_grace_s,
                is_bound=found.is_bound or found.jkt is not None or not is_its_own,
                shows_binding=is_its_own and shows_key and (shows_device or not found.is_bound),
            )
            if verdict is Verdict.ROTATE:
                if shows_device and not found.is_bound:
                    bind_family(change.connection, found.session_id)
                return self._rotate(change, token, shown, found)
            if verdict is Verdict.REPEAT and found.successor is not None:
                return self._repeat(change.connection, token, found)
            if verdict is Verdict.THEFT:
                change.record("refresh.reused", found.session_id, actor=found.account_id, number=found.number)
                end_session(change, found.session_id)
            return None

        family = await self._changes.make(change, origin)
        if family is None:
            raise Denied("invalid_grant")
        return await self.issue(family)

    def note(self, session_id: str, number: int) -> None:
        """Note that an access token of rotation `number` was seen: that rotation has reached its client."""
        if number > 1 and self._written.get(session_id, 0) < number and len(self._noted) < _MOST_NOTED:
            self._noted[session_id] = max(number, self._noted.get(session_id, 0))

    async def flush(self) -> None:
        """Write what was noted. What could not be written stays noted. Raises StoreError."""
        if not self._noted:
            return
        noted, self._noted = self._noted, {}

        def write(connection: Connection) -> None:
            for session_id, number in noted.items():
                acknowledge(connection, session_id, number)

        try:
            await self._database.write(write)
        except BaseException:
            for session_id, number in noted.items():
                self._noted[session_id] = max(number, self._noted.get(session_id, 0))
            raise
        if len(self._written) + len(noted) > _MOST_NOTED:
            self._written.clear()
        self._written.update(noted)

    def _rotate(self, change: Change, token: str, shown: bytes, found: Presented) -> Family | None:
        connection, successor = change.connection, PREFIX + new_secret()
        if not use_token(connection, shown, now=change.now, successor=_seal(successor, token)):
            again = find_presented(connection, shown)  # another one was first, in the same moment
            return None if again is None else self._repeat(connection, token, again)
        acknowledge(connection, found.session_id, found.number)
        roles = roles_of(found.roles)
        return self._next(
            change,
            successor,
            Family(
                found.session_id, found.account_id, roles, found.number + 1, "", 0.0, found.jkt or "", _granted(found)
            ),
            found.session_expires_at,
        )

    def _repeat(self, connection: Connection, token: str, found: Presented) -> Family | None:
        successor = None if found.successor is None else _open(found.successor, token)
        if successor is None:
            return None
        current = find_presented(connection, digest(successor, purpose=PURPOSE))
        if current is None:
            return None
        return Family(
            found.session_id,
            found.account_id,
            roles_of(found.roles),
            current.number,
            successor,
            current.expires_at,
            found.jkt or "",
            _granted(found),
        )

    def _next(self, change: Change, token: str, family: Family, at_most: float) -> Family:
        expires_at = min(change.now + self._settings.refresh_ttl_s, at_most)
        insert_token(
            change.connection,
            digest(token, purpose=PURPOSE),
            session_id=family.session_id,
            number=family.number,
            expires_at=expires_at,
        )
        return family._replace(refresh_token=token, expires_at=expires_at)


def _is_alive(found: Presented, now: float) -> bool:
    return (
        now < found.expires_at
        and now < found.session_expires_at
        and found.session_epoch >= found.epoch
        and found.status == "active"
    )


def _granted(found: Presented) -> Granted | None:
    if found.client_id is None:
        return None
    return Granted(found.client_id, found.scope or "", found.audience or "")


def _device(connection: Connection, secret: str | None, account_id: str, now: float) -> str | None:
    return None if secret is None else find_device(connection, secret, account_id, now)


def _key(token: str) -> AESGCM:
    return AESGCM(HKDF(SHA256(), 32, salt=None, info=b"garrison/refresh successor").derive(token.encode()))


def _seal(successor: str, token: str) -> bytes:
    nonce = os.urandom(12)
    return nonce + _key(token).encrypt(nonce, successor.encode(), None)


def _open(sealed: bytes, token: str) -> str:
    return _key(token).decrypt(sealed[:12], sealed[12:], None).decode()
