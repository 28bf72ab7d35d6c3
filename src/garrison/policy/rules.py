"""Every demand that Garrison knows, on one screen.

A `Rule` is a frozen value. It is spelt by a decorator (`@public`, `@allow(...)`), by a line of a table
(`Policy(("GET /test", public), …)`), and narrowed by `require(pattern, …)`. Every argument of `allow` is *and*.
A rule that a door cannot enforce is an error at start, never skipped.
"""

import difflib
import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, ParamSpec, TypeVar

from garrison.core.durations import Limit, parse_duration, parse_limit
from garrison.core.errors import PolicyError

CredentialKind = Literal["session", "bearer", "client", "key", "basic", "foreign"]
CREDENTIAL_KINDS: frozenset[str] = frozenset({"session", "bearer", "client", "key", "basic", "foreign"})
Owner = Callable[..., Any]
F = TypeVar("F")
P = ParamSpec("P")
R = TypeVar("R")

MARK = "__garrison_mark__"
_NOTHING: Any = object()


@dataclass(frozen=True, slots=True)
class Rule:
    """What one route demands. The default demands a signed-in first-party principal."""

    public: bool = False
    """Open to all. Then nothing else of *who* may be demanded; limits, bounds and audit still apply."""
    roles: frozenset[str] = frozenset()
    """Any one of these roles."""
    scopes: frozenset[str] = frozenset()
    """All of these scopes."""
    owner: Owner | None = None
    """Function of path parameters that returns the owner's account id, or None."""
    or_role: frozenset[str] = frozenset()
    """Any of these roles passes where the owner check would not."""
    credentials: frozenset[str] = frozenset()
    """Only these kinds of credential; empty: first-party ones, and delegated ones where a scope is named."""
    factor_age_s: float | None = None
    """A factor must have been proved at most this many seconds ago (RFC 9470)."""
    limits: tuple[Limit, ...] = ()
    """Further limits per principal, or address when anonymous, counted for this route alone."""
    max_body: int | None = None
    """Most bytes of a request body; None: the guard's default."""
    audit: bool = False
    """Log each allowed request, too."""
    cache: bool = False
    """True lets the app's answers be cached; otherwise `Cache-Control: no-store` unless the app says otherwise."""
    csrf: bool = True
    """False leaves out the cross-site check, for endpoints that take no cookie and set none."""
    encoded_slash: bool = False
    """True accepts `%2F` in the path; the parameter then holds a slash."""

    def __call__(self, endpoint: F = _NOTHING) -> F:
        """Mark `endpoint` (function, method, class, callable instance) with this rule and return it unchanged."""
        if endpoint is _NOTHING:
            raise TypeError("a rule is not called: write @public, or @allow(…), without a further ()")
        own = vars(endpoint) if hasattr(endpoint, "__dict__") else {}
        earlier = own.get(MARK)
        if isinstance(earlier, Mark) and earlier.owner is endpoint:
            raise PolicyError(f"{_name(endpoint)} is decided twice: one decorator is enough", code="decided_twice")
        try:
            setattr(endpoint, MARK, Mark(self, endpoint))
        except (AttributeError, TypeError):
            raise PolicyError(f"{_name(endpoint)} cannot be marked; decide it in a table", code="unmarkable") from None
        return endpoint

    def narrowed(self, other: "Rule") -> "Rule":
        """Return this rule with the demands of `other` (from `require`) added; it never demands less."""
        if self.public and (other.roles or other.scopes or other.owner or other.credentials or other.factor_age_s):
            raise PolicyError("a public route cannot require who calls", code="require_on_public")
        if self.roles and other.roles and not self.roles & other.roles:
            raise PolicyError("no role satisfies both rules", code="require_empty")
        if self.credentials and other.credentials and not self.credentials & other.credentials:
            raise PolicyError("no credential satisfies both rules", code="require_empty")
        if self.owner is not None and other.owner is not None and self.owner is not other.owner:
            raise PolicyError("two owner functions on one route", code="require_owner")
        return replace(
            self,
            roles=self.roles & other.roles if self.roles and other.roles else self.roles | other.roles,
            scopes=self.scopes | other.scopes,
            owner=self.owner or other.owner,
            credentials=(self.credentials & other.credentials)
            if self.credentials and other.credentials
            else self.credentials | other.credentials,
            factor_age_s=_least(self.factor_age_s, other.factor_age_s),
            limits=self.limits + other.limits,
            max_body=_least(self.max_body, other.max_body),
            audit=self.audit or other.audit,
        )

    def described(self) -> dict[str, Any]:
        """Return the demands that differ from the default, as JSON-ready values, for `routes --json` and OpenAPI."""
        if self.public and self == public:
            return {"access": "public"}
        found: dict[str, Any] = {"access": "public" if self.public else "signed-in"}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "public" or value == field.default:
                continue
            if field.name == "owner":
                value = _name(value)
            elif field.name == "limits":
                value = [str(limit) for limit in value]
            elif isinstance(value, frozenset):
                value = sorted(value)
            found[field.name] = value
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """A rule left on an endpoint. `owner` is the very object that was marked, so that a copied mark shows."""

    rule: Rule
    owner: object


@dataclass(frozen=True, slots=True)
class Requirement:
    """A line of a table that decides nothing and only narrows what it matches."""

    pattern: str
    rule: Rule


public = Rule(public=True)
"""Open to all: `@public`, or `("GET /test", public)`."""

Words = str | Iterable[str]


