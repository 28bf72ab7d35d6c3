"""What we can do, for programs to read: RFC 8414, OpenID Connect Discovery 1.0, RFC 9728. Only what is true.

The issuer may end with a slash, which is part of its name and of no other address.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from garrison.guard.endpoint import Endpoint
from garrison.identity.clients.keys import ALGORITHMS as CLIENT_ALGORITHMS
from garrison.identity.clients.model import GRANTS
from garrison.identity.oauth.endpoint import OPEN
from garrison.identity.sessions.cache import IDENTITY_SCOPES
from garrison.identity.settings import IdentitySettings
from garrison.identity.tokens.dpop import ALGORITHMS
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

_WAYS = ("client_secret_basic", "client_secret_post", "private_key_jwt")
_KEPT = ((b"cache-control", b"public, max-age=300"),)


def metadata_endpoints(settings: IdentitySettings, paths: Mapping[str, str]) -> tuple[Endpoint, ...]:
    """Return the endpoints; `paths` are (name → path) of the endpoints that there are, prefix included."""
    base = settings.issuer.rstrip("/")
    server: dict[str, Any] = {
        "issuer": settings.issuer,
        "jwks_uri": base + "/.well-known/jwks.json",
        **{name: base + path for name, path in paths.items()},
        "grant_types_supported": sorted(GRANTS),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "scopes_supported": sorted(IDENTITY_SCOPES),
        "dpop_signing_alg_values_supported": list(ALGORITHMS),
        **({"client_id_metadata_document_supported": True} if settings.client_documents else {}),
        **_ways("token_endpoint", (*_WAYS, "none")),
        **_ways("revocation_endpoint", (*_WAYS, "none")),
        **_ways("introspection_endpoint", _WAYS),
    }
    discovery = {
        **server,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [settings.signing_algorithm],
        "request_uri_parameter_supported": False,  # true where it is not said
        "claims_supported": ["sub", "auth_time", "email", "email_verified", "nonce"],
    }
    resource = {
        "resource": settings.audience or settings.issuer,
        "authorization_servers": [settings.issuer],
        "jwks_uri": base + "/.well-known/jwks.json",
        "bearer_methods_supported": ["header"],
    }
    shown: Sequence[tuple[str, Mapping[str, Any], str]] = (
        ("/.well-known/oauth-authorization-server", server, "What this authorization server can do"),
        ("/.well-known/openid-configuration", discovery, "The same, where OpenID Connect looks for it"),
        ("/.well-known/oauth-protected-resource", resource, "Whose tokens this API takes"),
    )
    return tuple(_shows(path, document, summary) for path, document, summary in shown)


def _ways(endpoint: str, methods: Sequence[str]) -> Mapping[str, Any]:
    return {
        f"{endpoint}_auth_methods_supported": list(methods),
        f"{endpoint}_auth_signing_alg_values_supported": list(CLIENT_ALGORITHMS),
    }


def _shows(path: str, document: Mapping[str, Any], summary: str) -> Endpoint:
    answer = json_answer(200, document, _KEPT)

    async def show(_call: Call, _body: None) -> Answer:
        return answer

    return Endpoint("GET", path, OPEN, show, summary, in_openapi=False)
