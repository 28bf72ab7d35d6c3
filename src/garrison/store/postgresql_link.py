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

from garrison.store.postgresql_servers import Servers

CONNECT_S = 5.0
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?"
_HOSTS = re.compile(f"{_HOST}(?:,{_HOST})*", re.ASCII)
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
    hosts = parts.netloc.rpartition("@")[2]
    if (
        parts.scheme not in ("postgresql", "postgres")
        or parts.path in ("", "/")
        or "/" in parts.path[1:]
        or _HOSTS.fullmatch(hosts) is None
        or parts.fragment
        or not options.keys() <= _OPTIONS
        or options.get("sslmode", "prefer") not in _SSL_MODES
        or options.get("target_session_attrs", "any") not in _SESSION_ATTRIBUTES
    ):
        raise ValueError("write postgresql://user@host:5432/database")


async def connect(servers: Servers, *, command_s: float) -> Link:
    """Open a connection; `command_s` is the time-out of each statement. Raises asyncpg's errors and OSError."""
    connection, answering = await servers.connect(
        timeout_s=CONNECT_S,
        command_timeout=command_s,
        statement_cache_size=0,  # who prepares what, and under which name, is said by those who ask
        server_settings={"application_name": "garrison"},
    )
    return Link(connection, is_pooled=answering != connection.get_server_pid())


async def end_tasks() -> None:
    """End what else runs on this loop: asyncpg tries to tell a server that nobody waits for an answer any more."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
