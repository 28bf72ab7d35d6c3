"""Connecting to PostgreSQL: to one server, or to the first of several that is there and is what is wanted.

asyncpg tries several hosts in order within *one* time-out: a first one that answers nothing (its machine is gone, a
firewall drops) uses it up, and the standby that took over is never asked. Here each host has a time of its own, and
the next connection begins where the last one was had. What is wanted, `target_session_attrs` of the address says; and
never a standby: what was revoked on the primary may reach it late, or never.
"""

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from garrison.store.postgresql_errors import store_error_of

HOST_S = 1.0
"""How long one of several hosts may take to connect, TLS and password included."""


class Servers:
    """The hosts of one address. Threads may share it: which host comes first is only a guess."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._hosts = _several_hosts(address)
        self._first = 0

    async def connect(self, *, timeout_s: float, **options: Any) -> tuple[asyncpg.Connection, int]:
        """Connect to a primary within `timeout_s`, with asyncpg's `options`; return the id of the process that answers.

        Raises asyncpg's errors and OSError.
        """
        if not self._hosts:
            return await _connected(self._address, timeout=timeout_s, **options)
        failure: Exception | None = None
        for _ in self._hosts:
            place = self._first % len(self._hosts)
            host, port = self._hosts[place]
            self._first = place + 1  # also where this is cancelled
            try:
                connected = await _connected(
                    self._address, host=host, port=port, timeout=min(timeout_s, HOST_S), **options
                )
            except Exception as error:
                if store_error_of(error) is None:
                    raise
                failure = error
                continue
            self._first = place
            return connected
        raise failure or TimeoutError


async def _connected(address: str, **options: Any) -> tuple[asyncpg.Connection, int]:
    """Connect, and look at whom; in a transaction, since behind a pooler two statements may have two servers."""
    connection = await asyncpg.connect(address, **options)
    try:
        async with connection.transaction():
            answering, is_standby = await connection.fetchrow("SELECT pg_backend_pid(), pg_is_in_recovery()")
        if is_standby:
            raise asyncpg.TargetServerAttributeNotMatched("a standby")
    except BaseException:
        connection.terminate()
        raise
    return connection, answering


def _several_hosts(address: str) -> tuple[tuple[str, int | None], ...]:
    """Return (host, port) of each where the address names several; nothing where asyncpg has to read it as a whole."""
    parts = urlsplit(address)
    options = parse_qs(parts.query)
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if len(hosts) < 2 or "host" in options:
        return ()
    return tuple(_host_and_port(host) for host in hosts)


def _host_and_port(text: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or port.endswith("]"):  # the colon of an IPv6 address
        host, port = text, ""
    return unquote(host).strip("[]"), int(port) if port else None
