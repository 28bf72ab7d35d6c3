"""Layer 2a: the host allow-list (RFC 9112 section 3.2; ASVS 5.0 V4.1, CWE-644).

Nothing of ours is built from Host (links and origins come from `ISSUER`), but the app behind us may. In development
loopback names are allowed at any port, and a development server answers on this machine only: `DEV_EXPOSE=1` lifts
that. Health endpoints are exempt, since load balancers ask by address.
"""

import re

from garrison.core.network import is_loopback
from garrison.guard.layer import BeforeLayer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

_HOST = re.compile(r"(?P<name>\[[0-9a-f:.]{2,45}\]|[a-z0-9_](?:[a-z0-9_.-]{0,252}))(?::[0-9]{1,5})?", re.ASCII)
_LOOPBACK_NAMES = frozenset({"127.0.0.1", "[::1]", "localhost", "testserver"})
_CACHE = 256


def host_layer(settings: GuardSettings) -> BeforeLayer:
    """Return the layer that sets `call.host` or answers 400; 503 where development is reached from beyond."""
    allowed = settings.allowed_hosts | (_LOOPBACK_NAMES if settings.development else frozenset())
    local_only = settings.development and not settings.expose
    known: dict[bytes | None, str] = {}
    local: set[str] = {"testserver"}

    def check_host(call: Call) -> Answer | None:
        if local_only:
            server = call.scope.get("server")
            if server is not None and server[0] not in local and not is_local(server[0], server[1]):
                return problem("not_exposed", call.request_id)
        header = call.headers.get(b"host")
        host = known.get(header)
        if host is None:
            host = read(header)
            if host is None:
                return problem("bad_host", call.request_id)
        call.host = host
        return None

    def read(header: bytes | None) -> str | None:
        match = _HOST.fullmatch(header.decode("latin-1").lower()) if header is not None else None
        if header is None or match is None or match["name"].rstrip(".") not in allowed:
            return None
        if len(known) < _CACHE:
            known[header] = match["name"].rstrip(".")
        return match["name"].rstrip(".")

    def is_local(address: str, port: int | None) -> bool:
        if port is None or is_loopback(address):  # a Unix socket has no port
            local.add(address)
            return True
        return False

    return check_host
