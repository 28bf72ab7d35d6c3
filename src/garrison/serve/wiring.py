"""What there is, in lists: services, authenticators, endpoints, tables to sweep. A new capability is a line here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from garrison.core.clock import Clock
from garrison.core.sealing import Sealer
from garrison.guard.authenticate import Authenticator
from garrison.guard.endpoint import Endpoint
from garrison.guard.limiter import Limits
from garrison.guard.revocation import RevocationView
from garrison.identity.accounts.routes import account_endpoints
from garrison.identity.accounts.service import AccountService
from garrison.identity.basic.authenticator import BasicAuthenticator
from garrison.identity.changes import Changes
from garrison.identity.clients.document import is_developers
from garrison.identity.clients.documents import ClientDocuments
from garrison.identity.clients.fetch import DocumentFetcher
from garrison.identity.clients.routes import client_endpoints
from garrison.identity.clients.service import ClientService
from garrison.identity.devices.model import devices
from garrison.identity.issuers.fetch import fetch
from garrison.identity.issuers.service import IssuerService
from garrison.identity.issuers.verifier import ForeignTokens
from garrison.identity.keys.authenticator import KeyAuthenticator
from garrison.identity.keys.routes import key_endpoints
from garrison.identity.keys.service import KeyService
from garrison.identity.oauth.assertions import Assertions, used_assertions
from garrison.identity.oauth.authorize import AuthorizeEndpoint
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.codes import codes
from garrison.identity.oauth.device import DeviceEndpoints
from garrison.identity.oauth.device_codes import device_codes
from garrison.identity.oauth.exchange import TokenExchange
from garrison.identity.oauth.grants import Grants
from garrison.identity.oauth.in_force import OwnTokens
from garrison.identity.oauth.known_clients import KnownClients
from garrison.identity.oauth.metadata import metadata_endpoints
from garrison.identity.oauth.par import par_endpoint
from garrison.identity.oauth.person import PersonSignIn
from garrison.identity.oauth.revocation import RevocationService, revocation_endpoints
from garrison.identity.oauth.revoked import revoked_tokens
from garrison.identity.oauth.token import TokenEndpoint
from garrison.identity.oauth.userinfo import userinfo_endpoints
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.passwords.pool import HashPool
from garrison.identity.passwords.routes import password_endpoints
from garrison.identity.passwords.service import PasswordService
from garrison.identity.providers.remote import RemoteProvider
from garrison.identity.providers.routes import provider_endpoints
from garrison.identity.providers.service import ProviderService
from garrison.identity.restored import RestoredService
from garrison.identity.sessions.authenticator import CookieAuthenticator
from garrison.identity.sessions.cache import ScopesOf, SessionCache
from garrison.identity.sessions.kept import KeptSessions
from garrison.identity.sessions.model import sessions
from garrison.identity.sessions.routes import session_endpoints
from garrison.identity.sessions.service import SessionService
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.password_check import PasswordCheck
from garrison.identity.sign_in.routes import sign_in_endpoints
from garrison.identity.sign_in.service import SignInService
from garrison.identity.sign_in.throttle import Throttle
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.routes import signing_endpoints
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.authenticator import AccessTokenAuthenticator
from garrison.identity.tokens.cookie import JwtCookieAuthenticator
from garrison.identity.tokens.dpop import Proofs
from garrison.identity.tokens.model import refresh_tokens
from garrison.identity.tokens.routes import token_endpoints
from garrison.identity.tokens.service import TokenService
from garrison.policy.rules import public
from garrison.store.database import Database
from garrison.store.sweeper import Sweep
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

SWEPT = (
    Sweep(sessions, "idle_until"),
    Sweep(devices, "expires_at"),
    Sweep(refresh_tokens, "expires_at"),
    Sweep(revoked_tokens, "expires_at"),
    Sweep(codes, "expires_at"),
    Sweep(used_assertions, "expires_at"),
    Sweep(device_codes, "expires_at"),
)
"""Tables of identity whose rows expire. A session is idle by its absolute end at the latest."""

ASSERTED_TO = ("/oauth/token", "/oauth/par", "/oauth/device", "/oauth/introspect", "/oauth/revoke")
"""Endpoints that a client's assertion may be made for, beside the issuer."""

