"""Keys that sign: made at first start, rotated by age or by command, revoked at once (ASVS 5.0 V11.1, V13.3).

There is always one `next` key beside the active one, so that whoever verifies has seen a key before it signs. Rotating
plans the next key's beginning: now, or when every process must have heard of it and verifiers then had the JWKS'
max-age to fetch it. What is due is done by whichever process looks first, in one transaction that looks again; all
others hear of it by the log.

Revoking does not wait: the key is out of the JWKS, everything it signed is refused, and if it was the active one the
next one signs from this moment on, seen or not.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import JoseKey, generate_key, private_bytes, public_jwk, thumbprint
from garrison.identity.signing.keyring import Keyring, place_of
from garrison.identity.signing.model import SigningKey, State
from garrison.identity.signing.queries import (
    LOAD,
    StoredKey,
    delete_ended,
    insert_key,
    list_keys,
    plan_key,
    seal_anew,
    set_state,
)
from garrison.store.database import Database

Made = tuple[str, JoseKey]
"""The id of a new key, and the key."""
_FIRST_STATES: tuple[State, State] = ("active", "next")


class SigningService:
    """Makes, rotates and revokes keys, and keeps this process's ring in step with the store."""

    def __init__(
        self,
        changes: Changes,
        database: Database,
        clock: Clock,
        sealer: Sealer,
        keyring: Keyring,
        settings: IdentitySettings,
    ) -> None:
        self._changes = changes
        self._database = database
        self._clock = clock
        self._sealer = sealer
        self._ring = keyring
        self._settings = settings
        self._looked_at_seals = False
        self._told = 0
        self._asked = 0
        self._filled = 0

    @property
    def is_stale(self) -> bool:
        """Say whether the log told of a change that this process has not read yet."""
        return self._ring.is_stale

    def hear(self, kind: str, _subject: str, _version: int) -> None:
        """Take note of news, for `RevocationView.listen`."""
        if kind == "signing" and not self._ring.is_shared:
            self._ring.is_stale = True
            self._told += 1

    async def load(self) -> None:
        """Read the keys into the ring. Raises StoreError, GarrisonError(`wrong_secret`).

        Several may do so at once, a client with a token of an unknown key among them, and one answer may be seconds
        late: then it must not bring back what a later one knows to be revoked, nor pass for having heard what was told
        meanwhile.
        """
        self._asked += 1
        asked, told = self._asked, self._told
        rows = self._database.cold(LOAD, ())
        found = rows if isinstance(rows, list) else await rows
        if asked < self._filled:
            return
        stored = [StoredKey(*row) for row in found]
        self._ring.fill(stored)
        self._filled = asked
        self._ring.is_stale = told != self._told
        if not self._looked_at_seals:
            self._looked_at_seals = True
            await self._seal_anew(stored)

    async def _seal_anew(self, rows: "Sequence[StoredKey]") -> None:
        """Seal under the newest secret what an older one sealed, so that the older one can be dropped from the list."""
        stale = [row for row in rows if not self._sealer.is_newest(row.sealed, place=place_of(row.kid))]
        if not stale:
            return

        def change(change: Change) -> None:
            for row in stale:
                place = place_of(row.kid)
                opened = self._sealer.open(row.sealed, place=place)
                seal_anew(change.connection, row.kid, self._sealer.seal(opened, place=place))
                change.record("signing_key.sealed_anew", row.kid)

        await self._changes.make(change)

    async def keep(self) -> None:
        """Do what is due: read what others changed, make missing keys, let a planned one begin. Cheap when nothing is.

        Raises StoreError.
        """
        ring = self._ring
        if ring.is_shared:
            return
        if ring.is_stale:
            await self.load()
        if ring.due_at <= self._clock.now():
            await self._advance()

    async def list(self) -> Sequence[SigningKey]:
        """Return all keys, oldest first; the next one with when it will sign, planned or by age. Raises StoreError."""
        found = await self._database.read(list_keys)
        active = next((key for key in found if key.state == "active"), None)
        return [
            replace(key, signs_from=_begins_at(active, key, self._settings)) if active and key.state == "next" else key
            for key in found
        ]

    async def rotate(self, *, origin: Origin = Origin()) -> float:
        """Let the next key sign as soon as verifiers can know it; return from when, Unix seconds.

        Raises GarrisonError(`shared_key`) where a shared secret signs, and StoreError.
        """
        await self._demand_keys()

        def plan(change: Change) -> float:
            next_key = _one(change.connection, "next")
            signs_from = max(change.now, next_key.shown_at + self._settings.shown_before_s)
            if next_key.signs_from is None or next_key.signs_from > signs_from:
                plan_key(change.connection, next_key.kid, signs_from)
                change.record("signing_key.planned", next_key.kid, signs_from=signs_from)
                change.announce("signing", next_key.kid, 1)
            return min(signs_from, next_key.signs_from or signs_from)

        signs_from = await self._changes.make(plan, origin)
        await self.keep()
        return signs_from

    async def revoke(self, kid: str, *, origin: Origin = Origin()) -> bool:
        """Refuse whatever this key ever signed, at once; say whether there is such a key. Raises StoreError."""
        await self._demand_keys()
        spare = await self._make()

        def change(change: Change) -> bool:
            found = {key.kid: key for key in list_keys(change.connection)}.get(kid)
            if found is None:
                return False
            if found.state == "revoked":
                return True
            version = set_state(change.connection, kid, "revoked", now=change.now)
            change.record("signing_key.revoked", kid, was=found.state)
            change.announce("signing", kid, version)
            if found.state == "active":
                self._begin(change, _one(change.connection, "next").kid)
            if found.state in ("active", "next"):
                self._insert(change, spare, "next")
            return True

        revoked = await self._changes.make(change, origin)
        await self.load()
        return revoked

    async def spares(self) -> Sequence[Made]:
        """Return two new keys for `replace_all`, none where a shared secret signs."""
        return () if self._ring.is_shared else (await self._make(), await self._make())

    def replace_all(self, change: Change, spares: Sequence[Made]) -> Sequence[str]:
        """Within a change, refuse whatever any key ever signed, and sign with the first of `spares` from now on.

        Return the ids of the keys that were not revoked before. Call `load` afterwards.
        """
        ended = [key.kid for key in list_keys(change.connection) if key.state != "revoked"]
        for kid in ended:
            version = set_state(change.connection, kid, "revoked", now=change.now)
            change.record("signing_key.revoked", kid)
            change.announce("signing", kid, version)
        for made, state in zip(spares, _FIRST_STATES, strict=False):
            self._insert(change, made, state)
        return ended

    async def _demand_keys(self) -> None:
        if self._ring.is_shared:
            raise GarrisonError(
                "shared_key", "tokens are signed with GARRISON_SIGNING_SECRET; change it to end all of them"
            )
        await self.keep()

    async def _advance(self) -> None:
        """Make what is missing and do what is due; in the transaction it is looked at again, by all processes."""
        made = [await self._make(), await self._make()]
        settings = self._settings

        def change(change: Change) -> None:
            connection, now = change.connection, change.now
            keys = {key.state: key for key in list_keys(connection)}
            active, following = keys.get("active"), keys.get("next")
            if active is None:
                self._insert(change, made[0], "active")
            if following is None or following.algorithm != settings.signing_algorithm:
                if following is not None:
                    set_state(connection, following.kid, "revoked", now=now)
                self._insert(change, made[1], "next")
                if active is not None and active.algorithm != settings.signing_algorithm:
                    plan_key(connection, made[1][0], now + settings.shown_before_s)
            elif active is not None and _begins_at(active, following, settings) <= now:
                ends_at = now + settings.longest_token_s
                version = set_state(connection, active.kid, "retired", now=now, ends_at=ends_at)
                change.record("signing_key.retired", active.kid, ends_at=ends_at)
                change.announce("signing", active.kid, version)
                self._begin(change, following.kid)
                self._insert(change, made[1], "next")
            for kid in delete_ended(connection, now):
                change.record("signing_key.forgotten", kid)

        await self._changes.make(change)
        await self.load()

    def _begin(self, change: Change, kid: str) -> None:
        version = set_state(change.connection, kid, "active", now=change.now)
        change.record("signing_key.activated", kid)
        change.announce("signing", kid, version)

    def _insert(self, change: Change, made: Made, state: State) -> None:
        kid, key = made
        insert_key(
            change.connection,
            kid=kid,
            algorithm=self._settings.signing_algorithm,
            state=state,
            sealed=self._sealer.seal(private_bytes(key), place=place_of(kid)),
            public=json.dumps(public_jwk(key), separators=(",", ":")),
            now=change.now,
        )
        change.record("signing_key.made", kid, state=state)
        change.announce("signing", kid, 1)

    async def _make(self) -> Made:
        """Make a key; in a thread where primes are to be found, which takes up to a tenth of a second."""
        algorithm = self._settings.signing_algorithm
        key = await asyncio.to_thread(generate_key, algorithm) if algorithm == "RS256" else generate_key(algorithm)
        return thumbprint(key), key


def _begins_at(active: SigningKey, following: SigningKey, settings: IdentitySettings) -> float:
    """Return when the following key signs: as planned, or when the active one is old and verifiers know this one."""
    known_at, old_at = (
        following.shown_at + settings.shown_before_s,
        (active.signs_from or 0.0) + settings.key_lifetime_s,
    )
    by_age = max(known_at, old_at)
    return by_age if following.signs_from is None else min(following.signs_from, by_age)


def _one(connection: Connection, state: State) -> SigningKey:
    found = next((key for key in list_keys(connection) if key.state == state), None)
    if found is None:
        raise GarrisonError("no_key", f"there is no {state} key yet; try again in a moment")
    return found
