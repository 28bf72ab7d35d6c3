"""`GET /auth/providers/{name}/start` and `/callback`: to the provider and back, by redirect."""

import hmac
from collections.abc import Mapping
from urllib.parse import parse_qsl

from garrison.core.errors import Denied
from garrison.core.network import bucket
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.identity.origins import origin_of
from garrison.identity.providers.flow import LIFETIME_S, begin, seal, unseal
from garrison.identity.providers.remote import RemoteProvider
from garrison.identity.providers.service import ProviderService
from garrison.identity.sessions.carriers import CookieNames, cookie_names
from garrison.identity.sessions.client import describe_client
from garrison.identity.settings import IdentitySettings
from garrison.identity.tokens.service import TokenService
from garrison.policy.rules import public
from garrison.wire.answer import Answer, empty_answer
from garrison.wire.call import Call
from garrison.wire.cookies import clear_cookie, find_cookie, set_cookie

_MOST_PARAMETERS = 20


def provider_endpoints(
    providers: Mapping[str, RemoteProvider],
    service: ProviderService,
    tokens: TokenService,
    sealer: Sealer,
    settings: IdentitySettings,
) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def start(call: Call, _body: None) -> Answer:
        provider, names = found(call), cookies(call)
        flow = begin(provider.provider.name, parameters(call).get("return_to", "/"), call.now)
        location = await provider.authorize_url(flow, redirect_uri(call))
        cookie = set_cookie(names.flow, seal(flow, sealer), max_age_s=int(LIFETIME_S), secure=names.secure)
        return empty_answer(303, ((b"location", location.encode()), cookie))

    async def callback(call: Call, _body: None) -> Answer:
        provider, names, given = found(call), cookies(call), parameters(call)
        value = find_cookie(call.header(b"cookie"), names.flow)
        flow = None if value is None else unseal(value, sealer, call.now)
        state = given.get("state", "")
        if (
            flow is None
            or flow.provider != provider.provider.name
            or not hmac.compare_digest(state.encode("utf-8", "replace"), flow.state.encode())
        ):
            raise Denied("provider_refused", "this sign-in was not begun in this browser, or too long ago")
        code, named = given.get("code"), given.get("iss")
        must_name = (await provider.endpoints()).sends_issuer
        if (must_name or named is not None) and named != provider.provider.issuer:  # another's answer (RFC 9207)
            raise Denied("provider_refused")
        if not code or "error" in given:
            raise Denied("provider_refused")
        person = await provider.person(flow, code, redirect_uri(call))
        arrived = await service.sign_in(
            person,
            client=describe_client(call.header(b"user-agent")),
            network=bucket(call.peer, v4_prefix=24, v6_prefix=64),
            origin=origin_of(call),
        )
        session = arrived.session
        secret = session.secret
        if settings.session_format == "jwt":
            secret = await tokens.cookie(session.id, arrived.account_id, session.expires_at)
        headers = (
            (b"location", flow.return_to.encode()),
            set_cookie(names.session, secret, max_age_s=int(settings.session_max_s), secure=names.secure),
            set_cookie(
                names.device, arrived.device_secret, max_age_s=int(settings.device_lifetime_s), secure=names.secure
            ),
            clear_cookie(names.flow, secure=names.secure),
        )
        return empty_answer(303, headers)

    def found(call: Call) -> RemoteProvider:
        provider = providers.get(call.params["name"])
        if provider is None:
            raise Denied("not_found")
        return provider

    def cookies(call: Call) -> CookieNames:
        names = cookie_names(call, development=settings.development)
        if names is None:
            raise Denied("https_required", "signing in with a provider needs cookies, and so HTTPS")
        return names

    def parameters(call: Call) -> dict[str, str]:
        """Return the query's parameters. Raises Denied(`bad_request`) for one that comes twice, or too many."""
        try:
            pairs = parse_qsl(
                call.scope.get("query_string", b"").decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=_MOST_PARAMETERS,
            )
        except ValueError:
            raise Denied("bad_request") from None
        given = dict(pairs)
        if len(given) != len(pairs):
            raise Denied("bad_request", "a parameter came twice")
        return given

    def redirect_uri(call: Call) -> str:
        """From ISSUER, never from the Host header (CWE-644)."""
        return settings.issuer.rstrip("/") + call.path.rpartition("/")[0] + "/callback"

    name = {"name": "Name of the provider, as configured"}
    errors = frozenset({"not_found", "issuer_unavailable", "https_required"})
    return (
        Endpoint(
            "GET",
            "/auth/providers/{name}/start",
            public,
            start,
            "Go to a provider to sign in; `return_to` is a path to come back to",
            entry=True,
            status=303,
            errors=errors,
            path_parameters=name,
        ),
        Endpoint(
            "GET",
            "/auth/providers/{name}/callback",
            public,
            callback,
            "Come back from a provider, signed in",
            entry=True,
            status=303,
            errors=errors | {"provider_refused", "invalid_credentials"},
            path_parameters=name,
        ),
    )
