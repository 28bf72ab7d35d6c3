"""Every statement on `signing_keys`."""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from garrison.identity.signing.model import SigningKey, State, signing_keys

_SHOWN = tuple(signing_keys.c[name] for name in ("kid", "algorithm", "state", "shown_at", "signs_from", "ends_at"))
LOAD = (
    "SELECT kid, algorithm, state, shown_at, signs_from, sealed, public FROM signing_keys"
    " WHERE state <> 'revoked' ORDER BY shown_at, kid"
)
"""What a process reads to have the keys at hand; `store.database.Database.cold` runs it."""


class StoredKey(NamedTuple):
    """A row of `LOAD`."""

    kid: str
    algorithm: str
    state: State
    shown_at: float
    signs_from: float | None
    sealed: bytes
    public: str


def list_keys(connection: Connection) -> Sequence[SigningKey]:
    """Return all keys, those revoked too, in the order in which they were shown."""
    query = select(*_SHOWN).order_by(signing_keys.c.shown_at, signing_keys.c.kid)
    return [SigningKey(*row) for row in connection.execute(query)]


def insert_key(
    connection: Connection, *, kid: str, algorithm: str, state: State, sealed: bytes, public: str, now: float
) -> None:
    """Keep a new key, shown from now on."""
    values = {
        "kid": kid,
        "algorithm": algorithm,
        "state": state,
        "sealed": sealed,
        "public": public,
        "shown_at": now,
        "signs_from": now if state == "active" else None,
        "ends_at": None,
        "version": 1,
    }
    connection.execute(insert(signing_keys).values(**values))


def plan_key(connection: Connection, kid: str, signs_from: float) -> None:
    """Let the next key sign from a time on."""
    connection.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(signs_from=signs_from))


def seal_anew(connection: Connection, kid: str, sealed: bytes) -> None:
    """Keep the same key under another seal."""
    connection.execute(update(signing_keys).where(signing_keys.c.kid == kid).values(sealed=sealed))


def set_state(connection: Connection, kid: str, state: State, *, now: float, ends_at: float | None = None) -> int:
    """Move a key to `state`; return its new version."""
    values: dict[str, object] = {"state": state, "version": signing_keys.c.version + 1, "ends_at": ends_at}
    if state == "active":
        values["signs_from"] = now
    statement = update(signing_keys).where(signing_keys.c.kid == kid).values(**values)
    return int(connection.execute(statement.returning(signing_keys.c.version)).scalar_one())


def delete_ended(connection: Connection, now: float) -> Sequence[str]:
    """Forget retired keys that have ended; return their kids."""
    statement = delete(signing_keys).where(signing_keys.c.state == "retired", signing_keys.c.ends_at <= now)
    return [row.kid for row in connection.execute(statement.returning(signing_keys.c.kid))]
