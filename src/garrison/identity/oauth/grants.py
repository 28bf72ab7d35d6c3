"""What a client gets in a person's name: tokens for a code or a device's code, and the next ones for a refresh token
(RFC 6749 sections 4.1.3 and 6, RFC 8628 section 3.4).

A code is spent in the transaction that begins its session, so that of two requests one wins. One that comes again ends
what the first one got (RFC 9700 section 4.5). Where the account changed between consent and here, it is nothing.
"""

import base64
import hmac
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.core.ids import digest
from garrison.core.principal import Factor
from garrison.identity.accounts.queries import find_account
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.clients.model import Client
from garrison.identity.oauth.codes import PURPOSE, find_code, spend_code
from garrison.identity.oauth.device_codes import (
    DEVICE_PURPOSE,
    INTERVAL_S,
    find_device_code,
    spend_device_code,
    wait_longer,
)
from garrison.identity.oauth.errors import OAuthError
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.sessions.service import Granted, SessionService, end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.tokens.service import Family, Issued, TokenService

ID_TYP = "JWT"
_DEAD_CODE = "the code is not known, was used, is too old, or does not go with redirect_uri, code_verifier or key"
_DEAD_DEVICE_CODE = "the device_code is not known or was used"
_DEAD_REFRESH = "the refresh_token is not known, was used, has ended, or does not go with this client or key"
"""One text for all of a kind: which of them it is would help whoever has somebody else's."""


class Given(NamedTuple):
    """What a person gave, once: to whom it goes, what for, and when they signed in."""

    account_id: str
    account_version: int
    scope: str
    audience: str
    proved_at: float
    nonce: str = ""


class Begun(NamedTuple):
    """The family that a spent code began, and the account's address."""

    family: Family
    given: Given
    email: str


