"""Layers 4 and 9: how often may this address, and this principal (ASVS 5.0 V2.4; OWASP API4; RFC 6585).

By address before anything else is known of the request, IPv6 by /64 and by /48 with 16 times the quota, since whoever
has a /48 has 65,536 networks. By principal once it is known, or address when anonymous. A rule's own limits are
counted for its route alone, and for all methods of it that share them together: HEAD is no second budget. 429 says
when to come back: `Retry-After`, and `RateLimit` with `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
Counted in this process; several without a common store take 1/N each.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

from garrison.core.durations import Limit
from garrison.core.network import bucket
from garrison.guard.endpoint import Endpoint
from garrison.guard.layer import BeforeLayer, Check
from garrison.guard.limit_table import Limiter, LimitTable, shared
from garrison.guard.settings import GuardSettings
from garrison.policy.inventory import Route
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer, Header
from garrison.wire.call import Call
from garrison.wire.header_lines import NO_FIELDS, block
from garrison.wire.problem import problem

AGGREGATE_FACTOR = 16
_MOST_TOLD = 4096
"""Of more hits left, so many are told: what is told is built beforehand, and a client may take it for a minimum."""
_CACHE = 4096


def address_layer(settings: GuardSettings, table: LimitTable) -> BeforeLayer:
    """Return the layer that counts every request by address."""
    limit = settings.limit_address
    near, wide = _near_and_wide(limit, settings, table)
    policy = _policy("address", near.limit)

    def check_address(call: Call) -> Answer | None:
        network = call.network
        left = near.take(network, call.boot)
        if left < 0.0:
            return refused(call, left, "address", policy)
        if ":" in network:
            left = wide.take(_aggregate(network), call.boot)
            if left < 0.0:
                return refused(call, left, "address", policy)
        return None

    return check_address


def api_limit_check(settings: GuardSettings, table: LimitTable) -> Check:
    """Return the check that counts the app's own routes by principal, or by address when anonymous."""
    limiter = table.limiter(settings.limit_api, share=settings.share)
    policy = _policy("api", limiter.limit)
    prebuilt = tuple(
        block(policy, (b"ratelimit", b'"api";r=%d' % remaining))
        for remaining in range(min(limiter.limit.count, _MOST_TOLD) + 1)
    )
    last = len(prebuilt) - 1
    take, remaining_of = limiter.take, limiter.remaining
    most_s, most_told = limiter.most_s, prebuilt[min(remaining_of(limiter.most_s), last)]

    def check_api(call: Call) -> Answer | None:
        principal = call.principal  # `_who`, written out for the usual case
        who = _who(call) if principal.kind == "foreign" else principal.id or call.network
        left = take(who, call.boot)
        if left < 0.0:
            return refused(call, left, "api", policy)
        if left == most_s:
            told = most_told
        else:
            told = prebuilt[min(remaining_of(left), last)]
        call.added = told if call.added is NO_FIELDS else call.added.then(told)
        return None

    return check_api


def route_limit(settings: GuardSettings, table: LimitTable) -> Callable[[Rule], Sequence[Check]]:
    """Return what makes the check of a rule's own limits, counted for each route by principal or address.

    Every method has a decision of its own, so what counts is the route behind it, and which limits: two lines that
    give the same ones to two methods of one route give them once.
    """
    known: dict[tuple[Limit, ...], dict[Route, tuple[tuple[Limiter, Limiter], ...]]] = {}

    def checks_of(rule: Rule) -> Sequence[Check]:
        limits = rule.limits
        if not limits:
            return ()
        by_route = known.setdefault(limits, {})
        policies = tuple(_policy("route", shared(limit, settings.share)) for limit in limits)

        def check_route(call: Call) -> Answer | None:
            route = call.route.route
            limiters = by_route.get(route)
            if limiters is None:
                limiters = by_route[route] = tuple(_near_and_wide(limit, settings, table) for limit in limits)
            is_anonymous = not call.principal.is_authenticated
            for both, policy in zip(limiters, policies, strict=True):
                left = _take_by_address(both, call) if is_anonymous else both[0].take(_who(call), call.boot)
                if left < 0.0:
                    return refused(call, left, "route", policy)
            return None

        return (check_route,)

    return checks_of


def endpoint_limit(settings: GuardSettings, table: LimitTable) -> Callable[[Endpoint], Sequence[Check]]:
    """Return what makes the check of an endpoint's limit per address, if it has one."""

    def checks_of(endpoint: Endpoint) -> Sequence[Check]:
        if endpoint.limit is None:
            return ()
        both = _near_and_wide(endpoint.limit, settings, table)
        policy = _policy("endpoint", both[0].limit)

        def check(call: Call) -> Answer | None:
            left = _take_by_address(both, call)
            return refused(call, left, "endpoint", policy) if left < 0.0 else None

        return (check,)

    return checks_of


def refused(call: Call, left: float, name: str, policy: Header) -> Answer:
    """Return the 429; `left` is what `Limiter.take` returned."""
    seconds = max(1, math.ceil(-left))
    headers = (
        (b"retry-after", b"%d" % seconds),
        (b"ratelimit", f'"{name}";r=0;t={seconds}'.encode()),
        policy,
    )
    return problem("rate_limited", call.request_id, headers=headers)


def _near_and_wide(limit: Limit, settings: GuardSettings, table: LimitTable) -> tuple[Limiter, Limiter]:
    """Return the limiter of an address (IPv6: a /64), and that of a whole /48."""
    wide = Limit(limit.count * AGGREGATE_FACTOR, limit.period_s)
    return table.limiter(limit, share=settings.share), table.limiter(wide, share=settings.share)


def _take_by_address(both: tuple[Limiter, Limiter], call: Call) -> float:
    network = call.network
    left = both[0].take(network, call.boot)
    return both[1].take(_aggregate(network), call.boot) if left >= 0.0 and ":" in network else left


@lru_cache(_CACHE)
def _aggregate(network: str) -> str:
    """Return the /48 of an IPv6 /64."""
    return bucket(network.partition("/")[0], v6_prefix=48)


def _who(call: Call) -> str:
    """Return what the caller is counted under. Our ids equal no address and no other id; a foreign subject may."""
    principal = call.principal
    if principal.kind == "foreign":
        return f"foreign {principal.issuer} {principal.id}"
    return principal.id or call.network


def _policy(name: str, limit: Limit) -> Header:
    return (b"ratelimit-policy", f'"{name}";q={limit.count};w={max(1, round(limit.period_s))}'.encode())
