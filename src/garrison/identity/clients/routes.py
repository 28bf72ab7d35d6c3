"""`/auth/clients`: OAuth clients, for administrators. Every change needs a fresh proof of who is asking."""

import json
from typing import Annotated, Any

from pydantic import BaseModel, Field

from garrison.core.errors import Denied, GarrisonError
from garrison.guard.endpoint import Endpoint
from garrison.identity.clients.model import SHORT_NAMES, Client, Status
from garrison.identity.clients.service import ClientService
from garrison.identity.fields import Body
from garrison.identity.origins import origin_in_session
from garrison.identity.timestamps import rfc3339
from garrison.policy.rules import allow
from garrison.wire.answer import Answer, empty_answer, json_answer
from garrison.wire.call import Call

FRESH_S = 300
"""How old the newest factor may be when a client is made, changed or ended."""
_SHORT = {long: name for name, long in SHORT_NAMES.items()}
_Words = Annotated[list[Annotated[str, Field(max_length=512)]], Field(max_length=32, default_factory=list)]


class ClientBody(Body):
    """A new client. `jwks` are its public keys, where it authenticates by signature and has no secret."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    grants: Annotated[list[Annotated[str, Field(max_length=64)]], Field(min_length=1, max_length=8)]
    audiences: _Words
    scopes: _Words
    redirect_uris: _Words
    is_public: bool = False
    jwks: dict[str, Any] | None = None
    requires_dpop: bool = False


class ClientChange(Body):
    """What may be changed: disabled and enabled again (which ends every token), or other public keys."""

    status: Status | None = None
    jwks: dict[str, Any] | None = None


class ClientItem(BaseModel):
    """A client."""

    client_id: str
    name: str
    grants: list[str]
    audiences: list[str]
    scopes: list[str]
    redirect_uris: list[str]
    is_public: bool
    jwks: dict[str, Any] | None
    requires_dpop: bool
    status: Status
    created_at: str


class NewClientAnswer(ClientItem):
    """A client with its secret, which is shown this once; without one where it has keys, or is public."""

    client_secret: str | None


class ClientsAnswer(BaseModel):
    """All clients, oldest first."""

    items: list[ClientItem]


class SecretAnswer(BaseModel):
    """The client's other secret; the one before is good for a day."""

    client_secret: str


def client_endpoints(clients: ClientService) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def create(call: Call, body: ClientBody) -> Answer:
        try:
            made = await clients.create(
                body.name,
                grants=body.grants,
                audiences=body.audiences,
                scopes=body.scopes,
                redirect_uris=body.redirect_uris,
                is_public=body.is_public,
                requires_dpop=body.requires_dpop,
                jwks="" if body.jwks is None else json.dumps(body.jwks),
                origin=origin_in_session(call),
            )
        except ValueError as error:
            raise Denied("validation", str(error)) from None
        return json_answer(201, {**client_document(made.client), "client_secret": made.secret or None})

    async def list_all(_call: Call, _body: None) -> Answer:
        return json_answer(200, {"items": [client_document(client) for client in await clients.list()]})

    async def change(call: Call, body: ClientChange) -> Answer:
        which, origin = call.params["id"], origin_in_session(call)
        try:
            if body.jwks is not None:
                await clients.set_keys(which, json.dumps(body.jwks), origin=origin)
            if body.status is not None:
                await clients.set_status(which, body.status, origin=origin)
        except ValueError as error:
            raise Denied("validation", str(error)) from None
        except GarrisonError as error:
            raise _denied(error) from None
        client = await clients.find(which)
        if client is None:
            raise Denied("not_found")
        return json_answer(200, client_document(client))

    async def rotate(call: Call, _body: None) -> Answer:
        try:
            secret = await clients.rotate(call.params["id"], origin=origin_in_session(call))
        except GarrisonError as error:
            raise _denied(error) from None
        return json_answer(200, {"client_secret": secret})

    async def delete(call: Call, _body: None) -> Answer:
        try:
            await clients.delete(call.params["id"], origin=origin_in_session(call))
        except GarrisonError as error:
            raise _denied(error) from None
        return empty_answer()

    admin, fresh = allow(role="admin"), allow(role="admin", factor_age=FRESH_S)
    which = {"id": "Id of a client, `cli_…`"}
    errors = frozenset({"not_found", "validation", "insufficient_factor"})
    one = "/auth/clients/{id}"
    return (
        Endpoint(
            "POST",
            "/auth/clients",
            fresh,
            create,
            "Make a client",
            body=ClientBody,
            status=201,
            answer=NewClientAnswer,
            errors=errors - {"not_found"},
        ),
        Endpoint("GET", "/auth/clients", admin, list_all, "All clients", answer=ClientsAnswer),
        Endpoint(
            "PATCH",
            one,
            fresh,
            change,
            "Disable or enable a client, or give it other keys",
            body=ClientChange,
            answer=ClientItem,
            errors=errors,
            path_parameters=which,
        ),
        Endpoint(
            "POST",
            one + "/rotate",
            fresh,
            rotate,
            "Give a client another secret; the one before is good for a day",
            answer=SecretAnswer,
            errors=errors,
            path_parameters=which,
        ),
        Endpoint(
            "DELETE",
            one,
            fresh,
            delete,
            "End a client and every token it has",
            status=204,
            errors=errors - {"validation"},
            path_parameters=which,
        ),
    )


def client_document(client: Client) -> dict[str, Any]:
    """Return a client as people and programs see it: grants by their short names."""
    return {
        "client_id": client.id,
        "name": client.name,
        "grants": [_SHORT.get(grant, grant) for grant in client.grants],
        "audiences": list(client.audiences),
        "scopes": list(client.scopes),
        "redirect_uris": list(client.redirect_uris),
        "is_public": client.is_public,
        "jwks": json.loads(client.jwks) if client.jwks else None,
        "requires_dpop": client.requires_dpop,
        "status": client.status,
        "created_at": rfc3339(client.created_at),
    }


def _denied(error: GarrisonError) -> GarrisonError:
    """Return what a client of HTTP is told; what is not the caller's mistake stays what it is."""
    if error.code == "client_not_found":
        return Denied("not_found")
    if error.code in ("client_has_no_secret", "client_has_no_keys"):
        return Denied("validation", error.detail)
    return error
