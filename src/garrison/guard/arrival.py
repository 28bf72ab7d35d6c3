"""Layer 1a: a request arrives — headers read once, request id given (RFC 9110 section 5.3, CWE-444).

A header that may stand only once and comes twice is refused: two readers would pick different ones. Header names
come lower-case from every ASGI server; a name that is not is refused for the same reason.
The request id is ours: a random part per process and a counter. An id from outside is believed only from a trusted
proxy (see `proxies.py`), since it ends up in logs.
"""

import itertools
import secrets

from garrison.core.clock import Clock
from garrison.guard.layer import BeforeLayer
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

_ONCE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"host",
        b"origin",
        b"proxy-authorization",
        b"sec-fetch-site",
        b"transfer-encoding",
        b"upgrade",
        b"x-api-key",
        b"x-forwarded-proto",
    }
)


def arrival_layer(clock: Clock) -> BeforeLayer:
    """Return the layer that fills `call.headers`, `call.request_id` and the times."""
    prefix = secrets.token_hex(6)
    counter = itertools.count(1).__next__
    both = clock.both

    def arrive(call: Call) -> Answer | None:
        call.request_id = f"{prefix}{counter():08x}"
        call.now, call.boot = both()
        listed = call.scope["headers"]
        headers = dict(listed)
        if len(headers) != len(listed):
            headers = {}
            for name, value in listed:
                if name not in headers:
                    headers[name] = value
                elif name in _ONCE:
                    return problem("bad_request", call.request_id, detail="a header came twice that may come once")
                else:
                    headers[name] += (b"; " if name == b"cookie" else b", ") + value
        call.headers = headers
        return None

    return arrive
