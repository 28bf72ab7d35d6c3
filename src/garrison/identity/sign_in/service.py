"""Sign-in: a password becomes a session.

Never adopts a presented identifier (CWE-384, ASVS 5.0 V7.2.4): session and device secrets are made here, and a session
that the same carrier showed beside the password ends, since its identifier is replaced.
"""

from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Connection

from garrison.core.ids import AccountId, new_secret
from garrison.core.principal import Factor
from garrison.identity.accounts.email import find_key
from garrison.identity.accounts.queries import Credentials, find_credentials, find_roles
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.devices.queries import insert_device, touch_device
from garrison.identity.sessions.model import Carrier
from garrison.identity.sessions.service import Begun, SessionService, end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.password_check import PasswordCheck, Proof
from garrison.identity.tokens.service import Family, TokenService


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a sign-in brings along beside address and password. `replaces` is the session its carrier showed."""

    peer: str
    carrier: Carrier
    device_secret: str | None = None
    replaces: str | None = None
    jkt: str = ""
    client: str = ""
    network: str = ""
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A complete sign-in. The secrets are in the answer and nowhere else."""

    account_id: AccountId
    roles: frozenset[str]
    session: Begun
    device_secret: str
    family: Family | None
    """Where the session goes as tokens."""


class SignInService:
    """Signs people in by password."""

    def __init__(
        self,
        changes: Changes,
        check: PasswordCheck,
        sessions: SessionService,
        tokens: TokenService,
        settings: IdentitySettings,
    ) -> None:
        self._changes = changes
        self._check = check
        self._sessions = sessions
        self._tokens = tokens
        self._settings = settings

    async def sign_in(self, email: str, password: str, attempt: Attempt) -> SignedIn:
        """Sign in and return the new session.

        Raises Denied(`invalid_credentials`, `rate_limited`, `overloaded`) and StoreError.
        """
        email_key = find_key(email) or _no_key(email)

        def find(connection: Connection) -> Credentials | None:
            return find_credentials(connection, email_key=email_key)

        proof = await self._check.check(
            find,
            unknown_key=email_key,
            password=password,
            peer=attempt.peer,
            device_secret=attempt.device_secret,
        )

        def change(change: Change) -> SignedIn:
            self._check.confirm(change, proof)
            account_id = proof.credentials.id
            device_id, device_secret = self._device(change, proof, attempt)
            if attempt.replaces is not None:
                end_session(change, attempt.replaces)
            session = self._sessions.begin(
                change,
                account_id,
                carrier=attempt.carrier,
                factors=(Factor("password", change.now),),
                device_id=device_id,
                client=attempt.client,
                network=attempt.network,
                jkt=attempt.jkt or None,
            )
            family = None
            if attempt.carrier == "token":
                family = self._tokens.begin(change, session_id=session.id, account_id=account_id, jkt=attempt.jkt)
            roles = find_roles(change.connection, account_id)
            return SignedIn(account_id, roles, session, device_secret, family)

        return await self._changes.make(change, attempt.origin)

    def _device(self, change: Change, proof: Proof, attempt: Attempt) -> tuple[str, str]:
        """Return id and secret of the known device, or of a new one."""
        now, expires_at = change.now, change.now + self._settings.device_lifetime_s
        if proof.device_id is not None and attempt.device_secret is not None:
            touch_device(change.connection, proof.device_id, now=now, expires_at=expires_at)
            return proof.device_id, attempt.device_secret
        secret = new_secret()
        device_id = insert_device(
            change.connection,
            secret,
            proof.credentials.id,
            now=now,
            expires_at=expires_at,
            most=self._settings.max_devices,
        )
        return device_id, secret


def _no_key(text: str) -> str:
    """Return what failures on something that is no address are counted under; no account can have it as its key."""
    return sha256(text.casefold().encode("utf-8", "surrogatepass")).hexdigest()
