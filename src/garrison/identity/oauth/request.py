"""What a client asks a person for: the authorization request, checked (RFC 6749 section 4.1.1, RFC 7636, RFC 8707).

Two kinds of mistakes. Where the client or its redirect URI is not known, nobody is sent anywhere: whoever made the link
may be who waits at its end. Everything else goes back to the client as an error.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from garrison.core.errors import GarrisonError
from garrison.core.network import is_loopback
from garrison.identity.clients.model import Client
from garrison.identity.oauth.errors import NO_AUDIENCE, NOT_GRANTED, NOT_ITS_AUDIENCE, NOT_ITS_SCOPE
from garrison.identity.sessions.cache import IDENTITY_SCOPES
from garrison.store.text import is_storable

_SHA256 = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_ANY_AGE_S = 1e9
_MAX_AGE = re.compile(r"[0-9]{1,9}", re.ASCII)
_MOST = 2048
UNKNOWN_CLIENT = "This link names an app that is not known here."


class AuthorizationRequest(NamedTuple):
    """A request that may be put to a person."""

    client_id: str
    redirect_uri: str
    scope: str
    state: str
    challenge: str
    audience: str
    nonce: str
    within_s: float
    """How long ago the person may have signed in (OpenID Connect Core 3.1.2.1: `max_age`, `prompt=login`)."""
    jkt: str
    """Thumbprint of the key that the code is for alone (RFC 9449 section 10), empty where none is named."""


class BadRequestError(GarrisonError):
    """The request cannot be answered by redirect: `detail` says why, to a person, and `code` to the log."""


class RefusedError(GarrisonError):
    """The client is told `code` and `detail` (RFC 6749 section 4.1.2.1) at its redirect URI."""

    def __init__(self, code: str, detail: str, redirect_uri: str, state: str) -> None:
        super().__init__(code, detail)
        self.redirect_uri = redirect_uri
        self.state = state


def checked_request(given: Mapping[str, str], client: Client | None) -> AuthorizationRequest:
    """Return the request. Raises BadRequestError, RefusedError."""
    if client is None or client.status != "active":
        raise BadRequestError("unknown_client", UNKNOWN_CLIENT)
    redirect_uri = given.get("redirect_uri", "")
    if not any(is_same_redirect(redirect_uri, one) for one in client.redirect_uris):
        text = "This link would send you back to an address that the app has not registered."
        raise BadRequestError("unknown_redirect_uri", text)
    state = given.get("state", "")
    if len(state) > _MOST:
        raise BadRequestError("invalid_request", "This link is too long.")

    def refuse(code: str, detail: str) -> RefusedError:
        return RefusedError(code, detail, redirect_uri, state)

    if "authorization_code" not in client.grants:
        raise refuse("unauthorized_client", NOT_GRANTED)
    if given.get("response_type") != "code":
        raise refuse("unsupported_response_type", "response_type is code")
    for name in ("request", "request_uri"):
        if name in given:
            raise refuse(f"{name}_not_supported", "request objects are not taken; use /oauth/par")
    if given.get("response_mode", "query") != "query":
        raise refuse("invalid_request", "response_mode is query")
    challenge, jkt = given.get("code_challenge", ""), given.get("dpop_jkt", "")
    if given.get("code_challenge_method") != "S256" or _SHA256.fullmatch(challenge) is None:
        raise refuse("invalid_request", "PKCE is needed: code_challenge, with code_challenge_method=S256")
    if jkt and _SHA256.fullmatch(jkt) is None:
        raise refuse("invalid_request", "dpop_jkt is no thumbprint")
    asked = set(given.get("scope", "").split())
    if asked - set(client.scopes) - IDENTITY_SCOPES:
        raise refuse("invalid_scope", NOT_ITS_SCOPE)
    targets = {one for one in (given.get("resource", ""), given.get("audience", "")) if one}
    if len(targets) > 1 or targets - set(client.audiences) or not client.audiences:
        raise refuse("invalid_target", NOT_ITS_AUDIENCE if client.audiences else NO_AUDIENCE)
    nonce = given.get("nonce", "")
    max_age, prompts = given.get("max_age", ""), given.get("prompt", "").split()
    if (
        len(nonce) > 512
        or not is_storable(nonce)
        or (max_age and _MAX_AGE.fullmatch(max_age) is None)
        or ("none" in prompts and prompts[1:])
    ):
        raise refuse("invalid_request", "nonce, max_age or prompt is not one that is taken")
    within_s = 0.0 if "login" in prompts else float(max_age or _ANY_AGE_S)
    audience = targets.pop() if targets else client.audiences[0]
    scope = " ".join(sorted(asked))
    return AuthorizationRequest(client.id, redirect_uri, scope, state, challenge, audience, nonce, within_s, jkt)


def is_same_redirect(given: str, registered: str) -> bool:
    """Say whether this is the registered URI: every byte the same, but the port of a loopback one (RFC 8252 7.3)."""
    if given == registered:
        return bool(given)
    if not given.isascii() or not given.isprintable() or "#" in given or "\\" in given:
        return False
    try:
        one, other = urlsplit(given), urlsplit(registered)
        port = one.port
    except ValueError:
        return False
    if one.scheme != "http" or port == 0 or not is_loopback(one.hostname or ""):
        return False
    bare = f"http://{_host(one.hostname or '')}"
    return (
        other.hostname == one.hostname
        and one.username is None
        and given == (bare if port is None else f"{bare}:{port}") + _rest(given)
        and _rest(given) == _rest(registered)
        and other.scheme == "http"
    )


def back_to(redirect_uri: str, parameters: Mapping[str, str]) -> str:
    """Return where the browser goes: the redirect URI with parameters behind whatever query it has."""
    return redirect_uri + ("&" if "?" in redirect_uri else "?") + urlencode(parameters)


def _host(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def _rest(uri: str) -> str:
    """Return path and query as they are written."""
    authority = uri.partition("://")[2]
    ends = [at for at in (authority.find("/"), authority.find("?")) if at >= 0]
    return authority[min(ends) :] if ends else ""
