"""The schema's version: what the file has, what this code expects, and the way from one to the other.

Migrations are ordered, forward-only, and one transaction each start: a crash in the middle leaves the old schema. Two
processes that upgrade the same new file at once take turns by SQLite's write lock; the second finds nothing to do.
Development upgrades by itself, production never: there it is `garrison migrate`, and a start says so.

The version is kept in `garrison_version`, not in Alembic's own `alembic_version`, so that an app which keeps its tables
in the same file with Alembic, too, is not in our way nor we in its.
"""

import contextlib
import sqlite3
import time
from pathlib import Path

from sqlalchemy import Connection

from garrison.core.errors import StoreError
from garrison.store.sqlite import connect, connect_driver, create_file, sqlite_path
from garrison.store.sqlite_errors import store_error_of

VERSION_TABLE = "garrison_version"
REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010", "0011", "0012", "0013")
"""All revisions in order; a test holds them against the files in `migrations/versions`."""
HEAD = REVISIONS[-1]
MIGRATIONS = Path(__file__).with_name("migrations")
_WAIT_S = 60.0
"""How long to wait for another process that is upgrading the same file."""


def current_postgresql(url: str) -> str | None:
    """Return the revision of a PostgreSQL database's schema, None where no table of ours is. Raises StoreError."""
    from garrison.store.postgresql import run_once  # where SQLite is the store, asyncpg need not be installed

    return run_once(url, _found)


def upgrade_postgresql(url: str) -> None:
    """Bring a PostgreSQL database to `HEAD`, under the lock of every write: of ten that start at once, one does it.

    Raises StoreError.
    """
    from garrison.store.postgresql import run_once

    run_once(url, _run)


def current(path_or_url: str | Path) -> str | None:
    """Return the revision of the file's schema; None where there is no file, or none of our tables in it.

    Asks the driver alone, about 1 ms. Raises StoreError.
    """
    path = sqlite_path(path_or_url)
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


def ensure_schema(path_or_url: str | Path, *, migrate: bool) -> None:
    """See to it that the schema is the one this code expects: upgrade it if `migrate` is set, else only look.

    Raises StoreError: `store_schema` where it is another one and may not, or cannot, be upgraded.
    """
    found = current(path_or_url)
    if found == HEAD:
        return
    _check_known(found)
    if not migrate:
        state = "has no tables yet" if found is None else f"is at schema {found}, this version needs {HEAD}"
        raise StoreError("store_schema", f"the database {state}: run garrison migrate")
    upgrade(path_or_url)


def upgrade(path_or_url: str | Path) -> None:
    """Bring the file, which is made where it is missing, to `HEAD`; nothing happens where it is there already.

    Raises StoreError: `store_schema` for a database of a newer version, `store_busy` when another process held it for
    a minute.
    """
    path = sqlite_path(path_or_url)
    create_file(path)
    try:
        with contextlib.closing(_connect(path)) as connection, connection.begin():
            _run(connection)
    except Exception as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error
    _check_known(current(path))


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


def _found(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()


def _run(connection: Connection) -> None:
    """Run what is missing, in the transaction of the connection."""
    # Here and not above: Alembic takes 0.3 s to import, and nearly every start finds the schema current.
    from alembic import command
    from alembic.config import Config

    found = _found(connection)  # under the lock: another process may have been faster
    _check_known(found)
    if found == HEAD:
        return
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    command.upgrade(config, HEAD)


def _check_known(found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise StoreError("store_schema", f"the database is at schema {found}, of a newer version of Garrison than this")
