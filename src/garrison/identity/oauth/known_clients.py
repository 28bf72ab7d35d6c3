"""Clients of both kinds, as the OAuth endpoints ask for them: registered here, or described by a document of their own.

An id that we gave never looks like a URL (`cli_…`), so one look at it says which kind it is. `find` fetches nothing:
only the two endpoints where a person may be asked, and a client that shows what a person gave it, cause a fetch.
"""

from sqlalchemy import Connection

from garrison.core.ids import digest
from garrison.identity.clients.document import is_document_id
from garrison.identity.clients.documents import ClientDocuments
from garrison.identity.clients.model import Client
from garrison.identity.clients.service import ClientService
from garrison.identity.oauth.codes import PURPOSE as CODE_PURPOSE
from garrison.identity.oauth.codes import find_code
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.tokens.model import PURPOSE as REFRESH_PURPOSE
from garrison.identity.tokens.queries import find_presented
from garrison.store.database import Database


class KnownClients:
    """Finds clients; `documents` is None where clients with a document are not taken."""

    def __init__(self, service: ClientService, database: Database, documents: ClientDocuments | None = None) -> None:
        self._service = service
        self._database = database
        self._documents = documents

    async def find(self, client_id: str) -> Client | None:
        """Return the client with this id as far as it is known here, or None. Raises StoreError."""
        if not is_document_id(client_id):
            return await self._service.find(client_id)
        return None if self._documents is None else self._documents.known(client_id)

    async def authenticate(self, client_id: str, secret: str) -> Client | None:
        """Return the active client that this secret is of; one with a document has none. Raises StoreError."""
        return await self._service.authenticate(client_id, secret)

    async def asked_by(self, client_id: str, network: str) -> Client | None:
        """Return the client, its document fetched for a stranger of this network if need be, or None.

        Raises DocumentUnavailableError, StoreError.
        """
        if self._documents is None or not is_document_id(client_id):
            return await self.find(client_id)
        return await self._documents.asked_by(client_id, network)

    async def meet_again(self, client_id: str, parameters: Parameters) -> None:
        """Have a document at hand, fetched if need be, where a code or refresh token of this very client is shown.

        Raises DocumentUnavailableError, StoreError.
        """
        if self._documents is None or not is_document_id(client_id):
            return
        code, token = parameters.one("code"), parameters.one("refresh_token")

        def was_let_in(connection: Connection) -> bool:
            given = find_code(connection, digest(code, purpose=CODE_PURPOSE)) if code else None
            family = find_presented(connection, digest(token, purpose=REFRESH_PURPOSE)) if token else None
            return any(found is not None and found.client_id == client_id for found in (given, family))

        if await self._database.read(was_let_in):
            await self._documents.met_again(client_id)

    def by_id(self, client_id: str) -> Client | None:
        """Return a client with a document by its id alone, for what needs no word of the document."""
        return None if self._documents is None else self._documents.unread(client_id)
