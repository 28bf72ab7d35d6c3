"""The device grant (RFC 8628): what has no browser shows a code, which a person types where there is one.

    POST /oauth/device          a client asks: a code for itself, a code for a person
    GET  /oauth/device          the person: signed in lately? ▸ the page that asks for the code, else sign-in
    POST /oauth/device/verify   sign-in  ▸ back to GET
                                code     ▸ the page that asks whether the client may
                                decide   ▸ kept for the device, which asks at the token endpoint (`grants.py`)

A link may bring the code along, and still nobody is asked for a device before having said that this is the code it
shows: a stranger may have sent the link (RFC 8628 section 5.4). Looking a code up is limited by account and by network.
"""

import json
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlencode

from garrison.core.clock import Clock
from garrison.core.errors import Denied, GarrisonError
from garrison.core.ids import digest, new_secret
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.guard.limiter import Limiter, left_of
from garrison.identity.changes import Change, Changes
from garrison.identity.clients.model import Client
from garrison.identity.clients.service import ClientService
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.device_codes import (
    DEVICE_PURPOSE,
    INTERVAL_S,
    LIFETIME_S,
    USER_PURPOSE,
    DeviceState,
    decide_device_code,
    find_by_user_code,
    insert_device_code,
    new_user_code,
    read_user_code,
)
from garrison.identity.oauth.endpoint import client_endpoint
from garrison.identity.oauth.errors import NO_STORE, NOT_GRANTED, OAuthError, error_answer
from garrison.identity.oauth.pages import consent_page, device_page, done_page, error_page, sign_in_page
from garrison.identity.oauth.parameters import Parameters, asked_audience, asked_scope
from garrison.identity.oauth.person import NotSignedInError, PersonSignIn, posted, read_link, signed_in_lately
from garrison.identity.oauth.request import BadRequestError
from garrison.identity.origins import origin_in_session, origin_of
from garrison.identity.sessions.cache import IDENTITY_SCOPES, SessionEntry
from garrison.identity.sessions.carriers import cookie_names
from garrison.identity.settings import IdentitySettings
from garrison.policy.rules import public
from garrison.store.database import Database
from garrison.wire.answer import Answer, empty_answer, json_answer
from garrison.wire.call import Call

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_PLACE = "page/device code"
_RETRY_LATER = ((b"retry-after", b"60"),)
_ASKS = "A device wants to act in your name. Sign in first."
_UNKNOWN = "No device waits with this code. Look again, or begin anew at the device."
_ONCE_MORE = "Sign in once more to decide."
_TOO_MANY = "Too many codes; wait some minutes."


class _Shown(NamedTuple):
    """A consent page that was shown: for which code, to which session. It is good while the code is."""

    user_code: str
    session_id: str


