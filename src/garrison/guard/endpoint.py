"""An endpoint that Garrison serves itself (identity, health), as data.

The guard matches and authorizes it like any route of the app and then calls `handler(call, body)`, which returns an
`Answer` or raises `Denied`. OpenAPI is generated from the same data.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from garrison.core.durations import Limit
from garrison.policy.rules import Rule
from garrison.wire.answer import Answer
from garrison.wire.call import Call

EndpointHandler = Callable[[Call, Any], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One method of one path. Unsafe ones that are not raw take `application/json` only and refuse unknown fields."""

    method: str
    path: str
    """Template without the movable prefix: `/auth/sessions/{id}`."""
    rule: Rule
    handler: EndpointHandler
    summary: str
    body: type[BaseModel] | None = None
    """Model of the JSON body; None: the body must be absent or `{}`, and the handler gets None."""
    is_raw: bool = False
    """True where the handler takes the body's bytes apart itself: forms, whose errors have a form of their own."""
    authenticates: bool = False
    """True where the handler itself looks at the Authorization header: a client's, and no credential of a caller."""
    says_errors: Callable[[Answer], Answer] | None = None
    """What a refusal of the guard's becomes here (RFC 6749 section 5.2)."""
    body_optional: bool = False
    """True where nothing sent means the same as `{}`."""
    entry: bool = False
    """Sign-in, sign-up, refresh, sign-out: a dead cookie is anonymous here, a dead explicit credential still 401."""
    needs_key: bool = False
    """True where the handler itself demands an app key."""
    sets_cookie: bool = False
    """True where an answer may set a cookie: then the cross-site check runs even without one (login CSRF)."""
    is_page: bool = False
    """True where a page of ours posts to: then no other origin may, allowed ones included."""
    limit: Limit | None = None
    """Most calls per address, counted for this endpoint alone."""
    status: int = 200
    answer: type[BaseModel] | None = None
    """Model of the successful answer; None: no body (204)."""
    errors: frozenset[str] = field(default_factory=frozenset)
    """Problem codes the handler itself may answer with, for OpenAPI."""
    path_parameters: Mapping[str, str] = field(default_factory=dict)
    """Name → description."""
    infrastructure: bool = False
    """Health: exempt from host check, HTTPS redirect and limits."""
    in_openapi: bool = True
