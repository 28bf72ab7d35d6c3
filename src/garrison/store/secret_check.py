"""Does SECRET belong to this database? Asked once at start, before anything is served.

Under another SECRET nothing would fail loudly: sealed values would not open one by one, throttle counters would be
found under other names, and new values would be sealed under a key that the next start may not have. So the first
start leaves a mark, sealed under SECRET, and a start that cannot open it does not serve. Keys are never made anew
silently (contract: "a wrong one is a named error").

SECRET is a list. A mark that opens under an older member is sealed again under the newest, so that the older one can
be dropped from the list afterwards.
"""

import hmac

from sqlalchemy import Column, Connection, LargeBinary, String, Table, select, update

from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer
from garrison.store.schema import metadata
from garrison.store.statements import insert_new

marks = Table(
    "marks",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
_NAME = "secret"
_PLACE = "marks/sealed/secret"


def check_secret(connection: Connection, sealer: Sealer) -> None:
    """Leave the mark if there is none, else open it; in a transaction that may write.

    Raises GarrisonError(`wrong_secret`).
    """
    newest = sealer.mac(_NAME, purpose="secret mark")
    sealed = sealer.seal(newest, place=_PLACE)
    if insert_new(connection, marks, {"name": _NAME, "sealed": sealed}, unique=("name",)):
        return
    stored: bytes = connection.execute(select(marks.c.sealed).where(marks.c.name == _NAME)).scalar_one()
    try:
        opened = sealer.open(stored, place=_PLACE)
    except GarrisonError:
        raise GarrisonError("wrong_secret", _HELP) from None
    if not hmac.compare_digest(opened, newest):
        connection.execute(update(marks).where(marks.c.name == _NAME).values(sealed=sealed))


_HELP = (
    "this database was made under another SECRET. Set GARRISON_SECRET to that one; to change it, list both, the new"
    " one first. In development it is kept beside the database, in var/secret"
)
