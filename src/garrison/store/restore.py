"""A copy put where a SQLite database belongs, in one step, with nobody looking.

    FILE ──▶ DATABASE.restoring ── checked, migrated, made safe by whoever calls ──▶ DATABASE
    the DATABASE before ──▶ DATABASE.replaced-TIME (with its write-ahead log, which would be replayed into the new one)

Whether somebody has the database open, its locks say: every connection that has read in WAL mode keeps a shared lock on
the file (SQLite's `os_unix.c`, "SHARED lock"), and a server polls ten times a second. The lock that excludes it is
taken from the system, not through SQLite, because the database to be replaced may be damaged beyond opening; it is kept
to the end, so that a server which is started meanwhile waits or fails. Nobody in this process may open the database
while it is held: closing a file gives up every POSIX lock that the process has on it.

Between the two renames there is no database at all; a server that starts then refuses (production), or makes a new one,
which is not overwritten. What this does not do: see processes on other machines over a network file system.
"""

import contextlib
import fcntl
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from garrison.core.errors import StoreError
from garrison.store.backup import Copy, check_copy, new_file, side_files, sync
from garrison.store.move import is_moved

_LOCK_BYTES = (512, 0x40000000)
"""Length and place of SQLite's locks in the file: pending, reserved and shared (`os_unix.c`, PENDING_BYTE)."""


@dataclass(frozen=True, slots=True)
class Restoring:
    """A restore under way: `staged` is the checked copy beside `database`, `copy` what is in it."""

    staged: Path
    database: Path
    copy: Copy

    def put_in_place(self) -> Path | None:
        """Make the staged copy the database; return where the one before is now. Raises StoreError.

        Nobody in this process may have the staged copy open.
        """
        wal, _ = side_files(self.staged)
        if wal.exists():
            raise StoreError("store_unavailable", f"{wal} is left over: somebody has the copy open")
        sync(self.staged)
        try:
            aside = _put_aside(self.database)
            os.link(self.staged, self.database)
        except OSError as error:
            raise StoreError("store_unavailable", f"{self.database} cannot be made: {error.strerror}") from error
        sync(self.database.parent)
        return aside


@contextlib.contextmanager
def restoring(file: Path, database: Path, *, replace: bool) -> Iterator[Restoring]:
    """Stage and check the copy, with the database locked for as long as the context lasts.

    Raises ValueError where there is no such file, or a database that is not to be replaced; StoreError(`store_busy`)
    where a process has the database open; GarrisonError(`damaged`), StoreError.
    """
    database = database.absolute().resolve()  # a link stays one; the write-ahead log is beside what it names
    if not file.is_file():
        raise ValueError(f"there is no file {file}")
    log = side_files(file)[0]
    if file.resolve() == database or (log.exists() and log.stat().st_size > 0):
        raise ValueError(f"{file} is a database in use; garrison backup makes a copy that can be restored")
    if not replace and any(one.exists() for one in (database, side_files(database)[0])):
        raise ValueError(f"there is a database {database}; --replace puts the copy in its place and keeps it beside")
    with contextlib.suppress(StoreError, sqlite3.Error):  # one that is damaged may be replaced
        if is_moved(database):
            raise ValueError(
                f"{database} was moved to PostgreSQL, its data is there: garrison move --undo comes back to it first"
            )
    try:
        database.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError("store_unavailable", f"{database.parent} cannot be made: {error.strerror}") from error
    with _alone(database), new_file(database.with_name(database.name + ".restoring")) as staged:
        try:
            shutil.copyfile(file, staged)
        except OSError as error:
            raise StoreError("store_unavailable", f"{file} cannot be copied: {error.strerror}") from error
        yield Restoring(staged, database, check_copy(staged, called=file))


@contextlib.contextmanager
def _alone(database: Path) -> Iterator[None]:
    """Hold the lock that excludes every connection, if there is a file. Raises StoreError(`store_busy`)."""
    if not database.exists():
        yield
        return
    descriptor = os.open(database, os.O_RDWR | os.O_CLOEXEC)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, *_LOCK_BYTES)
        except OSError as error:
            text = f"a process has {database} open: stop the server, and whatever else reads it, first"
            raise StoreError("store_busy", text) from error
        yield
    finally:
        os.close(descriptor)


def _put_aside(database: Path) -> Path | None:
    """Rename the database that is there, with its log; return its new name. Raises OSError."""
    wal, index = side_files(database)
    if not database.exists() and not wal.exists():
        return None
    aside = database.with_name(f"{database.name}.replaced-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    if aside.exists():
        raise FileExistsError(0, f"{aside} exists")
    if database.exists():
        database.rename(aside)
    if wal.exists():
        wal.rename(side_files(aside)[0])
    index.unlink(missing_ok=True)
    sync(database.parent)
    return aside
