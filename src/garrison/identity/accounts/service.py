"""Accounts: sign up, create, find, roles, disable. The routes, the commands and users' own code call the same.

Sign-up never tells whether an address is taken (CWE-204; OWASP Authentication Cheat Sheet): both branches hash the
password and commit one transaction, and both say *accepted*. With `EMAIL_VERIFICATION=optional` a sign-in right
afterwards necessarily tells.
"""

from collections.abc import Sequence

from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.errors import Denied, GarrisonError
from garrison.core.ids import AccountId, new_id
from garrison.identity.accounts.email import find_key, parse_email
from garrison.identity.accounts.model import MEMBER, Account, Status, check_role
from garrison.identity.accounts.queries import (
    find_account,
    find_by_key,
    insert_account,
    list_accounts,
    set_roles,
    set_status,
)
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.passwords.common import check_new_password
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.sessions.queries import delete_sessions
from garrison.store.database import Database

_PAGE = 100


class AccountService:
    """Makes and changes accounts. Accounts are named by id or by address."""

    def __init__(self, changes: Changes, database: Database, clock: Clock, passwords: Passwords) -> None:
        self._changes = changes
        self._database = database
        self._clock = clock
        self._passwords = passwords

    async def sign_up(self, email: str, password: str, *, origin: Origin = Origin()) -> None:
        """Make an account with role `member`, or do the same work for nothing where the address is taken.

        Raises Denied(`validation`, `common_password`, `overloaded`) and StoreError, whichever branch it is.
        """
        await self._create(email, password, "", origin)

    async def create(self, email: str, password: str, role: str | None = None, *, origin: Origin = Origin()) -> Account:
        """Make an account and return it; `role` comes beside `member`.

        Raises GarrisonError(`account_exists`), Denied as `sign_up`, ValueError for a role that is no word, StoreError.
        """
        roles = "" if role in (None, MEMBER) else check_role(str(role))
        account = await self._create(email, password, roles, origin)
        if account is None:
            raise GarrisonError("account_exists", "there is an account with this address")
        return account

    async def find(self, account: str) -> Account | None:
        """Return the account with this id or address, or None. Raises StoreError."""

        def read(connection: Connection) -> Account | None:
            return _find(connection, account)

        return await self._database.read(read)

    async def list(self, *, after: str = "", limit: int = _PAGE) -> Sequence[Account]:
        """Return up to `limit` accounts in the order of ids, after the id `after`. Raises StoreError."""

        def read(connection: Connection) -> Sequence[Account]:
            return list_accounts(connection, after=after, limit=limit)

        return await self._database.read(read)

    async def set_role(self, account: str, role: str, *, origin: Origin = Origin()) -> Account:
        """Give the account this role in place of every other but `member`; live sessions have it at once.

        Raises GarrisonError(`account_not_found`), ValueError for a role that is no word, StoreError.
        """
        roles = "" if check_role(role) == MEMBER else role

        def change(change: Change) -> Account:
            found = _get(change.connection, account)
            version = set_roles(change.connection, found.id, roles)
            before = sorted(found.roles - {MEMBER})
            change.record("account.role_changed", found.id, before=before, after=roles.split())
            change.announce("account", found.id, version)
            return _get(change.connection, found.id)

        return await self._changes.make(change, origin)

    async def disable(self, account: str, *, origin: Origin = Origin()) -> Account:
        """End every session and token of the account and let it sign in no more, at once.

        Raises GarrisonError(`account_not_found`), StoreError.
        """
        return await self._set_status(account, "disabled", origin)

    async def enable(self, account: str, *, origin: Origin = Origin()) -> Account:
        """Let a disabled account sign in again; what was ended stays ended.

        Raises GarrisonError(`account_not_found`), StoreError.
        """
        return await self._set_status(account, "active", origin)

    async def _create(self, email: str, password: str, roles: str, origin: Origin) -> Account | None:
        """Hash and commit, whether the address is taken (None) or not."""
        try:
            address = parse_email(email)
        except ValueError as error:
            raise Denied("validation", str(error)) from None
        check_new_password(password)
        password_hash = await self._passwords.hash(password)
        account_id = AccountId(new_id("acc"))

        def change(change: Change) -> Account | None:
            if insert_account(change.connection, account_id, address, password_hash, roles, change.now):
                change.record("account.created", account_id, roles=roles.split())
                return _get(change.connection, account_id)
            taken = find_by_key(change.connection, address.key)
            change.record("account.sign_up_repeated", "" if taken is None else taken.id)
            return None

        return await self._changes.make(change, origin)

    async def _set_status(self, account: str, status: Status, origin: Origin) -> Account:
        def change(change: Change) -> Account:
            found = _get(change.connection, account)
            if found.status == status:
                return found
            ends = status == "disabled"
            version = set_status(change.connection, found.id, status, end_sessions=ends)
            ended = delete_sessions(change.connection, found.id) if ends else 0
            change.record("account.disabled" if ends else "account.enabled", found.id, ended=ended)
            change.announce("account", found.id, version)
            return _get(change.connection, found.id)

        return await self._changes.make(change, origin)


def _find(connection: Connection, account: str) -> Account | None:
    """An id holds no @, an address does."""
    if "@" not in account:
        return find_account(connection, account)
    key = find_key(account)
    return None if key is None else find_by_key(connection, key)


def _get(connection: Connection, account: str) -> Account:
    found = _find(connection, account)
    if found is None:
        raise GarrisonError("account_not_found", "there is no such account")
    return found
