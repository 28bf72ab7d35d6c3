"""Layer 3: bounds of the request target and headers, for servers that have none of their own (CWE-400, CWE-770).

`garrison serve` refuses these before a request exists; under another server this is what stands.
"""

from garrison.guard.layer import BeforeLayer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem


def bounds_layer(settings: GuardSettings) -> BeforeLayer:
    """Return the layer that answers 414 and 431."""
    max_target, max_count, max_bytes = (
        settings.max_target_bytes,
        settings.max_header_count,
        settings.max_header_bytes,
    )
    few = 24

    def check_bounds(call: Call) -> Answer | None:
        scope = call.scope
        if len(scope["path"]) + len(scope.get("query_string", b"")) > max_target:
            return problem("uri_too_long", call.request_id)
        listed = scope["headers"]
        if len(listed) > max_count or (
            sum(map(len, call.headers.values())) > max_bytes
            if len(listed) <= few
            else sum(len(name) + len(value) for name, value in listed) > max_bytes
        ):
            return problem("headers_too_large", call.request_id)
        return None

    return check_bounds
