"""How a guarded app starts: settings ▸ inventory and decisions ▸ store ▸ identity ▸ plans ▸ lock ▸ chain.

All mistakes are told at once. What runs afterwards is `runtime.py`.
"""

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from garrison.core.errors import StoreError
from garrison.guard.arrival import arrival_layer
from garrison.guard.audit import Refusals
from garrison.guard.bounds import bounds_layer
from garrison.guard.chain import Chain
from garrison.guard.cors import cors_layer
from garrison.guard.endpoint import Endpoint
from garrison.guard.failures import log_failure
from garrison.guard.host import host_layer
from garrison.guard.https import https_layer
from garrison.guard.limit_table import LimitTable
from garrison.guard.limiter import Limits
from garrison.guard.limits import address_layer, api_limit_check, endpoint_limit, route_limit
from garrison.guard.plan import Planner
from garrison.guard.proxies import proxies_layer
from garrison.guard.routing import routing_layer
from garrison.guard.shared_limits import SharedLimits
from garrison.guard.streams import Streams
from garrison.identity.sessions.cache import ScopesOf
from garrison.identity.sessions.kept import KeptSessions
from garrison.policy.decide import Decision, scopes_by_role
from garrison.policy.inventory import Route
from garrison.policy.match import Matcher
from garrison.serve.frameworks import Adapter
from garrison.serve.health import health_endpoints
from garrison.serve.openapi import identity_document
from garrison.serve.plans import inspect_app, own_path, refuse, with_own
from garrison.serve.review import SIGN_UP_TELLS, review_of
from garrison.serve.runtime import Runtime, Store
from garrison.serve.settings import Settings, load_settings
from garrison.serve.wiring import OWN_PATHS, Identity, openapi_endpoint, wire_identity
from garrison.store.redis_news import RedisNews
from garrison.wire.answer import Scope
from garrison.wire.call import Call

if TYPE_CHECKING:
    from garrison.serve.garrison import Garrison

_log = structlog.get_logger("garrison")
L = TypeVar("L")
_COPIED = (
    "this database was copied here from another place: whatever was revoked since may be alive in it. Run `garrison"
    " restored`, which ends all sessions, tokens and keys; if the servers were stopped before the copy was taken,"
    " `garrison restored --complete`, which ends nothing"
)
_NEVER = re.compile(r"(?!)")


def start(garrison: "Garrison") -> Runtime:
    """Read settings, routes and policy, open the store. Raises PolicyError, SettingsError, StoreError."""
    adapter = garrison.adapter
    if adapter is None:
        raise StoreError("store_unavailable", "protect an app first")
    settings = garrison.settings if garrison.settings is not None else load_settings()
    return _Start(garrison, adapter, settings).runtime()


