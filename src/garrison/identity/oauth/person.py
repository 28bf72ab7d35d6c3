"""The person at a page of ours: signed in by cookie, lately; or signing in there, by the same rules as anywhere.

Pages are forms without JavaScript. A form is read strictly: nothing comes twice.
"""

from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from garrison.core.errors import Denied, GarrisonError
from garrison.core.network import bucket
from garrison.identity.oauth.request import BadRequestError
from garrison.identity.origins import origin_of
from garrison.identity.sessions.cache import SessionEntry
from garrison.identity.sessions.carriers import CookieNames, cookie_names
from garrison.identity.sessions.client import describe_client
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.service import Attempt, SignInService
from garrison.identity.tokens.service import TokenService
from garrison.wire.answer import Header
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie, set_cookie

FRESH_S = 300.0
"""How old the newest factor may be when somebody consents: an XSS on the same origin could act in an older session."""
_MOST_PARAMETERS = 50
_FORM = b"application/x-www-form-urlencoded"


class NotSignedInError(GarrisonError):
    """The sign-in failed: `detail` says so, to a person, and is the same for every reason that must not be told."""


class PersonSignIn:
    """The step of a page in which somebody signs in."""

    def __init__(self, sign_in: SignInService, tokens: TokenService, settings: IdentitySettings) -> None:
        self._sign_in = sign_in
        self._tokens = tokens
        self._settings = settings

    async def sign_in(self, call: Call, form: Mapping[str, str], names: CookieNames) -> Sequence[Header]:
        """Return the cookies of the new session. Raises NotSignedInError, StoreError."""
        settings = self._settings
        attempt = Attempt(
            peer=call.peer,
            carrier="cookie",
            device_secret=find_cookie(call.header(b"cookie"), names.device),
            replaces=call.credential.session_id if isinstance(call.credential, SessionEntry) else None,
            client=describe_client(call.header(b"user-agent")),
            network=bucket(call.peer, v4_prefix=24, v6_prefix=64),
            origin=origin_of(call),
        )
        email, password = form.get("email", ""), form.get("password", "")
        try:
            if not email or not password or len(password.encode()) > 1024 or len(email) > 1024:
                raise Denied("invalid_credentials")
            arrived = await self._sign_in.sign_in(email, password, attempt)
        except Denied as denied:
            told = {
                "invalid_credentials": "That is not right; try again.",
                "rate_limited": "Too many tries; wait some minutes.",
            }.get(denied.code, "Too busy at the moment; try again.")
            raise NotSignedInError(denied.code, told) from None
        value = arrived.session.secret
        if settings.session_format == "jwt":
            value = await self._tokens.cookie(arrived.session.id, arrived.account_id, arrived.session.expires_at)
        return (
            set_cookie(names.session, value, max_age_s=int(settings.session_max_s), secure=names.secure),
            set_cookie(
                names.device, arrived.device_secret, max_age_s=int(settings.device_lifetime_s), secure=names.secure
            ),
        )


def signed_in_lately(call: Call, *, within_s: float = FRESH_S) -> SessionEntry | None:
    """Return the session of whoever is signed in by cookie and proved it lately, None for anybody else.

    `within_s` may ask for less than `FRESH_S`, never for more.
    """
    entry = call.credential
    if not isinstance(entry, SessionEntry) or entry.principal.via != "session" or entry.principal.delegated:
        return None
    return entry if call.now - entry.principal.proved_at <= min(within_s, FRESH_S) else None


def posted(call: Call, body: bytes, *, development: bool) -> tuple[Mapping[str, str], CookieNames]:
    """Return the form that a page of ours sent, and the cookie names of this request. Raises BadRequestError."""
    names = cookie_names(call, development=development)
    if names is None or call.header(b"content-type").partition(b";")[0].strip().lower() != _FORM:
        raise BadRequestError("bad_body", "This page cannot be sent like that.")
    return read_link(body.decode("ascii", "replace")), names


def read_link(text: str) -> dict[str, str]:
    """Return the parameters of a query or form, empty ones left out. Raises BadRequestError if one comes twice."""
    try:
        pairs = [
            (name, value)
            for name, value in parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
            if value
        ]
    except ValueError:
        raise BadRequestError("invalid_request", "This link cannot be read.") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequestError("invalid_request", "This link says the same thing twice.")
    return found
