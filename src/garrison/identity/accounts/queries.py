"""Every statement on `accounts`. Plain functions of a connection, so that each store runs the same ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from garrison.core.ids import AccountId
from garrison.identity.accounts.email import Email
from garrison.identity.accounts.model import Account, Status, accounts, roles_of
from garrison.store.statements import insert_new

_COLUMNS = (
    accounts.c.id,
    accounts.c.email,
    accounts.c.roles,
    accounts.c.status,
    accounts.c.epoch,
    accounts.c.version,
    accounts.c.created_at,
)


class Credentials(NamedTuple):
    """What checking a password needs of an account."""

    id: AccountId
    email_key: str
    password_hash: str | None
    password_version: int
    status: Status


def insert_account(
    connection: Connection, account_id: AccountId, email: Email, password_hash: str | None, roles: str, now: float
) -> bool:
    """Make an account unless one has the address; say whether it was made. One statement, so that one of N wins."""
    values = {
        "id": account_id,
        "email": email.stored,
        "email_key": email.key,
        "password_hash": password_hash,
        "password_version": 1,
        "roles": roles,
        "status": "active",
        "epoch": 1,
        "version": 1,
        "created_at": now,
    }
    return insert_new(connection, accounts, values, unique=("email_key",))


def find_account(connection: Connection, account_id: str) -> Account | None:
    """Return the account with this id, or None."""
    return _account(connection.execute(select(*_COLUMNS).where(accounts.c.id == account_id)).one_or_none())


def find_by_key(connection: Connection, email_key: str) -> Account | None:
    """Return the account with this address, given in normal form, or None."""
    return _account(connection.execute(select(*_COLUMNS).where(accounts.c.email_key == email_key)).one_or_none())


def find_credentials(connection: Connection, *, email_key: str = "", account_id: str = "") -> Credentials | None:
    """Return what checking a password needs of the account with this address in normal form, or this id, or None."""
    wanted = accounts.c.id == account_id if account_id else accounts.c.email_key == email_key
    columns = (
        accounts.c.id,
        accounts.c.email_key,
        accounts.c.password_hash,
        accounts.c.password_version,
        accounts.c.status,
    )
    row = connection.execute(select(*columns).where(wanted)).one_or_none()
    return None if row is None else Credentials(AccountId(row[0]), row[1], row[2], row[3], row[4])


def find_roles(connection: Connection, account_id: str) -> frozenset[str]:
    """Return the account's roles, `member` among them."""
    return roles_of(connection.execute(select(accounts.c.roles).where(accounts.c.id == account_id)).scalar_one())


def list_accounts(connection: Connection, *, after: str, limit: int) -> Sequence[Account]:
    """Return up to `limit` accounts in the order of their ids, beginning after the id `after` (keyset paging)."""
    query = select(*_COLUMNS).where(accounts.c.id > after).order_by(accounts.c.id).limit(limit)
    return [account for row in connection.execute(query) if (account := _account(row)) is not None]


def set_roles(connection: Connection, account_id: str, roles: str) -> int:
    """Store the roles beside `member` and raise the version; return the new version."""
    return _raised(connection, account_id, roles=roles)


def set_status(connection: Connection, account_id: str, status: Status, *, end_sessions: bool) -> int:
    """Store the state and raise the version, and the epoch where sessions end with it; return the new version."""
    if end_sessions:
        return _raised(connection, account_id, status=status, epoch=accounts.c.epoch + 1)
    return _raised(connection, account_id, status=status)


def raise_epoch(connection: Connection, account_id: str) -> int:
    """End everything issued to the account; return the new version."""
    return _raised(connection, account_id, epoch=accounts.c.epoch + 1)


def raise_all_epochs(connection: Connection, by: int) -> int:
    """End everything issued to anybody, with epochs and versions that are `by` higher; return how many accounts."""
    statement = update(accounts).values(epoch=accounts.c.epoch + by, version=accounts.c.version + by)
    return int(connection.execute(statement).rowcount)


def set_password(connection: Connection, account_id: str, password_hash: str) -> int:
    """Store a new password's hash and end everything issued to the account; return the new version."""
    return _raised(
        connection,
        account_id,
        password_hash=password_hash,
        password_version=accounts.c.password_version + 1,
        epoch=accounts.c.epoch + 1,
    )


def clear_password(connection: Connection, account_id: str) -> int:
    """Take the password away and end everything issued to the account; return the new version."""
    return _raised(
        connection,
        account_id,
        password_hash=None,
        password_version=accounts.c.password_version + 1,
        epoch=accounts.c.epoch + 1,
    )


def upgrade_hash(connection: Connection, account_id: str, old: str, new: str) -> None:
    """Replace a hash by one of the same password with today's parameters, if it is still the one that was checked."""
    statement = update(accounts).where(accounts.c.id == account_id, accounts.c.password_hash == old)
    connection.execute(statement.values(password_hash=new))


def _raised(connection: Connection, account_id: str, **values: object) -> int:
    statement = (
        update(accounts)
        .where(accounts.c.id == account_id)
        .values(version=accounts.c.version + 1, **values)
        .returning(accounts.c.version)
    )
    return int(connection.execute(statement).scalar_one())


def _account(row: Any) -> Account | None:
    if row is None:
        return None
    return Account(
        AccountId(row.id), row.email, roles_of(row.roles), row.status, row.epoch, row.version, row.created_at
    )
