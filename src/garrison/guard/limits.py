"""Layers 4 and 9: how often may this address, and this principal (ASVS 5.0 V2.4; OWASP API4; RFC 6585).

By address before anything else is known of the request, IPv6 by /64 and by /48 with 16 times the quota, since whoever
has a /48 has 65,536 networks. By principal once it is known, or address when anonymous. A rule's own limits are
counted for its route alone, and for all methods of it that share them together: HEAD is no second budget. 429 says
when to come back: `Retry-After`, and `RateLimit` with `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
Counted in this process, of which several without a common store take 1/N each, or in Redis for all (`limiter.py`).

In Redis a hit is under way while the request goes through the layers that follow, so that the hits of one request are
asked for together. `settled` is where it waits, before anything is done or said: who is over a limit learns that, and
nothing of what the later layers found. The price: a request that its address is refused may have used up a hit of its
principal's, once, for the node knows from then on how long the address stays refused.
"""

import math
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from functools import lru_cache

from garrison.core.durations import Limit
from garrison.core.network import bucket
from garrison.guard.endpoint import Endpoint
from garrison.guard.layer import BeforeLayer, Check
from garrison.guard.limiter import Left, Limiter, Limits, left_of
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


def address_layer(settings: GuardSettings, limits: Limits) -> BeforeLayer:
    """Return the layer that counts every request by address."""
    near, wide = _near_and_wide(settings.limit_address, settings, limits, "address", ahead=True)
    told = _refusal("address", _policy("address", near.limit))

    def check_address(call: Call) -> Answer | None:
        network = call.network
        left = near.take(network, call.boot)
        if ":" in network:
            left = _and_wide(wide, call, left)
        if isinstance(left, float):
            return told(call, left) if left < 0.0 else None
        _under_way(call, left, told)
        return None

    return check_address


def api_limit_check(settings: GuardSettings, limits: Limits) -> Check:
    """Return the check that counts the app's own routes by principal, or by address when anonymous."""
    limiter = limits.limiter(settings.limit_api, name="api", share=settings.share, ahead=True)
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
        if isinstance(left, float):
            return told(call, left)
        _under_way(call, left, told)
        return None

    def told(call: Call, left: float) -> Answer | None:
        if left < 0.0:
            return refused(call, left, "api", policy)
        if left == most_s:
            more = most_told
        else:
            more = prebuilt[min(remaining_of(left), last)]
        call.added = more if call.added is NO_FIELDS else call.added.then(more)
        return None

    return check_api


def route_limit(settings: GuardSettings, limits: Limits) -> Callable[[Rule], Sequence[Check]]:
    """Return what makes the check of a rule's own limits, counted for each route by principal or address.

    Every method has a decision of its own, so what counts is the route behind it, and which limits: two lines that
    give the same ones to two methods of one route give them once.
    """
    known: dict[tuple[Limit, ...], dict[Route, tuple[_Counted, ...]]] = {}

    def checks_of(rule: Rule) -> Sequence[Check]:
        wanted = rule.limits
        if not wanted:
            return ()
        by_route = known.setdefault(wanted, {})

        def check_route(call: Call) -> "Answer | Awaitable[Answer | None] | None":
            route = call.route.route
            counted = by_route.get(route)
            if counted is None:
                name = _name_of(route)
                counted = by_route[route] = tuple(_counted(limit, settings, limits, name) for limit in wanted)
            rest = iter(counted)
            for near, wide, policy in rest:
                left = _take(near, wide, call)
                if not isinstance(left, float):
                    return go_on(call, left, policy, rest)
                if left < 0.0:
                    return refused(call, left, "route", policy)
            return None

        async def go_on(
            call: Call, asked: Awaitable[float], policy: Header, rest: "Iterator[_Counted]"
        ) -> Answer | None:
            left = await asked
            for near, wide, following in rest:
                if left < 0.0:
                    break
                policy = following
                left = await left_of(_take(near, wide, call))
            return refused(call, left, "route", policy) if left < 0.0 else None

        return (check_route,)

    return checks_of


