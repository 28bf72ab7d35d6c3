"""Is this database where it was first used, or a copy of that one?

A copy that was put back knows nothing of what was revoked after it was taken (`identity/restored.py`), and a restore
that forgot `garrison restored` looks like any other start. So the first start notes which server and which database
this is, by what PostgreSQL calls them, and a later one that finds itself elsewhere says so: after `pg_restore` into a
new database, on a clone, and on a server that was moved or upgraded by copying. A restore into the same database, a
point in time that a server went back to, and a standby that took over have the same names and are not noticed; nor is a
copy of a database that no server with this has started on, or anything where the role may not ask. A SQLite file has no
such name; `garrison restore` puts its copies back.
"""

from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import DBAPIError

from garrison.store.secret_check import marks
from garrison.store.statements import insert_new

_NAME = "home"  # not sealed, whatever the column is called: it is no secret, and outlives SECRET
_NOT_TO_BE_HAD = frozenset({"42501", "42883", "0A000"})
"""This role may not ask, or this server does not have it: then nothing is noticed."""
_ASKED = text(
    "SELECT concat_ws('/', (SELECT system_identifier FROM pg_control_system()),"
    " (SELECT oid FROM pg_database WHERE datname = current_database()))"
)


def is_at_home(connection: Connection) -> bool:
    """Say whether it is where it was first used, in a transaction that may write; the first to ask decides."""
    here = _here(connection)
    if here is None or _note(connection, here):
        return True
    return bool(connection.execute(select(marks.c.sealed).where(marks.c.name == _NAME)).scalar_one() == here)


def settle(connection: Connection) -> None:
    """Take the place where it is now for its home."""
    here = _here(connection)
    if here is not None and not _note(connection, here):
        connection.execute(update(marks).where(marks.c.name == _NAME).values(sealed=here))


def _note(connection: Connection, here: bytes) -> bool:
    """Note the place unless one is noted already; say whether it was."""
    return insert_new(connection, marks, {"name": _NAME, "sealed": here}, unique=("name",))


def _here(connection: Connection) -> bytes | None:
    if connection.dialect.name != "postgresql":
        return None
    try:
        with connection.begin_nested():
            return bytes(connection.execute(_ASKED).scalar_one(), "ascii")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) in _NOT_TO_BE_HAD:
            return None
        raise
