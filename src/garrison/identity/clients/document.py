"""A client that describes itself: its id is a URL, and the JSON document there is its registration.

OAuth Client ID Metadata Document (draft-ietf-oauth-client-id-metadata-document), as MCP clients use it. Rules alone:
nothing is fetched here, and nothing is trusted. What a document says of itself (`client_name`) was said by whoever owns
the host, so the host is the client's name. It is a public client, gets the scopes that the server grants to such
clients and the audience that is the server's own. Addresses of pictures and pages in it are neither fetched nor shown.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from garrison.core.errors import GarrisonError
from garrison.core.network import is_loopback
from garrison.identity.clients.model import Client
from garrison.identity.clients.registration import is_redirect_uri
from garrison.identity.signing.jose import PRIVATE_MEMBERS, TokenRefused, strict_object

MAX_URL = 512
MAX_REDIRECT_URIS = 32
MAX_URI = 2048
MAX_HOST_SHOWN = 64
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = rf"(?:{_LABEL}\.)+(?=[a-z]){_LABEL}"
_HERE = r"127\.0\.0\.1|\[::1\]|localhost"
_REST = r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>/(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})+)"
_PUBLIC = re.compile(rf"https://(?P<host>{_NAME}){_REST}", re.ASCII)
_DEVELOPER = re.compile(rf"http://(?P<host>{_HERE}){_REST}", re.ASCII)
_GRANTS = ("authorization_code", "refresh_token")
"""What a document can ask for; other grants that it names are never given."""


class DocumentUrl(NamedTuple):
    """A client id that is the address of a document. `text` is compared and asked for byte by byte."""

    text: str
    host: str
    """Without brackets."""
    port: int
    is_here: bool
    """On this machine, over http: a developer's."""


class DocumentError(GarrisonError):
    """The document is not one that makes a client. `code` says why, to whoever reads the log."""


def is_document_id(client_id: str) -> bool:
    """Say whether a client of this id would be one with a document; ids that we give never look like that."""
    return client_id.startswith(("https://", "http://"))


def document_url(client_id: str, *, development: bool) -> DocumentUrl | None:
    """Return the id's parts, or None for what no document is fetched from.

    The draft's section 3, and stricter where it lets us be: a lower-case name with a dot in it and no address, since
    people are to recognize it; no query; no path of slashes alone. `development` takes http on this machine, too.
    """
    if len(client_id) > MAX_URL:
        return None
    found = _PUBLIC.fullmatch(client_id)
    is_here = found is None and development
    if is_here:
        found = _DEVELOPER.fullmatch(client_id)
    if found is None:
        return None
    segments = found["path"].split("/")
    port = int(found["port"] or (80 if is_here else 443))
    if port > 65_535 or not any(segments) or any(_is_dots(segment) for segment in segments):
        return None
    if len(found["host"]) > 253:
        return None
    return DocumentUrl(client_id, found["host"].strip("[]"), port, is_here)


def client_of(url: DocumentUrl, body: bytes, *, scopes: Sequence[str], audience: str) -> Client:
    """Return the client that the document describes. Raises DocumentError."""
    try:
        document = strict_object(body)
    except TokenRefused:
        raise DocumentError("not_json") from None
    if document.get("client_id") != url.text:
        raise DocumentError("client_id")
    if document.get("token_endpoint_auth_method", "none") != "none":
        raise DocumentError("token_endpoint_auth_method")
    if document.keys() & {"client_secret", "client_secret_expires_at"} or _shows_private_key(document):
        raise DocumentError("secret")
    redirect_uris = _texts(document, "redirect_uris", ())
    if not 0 < len(redirect_uris) <= MAX_REDIRECT_URIS or not all(_is_taken(uri) for uri in redirect_uris):
        raise DocumentError("redirect_uris")
    grants = _texts(document, "grant_types", _GRANTS[:1])
    if "authorization_code" not in grants:
        raise DocumentError("grant_types")
    if "code" not in _texts(document, "response_types", ("code",)):
        raise DocumentError("response_types")
    return Client(
        id=url.text,
        name=_host_shown(url),
        grants=tuple(grant for grant in _GRANTS if grant in grants),
        audiences=(audience,),
        scopes=tuple(scopes),
        redirect_uris=redirect_uris,
        status="active",
        epoch=1,
        created_at=0.0,
        is_public=True,
        calls_itself=_name(document.get("client_name")),
    )


def _is_dots(segment: str) -> bool:
    return segment.lower().replace("%2e", ".") in (".", "..")


def _is_taken(uri: str) -> bool:
    return len(uri) <= MAX_URI and is_redirect_uri(uri)


def _texts(document: Mapping[str, Any], name: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Return a list of texts. Raises DocumentError where the member is something else."""
    if name not in document:
        return default
    found = document[name]
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise DocumentError(name)
    return tuple(found)


def _shows_private_key(document: Mapping[str, Any]) -> bool:
    jwks = document.get("jwks")
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    return isinstance(keys, list) and any(isinstance(key, dict) and key.keys() & PRIVATE_MEMBERS for key in keys)


def _name(found: Any) -> str:
    """Return what the client calls itself: nothing where that cannot be shown (no text, too long, invisible)."""
    return found.strip() if isinstance(found, str) and len(found) <= 100 and found.isprintable() else ""


def _host_shown(url: DocumentUrl) -> str:
    """Return host and port as people see them. A long one is cut at its beginning: its owner is named by its end."""
    authority = url.text.split("/", 3)[2]
    if len(authority) <= MAX_HOST_SHOWN:
        return authority
    return "…" + authority[1 - MAX_HOST_SHOWN :]


def is_developers(issuer_host: str, *, development: bool) -> bool:
    """Say whether documents on this machine are taken: only by a development server that is on it, too."""
    return development and (issuer_host == "localhost" or is_loopback(issuer_host))
