"""Clients: make, list, rotate, disable, delete. The commands, the routes and users' own code call the same."""

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from garrison.core.clock import Clock
from garrison.core.errors import GarrisonError
from garrison.core.ids import digest, new_id, new_secret
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.clients.keys import read_jwks
from garrison.identity.clients.model import GRANTS, PREFIX, PURPOSE, SHORT_NAMES, Client, Status
from garrison.identity.clients.queries import (
    delete_client,
    find_client,
    insert_client,
    list_clients,
    set_keys,
    set_secret,
    set_status,
)
from garrison.identity.clients.registration import is_redirect_uri, is_scope
from garrison.identity.oauth.codes import delete_codes_of_client
from garrison.identity.oauth.device_codes import delete_device_codes_of_client
from garrison.identity.sessions.queries import delete_sessions_of_client
from garrison.store.database import Database

OVERLAP_S = 86_400.0
"""How long the secret before is good after a rotation."""
_AUDIENCE = re.compile(r"[!-~]{1,512}", re.ASCII)
_MOST = 32


class Made(NamedTuple):
    """A client and its secret, which exists nowhere else from here on."""

    client: Client
    secret: str


class ClientService:
    """Makes and changes clients."""

    def __init__(self, changes: Changes, database: Database, clock: Clock) -> None:
        self._changes = changes
        self._database = database
        self._clock = clock

    async def create(
        self,
        name: str,
        *,
        grants: Iterable[str] = ("client_credentials",),
        audiences: Iterable[str] = (),
        scopes: Iterable[str] = (),
        redirect_uris: Iterable[str] = (),
        is_public: bool = False,
        jwks: str = "",
        requires_dpop: bool = False,
        origin: Origin = Origin(),
    ) -> Made:
        """Make a client and return it with its secret; with `jwks`, its public keys (RFC 7517), it has none.

        Raises ValueError for what cannot be, StoreError.
        """
        granted, asked, allowed, uris = (_words(one) for one in (grants, audiences, scopes, redirect_uris))
        granted = tuple(SHORT_NAMES.get(grant, grant) for grant in granted)
        _check(name, granted, asked, allowed, uris)
        if is_public and {"client_credentials", SHORT_NAMES["token_exchange"]} & set(granted):
            raise ValueError(
                "a public client has no credentials of its own; leave client_credentials and token_exchange out"
            )
        if "authorization_code" in granted and not uris:
            raise ValueError("authorization_code needs a redirect URI")
        if jwks and is_public:
            raise ValueError("a client that has keys is not public")
        kept_keys = read_jwks(jwks) if jwks else ""
        secret = PREFIX + new_secret()
        client_id = new_id("cli")

        def change(change: Change) -> Client:
            client = Client(
                client_id,
                name,
                granted,
                asked,
                allowed,
                uris,
                "active",
                1,
                change.now,
                is_public,
                kept_keys,
                requires_dpop,
            )
            insert_client(change.connection, client, digest(secret, purpose=PURPOSE))
            change.record("client.created", client_id, grants=list(granted), scopes=list(allowed))
            return client

        made = await self._changes.make(change, origin)
        return Made(made, "" if is_public or jwks else secret)

    async def list(self) -> Sequence[Client]:
        """Return all clients, oldest first. Raises StoreError."""
        return await self._database.read(list_clients)

    async def find(self, client_id: str) -> Client | None:
        """Return the client with this id, or None. Raises StoreError."""
        known = await self._database.read(lambda connection: find_client(connection, client_id))
        return None if known is None else known.client

    async def rotate(self, client_id: str, *, overlap_s: float = OVERLAP_S, origin: Origin = Origin()) -> str:
        """Give the client another secret and return it; the one before is good for `overlap_s` seconds.

        Raises GarrisonError(`client_not_found`, `client_has_no_secret`), StoreError.
        """
        secret = PREFIX + new_secret()

        def change(change: Change) -> None:
            known = find_client(change.connection, client_id)
            if known is None:
                raise _not_found()
            if known.client.is_public:
                raise GarrisonError("client_has_no_secret", "this client is public and has no secret")
            if known.client.jwks:
                raise GarrisonError(
                    "client_has_no_secret", "this client signs and has no secret; give it other keys (jwks)"
                )
            set_secret(
                change.connection,
                client_id,
                digest(secret, purpose=PURPOSE),
                earlier=known.secret_digest,
                earlier_until=change.now + overlap_s,
            )
            change.record("client.rotated", client_id, overlap_s=overlap_s)

        await self._changes.make(change, origin)
        return secret

    async def set_keys(self, client_id: str, jwks: str, *, origin: Origin = Origin()) -> None:
        """Give a client that authenticates by signature other public keys; those before are nothing from now on.

        Raises ValueError, GarrisonError(`client_not_found`, `client_has_no_keys`), StoreError.
        """
        kept_keys = read_jwks(jwks)

        def change(change: Change) -> None:
            known = find_client(change.connection, client_id)
            if known is None:
                raise _not_found()
            if not known.client.jwks:
                raise GarrisonError("client_has_no_keys", "this client does not authenticate by signature")
            set_keys(change.connection, client_id, kept_keys)
            change.record("client.keys_changed", client_id)

        await self._changes.make(change, origin)

    async def set_status(self, client_id: str, status: Status, *, origin: Origin = Origin()) -> None:
        """Disable a client, or enable it again; either ends every token it has.

        Raises GarrisonError(`client_not_found`), StoreError.
        """

        def change(change: Change) -> None:
            version = set_status(change.connection, client_id, status)
            if version is None:
                raise _not_found()
            change.record("client.disabled" if status == "disabled" else "client.enabled", client_id)
            change.announce("client", client_id, version)
            _end_families(change, client_id)

        await self._changes.make(change, origin)

    async def delete(self, client_id: str, *, origin: Origin = Origin()) -> None:
        """Forget a client and end every token it has. Raises GarrisonError(`client_not_found`), StoreError."""

        def change(change: Change) -> None:
            version = delete_client(change.connection, client_id)
            if version is None:
                raise _not_found()
            change.record("client.deleted", client_id)
            change.announce("client", client_id, version)
            _end_families(change, client_id)

        await self._changes.make(change, origin)

    async def authenticate(self, client_id: str, secret: str) -> Client | None:
        """Return the active client that this secret is of, or None: the same for unknown, wrong and disabled.

        Raises StoreError.
        """
        shown, now = digest(secret, purpose=PURPOSE), self._clock.now()
        known = await self._database.read(lambda connection: find_client(connection, client_id))
        current = b"\x00" * 32 if known is None else known.secret_digest
        is_right = hmac.compare_digest(shown, current)
        if known is None or known.client.is_public:
            return None
        if not is_right and known.earlier_digest is not None and now < (known.earlier_until or 0.0):
            is_right = hmac.compare_digest(shown, known.earlier_digest)
        return known.client if is_right and known.client.status == "active" else None


