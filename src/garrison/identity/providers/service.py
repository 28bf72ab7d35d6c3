"""An outside identity becomes a session: linked, or given an account, safely (ASVS 5.0 V10.5; CWE-290).

identity is linked already                        that account
address verified by the provider, no account      a new one, without a password, linked
address verified by the provider, an account      linked, and *taken over*: nobody has proved that address to us, so
                                                  whoever made the account may have been somebody else, waiting. Its
                                                  password, sessions and devices end (pre-account hijacking, 2022)
no verified address                               refused: an account needs one
"""

from typing import NamedTuple

from sqlalchemy import Connection

from garrison.core.errors import Denied
from garrison.core.ids import AccountId, new_id, new_secret
from garrison.core.principal import Factor
from garrison.identity.accounts.email import Email, parse_email
from garrison.identity.accounts.queries import clear_password, find_account, find_by_key, insert_account
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.devices.queries import delete_devices, insert_device
from garrison.identity.providers.queries import find_linked, link
from garrison.identity.providers.remote import Person
from garrison.identity.sessions.queries import delete_sessions
from garrison.identity.sessions.service import Begun, SessionService
from garrison.identity.settings import IdentitySettings


class Arrived(NamedTuple):
    """A complete sign-in."""

    account_id: AccountId
    session: Begun
    device_secret: str


class ProviderService:
    """Signs people in whom a provider knows."""

    def __init__(self, changes: Changes, sessions: SessionService, settings: IdentitySettings) -> None:
        self._changes = changes
        self._sessions = sessions
        self._settings = settings

    async def sign_in(self, person: Person, *, client: str, network: str, origin: Origin) -> Arrived:
        """Begin a session for this person. Raises Denied(`provider_refused`, `invalid_credentials`), StoreError."""
        settings = self._settings

        def change(change: Change) -> Arrived:
            account_id = self._account(change, person)
            secret = new_secret()
            device_id = insert_device(
                change.connection,
                secret,
                account_id,
                now=change.now,
                expires_at=change.now + settings.device_lifetime_s,
                most=settings.max_devices,
            )
            session = self._sessions.begin(
                change,
                account_id,
                carrier="cookie",
                factors=(Factor("provider", change.now),),
                device_id=device_id,
                client=client,
                network=network,
            )
            return Arrived(account_id, session, secret)

        return await self._changes.make(change, origin)

    def _account(self, change: Change, person: Person) -> AccountId:
        connection = change.connection
        linked = find_linked(connection, person.issuer, person.subject)
        if linked is None:
            linked = self._link(change, person)
        account = find_account(connection, linked)
        if account is None or account.status != "active":
            raise Denied("invalid_credentials")
        return account.id

    def _link(self, change: Change, person: Person) -> AccountId:
        address = _address(person)
        account_id = AccountId(new_id("acc"))
        if insert_account(change.connection, account_id, address, None, "", change.now):
            change.record("account.created", account_id, roles=[])
        else:
            account_id = _taken_over(change, address)
        link(change.connection, person.issuer, person.subject, account_id, change.now)
        change.record("account.linked", account_id, issuer=person.issuer)
        return account_id


def _address(person: Person) -> Email:
    try:
        return parse_email(person.email)
    except ValueError:
        raise Denied("provider_refused", "the provider did not say a verified address") from None


def _taken_over(change: Change, address: Email) -> AccountId:
    connection: Connection = change.connection
    account = find_by_key(connection, address.key)
    if account is None or account.status != "active":
        raise Denied("invalid_credentials")
    version = clear_password(connection, account.id)
    ended = delete_sessions(connection, account.id)
    delete_devices(connection, account.id)
    change.record("account.taken_over", account.id, ended=ended)
    change.announce("account", account.id, version)
    return account.id
