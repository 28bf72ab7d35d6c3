"""Which store an address names: `sqlite:///path/to/file.db`, or a path, is SQLite; `postgresql://…` is PostgreSQL.

Where SQLite is the store, asyncpg need not be installed: it is imported when an address asks for it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from urllib.parse import parse_qs, urlsplit

from sqlalchemy import Connection

from garrison.core.errors import StoreError
from garrison.core.network import is_loopback
from garrison.store import sqlite
from garrison.store.database import Database

T = TypeVar("T")
_SCHEMES = ("postgresql://", "postgres://")


def is_postgresql(address: str | Path) -> bool:
    """Say whether an address names a PostgreSQL database; every other one names a file."""
    return isinstance(address, str) and address.startswith(_SCHEMES)


def check_address(address: str) -> None:
    """Look at a PostgreSQL address without connecting. Raises ValueError."""
    from garrison.store.postgresql_link import check_address as check

    check(address)


def open_store(address: str | Path) -> Database:
    """Return the store at this address. It is not migrated (`migrate.ensure_schema`).

    Raises ValueError for an address that names none, StoreError where it cannot be had.
    """
    if not is_postgresql(address):
        return sqlite.open_sqlite(address)
    from garrison.store.postgresql import open_postgresql

    return open_postgresql(str(address))


def write_once(address: str | Path, work: Callable[[Connection], T], *, wait_s: float = sqlite.BUSY_S) -> T:
    """Run `work` in one write on a connection of its own, and wait: for a start or a command. Blocks the caller.

    `wait_s` is how long to wait for others' writes. Raises what `work` raises, with nothing written, and StoreError.
    """
    if not is_postgresql(address):
        return sqlite.write_once(address, work, wait_s=wait_s)
    from garrison.store.postgresql import run_once

    try:
        return run_once(str(address), work, wait_s=wait_s)
    except StoreError as error:
        raise StoreError(error.code, f"{shown(address)}: {error.detail}") from error


def has_driver(address: str) -> bool:
    """Say whether what reaches this address is installed: `garrison[postgres]` for PostgreSQL."""
    if not is_postgresql(address):
        return True
    try:
        import garrison.store.postgresql  # noqa: F401 - whether it can be
    except ModuleNotFoundError:
        return False
    return True


def shown(address: str | Path) -> str:
    """Return the address as people may see it: a file's absolute path, or host and database alone."""
    if not is_postgresql(address):
        return str(sqlite.sqlite_path(address))
    rest = str(address).partition("://")[2].partition("?")[0]
    return f"postgresql://{rest.rpartition('@')[2]}"


def may_be_read_on_the_way(address: str | Path) -> bool:
    """Say whether the address goes to another machine without demanding TLS of whom it asked for."""
    if not is_postgresql(address):
        return False
    parts = urlsplit(str(address))
    hosts = [urlsplit(f"//{host}").hostname or "" for host in parts.netloc.rpartition("@")[2].split(",")]
    is_near = all(not host or host == "localhost" or is_loopback(host) for host in hosts)
    return not is_near and parse_qs(parts.query).get("sslmode", [""])[-1] not in ("verify-ca", "verify-full")


def is_there(address: str | Path) -> bool:
    """Say whether there is a database to open. What a server has is not asked: opening it tells."""
    return is_postgresql(address) or sqlite.sqlite_path(address).exists()
