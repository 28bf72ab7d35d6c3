"""Keys: make, list, rotate, revoke. The routes, the commands and users' own code call the same."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from garrison.core.durations import parse_limit
from garrison.core.errors import GarrisonError
from garrison.core.ids import digest, new_id
from garrison.core.network import parse_network
from garrison.identity.accounts.queries import find_account
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.keys.model import CREATE_ACCOUNTS, Key, Kind
from garrison.identity.keys.queries import count_live_apps, delete_key, insert_key, list_keys, replace_secret
from garrison.identity.keys.secret import PURPOSE, new_key
from garrison.identity.sessions.cache import ScopesOf
from garrison.store.database import Database

OVERLAP_S = 86_400.0
"""How long the secret before is good after a rotation."""
MOST_KEYS, MOST_APP_KEYS, _MOST_WORDS = 100, 2, 32
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}", re.ASCII)


class Made(NamedTuple):
    """A key and its secret, which exists nowhere else from here on."""

    key: Key
    secret: str


class KeyService:
    """Makes and ends keys."""

    def __init__(self, changes: Changes, database: Database, scopes_of: ScopesOf) -> None:
        self._changes = changes
        self._database = database
        self._scopes_of = scopes_of

    async def create(
        self,
        account_id: str,
        name: str,
        *,
        scopes: Iterable[str] = (),
        networks: Iterable[str] = (),
        rate: str = "",
        expires_in_s: float | None = None,
        kind: Kind = "api",
        bounded: bool = True,
        origin: Origin = Origin(),
    ) -> Made:
        """Make a key of the account's. `bounded`: its scopes must be among those that the account has now.

        Raises ValueError for what cannot be, GarrisonError(`account_not_found`, `too_many_keys`), StoreError.
        """
        words = _words(scopes, "scopes")
        listed = tuple(_network(one) for one in _words(networks, "networks"))
        _check(name, words, rate, kind)
        asked = (CREATE_ACCOUNTS,) if kind == "app" else words
        secret = new_key()

        def change(change: Change) -> Key:
            connection = change.connection
            account = find_account(connection, account_id)
            if account is None:
                raise GarrisonError("account_not_found", "there is no such account")
            beyond = set(asked) - self._scopes_of(account.roles) if bounded and kind == "api" else set()
            if beyond:
                raise ValueError(f"scopes beyond the account's own: {', '.join(sorted(beyond))}")
            _demand_room(connection, account_id, kind, change.now)
            expires_at = None if expires_in_s is None else change.now + expires_in_s
            key = Key(new_id("key"), account_id, kind, name, asked, listed, rate.strip(), expires_at, change.now, None)
            insert_key(connection, key, digest(secret, purpose=PURPOSE))
            change.record("key.created", key.id, actor=account_id, of=kind, scopes=list(asked))
            return key

        return Made(await self._changes.make(change, origin), secret)

    async def list(self, account_id: str | None = None) -> Sequence[Key]:
        """Return the account's keys, or everybody's, oldest first. Raises StoreError."""
        return await self._database.read(lambda connection: list_keys(connection, account_id))

    async def rotate(
        self,
        key_id: str,
        *,
        account_id: str | None = None,
        overlap_s: float = OVERLAP_S,
        origin: Origin = Origin(),
    ) -> str | None:
        """Give the key another secret and return it, None for no such key; the one before is good for `overlap_s`."""
        secret = new_key()

        def change(change: Change) -> bool:
            until = change.now + overlap_s
            version = replace_secret(change.connection, key_id, account_id, digest(secret, purpose=PURPOSE), until)
            if version is None:
                return False
            change.record("key.rotated", key_id, overlap_s=overlap_s)
            change.announce("key", key_id, version)
            return True

        return secret if await self._changes.make(change, origin) else None

    async def revoke(self, key_id: str, *, account_id: str | None = None, origin: Origin = Origin()) -> bool:
        """End a key at once, of this account if one is named; say whether there was one. Raises StoreError."""

        def change(change: Change) -> bool:
            version = delete_key(change.connection, key_id, account_id)
            if version is None:
                return False
            change.record("key.revoked", key_id)
            change.announce("key", key_id, version)
            return True

        return await self._changes.make(change, origin)


def _demand_room(connection: Connection, account_id: str, kind: Kind, now: float) -> None:
    if kind == "app" and count_live_apps(connection, now) >= MOST_APP_KEYS:
        raise GarrisonError("too_many_keys", f"at most {MOST_APP_KEYS} app keys live at a time; revoke one first")
    if len(list_keys(connection, account_id)) >= MOST_KEYS:
        raise GarrisonError("too_many_keys", f"an account has at most {MOST_KEYS} keys; revoke one first")


def _words(given: Iterable[str], name: str) -> tuple[str, ...]:
    words = [word for text in ([given] if isinstance(given, str) else given) for word in text.split()]
    if len(words) > _MOST_WORDS:
        raise ValueError(f"at most {_MOST_WORDS} {name}")
    return tuple(dict.fromkeys(words))


def _network(text: str) -> str:
    try:
        return str(parse_network(text))
    except ValueError:
        raise ValueError("a network is written as CIDR, for example 203.0.113.0/24, without host bits") from None


def _check(name: str, scopes: Sequence[str], rate: str, kind: Kind) -> None:
    """Raise ValueError, saying what is wrong."""
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise ValueError("a key's name is 1 to 100 printable characters")
    if any(_SCOPE.fullmatch(scope) is None for scope in scopes):
        raise ValueError("a scope is one word of 1 to 128 printable characters without quotes or backslashes")
    if kind == "app" and scopes:
        raise ValueError("an app key may create accounts and nothing else; leave scopes out")
    if rate.strip():
        parse_limit(rate.strip())
