"""Layers 4 and 9: how often may this address, and this principal (ASVS 5.0 V2.4; OWASP API4; RFC 6585).

By address before anything else is known of the request, IPv6 by /64 and by /48 with 16 times the quota, since whoever
has a /48 has 65,536 networks. By principal once it is known, or address when anonymous. A rule's own limits are
counted for its route alone. 429 says when to come back: `Retry-After`, and `RateLimit` with `RateLimit-Policy`
(draft-ietf-httpapi-ratelimit-headers). Counted in this process; several without a common store take 1/N each.
"""

import math
from collections.abc import Callable, Sequence

from garrison.core.durations import Limit
from garrison.core.network import bucket
from garrison.guard.endpoint import Endpoint
from garrison.guard.layer import BeforeLayer, Check
from garrison.guard.limit_table import Limiter, LimitTable
from garrison.guard.settings import GuardSettings
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer, Header
from garrison.wire.call import Call
from garrison.wire.problem import problem

AGGREGATE_FACTOR = 16
_MOST_PREBUILT = 4096


def address_layer(settings: GuardSettings, table: LimitTable) -> BeforeLayer:
    """Return the layer that counts every request by address."""
    limit = settings.limit_address
    near = table.limiter(limit, share=settings.share)
    wide = table.limiter(Limit(limit.count * AGGREGATE_FACTOR, limit.period_s), share=settings.share)
    policy = _policy("address", near)

    def check_address(call: Call) -> Answer | None:
        network = call.network
        left = near.take(network, call.boot)
        if left < 0.0:
            return refused(call, left, "address", policy)
        if ":" in network:
            left = wide.take(bucket(call.peer, v6_prefix=48), call.boot)
            if left < 0.0:
                return refused(call, left, "address", policy)
        return None

    return check_address


def api_limit_check(settings: GuardSettings, table: LimitTable) -> Check:
    """Return the check that counts the app's own routes by principal, or by address when anonymous."""
    limiter = table.limiter(settings.limit_api, share=settings.share)
    policy = _policy("api", limiter)
    prebuilt = tuple(
        (policy, (b"ratelimit", b'"api";r=%d' % remaining))
        for remaining in range(min(limiter.limit.count, _MOST_PREBUILT) + 1)
    )
    last = len(prebuilt) - 1
    interval_s = limiter.period_s / limiter.limit.count

    def check_api(call: Call) -> Answer | None:
        left = limiter.take(call.principal.id or call.network, call.boot)
        if left < 0.0:
            return refused(call, left, "api", policy)
        remaining = int(left / interval_s + 1e-9)
        call.response_headers.extend(
            prebuilt[remaining] if remaining <= last else (policy, (b"ratelimit", b'"api";r=%d' % remaining))
        )
        return None

    return check_api


def route_limit(settings: GuardSettings, table: LimitTable) -> Callable[[Rule], Sequence[Check]]:
    """Return what makes the checks of a rule's own limits; each call makes buckets of its own."""

    def checks_of(rule: Rule) -> Sequence[Check]:
        return tuple(check_route(table.limiter(limit, share=settings.share)) for limit in rule.limits)

    def check_route(limiter: Limiter) -> Check:
        policy = _policy("route", limiter)

        def check(call: Call) -> Answer | None:
            left = limiter.take(call.principal.id or call.network, call.boot)
            return refused(call, left, "route", policy) if left < 0.0 else None

        return check

    return checks_of


def endpoint_limit(settings: GuardSettings, table: LimitTable) -> Callable[[Endpoint], Sequence[Check]]:
    """Return what makes the check of an endpoint's limit per address, if it has one."""

    def checks_of(endpoint: Endpoint) -> Sequence[Check]:
        if endpoint.limit is None:
            return ()
        limiter = table.limiter(endpoint.limit, share=settings.share)
        policy = _policy("endpoint", limiter)

        def check(call: Call) -> Answer | None:
            left = limiter.take(call.network, call.boot)
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


def _policy(name: str, limiter: Limiter) -> Header:
    limit = limiter.limit
    return (b"ratelimit-policy", f'"{name}";q={limit.count};w={max(1, round(limit.period_s))}'.encode())