OWN_PATHS = (
    "/auth/sign-up",
    "/auth/sign-in",
    "/auth/session",
    "/auth/sessions",
    "/auth/sessions/{id}",
    "/auth/refresh",
    "/auth/keys",
    "/auth/keys/{id}",
    "/auth/keys/{id}/rotate",
    "/auth/clients",
    "/auth/clients/{id}",
    "/auth/clients/{id}/rotate",
    "/auth/sign-out",
    "/auth/sign-out-everywhere",
    "/auth/password/change",
    "/auth/providers/{name}/start",
    "/auth/providers/{name}/callback",
    "/auth/openapi.json",
    "/oauth/authorize",
    "/oauth/device",
    "/oauth/device/verify",
    "/oauth/par",
    "/oauth/token",
    "/oauth/userinfo",
    "/oauth/revoke",
    "/oauth/introspect",
    "/.well-known/jwks.json",
    "/.well-known/oauth-authorization-server",
    "/.well-known/openid-configuration",
    "/.well-known/oauth-protected-resource",
    "/health/live",
    "/health/ready",
)
"""Every path we serve, for `check`, which opens nothing; a test holds it against the endpoints."""


@dataclass(frozen=True, slots=True)
class Identity:
    """The identity part of one process."""

    accounts: AccountService
    sessions: SessionService
    cache: SessionCache
    passwords: Passwords
    signing: SigningService
    tokens: TokenService
    clients: ClientService
    keys: KeyService
    issuers: IssuerService
    restored: RestoredService
    foreign: ForeignTokens
    keyring: Keyring
    authenticators: tuple[Authenticator, ...]
    endpoints: tuple[Endpoint, ...]
    audience: str
    """What the app's own tokens are for."""


