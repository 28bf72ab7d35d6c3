"""What a client gets in a person's name: tokens for a code, and the next ones for a refresh token (RFC 6749 4.1.3, 6).

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
from garrison.identity.oauth.codes import PURPOSE, Code, find_code, spend_code
from garrison.identity.oauth.errors import OAuthError
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.sessions.service import Granted, SessionService, end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.tokens.service import Family, Issued, TokenService

ID_TYP = "JWT"


class Exchanged(NamedTuple):
    """A spent code: the family it began, and whose it is."""

    family: Family
    code: Code
    email: str


class Grants:
    """The two grants in which a person is behind the client."""

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

        def change(change: Change) -> Exchanged | None:
            found = find_code(change.connection, shown)
            if found is None or found.client_id != client.id:
                return None
            if found.session_id is not None:
                change.record("code.replayed", found.session_id, actor=client.id)
                end_session(change, found.session_id)
                return None
            account = find_account(change.connection, found.account_id)
            if (
                change.now >= found.good_until
                or parameters.one("redirect_uri") != found.redirect_uri
                or not _is_verifier(verifier, found.challenge)
                or account is None
                or account.status != "active"
                or account.version != found.account_version
            ):
                return None
            granted = Granted(client.id, found.scope, found.audience)
            session = self._sessions.begin(
                change,
                account.id,
                carrier="token",
                factors=(Factor("password", found.proved_at),),
                device_id=None,
                client=client.name[:64],
                network=network,
                jkt=jkt or None,
                granted=granted,
            )
            if not spend_code(change.connection, shown, session.id):
                raise OAuthError("invalid_grant")
            family = self._tokens.begin(change, session_id=session.id, account_id=account.id, jkt=jkt, granted=granted)
            return Exchanged(family, found, account.email)

        exchanged = await self._changes.make(change, origin)
        if exchanged is None:
            raise OAuthError("invalid_grant")
        issued = await self._tokens.issue(exchanged.family)
        document = dict(_answer(issued, client))
        if "openid" in exchanged.code.scope.split():
            document["id_token"] = self._id_token(client, exchanged)
        return document

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
            raise OAuthError("invalid_grant") from None
        return _answer(issued, client)

    def _id_token(self, client: Client, exchanged: Exchanged) -> str:
        """OpenID Connect Core 1.0 section 2."""
        now, code = self._clock.now(), exchanged.code
        claims: dict[str, Any] = {
            "iss": self._settings.issuer,
            "sub": code.account_id,
            "aud": client.id,
            "iat": int(now),
            "exp": int(now + self._settings.access_ttl_s),
            "auth_time": int(code.proved_at),
        }
        if code.nonce:
            claims["nonce"] = code.nonce
        if "email" in code.scope.split():
            claims |= {"email": exchanged.email, "email_verified": False}
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
