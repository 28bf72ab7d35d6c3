"""What opens a session, kept in Redis (`SESSION_STORE=redis`): the digest of its cookie's secret → its id, with a TTL.

    cookie ─▶ digest ─▶ Redis: GET, open the seal ─▶ session's id ─▶ SQL: the session's row, as always

Redis only says which session a secret opens, and forgets that when the session has been idle for too long. Whether the
session stands, for whom and with what epochs, its row in SQL decides as ever. So FLUSHALL signs people out and revives
nobody; a value put there or moved by somebody else does not open, for it is sealed for its own key; and a session that
was ended stays so whatever Redis holds. SQL in turn does not know what opens a session.

Redis away: a secret that this process has not verified a moment ago cannot be looked up: 503, and never 401. A sign-in
is acknowledged when both have it, or is 503.
"""

from collections.abc import Iterable

from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer
from garrison.store.redis import Connection, Redis, RedisError, packed

_PREFIX = b"garrison:session:"


class KeptSessions:
    """The sessions' ways in, in Redis. Everything raises RedisError, which is a StoreError, where Redis is away."""

    def __init__(self, redis: Redis, sealer: Sealer) -> None:
        self._redis = redis
        self._sealer = sealer

    async def keep(self, secret_digest: bytes, session_id: str, *, ttl_s: float) -> None:
        """Let the secret of this digest open the session for so many seconds, at least one millisecond."""
        name = _name(secret_digest)
        sealed = self._sealer.seal(session_id.encode(), place=_place(name))
        await self._connection().call("SET", name, sealed, "PX", _milliseconds(ttl_s))

    def demand(self) -> None:
        """Raise RedisError where Redis is known to be away; from any thread, before anything is written."""
        if self._redis.is_lost:
            raise RedisError("unreachable")

    async def find(self, secret_digest: bytes) -> str | None:
        """Return the id of the session that the secret of this digest opens."""
        name = _name(secret_digest)
        sealed = await self._connection().call("GET", name)
        if not isinstance(sealed, bytes):
            return None
        try:
            return self._sealer.open(sealed, place=_place(name)).decode()
        except GarrisonError:  # put there by somebody else, or under a SECRET that is no longer listed
            return None

    async def touch(self, seen: Iterable[tuple[bytes, float]]) -> None:
        """Let each, by the digest of its secret, live for so many seconds from now on. What is gone stays gone."""
        connection = self._connection()
        failures: list[RedisError] = []

        def done(reply: object) -> None:
            if isinstance(reply, RedisError):
                failures.append(reply)

        for secret_digest, ttl_s in seen:
            connection.send(packed("PEXPIRE", _name(secret_digest), _milliseconds(ttl_s)), done)
        await connection.call("PING")  # answers come in order
        if failures:
            raise failures[0]

    def _connection(self) -> Connection:
        connection = self._redis.connection()
        if connection is None:
            raise RedisError("unreachable")
        return connection


def _name(secret_digest: bytes) -> bytes:
    return _PREFIX + secret_digest.hex().encode()


def _place(name: bytes) -> str:
    return f"redis/{name.decode()}"


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))
