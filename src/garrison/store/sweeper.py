"""What has expired is deleted, in batches small enough that nobody waits for them.

Which tables, the rooms that own them say: `Sweep(sessions, "expires_at")`; `store_sweeps` are the store's own. One
process sweeps at a time (`leases`), though two would do no harm. Nothing depends on a row being gone: whoever reads one
compares its time.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, Integer, Table, delete, select, tuple_

from garrison.store.audit import events, refusals
from garrison.store.counters import counters
from garrison.store.log import changes

DAY_S = 86_400.0
BATCH = 500


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rows of `table` go `keep_s` after the time in `expires_column`, which counts in units of `unit_s` seconds.

    The column should be indexed.
    """

    table: Table
    expires_column: str
    keep_s: float = 0.0
    unit_s: float = 1.0


def store_sweeps(
    *, events_keep_s: float = 365 * DAY_S, refusals_keep_s: float = 90 * DAY_S, log_keep_s: float = DAY_S
) -> tuple[Sweep, ...]:
    """Return the sweeps of the store's own tables. `log_keep_s` must exceed the life of every cached verification."""
    return (
        Sweep(counters, "expires_at"),
        Sweep(changes, "at", keep_s=log_keep_s),
        Sweep(events, "at", keep_s=events_keep_s),
        Sweep(refusals, "minute", keep_s=refusals_keep_s, unit_s=60.0),
    )


def sweep_batch(connection: Connection, sweeps: Iterable[Sweep], now: float, *, batch: int = BATCH) -> int:
    """Delete up to `batch` rows that have expired, over all tables, oldest first; return how many.

    Fewer than `batch` means that nothing is left. Each call is one transaction of its own.
    """
    left = batch
    for sweep in sweeps:
        if left <= 0:
            break
        left -= _sweep(connection, sweep, now, left)
    return batch - left


def _sweep(connection: Connection, sweep: Sweep, now: float, limit: int) -> int:
    keys = list(sweep.table.primary_key.columns)
    column = sweep.table.c[sweep.expires_column]
    latest = (now - sweep.keep_s) / sweep.unit_s
    if isinstance(column.type, Integer):  # PostgreSQL compares no index of whole numbers with a fraction
        latest = math.floor(latest)
    expired = select(*keys).where(column <= latest).order_by(column).limit(limit)
    key = keys[0] if len(keys) == 1 else tuple_(*keys)
    return int(connection.execute(delete(sweep.table).where(key.in_(expired))).rowcount)
