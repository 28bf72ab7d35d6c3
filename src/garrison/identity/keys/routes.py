"""`/auth/keys`: one's own keys. Making one needs a fresh proof of who is asking (ASVS 5.0 V7.5)."""

from typing import Annotated, Any

from pydantic import BaseModel, Field

from garrison.core.errors import Denied, GarrisonError
from garrison.guard.endpoint import Endpoint
from garrison.identity.fields import Body
from garrison.identity.keys.model import Key
from garrison.identity.keys.service import KeyService
from garrison.identity.origins import origin_in_session, origin_of
from garrison.identity.timestamps import rfc3339
from garrison.policy.rules import allow
from garrison.wire.answer import Answer, empty_answer, json_answer
from garrison.wire.call import Call

FRESH_S = 300
"""How old the newest factor may be when a key is made or gets another secret."""
_YEAR_S = 366 * 86_400


class KeyBody(Body):
    """A new key: what it may do, from where, for how long (seconds), how often."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    scopes: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=32, default_factory=list)]
    networks: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=32, default_factory=list)]
    expires_in: Annotated[int, Field(gt=0, le=10 * _YEAR_S)] | None = None
    limit: Annotated[str, Field(max_length=32, examples=["100/minute"])] | None = None


class KeyItem(BaseModel):
    """One of one's own keys; when it was used last may lag."""

    id: str
    name: str
    scopes: list[str]
    networks: list[str]
    limit: str | None
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class NewKeyAnswer(KeyItem):
    """A key with its secret, which is shown this once."""

    key: str


class RotatedAnswer(BaseModel):
    """The key's other secret; the one before is good for a day."""

    key: str


class KeysAnswer(BaseModel):
    """One's own keys, oldest first."""

    items: list[KeyItem]


def key_endpoints(keys: KeyService) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def create(call: Call, body: KeyBody) -> Answer:
        try:
            made = await keys.create(
                call.principal.id,
                body.name,
                scopes=body.scopes,
                networks=body.networks,
                rate=body.limit or "",
                expires_in_s=body.expires_in,
                origin=origin_in_session(call),
            )
        except ValueError as error:
            raise Denied("validation", str(error)) from None
        except GarrisonError as error:
            if error.code == "too_many_keys":
                raise Denied("validation", error.detail) from None
            raise
        return json_answer(201, {**_document(made.key), "key": made.secret})

    async def list_own(call: Call, _body: None) -> Answer:
        return json_answer(200, {"items": [_document(key) for key in await keys.list(call.principal.id)]})

    async def revoke(call: Call, _body: None) -> Answer:
        if not await keys.revoke(call.params["id"], account_id=call.principal.id, origin=origin_of(call)):
            raise Denied("not_found")
        return empty_answer()

    async def rotate(call: Call, _body: None) -> Answer:
        origin = origin_in_session(call)
        secret = await keys.rotate(call.params["id"], account_id=call.principal.id, origin=origin)
        if secret is None:
            raise Denied("not_found")
        return json_answer(200, {"key": secret})

    first_party, fresh = allow(signed_in=True), allow(signed_in=True, factor_age=FRESH_S)
    which = {"id": "Id of a key, `key_…`"}
    missing = frozenset({"not_found"})
    return (
        Endpoint(
            "POST",
            "/auth/keys",
            fresh,
            create,
            "Make a key",
            body=KeyBody,
            status=201,
            answer=NewKeyAnswer,
            errors=frozenset({"validation", "insufficient_factor"}),
        ),
        Endpoint("GET", "/auth/keys", first_party, list_own, "One's own keys", answer=KeysAnswer),
        Endpoint(
            "DELETE",
            "/auth/keys/{id}",
            first_party,
            revoke,
            "End one of one's own keys",
            status=204,
            errors=missing,
            path_parameters=which,
        ),
        Endpoint(
            "POST",
            "/auth/keys/{id}/rotate",
            fresh,
            rotate,
            "Give a key another secret; the one before is good for a day",
            answer=RotatedAnswer,
            errors=missing | {"insufficient_factor"},
            path_parameters=which,
        ),
    )


def _document(key: Key) -> dict[str, Any]:
    def shown(moment: float | None) -> str | None:
        return None if moment is None else rfc3339(moment)

    return {
        "id": key.id,
        "name": key.name,
        "scopes": list(key.scopes),
        "networks": list(key.networks),
        "limit": key.rate or None,
        "created_at": rfc3339(key.created_at),
        "expires_at": shown(key.expires_at),
        "last_used_at": shown(key.used_at),
    }
