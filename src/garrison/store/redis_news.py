"""Revocation news over Redis: who has written to the change log says so, and every process looks at once.

Only a hint, as LISTEN/NOTIFY is: what changed stands in the log, whose order is that of the commits, and the poll
behind finds it without any hint. Worth having where PostgreSQL cannot be listened to, behind a transaction pooler.
"""

from collections.abc import Callable

from garrison.store.redis import Connection, Redis, packed

CHANNEL = b"garrison:news"


class RedisNews:
    """Hears and tells. Tells over the connection that is there for other things, since one that listens does nothing
    else."""

    def __init__(self, others: Redis) -> None:
        self._others = others
        self._wake: Callable[[], None] = _nothing
        self._ears = Redis(others.address, self._check, lost=_ignore, found=_nothing)

    def tell(self) -> None:
        """Say that the log has grown; wait for nothing."""
        try:
            connection = self._others.connection()
        except RuntimeError:  # no loop: a command, whose news the poll finds
            return
        if connection is not None:
            connection.send(packed("PUBLISH", CHANNEL, b""), _ignore)

    async def listen(self, wake: Callable[[], None], *, wait_s: float) -> None:
        """Call `wake` on the running loop whenever something was told, or may have been missed."""
        self._wake = wake
        await self._ears.open(wait_s=wait_s)

    async def close(self) -> None:
        """Hear no more."""
        await self._ears.close()

    async def _check(self, connection: Connection) -> None:
        if connection.on_message is not None:
            await connection.call("PING")
            return
        connection.on_message = self._wake
        await connection.call("SUBSCRIBE", CHANNEL)
        self._wake()


def _nothing() -> None:
    return None


def _ignore(_: object) -> None:
    return None
