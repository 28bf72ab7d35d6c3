"""What a database brings back that was restored from a copy, and has to stay dead.

A copy knows nothing of what was revoked after it was taken. Sessions that ended are in it as alive, tokens that were
revoked as good, keys that leaked as active, and nobody can tell which. So everything that opens anything ends:

    sessions, refresh tokens, codes     deleted: people sign in again
    access tokens                       nothing of theirs is left: no session, or a client's epoch far above their own
    keys that sign                      revoked, new ones made: what a stolen key still signs is refused
    API keys, OAuth clients             ended and disabled, unless whoever restores says that none was revoked since
    foreign subjects with a row         signed out

Epochs, versions and the log's positions leap by far more than they can have grown since the copy was taken. One more
would not do: a token of epoch 3 is good for a client that is put back from 3 to 1 and raised to 2, and a process that
kept what it verified would hold the lower version for old news (CWE-613).

What this cannot do: bring back a revocation that is no credential. Passwords, roles and disabled accounts are as they
were, and so are foreign subjects of whom nothing was refused by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from garrison.identity.accounts.model import accounts
from garrison.identity.accounts.queries import raise_all_epochs as raise_epochs_of_accounts
from garrison.identity.changes import Change, Changes
from garrison.identity.clients.model import clients
from garrison.identity.clients.queries import disable_all
from garrison.identity.clients.queries import raise_all_epochs as raise_epochs_of_clients
from garrison.identity.issuers.refused import end_known_tokens
from garrison.identity.keys.queries import expire_all, raise_all_versions
from garrison.identity.oauth.codes import delete_all_codes
from garrison.identity.oauth.device_codes import delete_all_device_codes
from garrison.identity.sessions.queries import delete_all_sessions
from garrison.identity.signing.service import SigningService
from garrison.store import audit, home, log

LEAP = 1_000_000
"""By how much epochs and versions grow. They have 31 bits: enough for two thousand restores of one database."""


@dataclass(frozen=True, slots=True)
class Ended:
    """What was ended. `as_of` is when the newest event of the copy was written, Unix seconds, None for none."""

    as_of: float | None
    accounts: int
    sessions: int
    codes: int
    signing_keys: Sequence[str]
    api_keys: Sequence[str]
    clients: Sequence[str]
    foreign_subjects: int


class RestoredService:
    """Ends what a restored database brings back."""

    def __init__(self, changes: Changes, signing: SigningService) -> None:
        self._changes = changes
        self._signing = signing

    async def end_credentials(self, *, keep_keys: bool = False, keep_clients: bool = False) -> Ended:
        """End everything that the database knows and that opens anything, in one transaction.

        `keep_keys` and `keep_clients`: API keys and OAuth clients go on, since none was revoked after the copy was
        taken; the clients' tokens end all the same. Takes time in proportion to accounts and sessions. Raises
        StoreError.
        """
        spares = await self._signing.spares()

        def change(change: Change) -> Ended:
            connection, now = change.connection, change.now
            as_of = audit.last_event_at(connection)
            log.leap(connection)
            home.settle(connection)
            sessions = delete_all_sessions(connection)
            codes = delete_all_codes(connection) + delete_all_device_codes(connection)
            people = raise_epochs_of_accounts(connection, LEAP)
            raise_epochs_of_clients(connection, LEAP)
            raise_all_versions(connection, LEAP)
            foreign = end_known_tokens(connection, now, LEAP)
            ended = Ended(
                as_of=as_of,
                accounts=people,
                sessions=sessions,
                codes=codes,
                signing_keys=self._signing.replace_all(change, spares),
                api_keys=() if keep_keys else expire_all(connection, now),
                clients=() if keep_clients else disable_all(connection),
                foreign_subjects=len(foreign),
            )
            log.append_all(connection, "account", accounts.c.id, accounts.c.version, now)
            log.append_all(connection, "client", clients.c.id, clients.c.version, now)
            for subject, version in foreign:
                change.announce("foreign", subject, version)
            change.record(
                "database.restored",
                "",
                accounts=people,
                sessions=sessions,
                signing_keys=len(ended.signing_keys),
                api_keys=len(ended.api_keys),
                clients=len(ended.clients),
            )
            return ended

        ended = await self._changes.make(change)
        await self._signing.load()
        return ended

    async def take_as_complete(self) -> None:
        """Note that the copy lacks nothing, so that no start asks any more; nothing ends. Raises StoreError."""

        def change(change: Change) -> None:
            home.settle(change.connection)
            change.record("database.complete", "")

        await self._changes.make(change)
