"""Layer 10: may this principal do this? (ASVS 5.0 V8.2; OWASP API1, API5)

Default: first-party credentials only. A delegated one (client, key, Basic, a third party's token) passes only where
the rule names a scope, or its kind in `credentials=`; a role never widens a scope. A foreign object is the same 404
as an unknown one, decided before the body is read.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from garrison.core.principal import Principal
from garrison.guard.layer import Check
from garrison.guard.settings import GuardSettings
from garrison.policy.owner import owner_converters
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer
from garrison.wire.call import Call
from garrison.wire.problem import RETRY_SOON, problem

OwnerFailure = Callable[[Call, BaseException], None]

CHALLENGE = (b"www-authenticate", b"Bearer")
CHALLENGE_INVALID = (b"www-authenticate", b'Bearer error="invalid_token"')
_VIA_KIND = {"session": "session", "jwt": "bearer", "key": "key", "basic": "basic"}


def unauthenticated(call: Call) -> Answer:
    """Return the 401 of a request without a credential (RFC 6750 section 3)."""
    return problem("unauthenticated", call.request_id, headers=(CHALLENGE,))


def invalid_token(call: Call) -> Answer:
    """Return the 401 of a request whose credential is not valid (RFC 6750 section 3.1)."""
    return problem("invalid_token", call.request_id, headers=(CHALLENGE_INVALID,))


def authorize_checks(rule: Rule | None, settings: GuardSettings, owner_failed: OwnerFailure) -> tuple[Check, ...]:
    """Return the checks that `rule` demands, in order; nothing for a public route, a wall where nothing is decided."""
    if rule is None:
        return (deny_undecided,)
    if rule.public:
        return ()
    checks: list[Check] = [_who(rule)]
    if rule.factor_age_s is not None:
        checks.append(_factor_age(rule.factor_age_s))
    if rule.owner is not None:
        checks.append(_owner(rule, rule.owner, settings.owner_deadline_s, owner_failed))
    return tuple(checks)


def deny_undecided(call: Call) -> Answer:
    """Nothing was decided about this route: 401, or 403 when signed in."""
    if not call.principal.is_authenticated:
        return unauthenticated(call)
    return problem("undecided", call.request_id)


def _who(rule: Rule) -> Check:
    roles, scopes, kinds = rule.roles, rule.scopes, rule.credentials
    scope_text = " ".join(sorted(scopes))
    more = (b"www-authenticate", f'Bearer error="insufficient_scope", scope="{scope_text}"'.encode())

    def check_signed_in(call: Call) -> Answer | None:
        principal = call.principal
        if principal.kind == "anonymous":
            return unauthenticated(call)
        return problem("forbidden", call.request_id) if principal.delegated else None

    def check_who(call: Call) -> Answer | None:
        principal = call.principal
        if principal.kind == "anonymous":
            return unauthenticated(call)
        if kinds:
            if credential_kind(principal) not in kinds:
                return problem("forbidden", call.request_id)
        elif principal.delegated and not scopes:
            return problem("forbidden", call.request_id)
        if scopes and not scopes <= principal.scopes:
            return problem("insufficient_scope", call.request_id, headers=(more,))
        if roles and not roles & principal.roles:
            return problem("forbidden", call.request_id)
        return None

    return check_who if roles or scopes or kinds else check_signed_in


def credential_kind(principal: Principal) -> str:
    """Return which word of `credentials=` this principal came by."""
    if principal.kind in ("client", "foreign"):
        return principal.kind
    return _VIA_KIND.get(principal.via, "")


def _factor_age(max_age_s: float) -> Check:
    challenge = f'Bearer error="insufficient_user_authentication", max_age="{max_age_s:g}"'.encode()

    def check_factor_age(call: Call) -> Answer | None:
        if call.now - call.principal.proved_at <= max_age_s:
            return None
        return problem("insufficient_factor", call.request_id, headers=((b"www-authenticate", challenge),))

    return check_factor_age


def _owner(rule: Rule, owner: Callable[..., Any], deadline_s: float, owner_failed: OwnerFailure) -> Check:
    """The owner check is the one warm check that may wait: it asks the app's own function."""
    convert = owner_converters(owner)
    or_role = rule.or_role
    is_async = inspect.iscoroutinefunction(owner) or inspect.iscoroutinefunction(getattr(owner, "__call__", None))  # noqa: B004 - the method's kind is asked, not callability

    async def ask(call: Call) -> Answer | None:
        try:
            values = {name: converter(call.params[name]) for name, converter in convert.items()}
        except (ValueError, OverflowError):
            return problem("not_found", call.request_id)
        try:
            async with asyncio.timeout(deadline_s):
                if is_async:
                    found = await owner(**values)
                else:
                    found = await asyncio.get_running_loop().run_in_executor(None, lambda: owner(**values))
        except Exception as error:
            owner_failed(call, error)
            return problem("owner_check_failed", call.request_id, headers=RETRY_SOON)
        if type(found) is not str or not found or found != call.principal.id:
            return problem("not_found", call.request_id)
        return None

    def check_owner(call: Call) -> Answer | Awaitable[Answer | None] | None:
        principal = call.principal
        if or_role and or_role & principal.roles:
            return None
        if principal.kind == "foreign":  # its issuer calls it what it likes: an account's id, another issuer's subject
            return problem("not_found", call.request_id)
        return ask(call)

    return check_owner