def wire_identity(
    database: Database,
    clock: Clock,
    view: RevocationView,
    sealer: Sealer,
    settings: IdentitySettings,
    scopes_of: ScopesOf,
    limits: Limits,
    *,
    prefix: str = "",
    tell: Callable[[], None] | None = None,
    kept: KeptSessions | None = None,
) -> Identity:
    """Put the identity part together. `tell` says to other processes that there is news; see `Changes`."""
    pool = HashPool(threads=settings.hash_threads, queue=settings.hash_queue, timeout_s=settings.hash_queue_timeout_s)
    passwords = Passwords(settings.password_cost, pool)
    changes = Changes(database, clock, view, tell)
    check = PasswordCheck(database, clock, passwords, Throttle(sealer, settings), settings)
    accounts = AccountService(changes, database, clock, passwords)
    session_service = SessionService(changes, database, clock, settings, kept)
    keyring = Keyring(sealer, settings)
    proofs, proofs_of_tokens = Proofs(leeway_s=settings.leeway_s), Proofs(leeway_s=settings.leeway_s)
    signing = SigningService(changes, database, clock, sealer, keyring, settings)
    tokens = TokenService(changes, database, clock, keyring, signing, scopes_of, settings)
    sign_in = SignInService(changes, check, session_service, tokens, settings)
    password_service = PasswordService(changes, database, passwords, check)
    cache = SessionCache(database, view, scopes_of, settings, kept)
    clients = ClientService(changes, database, clock)
    known = KnownClients(clients, database, _client_documents(clock, settings))

    keys = KeyService(changes, database, scopes_of)
    basic = (BasicAuthenticator(cache, check, changes, scopes_of, settings),) if settings.basic else ()
    grants = Grants(changes, session_service, tokens, keyring, clock, settings)
    authentication = ClientAuthentication(
        known,
        Assertions(changes, settings, tuple(prefix + path for path in ASSERTED_TO)),
        limits.limiter(settings.limit_oauth_token, name="client", share=settings.share),
        limits.limiter(settings.limit_oauth_token_failed, name="client failed", share=settings.share),
    )
    people = PersonSignIn(sign_in, tokens, settings)
    authorize = AuthorizeEndpoint(known, people, changes, sealer, settings)
    device = DeviceEndpoints(
        authentication,
        clients,
        people,
        changes,
        database,
        sealer,
        clock,
        settings,
        looks=limits.limiter(settings.limit_user_codes, name="user code", share=settings.share),
        path=prefix + "/oauth/device",
    )
    own = OwnTokens(database, keyring, signing, clock, scopes_of, settings)
    exchange = TokenExchange(own, keyring, signing, clock, settings)
    token_endpoint = TokenEndpoint(authentication, keyring, signing, clock, settings, proofs, grants, exchange)
    foreign = ForeignTokens(settings.foreign_issuers, fetch, database, clock, view, leeway_s=settings.leeway_s)
    remote = {one.name: RemoteProvider(one, clock, leeway_s=settings.leeway_s) for one in settings.providers}
    arrivals = ProviderService(changes, session_service, settings)
    keyring.listen(cache.forget)
    view.listen(signing.hear)
    return Identity(
        accounts=accounts,
        sessions=session_service,
        cache=cache,
        passwords=passwords,
        signing=signing,
        tokens=tokens,
        clients=clients,
        keys=keys,
        issuers=IssuerService(changes, database, settings.foreign_issuers),
        restored=RestoredService(changes, signing),
        foreign=foreign,
        keyring=keyring,
        authenticators=(
            AccessTokenAuthenticator(cache, keyring, signing, tokens, foreign, proofs_of_tokens, settings),
            KeyAuthenticator(cache, scopes_of, limits, settings),
            *basic,
            JwtCookieAuthenticator(cache, keyring, signing, tokens, settings)
            if settings.session_format == "jwt"
            else CookieAuthenticator(cache, development=settings.development),
        ),
        endpoints=(
            *account_endpoints(accounts, settings),
            *sign_in_endpoints(sign_in, tokens, proofs, settings),
            *token_endpoints(tokens, proofs, settings),
            *session_endpoints(session_service, settings),
            *password_endpoints(password_service, settings),
            *signing_endpoints(signing, keyring, settings),
            *key_endpoints(keys),
            *client_endpoints(clients),
            token_endpoint.endpoint(),
            *authorize.endpoints(),
            *device.endpoints(),
            par_endpoint(authentication, proofs, sealer, clock, settings),
            *userinfo_endpoints(),
            *revocation_endpoints(authentication, RevocationService(changes), own, settings),
            *metadata_endpoints(
                settings,
                {
                    "authorization_endpoint": prefix + "/oauth/authorize",
                    "pushed_authorization_request_endpoint": prefix + "/oauth/par",
                    "device_authorization_endpoint": prefix + "/oauth/device",
                    "token_endpoint": prefix + "/oauth/token",
                    "userinfo_endpoint": prefix + "/oauth/userinfo",
                    "revocation_endpoint": prefix + "/oauth/revoke",
                    "introspection_endpoint": prefix + "/oauth/introspect",
                },
            ),
            *provider_endpoints(remote, arrivals, tokens, sealer, settings),
        ),
        audience=settings.audience or settings.issuer,
    )


def _client_documents(clock: Clock, settings: IdentitySettings) -> ClientDocuments | None:
    if not settings.client_documents:
        return None
    host = urlsplit(settings.issuer).hostname or ""
    return ClientDocuments(
        DocumentFetcher(),
        clock,
        scopes=settings.client_document_scopes,
        audience=settings.audience or settings.issuer,
        development=is_developers(host, development=settings.development),
        share=settings.share,
    )


def openapi_endpoint(document: Callable[[], Mapping[str, Any]]) -> Endpoint:
    """Return the endpoint that serves our own OpenAPI document, made at its first call."""
    made: list[Mapping[str, Any]] = []

    async def show(_call: Call, _body: None) -> Answer:
        if not made:
            made.append(document())
        return json_answer(200, made[0])

    return Endpoint("GET", "/auth/openapi.json", public, show, "This document", in_openapi=False)
