"""Single foreign subjects: refuse, sign out, allow. The commands and users' own code call the same.

refuse      nothing of this subject passes, whenever it was issued, until it is allowed
sign out    tokens issued until now are dead, whatever their `exp`; the issuer's next ones pass
allow       ends a refusal; tokens from before the refusal stay dead, those issued since pass

A token counts as issued until a moment if its `iat` is no later than that moment plus `LEEWAY`, since their clock may
be ahead of ours; one without `iat` always counts. So after a sign-out the issuer's tokens pass again a minute later.
What is refused is a principal (issuer, subject) of kind foreign: an account that somebody has here as well, because the
same issuer is a provider to sign in with, is `accounts.disable`'s.
"""

from collections.abc import Iterable, Sequence

from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.issuers.claims import is_subject
from garrison.identity.issuers.model import ForeignIssuer
from garrison.identity.issuers.refused import (
    ForeignSubject,
    allow_subject,
    end_tokens,
    get_subject,
    list_subjects,
    subject_id,
)
from garrison.store.database import Database


class IssuerService:
    """Refuses subjects of the issuers that are configured, and lets them in again."""

    def __init__(self, changes: Changes, database: Database, issuers: Iterable[ForeignIssuer]) -> None:
        self._changes = changes
        self._database = database
        self._issuers = frozenset(one.issuer for one in issuers)

    async def refuse(self, issuer: str, subject: str, *, origin: Origin = Origin()) -> ForeignSubject:
        """Refuse the subject altogether, and cut its streams, until `allow`.

        Raises ValueError for an issuer that is not configured and a subject that none can have, StoreError.
        """
        return await self._end(issuer, subject, origin, refuse=True)

    async def sign_out(self, issuer: str, subject: str, *, origin: Origin = Origin()) -> ForeignSubject:
        """Refuse the tokens of the subject that were issued until now, and cut its streams. Raises as `refuse`."""
        return await self._end(issuer, subject, origin, refuse=False)

    async def allow(self, issuer: str, subject: str, *, origin: Origin = Origin()) -> bool:
        """End the refusal; say whether there was one. Nothing has to be told: who is refused is not cached.

        Raises StoreError.
        """

        def change(change: Change) -> bool:
            if not (is_subject(subject) and allow_subject(change.connection, issuer, subject)):
                return False
            change.record("subject.allowed", subject_id(issuer, subject), issuer=issuer)
            return True

        return await self._changes.make(change, origin)

    async def list(self) -> Sequence[ForeignSubject]:
        """Return everybody who is refused or was signed out, of issuers that are gone, too. Raises StoreError."""
        return await self._database.read(list_subjects)

    async def _end(self, issuer: str, subject: str, origin: Origin, *, refuse: bool) -> ForeignSubject:
        if issuer not in self._issuers:  # a slash too few, and nothing would be refused
            raise ValueError(
                "no such issuer is configured in GARRISON_FOREIGN_ISSUERS; it is compared exactly, a trailing slash "
                "included"
            )
        if not is_subject(subject):
            raise ValueError("a subject is one or more printable characters")
        called = subject_id(issuer, subject)

        def change(change: Change) -> ForeignSubject:
            version = end_tokens(change.connection, issuer, subject, change.now, refuse=refuse)
            change.record("subject.refused" if refuse else "subject.signed_out", called, issuer=issuer)
            change.announce("foreign", called, version)
            return get_subject(change.connection, issuer, subject)

        return await self._changes.make(change, origin)
