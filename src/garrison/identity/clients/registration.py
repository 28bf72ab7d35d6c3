"""What anybody may register a client with, be it by command or by a document of the client's own."""

import re
from urllib.parse import urlsplit

from garrison.core.network import is_loopback

MAX_SCOPES = 32
_SCOPE = re.compile(r"[!#-\[\]-~]{1,128}", re.ASCII)
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?", re.ASCII)


def is_scope(text: str) -> bool:
    """RFC 6749 section 3.3."""
    return _SCOPE.fullmatch(text) is not None


def is_redirect_uri(uri: str) -> bool:
    """RFC 6749 section 3.1.2, RFC 8252 section 7.

    The authority stands in a page's policy and on the page, so it is a host and a port and nothing else.
    """
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return False
    if not uri.isascii() or not uri.isprintable() or " " in uri or "#" in uri or "\\" in uri:
        return False
    if _AUTHORITY.fullmatch(parts.netloc) is None or port == 0:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and (host == "localhost" or is_loopback(host)))