class Grants:
    """The grants in which a person is behind the client."""

    def __init__(
        self,
        changes: Changes,
        sessions: SessionService,
        tokens: TokenService,
        keyring: Keyring,
        clock: Clock,
        settings: IdentitySettings,
    ) -> None:
        self._changes = changes
        self._sessions = sessions
        self._tokens = tokens
        self._ring = keyring
        self._clock = clock
        self._settings = settings

    async def by_code(
        self, client: Client, parameters: Parameters, jkt: str, *, network: str, origin: Origin
    ) -> Mapping[str, Any]:
        """Return the token answer for a code. Raises OAuthError(`invalid_grant`, `invalid_request`), StoreError."""
        code, verifier = parameters.one("code"), parameters.one("code_verifier")
        if not code or not verifier:
            raise OAuthError("invalid_request", "code and code_verifier are needed")
        shown = digest(code, purpose=PURPOSE)

        def change(change: Change) -> Begun | None:
            found = find_code(change.connection, shown)
            if found is None or found.client_id != client.id:
                return None
            if found.session_id is not None:
                change.record("code.replayed", found.session_id, actor=client.id)
                end_session(change, found.session_id)
                return None
            if (
                change.now >= found.good_until
                or parameters.one("redirect_uri") != found.redirect_uri
                or not _is_verifier(verifier, found.challenge)
                or found.jkt not in (None, jkt)
            ):
                return None
            given = Given(
                found.account_id, found.account_version, found.scope, found.audience, found.proved_at, found.nonce
            )
            begun = self._begin(change, client, given, jkt, network)
            if begun is not None and not spend_code(change.connection, shown, begun.family.session_id):
                raise OAuthError("invalid_grant", _DEAD_CODE)
            return begun

        return await self._answer(client, await self._changes.make(change, origin), _DEAD_CODE)

    async def by_device_code(
        self, client: Client, parameters: Parameters, jkt: str, *, network: str, origin: Origin
    ) -> Mapping[str, Any]:
        """Return the token answer for a device's code that somebody allowed.

        Raises OAuthError(`authorization_pending`, `slow_down`, `access_denied`, `expired_token`, `invalid_grant`,
        `invalid_request`), StoreError.
        """
        code = parameters.one("device_code")
        if not code:
            raise OAuthError("invalid_request", "device_code is needed")
        shown = digest(code, purpose=DEVICE_PURPOSE)

        def change(change: Change) -> Begun | str | None:
            found = find_device_code(change.connection, shown)
            if found is None or found.client_id != client.id or found.session_id is not None:
                return None
            if change.now >= found.expires_at:
                return "expired_token"
            if found.state == "denied":
                return "access_denied"
            if found.state == "pending":
                is_early = change.now < found.next_at
                interval_s = found.interval_s + (INTERVAL_S if is_early else 0.0)
                wait_longer(change.connection, shown, interval_s=interval_s, next_at=change.now + interval_s)
                return "slow_down" if is_early else "authorization_pending"
            account_id, version, proved_at = found.account_id or "", found.account_version or 0, found.proved_at or 0.0
            given = Given(account_id, version, found.scope, found.audience, proved_at)
            begun = self._begin(change, client, given, jkt, network)
            if begun is not None and not spend_device_code(change.connection, shown, begun.family.session_id):
                raise OAuthError("invalid_grant", _DEAD_DEVICE_CODE)
            return begun

        begun = await self._changes.make(change, origin)
        if isinstance(begun, str):
            raise OAuthError(begun)
        return await self._answer(client, begun, _DEAD_DEVICE_CODE)

    async def by_refresh(
        self, client: Client, parameters: Parameters, jkt: str, *, origin: Origin
    ) -> Mapping[str, Any]:
        """Return the token answer for a refresh token. Raises OAuthError(`invalid_grant`, `invalid_request`)."""
        token = parameters.one("refresh_token")
        if not token or len(token) > 256:
            raise OAuthError("invalid_request", "refresh_token is needed")
        try:
            issued = await self._tokens.refresh(token, device_secret=None, jkt=jkt, client_id=client.id, origin=origin)
        except Denied:
            raise OAuthError("invalid_grant", _DEAD_REFRESH) from None
        return _answer(issued, client)

    def _begin(self, change: Change, client: Client, given: Given, jkt: str, network: str) -> Begun | None:
        """Begin the session and its family; None where the account is not the one that gave it any more."""
        account = find_account(change.connection, given.account_id)
        if account is None or account.status != "active" or account.version != given.account_version:
            return None
        granted = Granted(client.id, given.scope, given.audience)
        session = self._sessions.begin(
            change,
            account.id,
            carrier="token",
            factors=(Factor("password", given.proved_at),),
            device_id=None,
            client=client.name[:64],
            network=network,
            jkt=jkt or None,
            granted=granted,
        )
        family = self._tokens.begin(change, session_id=session.id, account_id=account.id, jkt=jkt, granted=granted)
        return Begun(family, given, account.email)

    async def _answer(self, client: Client, begun: Begun | None, refusal: str) -> Mapping[str, Any]:
        if begun is None:
            raise OAuthError("invalid_grant", refusal)
        document = dict(_answer(await self._tokens.issue(begun.family), client))
        if "openid" in begun.given.scope.split():
            document["id_token"] = self._id_token(client, begun)
        return document

    def _id_token(self, client: Client, begun: Begun) -> str:
        """OpenID Connect Core 1.0 section 2."""
        now, given = self._clock.now(), begun.given
        claims: dict[str, Any] = {
            "iss": self._settings.issuer,
            "sub": given.account_id,
            "aud": client.id,
            "iat": int(now),
            "exp": int(now + self._settings.access_ttl_s),
            "auth_time": int(given.proved_at),
        }
        if given.nonce:
            claims["nonce"] = given.nonce
        if "email" in given.scope.split():
            claims |= {"email": begun.email, "email_verified": False}
        return sign({"typ": ID_TYP}, claims, self._ring.signing)


def _is_verifier(verifier: str, challenge: str) -> bool:
    """RFC 7636 section 4.6, S256 alone."""
    if not 43 <= len(verifier) <= 128 or not verifier.isascii():
        return False
    made = base64.urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=")
    return hmac.compare_digest(made, challenge.encode())


def _answer(issued: Issued, client: Client) -> Mapping[str, Any]:
    document = {
        "access_token": issued.access_token,
        "token_type": issued.token_type,
        "expires_in": issued.expires_in,
        "scope": issued.scope,
    }
    if "refresh_token" in client.grants:
        document["refresh_token"] = issued.refresh_token
    return document