def _spelt(spelling: Callable[P, R]) -> Callable[P, R]:
    """Say what to write where arguments are given that `spelling` does not take, `@allow` without () among them."""
    plain: Any = spelling
    name, takes = plain.__name__, plain.__code__.co_argcount
    demands = tuple(plain.__kwdefaults__)
    known = (*plain.__code__.co_varnames[:takes], *demands)

    @functools.wraps(spelling)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if len(args) > takes:
            example = f'{name}({"…, " * takes}role="admin")'
            raise TypeError(f"{name} takes its demands by name and in parentheses, for example {example}")
        for word in kwargs:
            if word not in known:
                near = difflib.get_close_matches(word, demands, n=1)
                hint = f"did you mean {near[0]}=?" if near else f"there are {', '.join(demands)}"
                raise TypeError(f"{name} has no argument {word}=; {hint}")
        return spelling(*args, **kwargs)

    return checked


@_spelt
def allow(
    *,
    signed_in: bool | None = None,
    role: Words = (),
    scope: Words = (),
    owner: Owner | None = None,
    or_role: Words = (),
    credentials: Words = (),
    factor_age: str | float | None = None,
    limit: str | Limit | Iterable[str | Limit] = (),
    max_body: int | None = None,
    audit: bool = False,
    cache: bool = False,
    csrf: bool = True,
    encoded_slash: bool = False,
) -> Rule:
    """Say who may; every argument is *and*, and every `allow` implies signed in.

    role: any of these. scope: all of these (a string may hold several, separated by spaces). owner: a function whose
    parameters are path parameters, returning the owner's account id or None. or_role: roles let past the owner check.
    credentials: kinds of credential (`session bearer client key basic foreign`). factor_age: a duration. limit:
    `100/minute` or a list of such. max_body: bytes.

    Raises TypeError when nothing is said of who may: `allow(signed_in=True)` says just that. Raises ValueError for
    words, durations and limits that cannot be read.
    """
    rule = _rule(
        role, scope, owner, or_role, credentials, factor_age, limit, max_body, audit, cache, csrf, encoded_slash
    )
    if signed_in is not None and signed_in is not True:
        raise TypeError("allow(signed_in=False) has no meaning; use public")
    if not signed_in and not (rule.roles or rule.scopes or rule.owner or rule.credentials or rule.factor_age_s):
        raise TypeError("allow() says nothing of who may; write allow(signed_in=True) or public")
    return rule


@_spelt
def require(
    pattern: str,
    *,
    role: Words = (),
    scope: Words = (),
    owner: Owner | None = None,
    credentials: Words = (),
    factor_age: str | float | None = None,
    limit: str | Limit | Iterable[str | Limit] = (),
    max_body: int | None = None,
    audit: bool = False,
) -> Requirement:
    """Narrow every route that `pattern` matches; decides nothing by itself. TypeError when it demands nothing."""
    rule = _rule(role, scope, owner, (), credentials, factor_age, limit, max_body, audit, False, True, False)
    if rule == Rule():
        raise TypeError(f"require({pattern!r}) demands nothing")
    return Requirement(pattern, rule)


def _rule(
    role: Words,
    scope: Words,
    owner: Owner | None,
    or_role: Words,
    credentials: Words,
    factor_age: str | float | None,
    limit: str | Limit | Iterable[str | Limit],
    max_body: int | None,
    audit: bool,
    cache: bool,
    csrf: bool,
    encoded_slash: bool,
) -> Rule:
    kinds = _words(credentials, "credentials")
    if kinds - CREDENTIAL_KINDS:
        raise ValueError(f"credentials are {' '.join(sorted(CREDENTIAL_KINDS))}, not {' '.join(sorted(kinds))}")
    for name, value in (("audit", audit), ("cache", cache), ("csrf", csrf), ("encoded_slash", encoded_slash)):
        if not isinstance(value, bool):  # "no" would be true
            raise TypeError(f"{name} is True or False, not {value!r}")
    if max_body is not None and (not isinstance(max_body, int) or isinstance(max_body, bool) or max_body < 0):
        raise ValueError("max_body is a number of bytes")
    if or_role and owner is None:
        raise TypeError("or_role goes with owner")
    if owner is not None and not callable(owner):
        raise TypeError("owner is a function of path parameters")
    return Rule(
        roles=_words(role, "role"),
        scopes=_words(scope, "scope"),
        owner=owner,
        or_role=_words(or_role, "or_role"),
        credentials=kinds,
        factor_age_s=None if factor_age is None else parse_duration(factor_age),
        limits=tuple(parse_limit(one) for one in ([limit] if isinstance(limit, str | Limit) else limit)),
        max_body=max_body,
        audit=audit,
        cache=cache,
        csrf=csrf,
        encoded_slash=encoded_slash,
    )


def _words(value: Words, name: str) -> frozenset[str]:
    words = value.split() if isinstance(value, str) else [word for text in value for word in text.split()]
    if isinstance(value, str) and not words and value != "":
        raise ValueError(f"{name} is blank")
    if value == "" or any(not _is_word(word) for word in words):
        raise ValueError(f"{name}: a word is 1 to 128 printable characters without spaces, quotes or backslashes")
    return frozenset(words)


def _is_word(word: str) -> bool:
    """RFC 6749 section 3.3: %x21 / %x23-5B / %x5D-7E."""
    return 0 < len(word) <= 128 and all("!" <= c <= "~" and c not in '"\\' for c in word)


def _least(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else min(a, b)


def _name(endpoint: object) -> str:
    return getattr(endpoint, "__qualname__", None) or type(endpoint).__qualname__