class _Start:
    """The steps of a start, in order; what they share."""

    def __init__(self, garrison: "Garrison", adapter: Adapter, settings: Settings) -> None:
        self._adapter = adapter
        self._policy = garrison.policy
        self._prefix = garrison.prefix
        self._stand_in = garrison.stand_in
        self._garrison = garrison
        self._behind_edge = garrison.behind_edge
        self._settings = settings
        self._guard = settings.guard()
        self._refusals = Refusals()
        self._running: Runtime | None = None

    def runtime(self) -> Runtime:
        settings, guard, adapter = self._settings, self._guard, self._adapter
        own_paths = [own_path(path, self._prefix) for path in OWN_PATHS]
        inspected = inspect_app(adapter, self._policy, own_paths, docs=settings.development)
        refuse(inspected, undecided_may_start=settings.undecided == "deny")
        rules = [decision.rule for decision in inspected.decisions.all() if decision.rule is not None]
        adapter.prepare(inspected.decisions, development=settings.development, basic=settings.basic)
        store = Store(settings)
        streams = Streams(store.view, self._hear)
        shared = _shared_limits(settings, store)
        told = None if shared is None else RedisNews(shared.redis)
        identity = wire_identity(
            store.database,
            store.clock,
            store.view,
            store.sealer,
            settings.identity(),
            scopes_function(scopes_by_role(self._policy, rules)),
            LimitTable() if shared is None else shared,
            prefix=self._prefix,
            tell=None if told is None else told.tell,
            kept=_kept_sessions(settings, shared, store),
        )
        identity.keyring.listen(streams.end_keys)
        endpoints = self._endpoints(identity)
        root, decisions, own = with_own(inspected, endpoints, self._prefix)
        limits: Limits = LimitTable() if shared is None else shared
        planner = Planner(
            guard,
            identity.authenticators,
            api_limit=api_limit_check(guard, limits),
            route_limit=route_limit(guard, limits),
            endpoint_limit=endpoint_limit(guard, limits),
            owner_failed=lambda call, error: log_failure("owner_check_failed", call, error, code="owner_check_failed"),
            stand_in=self._stand_in,
        )
        for decision in decisions.all():
            decision.plan = _plan(planner, decision, own.get(decision))
        late = Decision(Route("(added after start)", "http", _NEVER, None), "*", None, "added after start")
        late.plan = planner.of_route(None, method="POST", websocket=False)
        adapter.lock(self._on_lock_refusal)
        before = (
            host_layer(guard),
            https_layer(guard),
            None if self._behind_edge else bounds_layer(guard),
            address_layer(guard, limits),
            cors_layer(guard),
            routing_layer(
                Matcher(root, decisions),
                root_path=adapter.root_path,
                has_late=adapter.has_late,
                late=late,
                redirect=planner.of_redirect(),
            ),
        )
        chain = Chain(
            arrival=_those_there((arrival_layer(store.clock), proxies_layer(guard))),
            before=_those_there(before),
            infrastructure={own_path(one.path, self._prefix): one for one in endpoints if one.infrastructure},
            default_headers=planner.private_headers,
            streams=streams,
            refusals=self._refusals,
        )
        self._running = Runtime(settings, store, identity, chain, streams, self._refusals, shared, told)
        self._say(settings, store)
        return self._running

    def _endpoints(self, identity: Identity) -> tuple[Endpoint, ...]:
        endpoints = (
            *identity.endpoints,
            *health_endpoints(self._ready, self._guard.health_networks),
        )

        def document() -> Mapping[str, Any]:
            return identity_document(
                endpoints,
                prefix=self._prefix,
                server=self._settings.issuer_url.rstrip("/"),
                version=version("garrison"),
                basic=self._settings.basic,
            )

        return (*endpoints, openapi_endpoint(document))

    async def _hear(self) -> None:
        if self._running is not None:
            await self._running.hear()

    async def _ready(self) -> Mapping[str, bool]:
        if self._running is None:
            return {"store": False}
        return {**await self._running.ready(), "serving": not self._garrison.is_draining}

    def _on_lock_refusal(self, scope: Scope, name: str) -> None:
        call = scope.get("garrison")
        if isinstance(call, Call):
            self._refusals.note(call, "second_lock", 403)
        _log.error("second_lock", element=name, method=scope.get("method", "WS"))

    def _say(self, settings: Settings, store: Store) -> None:
        if store.is_copy:
            _log.error("database_copied", detail=_COPIED)
        if not self._behind_edge and review_of(settings).tells:  # `garrison serve` says it once for all workers
            _log.info(SIGN_UP_TELLS)


def _shared_limits(settings: Settings, store: Store) -> SharedLimits | None:
    address = settings.redis_address()
    if address is None:
        return None
    keeps_sessions = settings.session_store == "redis"
    return SharedLimits(address, store.sealer, lease=settings.limit_lease, keeps_sessions=keeps_sessions)


def _kept_sessions(settings: Settings, shared: SharedLimits | None, store: Store) -> KeptSessions | None:
    return (
        KeptSessions(shared.redis, store.sealer) if shared is not None and settings.session_store == "redis" else None
    )


def _those_there(layers: Iterable[L | None]) -> list[L]:
    return [layer for layer in layers if layer is not None]


def _plan(planner: Planner, decision: Decision, endpoint: Endpoint | None) -> Any:
    if endpoint is not None:
        return planner.of_endpoint(endpoint)
    route = decision.route
    return planner.of_route(decision.rule, method=decision.method, websocket=route.kind == "websocket", docs=route.docs)


def scopes_function(by_role: Mapping[str, frozenset[str]]) -> ScopesOf:
    """Return roles → scopes, remembered."""
    known: dict[frozenset[str], frozenset[str]] = {}

    def scopes_of(roles: frozenset[str]) -> frozenset[str]:
        found = known.get(roles)
        if found is None:
            found = frozenset(scope for role in roles for scope in by_role.get(role, ()))
            if len(known) < 1024:
                known[roles] = found
        return found

    return scopes_of
