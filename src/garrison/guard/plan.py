"""The plan of one route: its checks in the order of a request's way, compiled at start.

What a route does not demand costs nothing: the check is not in its tuple. Every demand of a rule is either in the
tuple or an error at start.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

from garrison.guard.authenticate import Authenticator, authenticate_check
from garrison.guard.authorize import OwnerFailure, authorize_checks
from garrison.guard.body import body_check
from garrison.guard.csrf import SAFE_METHODS, csrf_check
from garrison.guard.endpoint import Endpoint
from garrison.guard.headers import HeaderSets
from garrison.guard.layer import Check
from garrison.guard.own import MAX_BODY_BYTES
from garrison.guard.settings import GuardSettings
from garrison.guard.stand_in import StandIn, stand_in_check
from garrison.policy.rules import Rule


class Plan:
    """Compiled checks, headers and counters of one route."""

    __slots__ = ("checks", "counts", "endpoint", "grants", "headers", "is_lenient", "max_body", "personal_headers")

    def __init__(
        self,
        checks: Sequence[Check],
        headers: HeaderSets,
        *,
        endpoint: Endpoint | None = None,
        max_body: int = 0,
        grants: bool = True,
        personal_headers: HeaderSets | None = None,
        is_lenient: bool = False,
    ) -> None:
        self.checks = tuple(checks)
        self.headers = headers
        self.personal_headers = personal_headers or headers
        """The headers when a principal is known: what a public route says to somebody may be about them."""
        self.endpoint = endpoint
        self.max_body = max_body
        self.grants = grants
        """False lets the framework answer (a slash redirect) without letting any endpoint run."""
        self.is_lenient = is_lenient
        """True where a dead cookie is anonymous."""
        self.counts: defaultdict[int, int] = defaultdict(int)
        """Status → how many answers, since start."""


class Planner:
    """Compiles plans from rules; holds what they share."""

    def __init__(
        self,
        settings: GuardSettings,
        authenticators: Sequence[Authenticator],
        *,
        api_limit: Check | None,
        route_limit: "Callable[[Rule], Sequence[Check]]",
        endpoint_limit: "Callable[[Endpoint], Sequence[Check]]",
        owner_failed: OwnerFailure,
        stand_in: StandIn | None = None,
    ) -> None:
        self._settings = settings
        self._strict = authenticate_check(authenticators, lenient=False)
        self._lenient = authenticate_check(authenticators, lenient=True)
        if stand_in is not None and settings.development:
            self._strict = stand_in_check(stand_in, self._strict)
            self._lenient = stand_in_check(stand_in, self._lenient)
        self._api_limit = api_limit
        self._route_limit = route_limit
        self._endpoint_limit = endpoint_limit
        self._owner_failed = owner_failed
        self._private = HeaderSets(settings, cached=False)
        self._cached = HeaderSets(settings, cached=True)
        self._docs = HeaderSets(settings, cached=True, docs=True)

    @property
    def private_headers(self) -> HeaderSets:
        """The headers of an answer that no plan stands behind."""
        return self._private

    def of_route(self, rule: Rule | None, *, method: str, websocket: bool, docs: bool = False) -> Plan:
        """Return the plan of a route of the app; `rule` None is undecided: 401, or 403 when signed in."""
        settings = self._settings
        is_lenient = rule is not None and rule.public
        checks: list[Check] = [self._lenient if is_lenient else self._strict]
        if websocket or (method not in SAFE_METHODS and (rule is None or rule.csrf)):
            checks.append(csrf_check(settings, always=websocket))
        if self._api_limit is not None:
            checks.append(self._api_limit)
        if rule is not None:
            checks.extend(self._route_limit(rule))
        checks.extend(authorize_checks(rule, settings, self._owner_failed))
        max_body = settings.max_body_bytes if rule is None or rule.max_body is None else rule.max_body
        checks.append(body_check(max_body))
        if docs:
            headers = self._docs
        else:
            headers = self._cached if rule is not None and (rule.public or rule.cache) else self._private
        personal = headers if docs or (rule is not None and rule.cache) else self._private
        return Plan(checks, headers, max_body=max_body, personal_headers=personal, is_lenient=is_lenient)

    def of_endpoint(self, endpoint: Endpoint) -> Plan:
        """Return the plan of an endpoint of our own."""
        rule = endpoint.rule
        checks: list[Check] = []
        is_lenient = rule.public or endpoint.entry
        if not endpoint.authenticates:
            checks.append(self._lenient if is_lenient else self._strict)
        if endpoint.method not in SAFE_METHODS and rule.csrf:
            checks.append(csrf_check(self._settings, always=endpoint.sets_cookie, own_alone=endpoint.is_page))
        checks.extend(self._endpoint_limit(endpoint))
        checks.extend(self._route_limit(rule))
        checks.extend(authorize_checks(rule, self._settings, self._owner_failed))
        checks.append(body_check(MAX_BODY_BYTES))
        return Plan(checks, self._private, endpoint=endpoint, is_lenient=is_lenient)

    def of_redirect(self) -> Plan:
        """Return the plan of a slash redirect: the framework answers, no endpoint may run."""
        return Plan((), self._private, grants=False)
