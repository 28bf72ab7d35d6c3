"""Foreign subjects that are refused, or whose tokens from before a moment are: the table, and every statement on it.

Their tokens carry no epoch of ours, so what ends them is a time: `iat` against `signed_out_at` plus the maximal skew.
Rows stay for good, because nobody knows until when somebody else's tokens are valid. `version` grows with each change
that ends something, and is a row of the log.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Boolean, Column, Connection, Double, Integer, Table, Text, case, or_, select, update

from garrison.core.ids import digest
from garrison.store.schema import metadata
from garrison.store.statements import insert_into

refused_subjects = Table(
    "refused_subjects",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("is_refused", Boolean, nullable=False),
    Column("signed_out_at", Double, nullable=False),
    Column("version", Integer, nullable=False),
)
_COLUMNS = tuple(refused_subjects.c[name] for name in ("issuer", "subject", "is_refused", "signed_out_at"))
SUBJECT_READ = (
    "SELECT version, is_refused, signed_out_at FROM refused_subjects WHERE issuer = ? AND subject = ?"
    " UNION ALL SELECT 0, TRUE, 0.0 FROM accounts WHERE id = ?"
    " UNION ALL SELECT 0, TRUE, 0.0 FROM clients WHERE id = ?"
    " UNION ALL SELECT 0, TRUE, 0.0 FROM api_keys WHERE id = ?"
)
"""What the guard asks the driver itself, by the issuer, and the subject four times. No row for whom nothing was ever
refused; refused is whom their issuer calls by an id of ours, which apps know people by."""


class ForeignSubject(NamedTuple):
    """Somebody of another issuer. `signed_out_at` is Unix seconds: tokens issued until then are refused."""

    issuer: str
    subject: str
    is_refused: bool
    signed_out_at: float


def subject_id(issuer: str, subject: str) -> str:
    """Return what the log calls a foreign subject, `for_…`: names of theirs are of any length, and may be addresses."""
    return "for_" + digest(f"{issuer}\x00{subject}", purpose="foreign subject").hex()[:48]


def end_tokens(connection: Connection, issuer: str, subject: str, now: float, *, refuse: bool) -> int:
    """Refuse the subject's tokens until `now`, or the subject altogether; return its new version. One statement.

    Neither takes back what was refused before: signing out leaves a refusal, and an earlier clock a later moment.
    """
    kept = refused_subjects.c
    statement = insert_into(connection.dialect.name, refused_subjects).values(
        issuer=issuer, subject=subject, is_refused=refuse, signed_out_at=now, version=1
    )
    new = statement.excluded
    later = case((new.signed_out_at > kept.signed_out_at, new.signed_out_at), else_=kept.signed_out_at)
    upsert = statement.on_conflict_do_update(
        index_elements=["issuer", "subject"],
        set_={
            "is_refused": or_(kept.is_refused, new.is_refused),
            "signed_out_at": later,
            "version": kept.version + 1,
        },
    ).returning(kept.version)
    return int(connection.execute(upsert).scalar_one())


def allow_subject(connection: Connection, issuer: str, subject: str) -> bool:
    """Refuse the subject no longer; say whether it was. What was signed out stays so."""
    kept = refused_subjects.c
    statement = update(refused_subjects).where(kept.issuer == issuer, kept.subject == subject, kept.is_refused)
    return connection.execute(statement.values(is_refused=False)).rowcount == 1


def end_known_tokens(connection: Connection, now: float, by: int) -> Sequence[tuple[str, int]]:
    """Refuse the tokens issued until `now` of everybody who has a row; return ids of the log, and versions."""
    kept = refused_subjects.c
    statement = update(refused_subjects).values(signed_out_at=now, version=kept.version + by)
    ended = connection.execute(statement.returning(kept.issuer, kept.subject, kept.version))
    return [(subject_id(issuer, subject), version) for issuer, subject, version in ended]


def get_subject(connection: Connection, issuer: str, subject: str) -> ForeignSubject:
    """Return what is refused of a subject that has a row."""
    kept = refused_subjects.c
    query = select(*_COLUMNS).where(kept.issuer == issuer, kept.subject == subject)
    return ForeignSubject(*connection.execute(query).one())


def list_subjects(connection: Connection) -> Sequence[ForeignSubject]:
    """Return everybody of whom something is refused, in the order of issuers and subjects."""
    kept = refused_subjects.c
    return [ForeignSubject(*row) for row in connection.execute(select(*_COLUMNS).order_by(kept.issuer, kept.subject))]
