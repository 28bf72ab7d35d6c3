"""PostgreSQL's SQLSTATE codes as the codes of StoreError (PostgreSQL manual, appendix A).

Codes are compared, never texts. A violated constraint or a value that does not fit is no outage but a mistake of ours.
"""

import errno

import asyncpg
from sqlalchemy.exc import DBAPIError

from garrison.core.errors import StoreError

_CODES = {
    "53100": "store_full",  # disk_full
    "53300": "store_busy",  # too_many_connections
    "55P03": "store_busy",  # lock_not_available: others held the lock for too long
    "57014": "store_busy",  # query_canceled: a statement took too long
    "40001": "store_busy",  # serialization_failure
    "40P01": "store_busy",  # deadlock_detected
}
_CLASSES = {
    "42": "store_schema",  # the statements are ours and tested, so a table or column is missing
    "3F": "store_schema",
}
_MISTAKES = frozenset({"21", "22", "23"})
_REASONS = {
    "28": "it refuses this user or its password",
    "3D": "there is no such database: createdb --encoding=UTF8 makes one",
    "57": "it is starting or shutting down",
    "25": "it takes no writes: a standby, or read-only",
}
"""Class → what to say beside the code."""
_SENTENCES = {
    "store_full": "there is no space left for the database",
    "store_busy": "the database is locked by others for too long, or takes no more connections",
    "store_schema": "the tables are not those of this version: run garrison migrate",
    "store_unavailable": "the database cannot be read or written",
}


def _reason(error: BaseException) -> str:
    """Return what people can mend: a file, a host, TLS. Nothing of it holds a password, or it is left out."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if getattr(error, "errno", None) == errno.ECONNREFUSED:
        return "nothing listens there"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    text = " ".join(str(error).split())
    return text if text and "://" not in text and "@" not in text else type(error).__name__


_LOST = frozenset({"57P01", "57P02", "57P03"})
"""The server is shutting down, has crashed, or is starting."""


def is_lost(error: BaseException) -> bool:
    """Say whether an error of asyncpg or of the network means that the connection is gone."""
    if isinstance(error, asyncpg.PostgresError):
        state = getattr(error, "sqlstate", None) or ""
        return state.startswith("08") or state in _LOST
    return isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalClientError)


def store_error_of(error: BaseException) -> StoreError | None:
    """Return the StoreError that an error of driver, SQLAlchemy or network stands for, None if it is none."""
    original: BaseException | None = error
    if isinstance(error, DBAPIError):
        original = error.orig
        original = getattr(original, "__cause__", None) or original  # SQLAlchemy's own class around the driver's
    if isinstance(original, asyncpg.PostgresError):
        state = getattr(original, "sqlstate", None) or ""
        if state[:2] in _MISTAKES:
            return None
        code = _CODES.get(state) or _CLASSES.get(state[:2], "store_unavailable")
        reason = _REASONS.get(state[:2], "") if code == "store_unavailable" else ""
        return StoreError(code, f"{_SENTENCES[code]}: {reason} ({state})" if reason else _SENTENCES[code])
    if isinstance(original, OSError | TimeoutError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        reason = _reason(original)
        return StoreError("store_unavailable", f"{_SENTENCES['store_unavailable']}: {reason}")
    return None