class DeviceEndpoints:
    """The endpoints and what they need; `looks` limits how often a code may be looked up, by account and network."""

    def __init__(
        self,
        authentication: ClientAuthentication,
        clients: ClientService,
        people: PersonSignIn,
        changes: Changes,
        database: Database,
        sealer: Sealer,
        clock: Clock,
        settings: IdentitySettings,
        *,
        looks: Limiter,
        path: str,
    ) -> None:
        self._authentication = authentication
        self._clients = clients
        self._people = people
        self._changes = changes
        self._database = database
        self._sealer = sealer
        self._clock = clock
        self._settings = settings
        self._looks = looks
        self._address = settings.issuer.rstrip("/") + path

    def endpoints(self) -> tuple[Endpoint, ...]:
        """Return them as data."""
        return (
            client_endpoint("/oauth/device", "Begin at a device", self._begin, self._authentication, counts=True),
            Endpoint("GET", "/oauth/device", public, self._ask, "Type a device's code", entry=True, in_openapi=False),
            Endpoint(
                "POST",
                "/oauth/device/verify",
                public,
                self._answered,
                "What the person typed and said",
                entry=True,
                sets_cookie=True,
                is_page=True,
                is_raw=True,
                in_openapi=False,
            ),
        )

    async def _begin(self, call: Call, client: Client, parameters: Parameters) -> Answer:
        if GRANT not in client.grants:
            raise OAuthError("unauthorized_client", NOT_GRANTED)
        scope = asked_scope(client, parameters, beside=IDENTITY_SCOPES)
        audience = asked_audience(client, parameters)
        device_code, user_code = new_secret(), new_user_code()

        def change(change: Change) -> bool:
            return insert_device_code(
                change.connection,
                digest(device_code, purpose=DEVICE_PURPOSE),
                digest(user_code, purpose=USER_PURPOSE),
                client_id=client.id,
                scope=scope,
                audience=audience,
                now=change.now,
            )

        if not await self._changes.make(change, origin_of(call)):
            return error_answer("temporarily_unavailable", 503, headers=_RETRY_LATER)
        document = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": self._address,
            "verification_uri_complete": f"{self._address}?{urlencode({'user_code': user_code})}",
            "expires_in": int(LIFETIME_S),
            "interval": int(INTERVAL_S),
        }
        return json_answer(200, document, NO_STORE)

    async def _ask(self, call: Call, _body: None) -> Answer:
        try:
            given = read_link(call.scope.get("query_string", b"").decode("latin-1"))
        except BadRequestError as error:
            return error_page(error.code, error.detail)
        if cookie_names(call, development=self._settings.development) is None:
            return error_page("https_required", "Signing in needs HTTPS here.")
        user_code, action = read_user_code(given.get("user_code", "")), call.path + "/verify"
        if signed_in_lately(call) is None:
            return sign_in_page(asks=_ASKS, request=user_code, action=action)
        return device_page(user_code=user_code, action=action)

    async def _answered(self, call: Call, body: bytes) -> Answer:
        try:
            form, names = posted(call, body, development=self._settings.development)
            entry, step = signed_in_lately(call), form.get("step")
            if step == "sign-in":
                user_code = read_user_code(form.get("request", ""))
                try:
                    cookies = await self._people.sign_in(call, form, names)
                except NotSignedInError as error:
                    return sign_in_page(
                        asks=_ASKS, request=user_code, action=call.path, told=error.detail, code=error.code
                    )
                query = f"?{urlencode({'user_code': user_code})}" if user_code else ""
                return empty_answer(303, ((b"location", (_page(call) + query).encode()), *cookies))
            if entry is None:
                return _once_more(call)
            if step == "code":
                return await self._looked_up(call, entry, read_user_code(form.get("user_code", "")))
            return await self._decided(call, entry, form)
        except BadRequestError as error:
            return error_page(error.code, error.detail)

    async def _looked_up(self, call: Call, entry: SessionEntry, user_code: str) -> Answer:
        for who in (entry.account_id, call.network):
            if await left_of(self._looks.take(who, call.boot)) < 0.0:
                return device_page(user_code="", action=call.path, told=_TOO_MANY, status=429, code="rate_limited")
        shown, now = digest(user_code, purpose=USER_PURPOSE), self._clock.now()
        found = await self._database.read(lambda connection: find_by_user_code(connection, shown, now=now))
        client = None if found is None else await self._clients.find(found.client_id)
        if found is None or client is None or client.status != "active":
            return device_page(user_code="", action=call.path, told=_UNKNOWN, status=400, code="unknown_user_code")
        page = _Shown(user_code, entry.session_id)
        return consent_page(
            name=client.name,
            email=entry.email,
            scope=found.scope,
            request=self._sealer.seal(json.dumps(page).encode(), place=_PLACE).hex(),
            action=call.path,
            where=f"It is on the device that shows the code {user_code}. Refuse if you do not have it before you.",
        )

    async def _decided(self, call: Call, entry: SessionEntry, form: Mapping[str, str]) -> Answer:
        shown = self._opened(form.get("request", ""))
        if shown.session_id != entry.session_id:
            raise BadRequestError("another_session", "This page was shown to somebody else.")
        state: DeviceState = "allowed" if form.get("decision") == "allow" else "denied"

        def change(change: Change) -> bool:
            noted = decide_device_code(
                change.connection,
                digest(shown.user_code, purpose=USER_PURPOSE),
                state,
                account_id=entry.account_id,
                account_version=entry.account_version,
                proved_at=entry.principal.proved_at,
                now=change.now,
            )
            if noted is not None and state == "allowed":
                change.record("client.consented", noted[0], scope=noted[1])
            return noted is not None

        try:
            is_noted = await self._changes.make(change, origin_in_session(call))
        except Denied:
            return _once_more(call)
        if not is_noted:
            raise BadRequestError("unknown_user_code", _UNKNOWN)
        return done_page("The device may." if state == "allowed" else "The device was refused.")

    def _opened(self, text: str) -> _Shown:
        try:
            return _Shown._make(json.loads(self._sealer.open(bytes.fromhex(text), place=_PLACE)))
        except (ValueError, TypeError, GarrisonError):
            raise BadRequestError("invalid_page", "This page was not made here, or was changed.") from None


def _once_more(call: Call) -> Answer:
    """Return the page for who is not signed in any more."""
    return sign_in_page(asks=_ASKS, request="", action=call.path, told=_ONCE_MORE, code="unauthenticated")


def _page(call: Call) -> str:
    """Return where the page is, from where its forms are sent."""
    return call.path.removesuffix("/verify")
