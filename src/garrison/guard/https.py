"""Layer 2b: HTTPS in production (RFC 6797, RFC 9110 section 4.2.2; ASVS 5.0 V12.2).

A bare GET or HEAD over plain http is redirected. One that carries a credential or a body is refused, since the secret
is out already and a redirect would hide that. Development on loopback runs over http.
"""

from urllib.parse import quote

from garrison.guard.layer import BeforeLayer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer, empty_answer
from garrison.wire.call import Call
from garrison.wire.problem import problem


def https_layer(settings: GuardSettings) -> BeforeLayer | None:
    """Return the layer, or None in development, where it does not run."""
    if settings.development:
        return None
    issuer_port = settings.issuer.partition("://")[2].partition("/")[0].rpartition(":")[2]
    port = f":{issuer_port}" if issuer_port.isdigit() and settings.issuer.startswith("https:") else ""

    def demand_https(call: Call) -> Answer | None:
        if call.secure:
            return None
        headers = call.headers
        bare = (
            call.kind == "http"
            and call.method in ("GET", "HEAD")
            and not (headers.keys() & {b"authorization", b"cookie", b"x-api-key", b"transfer-encoding"})
            and headers.get(b"content-length", b"0") == b"0"
        )
        if not bare:
            return problem("https_required", call.request_id)
        raw = call.scope.get("raw_path") or quote(call.scope["path"]).encode()
        query = call.scope.get("query_string", b"")
        target = raw.partition(b"?")[0] + (b"?" + query if query else b"")
        location = f"https://{call.host}{port}".encode() + b"/" + target.lstrip(b"/")
        return empty_answer(308, ((b"location", location),))

    return demand_https
