"""Layer 1b: who is the client — trusted proxies (RFC 7239, CWE-348).

`Forwarded` and `X-Forwarded-For` are read right to left, and only while the hop that wrote an entry is in
`TRUSTED_PROXIES`; the first address that is not ours is the client. The server's own belief in these headers is off.
A proxy writes one of the two families and hands the other on as the client sent it: where both are present and name
different clients, nobody can tell which is true, and the request is refused. `X-Forwarded-Host` is never believed:
the Host header is what the framework routes by, so it is what the allow-list must see.
"""

import re

from garrison.core.network import is_in, network_of, parse_address
from garrison.guard.layer import BeforeLayer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

_MAX_HOPS = 32
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
_PAIR = re.compile(r'\s*([a-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;,"=\s]*))\s*', re.ASCII | re.IGNORECASE)


def proxies_layer(settings: GuardSettings) -> BeforeLayer | None:
    """Return the layer that corrects `call.peer`, `call.network` and `call.secure`; None where no proxy is trusted."""
    trusted = settings.trusted_proxies
    if not trusted:
        return None

    def behind(call: Call) -> Answer | None:
        if not is_in(parse_address(call.peer), trusted):
            return None
        headers = call.headers
        x_for, forwarded = headers.get(b"x-forwarded-for"), headers.get(b"forwarded")
        hops_x = None if x_for is None else [part.strip() for part in x_for.decode("latin-1").split(",")]
        elements = None if forwarded is None else _forwarded(forwarded.decode("latin-1"))
        if elements is None and forwarded is not None:
            return problem("bad_request", call.request_id, detail="Forwarded cannot be read")
        client_x = call.peer if hops_x is None else client_of(hops_x, call.peer)
        hops = None if elements is None else [element.get("for", "") for element in elements]
        client_f = call.peer if hops is None else client_of(hops, call.peer)
        if hops_x is not None and hops is not None and client_x != client_f:
            return problem("bad_request", call.request_id, detail="Forwarded and X-Forwarded-For disagree")
        client = client_x if hops_x is not None else client_f
        proto = headers.get(b"x-forwarded-proto", b"").decode("latin-1").rpartition(",")[2].strip().lower()
        # Only the family that names the client says how it came: the other one may be the client's own.
        proto_f = elements[-1].get("proto", "").lower() if elements and hops_x is None else ""
        if proto and proto_f and proto != proto_f:
            return problem("bad_request", call.request_id, detail="Forwarded and X-Forwarded-Proto disagree")
        proto = proto or proto_f
        if proto in ("http", "https"):
            call.secure = proto == "https"
            call.scope["scheme"] = proto if call.kind == "http" else ("wss" if call.secure else "ws")
        if client != call.peer:
            call.peer, call.network = client, network_of(client)
            call.scope["client"] = (client, 0)
        request_id = headers.get(b"x-request-id")
        if request_id is not None and _REQUEST_ID.fullmatch(request_id):
            call.request_id = request_id.decode()
        return None

    def client_of(hops: list[str], nearest: str) -> str:
        """Walk from the nearest hop outwards while the hop is ours; an unreadable entry ends the walk."""
        client = nearest
        for hop in reversed(hops[-_MAX_HOPS:]):
            address = parse_address(_without_port(hop))
            if address is None:
                return client
            client = str(address)
            if not is_in(address, trusted):
                return client
        return client

    return behind


def _without_port(node: str) -> str:
    """Return the address of `192.0.2.1:80`, `[2001:db8::1]:80`, `[2001:db8::1]` or a bare address."""
    if node.startswith("["):
        return node[1:].partition("]")[0]
    return node.partition(":")[0] if node.count(":") == 1 else node


def _forwarded(value: str) -> list[dict[str, str]] | None:
    """Parse a Forwarded header (RFC 7239 section 4) into its elements; None when it is malformed."""
    elements: list[dict[str, str]] = [{}]
    position = 0
    while position < len(value):
        match = _PAIR.match(value, position)
        if match is None:
            return None
        name = match[1].lower()
        if name in elements[-1]:
            return None
        elements[-1][name] = re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        position = match.end()
        if position == len(value):
            break
        if value[position] == ",":
            elements.append({})
        elif value[position] != ";":
            return None
        position += 1
    return elements
