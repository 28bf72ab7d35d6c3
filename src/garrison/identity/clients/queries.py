"""Every statement on `clients`, and the guard's cold read of a client's token."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from garrison.identity.clients.model import Client, Status, clients
from garrison.store.text import is_storable

CLIENT_READ = (
    "SELECT c.id, c.scopes, c.status, c.epoch, c.version, c.created_at,"
    " (SELECT k.state FROM signing_keys k WHERE k.kid = ?),"
    " (SELECT r.id FROM revoked_tokens r WHERE r.id = ?)"
    " FROM clients c WHERE c.id = ?"
)
"""What the authenticator asks the driver itself, by (kid, token id, client id)."""
_COLUMNS = tuple(
    clients.c[name]
    for name in (
        "id",
        "name",
        "grants",
        "audiences",
        "scopes",
        "redirect_uris",
        "status",
        "epoch",
        "created_at",
        "is_public",
        "jwks",
        "requires_dpop",
    )
)


class Known(NamedTuple):
    """A client and what its secret is compared with."""

    client: Client
    secret_digest: bytes
    earlier_digest: bytes | None
    earlier_until: float | None


def insert_client(connection: Connection, client: Client, secret_digest: bytes) -> None:
    """Keep a new client."""
    connection.execute(
        insert(clients).values(
            id=client.id,
            name=client.name,
            secret_digest=secret_digest,
            earlier_digest=None,
            earlier_until=None,
            grants=" ".join(client.grants),
            audiences=" ".join(client.audiences),
            scopes=" ".join(client.scopes),
            redirect_uris=" ".join(client.redirect_uris),
            status=client.status,
            epoch=client.epoch,
            version=1,
            created_at=client.created_at,
            is_public=client.is_public,
            jwks=client.jwks or None,
            requires_dpop=client.requires_dpop,
        )
    )


def find_client(connection: Connection, client_id: str) -> Known | None:
    """Return the client with this id, or None: also for what no id can be, as anybody may send it."""
    if not is_storable(client_id):
        return None
    columns = (*_COLUMNS, clients.c.secret_digest, clients.c.earlier_digest, clients.c.earlier_until)
    row = connection.execute(select(*columns).where(clients.c.id == client_id)).one_or_none()
    return None if row is None else Known(_client(row[:12]), row[12], row[13], row[14])


def is_active(connection: Connection, client_id: str) -> bool:
    """Say whether there is such a client, and it is not disabled; for changes that are made for it."""
    query = select(clients.c.id).where(clients.c.id == client_id, clients.c.status == "active")
    return connection.execute(query).one_or_none() is not None


def list_clients(connection: Connection) -> Sequence[Client]:
    """Return all clients, oldest first."""
    query = select(*_COLUMNS).order_by(clients.c.created_at, clients.c.id)
    return [_client(tuple(row)) for row in connection.execute(query)]


def set_secret(
    connection: Connection, client_id: str, secret_digest: bytes, *, earlier: bytes, earlier_until: float
) -> bool:
    """Give the client another secret; the one before stays good for a while. Say whether there is such a client."""
    statement = (
        update(clients)
        .where(clients.c.id == client_id)
        .values(secret_digest=secret_digest, earlier_digest=earlier, earlier_until=earlier_until)
    )
    return connection.execute(statement).rowcount == 1


def set_keys(connection: Connection, client_id: str, jwks: str) -> None:
    """Give the client other public keys; those before are nothing from now on."""
    connection.execute(update(clients).where(clients.c.id == client_id).values(jwks=jwks))


def set_status(connection: Connection, client_id: str, status: Status) -> int | None:
    """Store the state and end every token of the client; return its new version, None for no such client."""
    statement = (
        update(clients)
        .where(clients.c.id == client_id)
        .values(status=status, epoch=clients.c.epoch + 1, version=clients.c.version + 1)
    )
    found: int | None = connection.execute(statement.returning(clients.c.version)).scalar_one_or_none()
    return found


def raise_all_epochs(connection: Connection, by: int) -> int:
    """End every token of every client, with epochs and versions that are `by` higher; return how many clients."""
    statement = update(clients).values(epoch=clients.c.epoch + by, version=clients.c.version + by)
    return int(connection.execute(statement).rowcount)


def disable_all(connection: Connection) -> Sequence[str]:
    """Disable every client that is not disabled yet; return their ids."""
    statement = update(clients).where(clients.c.status == "active").values(status="disabled")
    return connection.execute(statement.returning(clients.c.id)).scalars().all()


def delete_client(connection: Connection, client_id: str) -> int | None:
    """Forget the client; return a version above its own, None for no such client."""
    statement = delete(clients).where(clients.c.id == client_id).returning(clients.c.version)
    found: int | None = connection.execute(statement).scalar_one_or_none()
    return None if found is None else found + 1


def _client(row: Sequence[Any]) -> Client:
    (
        client_id,
        name,
        grants,
        audiences,
        scopes,
        redirect_uris,
        status,
        epoch,
        created_at,
        is_public,
        jwks,
        requires_dpop,
    ) = row
    return Client(
        client_id,
        name,
        tuple(grants.split()),
        tuple(audiences.split()),
        tuple(scopes.split()),
        tuple(redirect_uris.split()),
        status,
        epoch,
        created_at,
        is_public,
        jwks or "",
        requires_dpop,
    )
