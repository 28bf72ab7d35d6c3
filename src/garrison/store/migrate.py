"""The schema's version: what the file has, what this code expects, and the way from one to the other.

Migrations are ordered, forward-only, and one transaction each start: a crash in the middle leaves the old schema. Two
processes that upgrade the same new file at once take turns by SQLite's write lock; the second finds nothing to do.
Development upgrades by itself, production never: there it is `garrison migrate`, and a start says so.

Nodes change version one by one, so the version before has to live with the schema of the next. An upgrade says beside
the version which is the oldest schema whose code still can; code that finds a newer schema than its own starts where
that allows it.

The version is kept in `garrison_version`, not in Alembic's own `alembic_version`, so that an app which keeps its tables
in the same file with Alembic, too, is not in our way nor we in its.
"""

import contextlib
import random
import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection, inspect

from garrison.core.errors import StoreError
from garrison.store.opening import is_postgresql, write_once
from garrison.store.sqlite import connect, connect_driver, create_file, sqlite_path
from garrison.store.sqlite_errors import store_error_of

VERSION_TABLE = "garrison_version"
REVISIONS = (
    "0001",
    "0002",
    "0003",
    "0004",
    "0005",
    "0006",
    "0007",
    "0008",
    "0009",
    "0010",
    "0011",
    "0012",
    "0013",
    "0014",
)
"""All revisions in order; a test holds them against the files in `migrations/versions`."""
HEAD = REVISIONS[-1]
OLDEST = HEAD
"""The oldest schema whose code can serve this one. A migration that adds leaves it where it is, so that the version
before goes on, starts and is gone back to while nodes change one by one; only one that takes something away raises it,
and says so in the changelog. A test holds that what `OLDEST` has is still there, and nothing new is demanded of it."""
MIGRATIONS = Path(__file__).with_name("migrations")
MOVED = "-moved"
"""What stands behind the revision of a SQLite file whose contents went to another store (`store/move.py`)."""
_WAIT_S = 60.0
"""How long to wait for another process that is upgrading the same file."""
_GIVE_WAY_S = 1.0
"""How long an upgrade on PostgreSQL waits for a table, holding up whoever comes for it later."""


def current(address: str | Path) -> str | None:
    """Return the revision of the database's schema; None where there is no file, or none of our tables in it.

    Of a file the driver alone is asked, about 1 ms. Raises StoreError.
    """
    if is_postgresql(address):
        return write_once(address, _version, wait_s=_WAIT_S)
    path = sqlite_path(address)
    if not path.exists():
        return None
    try:
        with contextlib.closing(connect_driver(path)) as driver:
            if not driver.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchall():
                return None
            rows = driver.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall()  # noqa: S608 - a constant
    except sqlite3.Error as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error
    return str(rows[0][0]) if rows else None


def ensure_schema(address: str | Path, *, migrate: bool) -> None:
    """See to it that the schema is the one this code expects: upgrade it if `migrate` is set, else only look.

    Raises StoreError: `store_schema` where it is another one and may not, or cannot, be upgraded.
    """
    found = current(address)
    if found == HEAD:
        return
    if found is not None:
        if found not in REVISIONS and not found.endswith(MOVED) and write_once(address, _is_served):
            return
        check_known(found, of="the database")
    if not migrate:
        state = "has no tables yet" if found is None else f"is at schema {found}, this version needs {HEAD}"
        raise StoreError("store_schema", f"the database {state}: run garrison migrate")
    upgrade(address)


def upgrade(address: str | Path) -> None:
    """Bring the database to `HEAD`: a file is made where it is missing. Of ten that start at once, one does it.

    On PostgreSQL that is the lock of every write, so writes wait meanwhile. Raises StoreError: `store_schema` for a
    database of a newer version, `store_busy` when others held it for too long.
    """
    if is_postgresql(address):
        _upgrade_postgresql(address)
        return
    path = sqlite_path(address)
    create_file(path)
    try:
        with contextlib.closing(_connect(path)) as connection, connection.begin():
            upgrade_within(connection)
    except Exception as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error
    check_known(current(path), of="the database")


