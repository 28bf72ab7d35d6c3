"""How a session travels: cookie names over TLS and on loopback, and bearer tokens (RFC 6265bis, RFC 6750).

Over TLS the names carry `__Host-`, so that no sibling domain and no plain-http page can set them. Over http there are
cookies only in development and only between processes of one machine; production never reads those names.
"""

from typing import NamedTuple

from garrison.core.network import is_loopback
from garrison.wire.call import Call
from garrison.wire.cookies import (
    DEVICE_LOOPBACK,
    DEVICE_TLS,
    FLOW_LOOPBACK,
    FLOW_TLS,
    REFRESH_LOOPBACK,
    REFRESH_TLS,
    SESSION_LOOPBACK,
    SESSION_TLS,
)


class CookieNames(NamedTuple):
    """The names in force for one request, and whether the cookies are `Secure`."""

    session: str
    device: str
    refresh: str
    flow: str
    secure: bool
    session_start: bytes
    """The session's name and the equals sign, as a Cookie header begins with them."""


TLS = CookieNames(SESSION_TLS, DEVICE_TLS, REFRESH_TLS, FLOW_TLS, True, f"{SESSION_TLS}=".encode())
LOOPBACK = CookieNames(
    SESSION_LOOPBACK, DEVICE_LOOPBACK, REFRESH_LOOPBACK, FLOW_LOOPBACK, False, f"{SESSION_LOOPBACK}=".encode()
)
LOCAL_PEERS = frozenset({"127.0.0.1", "::1", "testclient", ""})
"""The usual ones, so that no address is parsed; the empty string is a Unix socket."""


def cookie_names(call: Call, *, development: bool) -> CookieNames | None:
    """Return the cookie names of this request, or None where no cookie may be used at all."""
    if call.secure:
        return TLS
    if development and (call.peer in LOCAL_PEERS or is_loopback(call.peer)):
        return LOOPBACK
    return None
