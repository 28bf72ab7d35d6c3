"""The token of a request, by either scheme that tokens come by (RFC 6750 section 2.1, RFC 9449 section 7.1)."""

from garrison.wire.call import Call

_BEARER = b"Bearer "


def bearer_of(call: Call) -> bytes:
    """Return the bearer token of the request, empty without one (the scheme's case is free, RFC 9110 section 11.1)."""
    value = call.headers.get(b"authorization", b"")
    if value.startswith(_BEARER):
        return value[7:].strip(b" ")
    scheme, _, rest = value.partition(b" ")
    return rest.strip(b" ") if scheme.lower() == b"bearer" else b""


def proved_token_of(call: Call) -> bytes:
    """Return the token that is shown with a proof, empty without one."""
    value = call.headers.get(b"authorization", b"")
    return value[5:].strip(b" ") if value[:5].lower() == b"dpop " else b""


def access_token_of(call: Call) -> bytes:
    """Return the token of the request, shown by itself or with a proof."""
    return bearer_of(call) or proved_token_of(call)