def _upgrade_postgresql(address: str | Path) -> None:
    """Try until it succeeds, for a minute: waiting for a table holds up everybody who comes for it afterwards.

    A long reader, such as pg_dump, keeps a table from being changed; an ALTER TABLE that waits for it keeps all others
    from reading. So it gives way after a moment, and with it the lock of all writes.
    """
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            write_once(address, _upgrade_or_give_way, wait_s=_WAIT_S)
            return
        except StoreError as error:
            if error.code != "store_busy":
                raise
            if time.monotonic() > deadline:
                text = (
                    "somebody reads the tables all the time (pg_dump, an open transaction), or writes: try again later"
                )
                raise StoreError("store_busy", text) from error
        time.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - so that others get their turn


def _upgrade_or_give_way(connection: Connection) -> None:
    connection.exec_driver_sql(f"SELECT set_config('lock_timeout', '{_GIVE_WAY_S * 1000:.0f}', true)")
    upgrade_within(connection)


def _connect(path: Path) -> Connection:
    """Turning a new file to WAL needs it alone, and SQLite does not always wait for that by itself."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return connect(path, begin="BEGIN IMMEDIATE", busy_s=_WAIT_S)
        except sqlite3.OperationalError as error:
            outage = store_error_of(error)
            if outage is None or outage.code != "store_busy" or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _version(connection: Connection) -> str | None:
    """Return PostgreSQL's revision without Alembic, which takes 0.3 s to import."""
    if connection.exec_driver_sql(f"SELECT to_regclass('{VERSION_TABLE}')").scalar() is None:
        return None
    found = connection.exec_driver_sql(f"SELECT version_num FROM {VERSION_TABLE}").scalar()  # noqa: S608 - a constant
    return None if found is None else str(found)


def revision_within(connection: Connection) -> str | None:
    """Return the revision of the schema that the connection sees, None where no table of ours is."""
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def upgrade_within(connection: Connection) -> None:
    """Run what is missing, in the transaction of the connection. Raises StoreError(`store_schema`)."""
    # Here and not above: Alembic takes 0.3 s to import, and nearly every start finds the schema current.
    from alembic import command
    from alembic.config import Config

    found = revision_within(connection)  # under the lock: another process may have been faster
    if found == HEAD:
        return
    if found is not None:
        check_known(found, of="the database")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, HEAD)
    if not _has_oldest(connection):
        connection.exec_driver_sql(f"ALTER TABLE {VERSION_TABLE} ADD COLUMN oldest VARCHAR(32)")
    connection.exec_driver_sql(f"UPDATE {VERSION_TABLE} SET oldest = '{OLDEST}'")  # noqa: S608 - constants


def _is_served(connection: Connection) -> bool:
    """Say whether the newer version that this schema is of has left it so that this one can serve it."""
    if not _has_oldest(connection):
        return False
    return connection.exec_driver_sql(f"SELECT oldest FROM {VERSION_TABLE}").scalar() in REVISIONS  # noqa: S608


def _has_oldest(connection: Connection) -> bool:
    return "oldest" in {column["name"] for column in inspect(connection).get_columns(VERSION_TABLE)}


def check_known(found: str | None, *, of: str | Path) -> None:
    """Raise StoreError(`store_schema`) unless this is a revision that this version has, saying of what it is not."""
    if found is None:
        raise StoreError("store_schema", f"{of} has no tables of Garrison's")
    if found.endswith(MOVED):
        raise StoreError(
            "store_schema",
            f"{of} was moved to PostgreSQL: set GARRISON_DATABASE_URL to where it is now, or go back to it with"
            " garrison move --undo, without what was written since",
        )
    if found not in REVISIONS:
        raise StoreError("store_schema", f"{of} is at schema {found}, of a newer version of Garrison than this")
