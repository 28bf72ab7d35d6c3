"""One connection to PostgreSQL, and whether a transaction pooler stands between (PgBouncer, pgcat, RDS Proxy …).

Behind such a pooler the server's process may be another one after each transaction, so a statement that was prepared in
one is not there in the next; or, worse, another's statement of the same name is. A connection tells it by itself: the
process id that it was told when it was opened is not that of the process which answers. Then everything is prepared
without a name and within the transaction that uses it, and nothing is kept.
"""

import asyncio
import re
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import asyncpg

from garrison.core.errors import StoreError
from garrison.store.postgresql_servers import Servers

CONNECT_S = 5.0
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?"
_HOSTS = re.compile(f"{_HOST}(?:,{_HOST})*", re.ASCII)
_OPTION = re.compile(r"[a-z_]{1,40}")
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_SESSION_ATTRIBUTES = frozenset({"any", "read-write", "primary"})
"""What the address may want. A store that cannot be written to is none, and a standby lags behind with revocations."""
_OPTIONS = frozenset(
    {
        *("host", "port", "user", "password", "passfile", "dbname", "database", "service", "servicefile"),
        *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "sslpassword", "sslnegotiation"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
        *("target_session_attrs", "options", "search_path"),
    }
)
"""What an address may say beside: asyncpg would take any other for a setting of the server's."""


class Link(NamedTuple):
    """A connection. `is_pooled` is true where the server's process may change between transactions."""

    connection: asyncpg.Connection
    is_pooled: bool


def check_address(text: str) -> None:
    """Look at `postgresql://user:password@host:port/database?sslmode=…`, hosts with commas. Raises ValueError.

    asyncpg reads it in the end, libpq's environment variables and password file, too; it tells mistakes only when it
    connects.
    """
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    who, _, hosts = parts.netloc.rpartition("@")
    unknown = sorted(options.keys() - _OPTIONS)
    is_name = bool(unknown) and _OPTION.fullmatch(unknown[0]) is not None and "@" not in parts.query  # or a password
    problems = (
        (parts.scheme not in ("postgresql", "postgres") or bool(parts.fragment), ""),
        ("@" in who, "an @ in a user or password is written %40"),
        (parts.path in ("", "/"), "it names no database"),
        ("/" in parts.path[1:], "the database's name is all that follows the host"),
        (_HOSTS.fullmatch(hosts) is None, "its host or port is none"),
        (bool(unknown), f"it knows no {unknown[0]}" if is_name else "what follows ? is not known"),
        (options.get("sslmode", "prefer") not in _SSL_MODES, f"sslmode is one of {', '.join(sorted(_SSL_MODES))}"),
        (
            options.get("target_session_attrs", "any") not in _SESSION_ATTRIBUTES,
            f"target_session_attrs is one of {', '.join(sorted(_SESSION_ATTRIBUTES))}",
        ),
    )
    for is_so, what in problems:
        if is_so:
            raise ValueError(f"write postgresql://user@host:5432/database{what and f': {what}'}")


async def connect(servers: Servers, *, command_s: float) -> Link:
    """Open a connection; `command_s` is the time-out of each statement. Raises asyncpg's errors and OSError."""
    connection, answering = await servers.connect(
        timeout_s=CONNECT_S,
        command_timeout=command_s,
        statement_cache_size=0,  # who prepares what, and under which name, is said by those who ask
        server_settings={"application_name": "garrison"},
    )
    if connection.get_settings().server_encoding != "UTF8":
        connection.terminate()
        raise StoreError("store_schema", "the database's encoding is not UTF8: make one by createdb --encoding=UTF8")
    return Link(connection, is_pooled=answering != connection.get_server_pid())


async def end_tasks() -> None:
    """End what else runs on this loop: asyncpg tries to tell a server that nobody waits for an answer any more."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