def endpoint_limit(settings: GuardSettings, limits: Limits) -> Callable[[Endpoint], Sequence[Check]]:
    """Return what makes the check of an endpoint's limit per address, if it has one."""

    def checks_of(endpoint: Endpoint) -> Sequence[Check]:
        if endpoint.limit is None:
            return ()
        name = f"endpoint {endpoint.method} {endpoint.path}"
        near, wide, policy = _counted(endpoint.limit, settings, limits, name)
        told = _refusal("endpoint", policy)

        def check(call: Call) -> Answer | None:
            left = _take_by_address(near, wide, call)
            if isinstance(left, float):
                return told(call, left)
            _under_way(call, left, told)
            return None

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


_Told = Callable[[Call, float], Answer | None]
"""Says no, or nothing, to what `Limiter.take` returned."""
_Hit = tuple[Awaitable[float], _Told]
_Counted = tuple[Limiter, Limiter, Header]
"""A limiter, that of whole IPv6 /48s, and the policy that clients are told."""


def _counted(limit: Limit, settings: GuardSettings, limits: Limits, name: str) -> _Counted:
    near, wide = _near_and_wide(limit, settings, limits, name)
    return near, wide, _policy(name.partition(" ")[0], near.limit)


def _near_and_wide(
    limit: Limit, settings: GuardSettings, limits: Limits, name: str, *, ahead: bool = False
) -> tuple[Limiter, Limiter]:
    """Return the limiter of an address (IPv6: a /64), and that of a whole /48."""
    wide = Limit(limit.count * AGGREGATE_FACTOR, limit.period_s)
    return (
        limits.limiter(limit, name=name, share=settings.share, ahead=ahead),
        limits.limiter(wide, name=f"{name} /48", share=settings.share, ahead=ahead),
    )


def _take(near: Limiter, wide: Limiter, call: Call) -> Left:
    """Count by principal, or by address when anonymous."""
    if call.principal.is_authenticated:
        return near.take(_who(call), call.boot)
    return _take_by_address(near, wide, call)


def _take_by_address(near: Limiter, wide: Limiter, call: Call) -> Left:
    network = call.network
    left = near.take(network, call.boot)
    return _and_wide(wide, call, left) if ":" in network else left


def _and_wide(wide: Limiter, call: Call, near_left: Left) -> Left:
    """Count by /48 what the /64 admits: one that is refused must not use up what its neighbours have."""
    if not isinstance(near_left, float):
        return _then_wide(wide, call, near_left)
    return wide.take(_aggregate(call.network), call.boot) if near_left >= 0.0 else near_left


async def _then_wide(wide: Limiter, call: Call, near: Awaitable[float]) -> float:
    left = await near
    return await left_of(wide.take(_aggregate(call.network), call.boot)) if left >= 0.0 else left


async def settled(call: Call) -> Answer | None:
    """Wait for the hits that are under way; return the 429 of the first that is refused."""
    hits: list[_Hit] = call.hits
    call.hits = None
    answer: Answer | None = None
    try:
        while hits and answer is None:
            left, told = hits.pop(0)
            answer = told(call, await left)
    finally:
        for left, _ in hits:
            if isinstance(left, Coroutine):
                left.close()
    return answer


def _under_way(call: Call, left: Awaitable[float], told: "_Told") -> None:
    if call.hits is None:
        call.hits = [(left, told)]
    else:
        call.hits.append((left, told))


def _refusal(name: str, policy: Header) -> "_Told":
    return lambda call, left: refused(call, left, name, policy) if left < 0.0 else None


def _name_of(route: Route) -> str:
    """Return what this route is counted under on every node, and no other route of the app is."""
    function = route.endpoint
    where = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}"
    return f"route {route.kind} {route.template} {' '.join(route.listed_methods())} {where}"


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
