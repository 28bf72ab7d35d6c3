"""Counters kept in the store, shared by every process: GCRA, one number for each key.

The number is the *theoretical arrival time* (TAT, ITU-T I.371): when the bucket is empty again. A hit adds one interval
T = period / count to max(TAT, now) and is admitted while the sum lies at most one period ahead of now; so `count` hits
may come at once, and afterwards one for each T.

    now ├────────── TAT ├─T─┤        │ now + period          admitted while TAT + T fits

`take` is all or nothing over all keys, since a hit refused by one must not use up the others: else a stranger's
refusals on one account would exhaust the address of everybody behind it. The upsert itself carries the condition, so
two that race for the last place cannot both get it, in whatever store; no value is read, computed upon and written
back. A refusal writes nothing, so an attack on something exhausted costs no fsync.

If the clock is set back by d, an exhausted key stays so for d longer; it is neither locked for ever nor reset.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import (
    BindParameter,
    Column,
    Connection,
    Double,
    Index,
    LargeBinary,
    Table,
    Update,
    bindparam,
    case,
    select,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from garrison.core.durations import Limit
from garrison.store.schema import metadata
from garrison.store.statements import insert_into

counters = Table(
    "counters",
    metadata,
    Column("key", LargeBinary, primary_key=True),
    Column("tat", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Index("counters_by_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
Wanted = tuple[bytes, Limit]

_SLACK = 1e-3
"""By how much a hit may come early, seconds or intervals, whichever is less: sums near 2e9 s are rounded to 2e-7 s."""


class Taken(NamedTuple):
    """Whether the hit was counted, everywhere, and if not, in how many seconds it may be tried again."""

    admitted: bool
    retry_after_s: float


def take(connection: Connection, wanted: Sequence[Wanted], now: float) -> Taken:
    """Count one hit under every key, or under none. `now` is the store's time."""
    retry_after_s = _retry_after_s(connection, wanted, now)
    if retry_after_s > 0:
        return Taken(False, retry_after_s)
    add = _add(connection.dialect.name)
    savepoint = connection.begin_nested()
    for key, limit in sorted(wanted, key=lambda one: one[0]):  # one order for all, or two could wait for each other
        interval_s = _interval_s(limit)
        most = now + limit.period_s + _slack_s(interval_s)
        values = {"key": key, "fresh": now + interval_s, "now": now, "interval": interval_s, "most": most}
        if connection.execute(add, values).one_or_none() is None:
            savepoint.rollback()  # somebody overtook us since the look, or the key is wanted twice
            return Taken(False, interval_s)
    savepoint.commit()
    return Taken(True, 0.0)


def give_back(connection: Connection, wanted: Sequence[Wanted], now: float) -> None:
    """Uncount one hit under every key; never below what an idle key has."""
    for key, limit in sorted(wanted, key=lambda one: one[0]):
        connection.execute(_GIVE_BACK, {"b_key": key, "now": now, "interval": _interval_s(limit)})


def delay(connection: Connection, key: bytes, limit: Limit, now: float, *, max_s: float) -> float:
    """Count one hit in any case; return for how many seconds it should be held up, at most `max_s`.

    Zero within the burst, then longer with each hit too many. What is counted is capped as well: however many hits
    there were, `max_s` and one period later the key is idle again.
    """
    interval_s = _interval_s(limit)
    most = now + limit.period_s + max_s
    values = {"key": key, "fresh": now + interval_s, "now": now, "interval": interval_s, "most": most}
    counted: float = connection.execute(_add_capped(connection.dialect.name), values).scalar_one()
    excess_s = counted - now - limit.period_s
    return min(excess_s, max_s) if excess_s > _slack_s(interval_s) else 0.0


# The statements are built once: building one costs three times as much as running it. CASE stands for `max`, which
# has another name in each store. `key` and `fresh` are what a key that is not there yet begins with.

_NOW: BindParameter[float] = bindparam("now", type_=Double())
_INTERVAL: BindParameter[float] = bindparam("interval", type_=Double())
_MOST: BindParameter[float] = bindparam("most", type_=Double())
_LATER = case((counters.c.tat > _NOW, counters.c.tat), else_=_NOW) + _INTERVAL


@functools.cache
def _add(dialect: str) -> ReturningInsert[float]:
    """Count one hit if it lies at `most` or before; a row comes back if it did."""
    insert = insert_into(dialect, counters).values(
        key=bindparam("key"), tat=bindparam("fresh"), expires_at=bindparam("fresh")
    )
    upsert = insert.on_conflict_do_update(
        index_elements=["key"], set_={"tat": _LATER, "expires_at": _LATER}, where=_MOST >= _LATER
    )
    return upsert.returning(counters.c.tat)


@functools.cache
def _add_capped(dialect: str) -> ReturningInsert[float]:
    """Count one hit, up to `most`; what is counted then comes back."""
    insert = insert_into(dialect, counters).values(
        key=bindparam("key"), tat=bindparam("fresh"), expires_at=bindparam("fresh")
    )
    capped = case((_MOST >= _LATER, _LATER), else_=_MOST)
    upsert = insert.on_conflict_do_update(index_elements=["key"], set_={"tat": capped, "expires_at": capped})
    return upsert.returning(counters.c.tat)


def _give_back() -> Update:
    less = counters.c.tat - _INTERVAL
    tat = case((less > _NOW, less), else_=_NOW)
    return update(counters).where(counters.c.key == bindparam("b_key")).values(tat=tat, expires_at=tat)


_GIVE_BACK = _give_back()
_LOOK = select(counters.c.key, counters.c.tat).where(counters.c.key.in_(bindparam("keys", expanding=True)))


def _retry_after_s(connection: Connection, wanted: Sequence[Wanted], now: float) -> float:
    """Return the seconds until all keys have room, 0 if they have now."""
    rows = connection.execute(_LOOK, {"keys": [key for key, _ in wanted]})
    tats: dict[bytes, float] = {row.key: row.tat for row in rows}
    wait_s = 0.0
    for key, limit in wanted:
        interval_s = _interval_s(limit)
        excess_s = max(tats.get(key, now), now) + interval_s - now - limit.period_s
        if excess_s > _slack_s(interval_s):
            wait_s = max(wait_s, excess_s)
    return wait_s


def _interval_s(limit: Limit) -> float:
    return limit.period_s / limit.count


def _slack_s(interval_s: float) -> float:
    return _SLACK * min(1.0, interval_s)
