"""Every statement on `identities`."""

from sqlalchemy import Connection, select

from garrison.core.ids import AccountId
from garrison.identity.providers.model import identities
from garrison.store.statements import insert_new


def find_linked(connection: Connection, issuer: str, subject: str) -> AccountId | None:
    """Return the account that this outside identity is linked to, or None."""
    query = select(identities.c.account_id).where(identities.c.issuer == issuer, identities.c.subject == subject)
    found: str | None = connection.execute(query).scalar_one_or_none()
    return None if found is None else AccountId(found)


def link(connection: Connection, issuer: str, subject: str, account_id: str, now: float) -> bool:
    """Link the identity to the account, unless it is linked already; say whether it was. One statement."""
    values = {"issuer": issuer, "subject": subject, "account_id": account_id, "created_at": now}
    return insert_new(connection, identities, values, unique=("issuer", "subject"))
