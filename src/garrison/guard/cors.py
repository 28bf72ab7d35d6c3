"""Layer 5a: CORS from an allow-list (Fetch standard, section 3.2; CWE-942).

An origin is compared whole and exactly, never by substring or pattern. Preflights are answered here, before anything
of the app runs, and say only what the allow-list says. `*` is refused when settings are read.
"""

from garrison.guard.layer import BeforeLayer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer, empty_answer
from garrison.wire.call import Call
from garrison.wire.header_lines import block
from garrison.wire.problem import problem

_METHODS = b"GET, HEAD, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS = b"authorization, content-type, x-request-id"
_EXPOSED = b"ratelimit, ratelimit-policy, retry-after, www-authenticate, x-request-id"
_MAX_AGE = b"600"


def cors_layer(settings: GuardSettings) -> BeforeLayer | None:
    """Return the layer, or None where no other origin is allowed."""
    if not settings.allowed_origins:
        return None
    vary = block((b"vary", b"Origin"))
    prepared = {
        origin.encode(): block(
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", _EXPOSED),
            *vary.fields,
        )
        for origin in settings.allowed_origins
    }

    def cors(call: Call) -> Answer | None:
        headers = call.headers
        origin = headers.get(b"origin")
        granted = prepared.get(origin) if origin is not None else None
        if call.method == "OPTIONS" and origin is not None and b"access-control-request-method" in headers:
            if granted is None:
                return problem("cross_origin", call.request_id, headers=vary.fields)
            return empty_answer(
                204,
                (
                    *granted.fields,
                    (b"access-control-allow-methods", _METHODS),
                    (b"access-control-allow-headers", _REQUEST_HEADERS),
                    (b"access-control-max-age", _MAX_AGE),
                ),
            )
        call.added = call.added.then(vary if granted is None else granted)
        return None

    return cors
