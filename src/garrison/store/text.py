"""Text that a store cannot hold is refused on its way in, alike by every store: NUL, and half of a surrogate pair.

PostgreSQL takes neither (SQLSTATE 22021), SQLite takes the one and not the other, and drivers fail each in their own
way. Such text comes from clients: a name of a client, a nonce, whatever is looked for. Here is where all of it passes,
so nothing depends on every boundary having thought of it; an error of the client's is answered as one, never as 5xx.
The driver's own cold reads do not pass here: they ask for digests, and for what a token says that was signed here.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine

from garrison.core.errors import Denied


def is_storable(text: str) -> bool:
    """Say whether every store can hold this text."""
    if "\x00" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def refuse_unstorable(engine: Engine) -> None:
    """Let this engine's statements raise Denied(`bad_request`), before they are sent, for a text no store can hold."""
    event.listen(engine, "before_cursor_execute", _check)


def _check(
    _connection: Connection, _cursor: Any, _statement: str, parameters: Any, _context: Any, executemany: bool
) -> None:
    for row in parameters if executemany else (parameters,):
        values: Iterable[Any] = row.values() if isinstance(row, Mapping) else row
        if not all(is_storable(value) for value in values if isinstance(value, str)):
            raise Denied("bad_request", "a text holds NUL, or half of a surrogate pair")
