"""Layer 1a: a request arrives — who is at the other end, headers read once, request id given (RFC 9110 5.3, CWE-444).

A header that may stand only once and comes twice is refused: two readers would pick different ones. Header names
come lower-case from every ASGI server; a name that is not is refused for the same reason.
The request id is ours: a random part per process and a counter. An id from outside is believed only from a trusted
proxy (see `proxies.py`), since it ends up in logs.
"""

import itertools
import secrets

from garrison.core.clock import Clock
from garrison.core.network import network_of
from garrison.guard.layer import BeforeLayer
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

_TLS = frozenset({"https", "wss"})
_ONCE = frozenset(
    {
        b"authorization",
        b"content-length",
        b"content-type",
        b"dpop",
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
    """Return the layer that fills what `Call` has no defaults for: every other one may rely on it."""
    prefix = secrets.token_hex(6)
    counter = itertools.count(1).__next__
    boot_of = clock.boot

    def arrive(call: Call) -> Answer | None:
        scope = call.scope
        call.request_id = f"{prefix}{counter():08x}"
        call.boot = boot = boot_of()
        call.now = boot + clock.offset_s
        client = scope.get("client")
        call.peer = peer = client[0] if client else ""
        call.network = network_of(peer)
        call.secure = scope.get("scheme") in _TLS
        listed = scope["headers"]
        call.headers = headers = dict(listed)
        if len(headers) != len(listed):
            call.headers = headers = {}
            for name, value in listed:
                if name not in headers:
                    headers[name] = value
                elif name in _ONCE:
                    return problem("bad_request", call.request_id, detail="a header came twice that may come once")
                else:
                    headers[name] += (b"; " if name == b"cookie" else b", ") + value
        return None

    return arrive
