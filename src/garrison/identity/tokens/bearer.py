"""The bearer token of a request (RFC 6750 section 2.1)."""

from garrison.wire.call import Call

_START = b"Bearer "


def bearer_of(call: Call) -> bytes:
    """Return the bearer token of the request, empty without one (the scheme's case is free, RFC 9110 section 11.1)."""
    value = call.headers.get(b"authorization", b"")
    if value.startswith(_START):
        return value[7:].strip(b" ")
    scheme, _, rest = value.partition(b" ")
    return rest.strip(b" ") if scheme.lower() == b"bearer" else b""
