"""The handler behind Garrison's own endpoints: read the body, validate it, call, answer.

`application/json` only, unknown fields refused, and a body where none is asked must be absent or `{}`.
"""

from garrison.core.errors import Denied
from garrison.guard.body import declared_length, has_body, is_json
from garrison.guard.endpoint import Endpoint
from garrison.wire.answer import Answer, Receive
from garrison.wire.body import parse_json, read_body, validate
from garrison.wire.call import Call
from garrison.wire.json_bounds import check_json_bounds

MAX_BODY_BYTES = 65_536


async def answer_own(call: Call, endpoint: Endpoint, receive: Receive) -> Answer:
    """Return the endpoint's answer. Raises Denied, StoreError."""
    body = b""
    if has_body(call):
        body = await read_body(receive, MAX_BODY_BYTES, declared_length(call))
        call.body = body
    if endpoint.is_raw:
        return await endpoint.handler(call, body)
    if endpoint.body is None:
        if body:
            _demand_json(call)
            check_json_bounds(body)
            if parse_json(body) != {}:
                raise Denied("bad_body", "this call takes no body")
        return await endpoint.handler(call, None)
    if not body and endpoint.body_optional:
        return await endpoint.handler(call, validate(endpoint.body, {}))
    _demand_json(call)
    check_json_bounds(body)
    return await endpoint.handler(call, validate(endpoint.body, parse_json(body)))


def _demand_json(call: Call) -> None:
    if not is_json(call.header(b"content-type")):
        raise Denied("unsupported_media_type")