def _end_families(change: Change, client_id: str) -> None:
    """End what people gave the client, too, and what they are giving it: codes that it has not shown yet."""
    delete_codes_of_client(change.connection, client_id)
    delete_device_codes_of_client(change.connection, client_id)
    for session_id, version in delete_sessions_of_client(change.connection, client_id):
        change.announce("session", session_id, version)


def _words(given: Iterable[str]) -> tuple[str, ...]:
    words = [word for text in ([given] if isinstance(given, str) else given) for word in text.split()]
    return tuple(dict.fromkeys(words))


def _check(
    name: str, grants: Sequence[str], audiences: Sequence[str], scopes: Sequence[str], uris: Sequence[str]
) -> None:
    """Raise ValueError, saying what is wrong."""
    if not name.strip() or len(name) > 100 or not name.isprintable():
        raise ValueError("a client's name is 1 to 100 printable characters")
    if not grants or set(grants) - GRANTS:
        short = {long: name for name, long in SHORT_NAMES.items()}
        raise ValueError(f"grants are {' '.join(sorted(short.get(grant, grant) for grant in GRANTS))}")
    if any(len(listed) > _MOST for listed in (audiences, scopes, uris)):
        raise ValueError(f"at most {_MOST} audiences, scopes and redirect URIs each")
    if any(not is_scope(scope) for scope in scopes):
        raise ValueError("a scope is one word of 1 to 128 printable characters without quotes or backslashes")
    if any(_AUDIENCE.fullmatch(audience) is None for audience in audiences):
        raise ValueError("an audience is one word of at most 512 printable characters")
    if any(not is_redirect_uri(uri) for uri in uris):
        raise ValueError("a redirect URI is absolute, https (or http on loopback), without a fragment")


def _not_found() -> GarrisonError:
    return GarrisonError("client_not_found", "there is no such client")
