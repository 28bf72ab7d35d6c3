"""HTTP Basic (RFC 7617; ASVS 5.0 V6.2): for machines that can do nothing else. Off unless `BASIC` says so.

Only over TLS, or on this machine in development. A credential that was verified is known for a minute, in this process
alone, by an HMAC of *all* of it under a key of this process (Okta 2024: a cache key that was cut at 72 bytes let
anybody in with a long name); any news of the account ends it, a new password first of all. What is not known is a
guess like any other: counted, delayed, hashed, one and the same 401.
"""

import base64
import binascii
import hmac
import secrets
from collections.abc import Awaitable

from sqlalchemy import Connection

from garrison.core.errors import Denied
from garrison.core.ids import SessionId
from garrison.core.network import is_loopback
from garrison.core.principal import Factor, Principal
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.identity.accounts.email import find_key
from garrison.identity.accounts.queries import Credentials, find_account, find_credentials
from garrison.identity.changes import Change, Changes
from garrison.identity.origins import origin_of
from garrison.identity.sessions.cache import ScopesOf, SessionCache, SessionEntry
from garrison.identity.sessions.carriers import LOCAL_PEERS
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.password_check import PasswordCheck
from garrison.wire.call import Call

KNOWN_FOR_S = 60.0
MAX_BYTES = 2048
CHALLENGE = (b"www-authenticate", b'Basic realm="garrison", charset="UTF-8"')


class BasicAuthenticator:
    """Reads `Authorization: Basic`; other schemes are somebody else's."""

    explicit = True

    def __init__(
        self,
        cache: SessionCache,
        check: PasswordCheck,
        changes: Changes,
        scopes_of: ScopesOf,
        settings: IdentitySettings,
    ) -> None:
        self._cache = cache
        self._password_check = check
        self._changes = changes
        self._scopes_of = scopes_of
        self._settings = settings
        self._key = secrets.token_bytes(32)

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the account; None for other credentials. Raises Denied for a guess that was none, or one too many."""
        value = call.headers.get(b"authorization", b"")
        if value[:6].lower() != b"basic ":
            return None
        local = call.peer in LOCAL_PEERS or is_loopback(call.peer)
        if not call.secure and not (self._settings.development and local):
            raise Denied("https_required")
        if len(value) > MAX_BYTES:
            return REFUSED
        return self._cache.verify(hmac.digest(self._key, value, "sha256"), call, self._ask)

    async def _ask(self, shown: bytes, call: Call) -> Outcome:
        user, password = _read(call.headers[b"authorization"])
        email_key = find_key(user)

        def find(connection: Connection) -> Credentials | None:
            return None if email_key is None else find_credentials(connection, email_key=email_key)

        try:
            proof = await self._password_check.check(
                find,
                unknown_key=email_key or hmac.digest(self._key, user.casefold().encode(), "sha256").hex(),
                password=password,
                peer=call.peer,
                device_secret=None,
            )
        except Denied as denied:
            if denied.code == "invalid_credentials":
                raise Denied("invalid_credentials", headers=(CHALLENGE,)) from None
            raise
        settings, scopes_of = self._settings, self._scopes_of

        def confirm(change: Change) -> SessionEntry | None:
            self._password_check.confirm(change, proof)
            account = find_account(change.connection, proof.credentials.id)
            if account is None:
                return None
            principal = Principal(
                id=account.id,
                issuer=settings.issuer,
                roles=account.roles,
                scopes=scopes_of(account.roles),
                factors=(Factor("password", change.now),),
                via="basic",
                delegated=True,
            )
            return SessionEntry(
                principal,
                account_id=account.id,
                account_version=account.version,
                session_id=SessionId(""),
                session_version=0,
                email=account.email,
                created_at=change.now,
                seen_at=change.now,
                expires_at=float("inf"),
                ends_at=float("inf"),
                reread_at=call.boot + KNOWN_FOR_S,
            )

        entry = await self._changes.make(confirm, origin_of(call))
        return REFUSED if entry is None else self._cache.keep(shown, entry)


def _read(header: bytes) -> tuple[str, str]:
    """Return name and password. Raises Denied(`invalid_credentials`) for what is neither."""
    try:
        user, colon, password = base64.b64decode(header[6:].strip(b" "), validate=True).decode().partition(":")
    except (ValueError, binascii.Error):
        user = colon = password = ""
    if not colon or not user or not password:
        raise Denied("invalid_credentials", headers=(CHALLENGE,))
    return user, password
