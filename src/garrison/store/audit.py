"""The audit log: one row for each security change, one counter for each kind of refusal (ASVS 5.0 V16.3; CWE-778).

A change's row is written in the transaction of the change: neither is there without the other. Refusals come in
floods, so they are counted by (code, who, route, minute) and a full disk is not one flood away (CWE-779); what found
no place in the process's memory is counted under the code `overflow`.

Text that came from outside is cut and escaped here, so that one odd byte cannot keep a whole batch from being written.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Double, Index, Integer, String, Table, Text, func, insert, select

from garrison.core.events import Event
from garrison.core.ids import new_id
from garrison.store.schema import metadata
from garrison.store.statements import insert_into

OVERFLOW = "overflow"
_MAX_TEXT = 256

events = Table(
    "events",
    metadata,
    Column("position", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("id", String(32), nullable=False, unique=True),
    Column("at", Double, nullable=False),
    Column("kind", String(64), nullable=False),
    Column("actor", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("network", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("data", Text, nullable=False),
    Index("events_by_time", "at"),
    Index("events_by_subject", "subject", "position"),
    sqlite_autoincrement=True,
)
refusals = Table(
    "refusals",
    metadata,
    Column("code", String(64), primary_key=True),
    Column("who", Text, primary_key=True),
    Column("route", Text, primary_key=True),
    Column("minute", Integer, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Index("refusals_by_minute", "minute"),
)
_RECORD = insert(events)

RefusalKeyLike = tuple[str, str, str, int]
"""(code, who, route, minute): `who` is a principal's id or a network, `minute` Unix seconds // 60."""


class EventRow(NamedTuple):
    """One event as it was stored; `at` is Unix seconds, `data` a JSON object."""

    id: str
    at: float
    kind: str
    actor: str
    subject: str
    network: str
    route: str
    request_id: str
    data: str


def record(connection: Connection, event: Event, now: float) -> str:
    """Write one event, in the transaction of what it tells; return its id (`evt_…`). `data` must be JSON values."""
    event_id = new_id("evt")
    connection.execute(
        _RECORD,
        {
            "id": event_id,
            "at": now,
            "kind": event.kind,
            "actor": _plain(event.actor),
            "subject": _plain(event.subject),
            "network": _plain(event.network),
            "route": _plain(event.route),
            "request_id": _plain(event.request_id),
            "data": json.dumps(dict(event.data), separators=(",", ":")),
        },
    )
    return event_id


def last_event_at(connection: Connection) -> float | None:
    """Return when the newest event was written, Unix seconds; None for none."""
    found: float | None = connection.execute(select(func.max(events.c.at))).scalar()
    return found


def list_events(
    connection: Connection, *, subject: str | None = None, kind: str | None = None, limit: int = 100
) -> Sequence[EventRow]:
    """Return up to `limit` events, newest first, about this subject and of this kind where they are given."""
    query = select(*(events.c[name] for name in EventRow._fields)).order_by(events.c.position.desc()).limit(limit)
    if subject is not None:
        query = query.where(events.c.subject == subject)
    if kind is not None:
        query = query.where(events.c.kind == kind)
    return [EventRow(*row) for row in connection.execute(query)]


def record_refusals(connection: Connection, counts: Mapping[RefusalKeyLike, int], overflow: int, now: float) -> None:
    """Add the counts to those stored; `overflow` refusals that had no place of their own are counted together."""
    added: dict[RefusalKeyLike, int] = {}
    for (code, who, route, minute), count in counts.items():
        key = (_plain(code), _plain(who), _plain(route), minute)
        added[key] = added.get(key, 0) + count
    if overflow:
        key = (OVERFLOW, "", "", int(now // 60))
        added[key] = added.get(key, 0) + overflow
    if not added:
        return
    statement = insert_into(connection.dialect.name, refusals)
    statement = statement.on_conflict_do_update(
        index_elements=["code", "who", "route", "minute"],
        set_={"count": refusals.c.count + statement.excluded.count},
    )
    names = ("code", "who", "route", "minute")
    rows = [dict(zip(names, key, strict=True)) | {"count": count} for key, count in sorted(added.items())]
    connection.execute(statement, rows)


def _plain(text: str) -> str:
    """Return the text without what some store cannot hold (lone surrogates, NUL), at most 256 characters."""
    return text[:_MAX_TEXT].encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")
