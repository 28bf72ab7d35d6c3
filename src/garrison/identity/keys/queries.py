"""Every statement on `api_keys`, and the guard's cold read of a key."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, func, insert, or_, select, update

from garrison.identity.keys.model import IS_APP, Key, api_keys

KEY_READ = (
    "SELECT k.id, k.account_id, k.kind, k.scopes, k.networks, k.rate, k.expires_at, k.created_at, k.version,"
    " CASE WHEN k.secret_digest = ? THEN NULL ELSE k.earlier_until END,"
    " a.roles, a.status, a.version, a.email"
    " FROM api_keys k JOIN accounts a ON a.id = k.account_id WHERE k.id IN"
    " (SELECT id FROM api_keys WHERE secret_digest = ? UNION ALL SELECT id FROM api_keys WHERE earlier_digest = ?)"
)
"""What the authenticator asks the driver itself, by the digest, three times.

Not by `secret_digest = ? OR earlier_digest = ?`: hardly any key has an earlier digest, and once SQLite was told so by
ANALYZE it reads the whole table instead (`tests/store/test_growth.py`).
"""
_COLUMNS = tuple(
    api_keys.c[name]
    for name in (
        "id",
        "account_id",
        "kind",
        "name",
        "scopes",
        "networks",
        "rate",
        "expires_at",
        "created_at",
        "used_at",
    )
)


def insert_key(connection: Connection, key: Key, secret_digest: bytes) -> None:
    """Keep a new key."""
    connection.execute(
        insert(api_keys).values(
            id=key.id,
            account_id=key.account_id,
            kind=key.kind,
            name=key.name,
            secret_digest=secret_digest,
            earlier_digest=None,
            earlier_until=None,
            scopes=" ".join(key.scopes),
            networks=" ".join(key.networks),
            rate=key.rate,
            expires_at=key.expires_at,
            created_at=key.created_at,
            used_at=None,
            version=1,
        )
    )


def list_keys(connection: Connection, account_id: str | None) -> Sequence[Key]:
    """Return the account's keys, or everybody's, oldest first."""
    query = select(*_COLUMNS).order_by(api_keys.c.created_at, api_keys.c.id)
    if account_id is not None:
        query = query.where(api_keys.c.account_id == account_id)
    return [_key(tuple(row)) for row in connection.execute(query)]


def count_live_apps(connection: Connection, now: float) -> int:
    """Return how many app keys have not expired."""
    alive = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    query = select(func.count()).select_from(api_keys).where(IS_APP, alive)
    return int(connection.execute(query).scalar_one())


def replace_secret(
    connection: Connection, key_id: str, account_id: str | None, secret_digest: bytes, earlier_until: float
) -> int | None:
    """Give the key another secret, the one before good for a while; return its new version, None for no such key."""
    statement = update(api_keys).where(api_keys.c.id == key_id)
    if account_id is not None:
        statement = statement.where(api_keys.c.account_id == account_id)
    statement = statement.values(
        earlier_digest=api_keys.c.secret_digest,
        earlier_until=earlier_until,
        secret_digest=secret_digest,
        version=api_keys.c.version + 1,
    )
    found: int | None = connection.execute(statement.returning(api_keys.c.version)).scalar_one_or_none()
    return found


def delete_key(connection: Connection, key_id: str, account_id: str | None) -> int | None:
    """Forget the key, of this account if one is named; return a version above its own, None for no such key."""
    statement = delete(api_keys).where(api_keys.c.id == key_id)
    if account_id is not None:
        statement = statement.where(api_keys.c.account_id == account_id)
    found: int | None = connection.execute(statement.returning(api_keys.c.version)).scalar_one_or_none()
    return None if found is None else found + 1


def raise_all_versions(connection: Connection, by: int) -> None:
    """Have every key looked up anew by whoever keeps it."""
    connection.execute(update(api_keys).values(version=api_keys.c.version + by))


def expire_all(connection: Connection, now: float) -> Sequence[str]:
    """End every key that has not expired; return their ids."""
    alive = or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now)
    statement = update(api_keys).where(alive).values(expires_at=now)
    return connection.execute(statement.returning(api_keys.c.id)).scalars().all()


def touch_keys(connection: Connection, seen: Iterable[tuple[str, float]]) -> None:
    """Note when keys were used last."""
    used_at: BindParameter[float] = bindparam("b_used_at")
    key_id: BindParameter[str] = bindparam("b_id")
    statement = update(api_keys).where(api_keys.c.id == key_id).values(used_at=used_at)
    rows = [{"b_id": one, "b_used_at": at} for one, at in seen]
    if rows:
        connection.execute(statement, rows)


def _key(row: Sequence[Any]) -> Key:
    key_id, account_id, kind, name, scopes, networks, rate, expires_at, created_at, used_at = row
    split = tuple(scopes.split()), tuple(networks.split())
    return Key(key_id, account_id, kind, name, *split, rate, expires_at, created_at, used_at)
