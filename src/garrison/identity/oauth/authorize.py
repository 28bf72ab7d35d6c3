"""`/oauth/authorize`: a person says whether a client may act in their name (RFC 6749 4.1, RFC 9207, OIDC Core 3.1).

    GET    request checked ▸ signed in by cookie, a factor at most five minutes old? ▸ the consent page, else sign-in
    POST   sign-in: a password, as at `/auth/sign-in`, then back to GET
           decide: a code for the client, or `access_denied`

What is asked stands sealed in the page, bound to the session that sees it: what is posted is what was shown, by whom it
was shown to. The cross-site check runs for every POST; pages may not be framed.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from garrison.core.errors import Denied, GarrisonError
from garrison.core.ids import digest, new_secret
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.identity.changes import Change, Changes
from garrison.identity.clients.document import is_document_id
from garrison.identity.clients.documents import DocumentUnavailableError
from garrison.identity.clients.model import Client
from garrison.identity.clients.queries import is_active
from garrison.identity.oauth.codes import LIFETIME_S, PURPOSE, Code, insert_code
from garrison.identity.oauth.known_clients import KnownClients
from garrison.identity.oauth.pages import consent_page, error_page, refused_page, sign_in_page
from garrison.identity.oauth.par import URN, push_request, pushed_request
from garrison.identity.oauth.person import NotSignedInError, PersonSignIn, posted, read_link, signed_in_lately
from garrison.identity.oauth.request import (
    UNKNOWN_CLIENT,
    AuthorizationRequest,
    BadRequestError,
    RefusedError,
    back_to,
    checked_request,
)
from garrison.identity.origins import origin_in_session
from garrison.identity.sessions.cache import SessionEntry
from garrison.identity.sessions.carriers import CookieNames, cookie_names
from garrison.identity.settings import IdentitySettings
from garrison.policy.rules import public
from garrison.wire.answer import Answer, Header, empty_answer
from garrison.wire.call import Call

SHOWN_FOR_S = 600.0
_ANSWERED_BY_SIGN_IN = frozenset({"max_age", "prompt"})
_PLACE = "page/authorization request"
_ONCE_MORE = "Sign in once more to decide."
_NO_PAGE = "without a page (prompt=none) nobody can say yes"


class Shown(NamedTuple):
    """A page that was shown: the request, to which session (empty before sign-in), until when, by which parameters.

    `name` is who asks, `calls_itself` what it says its name is.
    """

    request: AuthorizationRequest
    session_id: str
    until: float
    given: Mapping[str, str]
    name: str
    calls_itself: str


class AuthorizeEndpoint:
    """The endpoint and what it needs."""

    def __init__(
        self,
        clients: KnownClients,
        people: PersonSignIn,
        changes: Changes,
        sealer: Sealer,
        settings: IdentitySettings,
    ) -> None:
        self._clients = clients
        self._people = people
        self._changes = changes
        self._sealer = sealer
        self._settings = settings

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return it as data."""
        path = "/oauth/authorize"
        return (
            Endpoint("GET", path, public, self._ask, "Ask a person for a client", entry=True, in_openapi=False),
            Endpoint(
                "POST",
                path,
                public,
                self._answered,
                "What the person said",
                entry=True,
                sets_cookie=True,
                is_page=True,
                is_raw=True,
                in_openapi=False,
            ),
        )

    async def _ask(self, call: Call, _body: None) -> Answer:
        client = None
        try:
            given: Mapping[str, str] = read_link(call.scope.get("query_string", b"").decode("latin-1"))
            if given.get("request_uri", "").startswith(URN):
                given = pushed_request(given["request_uri"], given.get("client_id", ""), self._sealer, call.now)
            client = await self._clients.asked_by(given.get("client_id", ""), call.network)
            request = checked_request(given, client)
        except BadRequestError as error:
            return error_page(error.code, error.detail)
        except DocumentUnavailableError:
            text = "The app that this link names could not be asked who it is. Try again in a minute."
            return error_page("client_unavailable", text, 503)
        except RefusedError as refused:
            return self._refused(call, client, refused)
        if cookie_names(call, development=self._settings.development) is None:
            return error_page("https_required", "Signing in needs HTTPS here.")
        entry = signed_in_lately(call, within_s=request.within_s)
        if "none" in given.get("prompt", "").split():
            code = "login_required" if entry is None else "consent_required"
            return self._refused(call, client, RefusedError(code, _NO_PAGE, request.redirect_uri, request.state))
        name, calls_itself = ("", "") if client is None else (client.name, client.calls_itself)
        return self._page(call, Shown(request, "", 0.0, given, name, calls_itself), entry)

    def _page(self, call: Call, shown: Shown, entry: SessionEntry | None, told: str = "", code: str = "") -> Answer:
        request, name = shown.request, shown.name
        session_id = "" if entry is None else entry.session_id
        shown = shown._replace(session_id=session_id, until=call.now + SHOWN_FOR_S)
        sealed = self._sealer.seal(json.dumps(shown).encode(), place=_PLACE).hex()
        if entry is None:
            return sign_in_page(
                asks=f"{name} asks to act in your name. Sign in first.",
                request=sealed,
                action=call.path,
                redirect_uri=request.redirect_uri,
                told=told,
                code=code,
            )
        return consent_page(
            name=name,
            calls_itself=shown.calls_itself,
            is_registered=not is_document_id(request.client_id),
            email=entry.email,
            scope=request.scope,
            request=sealed,
            action=call.path,
            where=f"You will be sent back to {urlsplit(request.redirect_uri).netloc}.",
            redirect_uri=request.redirect_uri,
        )

    async def _answered(self, call: Call, body: bytes) -> Answer:
        try:
            form, names = posted(call, body, development=self._settings.development)
            shown = self._opened(form.get("request", ""), call.now)
            if form.get("step") == "sign-in":
                return await self._signed_in(call, form, shown, names)
            return await self._decided(call, form, shown)
        except BadRequestError as error:
            return error_page(error.code, error.detail)

    async def _signed_in(self, call: Call, form: Mapping[str, str], shown: Shown, names: CookieNames) -> Answer:
        try:
            cookies = await self._people.sign_in(call, form, names)
        except NotSignedInError as error:
            return self._page(call, shown, None, error.detail, error.code)
        given = {name: value for name, value in shown.given.items() if name not in _ANSWERED_BY_SIGN_IN}
        link = {"client_id": shown.request.client_id, "request_uri": push_request(given, self._sealer, call.now)}
        return empty_answer(303, ((b"location", f"{call.path}?{urlencode(link)}".encode()), *cookies))

    async def _decided(self, call: Call, form: Mapping[str, str], shown: Shown) -> Answer:
        entry, request = signed_in_lately(call), shown.request
        if entry is None or not shown.session_id or entry.session_id != shown.session_id:
            return self._page(call, shown, None, _ONCE_MORE, "unauthenticated")
        if form.get("decision") != "allow":
            return self._back(request.redirect_uri, {"error": "access_denied", "state": request.state})
        code, is_registered = new_secret(), not is_document_id(request.client_id)

        def change(change: Change) -> bool:
            if is_registered and not is_active(change.connection, request.client_id):
                return False
            kept = Code(
                request.client_id,
                entry.account_id,
                entry.account_version,
                request.redirect_uri,
                request.scope,
                request.audience,
                request.challenge,
                request.nonce,
                entry.principal.proved_at,
                change.now + LIFETIME_S,
                None,
                request.jkt or None,
            )
            insert_code(change.connection, digest(code, purpose=PURPOSE), kept, now=change.now)
            change.record("client.consented", request.client_id, scope=request.scope)
            return True

        try:
            is_kept = await self._changes.make(change, origin_in_session(call))
        except Denied:
            return self._page(call, shown, None, _ONCE_MORE, "unauthenticated")
        if not is_kept:
            raise BadRequestError("unknown_client", UNKNOWN_CLIENT)
        return self._back(request.redirect_uri, {"code": code, "state": request.state})

    def _refused(self, call: Call, client: Client | None, refused: RefusedError) -> Answer:
        """Tell the client of an error that nobody has seen a page before.

        Anybody can be a client with a document, so nobody is sent to one by a link alone (RFC 9700 section 4.11.2).
        """
        call.reason = refused.detail
        parameters = {"error": refused.code, "error_description": refused.detail, "state": refused.state}
        if client is None or is_document_id(client.id):
            location = self._location(refused.redirect_uri, parameters)
            return refused_page(name="" if client is None else client.name, code=refused.code, location=location)
        return replace(self._back(refused.redirect_uri, parameters), code=refused.code)

    def _location(self, redirect_uri: str, parameters: Mapping[str, str]) -> str:
        told = {name: value for name, value in parameters.items() if value}
        return back_to(redirect_uri, {**told, "iss": self._settings.issuer})

    def _back(self, redirect_uri: str, parameters: Mapping[str, str]) -> Answer:
        location = self._location(redirect_uri, parameters)
        headers: tuple[Header, ...] = (
            (b"location", location.encode("ascii", "replace")),
            (b"cache-control", b"no-store"),
        )
        return empty_answer(303, headers)

    def _opened(self, text: str, now: float) -> Shown:
        try:
            raw = json.loads(self._sealer.open(bytes.fromhex(text), place=_PLACE))
            shown = Shown._make(raw)._replace(request=AuthorizationRequest._make(raw[0]))
        except (ValueError, TypeError, GarrisonError):
            raise BadRequestError("invalid_page", "This page was not made here, or was changed.") from None
        if now >= shown.until:
            raise BadRequestError("invalid_page", "This page is too old.")
        return shown
