"""How tokens go out: the token answer (RFC 6749 section 5.1) and the refresh cookie of `mixed`."""

from typing import Any

from garrison.identity.sessions.carriers import CookieNames
from garrison.identity.tokens.service import Issued
from garrison.wire.answer import Header
from garrison.wire.call import Call
from garrison.wire.cookies import set_cookie


def token_document(issued: Issued, *, device_token: str | None = None) -> dict[str, Any]:
    """Return the token answer; `device_token` where the client is to keep one."""
    document: dict[str, Any] = {
        "access_token": issued.access_token,
        "token_type": issued.token_type,
        "expires_in": issued.expires_in,
        "refresh_token": issued.refresh_token,
        "scope": issued.scope,
    }
    if device_token is not None:
        document["device_token"] = device_token
    return document


def refresh_cookie(call: Call, issued: Issued, names: CookieNames) -> Header:
    """Return the cookie that only `/auth/refresh` gets, beside the endpoint that answers `call`."""
    path = call.path.rpartition("/")[0] + "/refresh"
    return set_cookie(
        names.refresh,
        issued.refresh_token,
        max_age_s=issued.refresh_expires_in,
        secure=names.secure,
        path=path,
        same_site="Strict",
    )
