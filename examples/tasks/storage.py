"""Where the example keeps tasks: in a SQLite file, or in PostgreSQL where `GARRISON_DATABASE_URL` names one.

A file belongs to one machine; nodes behind a proxy need a database that all of them see. Statements are written once:
both databases read `$1`, and PostgreSQL's table has a column by the name of SQLite's `rowid`. What was written is on
the disk before a call returns.
"""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from anyio.to_thread import run_sync

_COLUMNS = "id TEXT PRIMARY KEY, owner TEXT, title TEXT"
_INDEX = "CREATE INDEX IF NOT EXISTS tasks_by_owner ON tasks (owner)"


class Storage(Protocol):
    """The table `tasks (rowid, id, owner, title, done)`."""

    async def open(self) -> None:
        """Make the table where it is missing; several processes may do so at once."""

    async def rows(self, statement: str, *values: object) -> Sequence[Mapping[str, Any]]:
        """Run one statement, `$1` being the first value, and return its rows."""

    async def close(self) -> None:
        """Let go of connections."""


class File:
    """A SQLite file, opened for each statement; threads wait for the disk, the event loop does not."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def open(self) -> None:
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        await self.rows(f"CREATE TABLE IF NOT EXISTS tasks ({_COLUMNS}, done INT)")
        await self.rows(_INDEX)

    async def rows(self, statement: str, *values: object) -> Sequence[Mapping[str, Any]]:
        named = {str(number): value for number, value in enumerate(values, 1)}
        return await run_sync(self._run, statement, named)

    async def close(self) -> None:
        """Nothing stays open between statements."""

    def _run(self, statement: str, values: dict[str, object]) -> Sequence[Mapping[str, Any]]:
        with closing(sqlite3.connect(self._path, timeout=10)) as connection, connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, values)]


class Server:
    """PostgreSQL, through a pool of the event loop that opened it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool: Any = None

    async def open(self) -> None:
        import asyncpg  # where tasks are in a file, it need not be installed

        # Without a cache of statements it works behind a pooler that hands connections on, too.
        self._pool = await asyncpg.create_pool(self._url, min_size=1, max_size=4, statement_cache_size=0)
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('tasks'))")
            columns = f"{_COLUMNS}, done BOOLEAN, rowid BIGINT GENERATED ALWAYS AS IDENTITY"
            await connection.execute(f"CREATE TABLE IF NOT EXISTS tasks ({columns})")
            await connection.execute(_INDEX)

    async def rows(self, statement: str, *values: object) -> Sequence[Mapping[str, Any]]:
        found: Sequence[Mapping[str, Any]] = await self._pool.fetch(statement, *values)
        return found

    async def close(self) -> None:
        await self._pool.close()


def chosen() -> Storage:
    """Return the storage that the environment asks for."""
    url = os.environ.get("GARRISON_DATABASE_URL", "")
    return Server(url) if url.startswith(("postgresql://", "postgres://")) else File(Path("var/tasks.db"))
