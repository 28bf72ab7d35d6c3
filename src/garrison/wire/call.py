"""One request on its way through the chain.

A `Call` is made once per request and filled by the layers in order; handlers find it as `scope["garrison"]`. It is
the decision, too: the second lock lets an endpoint run only if the scope holds a granted call for exactly that route.
Attributes are plain slots because this is the hottest object there is. Those without a value here are the arrival
layer's, the first of all; nothing looks at a call before it.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from garrison.core.principal import Principal
from garrison.wire.answer import Answer, Scope
from garrison.wire.header_lines import NO_FIELDS, Block

ENDED: Scope = {}
"""A call's scope once it has ended. The scope holds the call: together they would be a cycle for the garbage collector,
which cost 4 µs of a raw handler's 25."""

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


class Call:
    """The request as the guard understands it, after trusted proxies were taken into account."""

    __slots__ = (
        "added",
        "body",
        "boot",
        "credential",
        "cut",
        "expects_body",
        "gone",
        "granted",
        "headers",
        "hits",
        "host",
        "kind",
        "method",
        "network",
        "now",
        "params",
        "path",
        "peer",
        "plan",
        "principal",
        "reason",
        "renewed",
        "replaced",
        "request_id",
        "route",
        "scope",
        "secure",
        "seen",
        "status",
        "task",
        "values",
    )

    scope: Scope
    kind: Literal["http", "websocket"]
    method: str
    path: str
    """Normal form of the path, what routes are matched against."""
    headers: Mapping[bytes, bytes]
    """Lower-case name → value. A header that came twice is refused or joined before this is filled."""
    host: str
    """Host without port, lower case."""
    peer: str
    """The client's address as text: the connection's peer, or what a trusted proxy says."""
    network: str
    """The network the client is counted under (IPv6: the /64)."""
    secure: bool
    """True when the client's connection is TLS (to us, or to a trusted proxy that says so)."""
    request_id: str
    boot: float
    """When the request arrived, seconds since boot: for limits and freshness."""
    now: float
    """When the request arrived, the store's time in Unix seconds: for whatever is written down."""
    route: Any
    plan: Any
    params: Mapping[str, str]
    """Path parameters as text, undecoded beyond the one decoding of the path."""
    values: Mapping[str, Any]
    """Path parameters as the framework's converters make them: what the second lock compares."""
    principal: Principal
    credential: Any
    """What was verified: the session entry, token claims …; None when anonymous."""
    reason: str
    """Why it is refused, for the log alone: a fixed text that holds nothing of what came."""
    granted: bool
    """True once every check of the plan has passed. Only then may an endpoint run."""
    expects_body: bool
    """True when the request may carry a body, within its declared bound; set by the body check of its plan."""
    hits: Any
    """Hits whose counter has been asked and has not answered; see `guard/limits.py`. None: there are none."""
    gone: bool
    """True once the client went away in the middle of a body that streamed through, or left its web socket."""
    body: bytes | None
    """The whole body, once it was read within its bounds."""
    seen: list[bytes] | None
    """The beginning of a body that streamed through, so that the log of a failure can be kept free of it."""
    added: Block
    """Headers the layers add to whatever goes out."""
    renewed: Block | None
    """A cookie to take the place of the one that was shown, for an answer that is nobody else's."""
    replaced: Answer | None
    """An answer that takes the place of whatever the app says, as long as it has said nothing."""
    status: int
    """Of the answer, once it has begun; 0 before."""
    cut: bool
    """True when the stream was cut because its session, token or account ended."""
    task: Any
    """The task of an open stream, while it is registered."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.kind = scope["type"]
        self.method = scope.get("method", "GET")
        self.path = ""
        self.host = ""
        self.request_id = ""
        self.route = None
        self.plan = None
        self.params = _NOTHING
        self.values = _NOTHING
        self.principal = Principal.anonymous
        self.credential = None
        self.reason = ""
        self.granted = False
        self.expects_body = False
        self.hits = None
        self.gone = False
        self.body = None
        self.seen = None
        self.added = NO_FIELDS
        self.renewed = None
        self.replaced = None
        self.status = 0
        self.cut = False
        self.task = None

    def header(self, name: bytes) -> bytes:
        """Return the header's value, or empty bytes."""
        return self.headers.get(name, b"")
