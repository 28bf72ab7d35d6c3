"""A copy of a SQLite database, taken while servers go on writing to it.

    database ── VACUUM INTO ──▶ FILE.partial ── checked, fsync ──▶ FILE (a link, which takes no name that is taken)

`VACUUM INTO` (SQLite 3.27) reads one snapshot and holds up no writer; the write-ahead log only grows meanwhile. It
writes rows, not pages: what was deleted is not in the copy, and a damaged page is an error today instead of a surprise
on the day of the restore. SQLite's backup interface copies pages, freed ones with their old contents too.

FILE is there only once it is whole, checked and on the disk; what a power cut leaves is called `.partial`.
What this does not do: keep SECRET, without which nobody can use the copy. It belongs in another place than the copy.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from garrison.core.errors import GarrisonError, StoreError
from garrison.store.migrate import VERSION_TABLE, check_known, current
from garrison.store.sqlite import connect_driver
from garrison.store.sqlite_errors import store_error_of

Progress = Callable[[float], None]
"""Called with the share of the work that is done, 0 to 1."""
_LOOK_EVERY = 20_000
"""Steps of SQLite's machine between two calls of a progress function: about a millisecond."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What was found in a copy: the revision of its schema, its size, and when the newest event in it was written.

    `as_of` is Unix seconds, None for a database in which nothing has happened yet.
    """

    schema: str
    size_bytes: int
    as_of: float | None


def back_up(database: Path, file: Path, progress: Progress) -> Copy:
    """Copy the database into `file`, which is made with mode 0600; the copy is whole, checked and on the disk.

    Raises ValueError where `file` exists already or its directory does not, GarrisonError(`damaged`) where the copy
    does not pass its checks, StoreError.
    """
    if file.exists() or file.is_symlink():
        raise ValueError(f"{file} exists already, and a backup overwrites nothing")
    if not file.parent.is_dir():
        raise ValueError(f"there is no directory {file.parent}")
    check_known(current(database), of=database)
    with new_file(file.with_name(file.name + ".partial")) as partial:
        with driver_errors():
            _copy(database, partial, progress)
        copy = check_copy(partial)
        sync(partial)
        try:
            os.link(partial, file)
        except FileExistsError:
            raise ValueError(f"{file} exists already, and a backup overwrites nothing") from None
        except OSError as error:
            raise StoreError("store_unavailable", f"{file} cannot be made: {error.strerror}") from error
    sync(file.parent)
    return copy


def check_copy(file: Path, *, called: Path | None = None) -> Copy:
    """Read all of a copy and say what is in it; `called` is what people know it as.

    Raises GarrisonError(`damaged`) where pages, indexes or references are not whole or it is no such database at all,
    StoreError(`store_schema`) where it is of a newer version.
    """
    name = called or file
    try:
        with contextlib.closing(connect_driver(file)) as driver:
            driver.execute("PRAGMA trusted_schema=OFF")
            driver.execute("PRAGMA query_only=ON")
            found = [*driver.execute("PRAGMA integrity_check(1)"), *driver.execute("PRAGMA foreign_key_check")]
            if found != [("ok",)]:
                raise GarrisonError("damaged", f"{name} is damaged")
            if not driver.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (VERSION_TABLE,)).fetchall():
                raise GarrisonError("damaged", f"{name} is no database of Garrison's")
            [(revision,)] = driver.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchall()  # noqa: S608
            check_known(revision, of=name)
            [(as_of,)] = driver.execute("SELECT max(at) FROM events").fetchall()
    except (sqlite3.Error, ValueError) as error:
        raise GarrisonError("damaged", f"{name} is damaged, or no database at all") from error
    return Copy(revision, file.stat().st_size, as_of)


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Make an empty file that nobody else can read, for as long as the context lasts. Raises ValueError, StoreError."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise ValueError(f"{path} exists: this is done already, or was cut off; remove it if it was") from None
    except OSError as error:
        raise StoreError("store_unavailable", f"{path} cannot be made: {error.strerror}") from error
    try:
        yield path
    finally:
        for name in (path, *side_files(path)):
            name.unlink(missing_ok=True)


def side_files(database: Path) -> tuple[Path, Path]:
    """Return the names of the write-ahead log and of its index."""
    return database.with_name(database.name + "-wal"), database.with_name(database.name + "-shm")


def sync(path: Path) -> None:
    """Let a file's contents, or a directory's names, outlive a power cut. Raises StoreError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError("store_unavailable", f"{path} cannot be written: {error.strerror}") from error


@contextlib.contextmanager
def driver_errors() -> Iterator[None]:
    """Raise the driver's outages as StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error


def _copy(database: Path, partial: Path, progress: Progress) -> None:
    with contextlib.closing(connect_driver(database)) as driver:
        driver.execute("PRAGMA trusted_schema=OFF")
        [(pages,)] = driver.execute("PRAGMA page_count").fetchall()
        [(free,)] = driver.execute("PRAGMA freelist_count").fetchall()
        [(page_bytes,)] = driver.execute("PRAGMA page_size").fetchall()
        whole = max(1, (pages - free) * page_bytes)

        def look() -> int:
            progress(min(1.0, partial.stat().st_size / whole))
            return 0  # go on

        driver.set_progress_handler(look, _LOOK_EVERY)
        driver.execute("VACUUM INTO ?", (str(partial),))
    progress(1.0)
