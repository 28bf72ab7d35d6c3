"""Changing a password: the current one is asked for, under the throttle of sign-in, and every other session ends."""

from dataclasses import replace

from sqlalchemy import Connection

from garrison.identity.accounts.queries import Credentials, find_credentials, set_password
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.passwords.common import check_new_password
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.sessions.queries import delete_sessions
from garrison.identity.sign_in.password_check import PasswordCheck
from garrison.store.database import Database


class PasswordService:
    """Changes passwords."""

    def __init__(self, changes: Changes, database: Database, passwords: Passwords, check: PasswordCheck) -> None:
        self._changes = changes
        self._database = database
        self._passwords = passwords
        self._check = check

    async def change(
        self,
        account_id: str,
        session_id: str,
        *,
        current: str,
        new: str,
        peer: str,
        device_secret: str | None,
        origin: Origin,
    ) -> None:
        """Replace the password and end every session and token of the account but the one that asks.

        Raises Denied(`common_password`, `invalid_credentials`, `rate_limited`, `overloaded`), Denied(`invalid_token`)
        where the asking session was ended in between, and StoreError.
        """
        check_new_password(new)

        def find(connection: Connection) -> Credentials | None:
            return find_credentials(connection, account_id=account_id)

        proof = await self._check.check(find, password=current, peer=peer, device_secret=device_secret)
        password_hash = await self._passwords.hash(new)

        def change(change: Change) -> None:
            self._check.confirm(change, proof)
            version = set_password(change.connection, account_id, password_hash)
            ended = delete_sessions(change.connection, account_id, keep=session_id)
            change.record("password.changed", account_id, ended=ended)
            change.announce("account", account_id, version)

        await self._changes.make(change, replace(origin, actor=account_id, session_id=session_id))
