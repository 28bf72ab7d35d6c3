"""SQLite's result codes as the codes of StoreError (https://www.sqlite.org/rescode.html).

Codes are compared, never texts. A violated constraint and a misuse of the interface are no outage but a mistake of
ours: they stay what they are, the transaction is rolled back, and the request fails.
"""

import sqlite3

from sqlalchemy.exc import DBAPIError

from garrison.core.errors import StoreError

_CODES = {
    sqlite3.SQLITE_FULL: "store_full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "store_full",  # no space to enlarge the index of the write-ahead log
    sqlite3.SQLITE_BUSY: "store_busy",
    sqlite3.SQLITE_LOCKED: "store_busy",
    sqlite3.SQLITE_ERROR: "store_schema",  # the statements are ours and tested, so a table or column is missing
    sqlite3.SQLITE_SCHEMA: "store_schema",
}
_MISTAKES = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE})
_SENTENCES = {
    "store_full": "there is no space left for the database",
    "store_busy": "the database is locked by others for too long",
    "store_schema": "the tables are not those of this version: run garrison migrate",
    "store_unavailable": "the database cannot be read or written",
}


def store_error_of(error: BaseException) -> StoreError | None:
    """Return the StoreError that an error of sqlite3 or SQLAlchemy stands for, or None if it stands for none."""
    original = error.orig if isinstance(error, DBAPIError) else error
    if not isinstance(original, sqlite3.Error):
        return None
    extended = getattr(original, "sqlite_errorcode", None)
    if extended is None:  # raised by the module and not by SQLite: closed, or used wrongly
        return StoreError("store_unavailable", _SENTENCES["store_unavailable"]) if _is_closed(original) else None
    primary = extended & 0xFF
    if primary in _MISTAKES:
        return None
    code = _CODES.get(extended) or _CODES.get(primary, "store_unavailable")
    return StoreError(code, _SENTENCES[code])


def _is_closed(error: sqlite3.Error) -> bool:
    """The module raises ProgrammingError without a code for a closed connection, and for wrong parameters alike."""
    return type(error) is sqlite3.ProgrammingError
