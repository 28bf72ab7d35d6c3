"""One request on its way through the chain.

A `Call` is made once per request and filled by the layers in order; handlers find it as `scope["garrison"]`. It is
the decision, too: the second lock lets an endpoint run only if the scope holds a granted call for exactly that route.
Attributes are plain slots because this is the hottest object there is.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from garrison.core.principal import Principal
from garrison.wire.answer import Answer, Header, Scope
from garrison.wire.header_lines import Block

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
        "replaced",
        "request_id",
        "route",
        "scope",
        "secure",
        "seen",
        "started",
        "status",
        "task",
        "values",
    )

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.kind: str = scope["type"]
        self.method: str = scope.get("method", "GET")
        self.path: str = ""
        """Normal form of the path, what routes are matched against."""
        self.headers: Mapping[bytes, bytes] = _NOTHING
        """Lower-case name → value. A header that came twice is refused or joined before this is filled."""
        self.host: str = ""
        """Host without port, lower case."""
        self.peer: str = ""
        """The client's address as text: the connection's peer, or what a trusted proxy says."""
        self.network: str = ""
        """The network the client is counted under (IPv6: the /64)."""
        self.secure: bool = False
        """True when the client's connection is TLS (to us, or to a trusted proxy that says so)."""
        self.request_id: str = ""
        self.boot: float = 0.0
        """When the request arrived, seconds since boot: for limits and freshness."""
        self.now: float = 0.0
        """When the request arrived, the store's time in Unix seconds: for whatever is written down."""
        self.route: Any = None
        self.plan: Any = None
        self.params: Mapping[str, str] = _NOTHING
        """Path parameters as text, undecoded beyond the one decoding of the path."""
        self.values: Mapping[str, Any] = _NOTHING
        """Path parameters as the framework's converters make them: what the second lock compares."""
        self.principal: Principal = Principal.anonymous
        self.credential: Any = None
        """What was verified: the session entry, token claims …; None when anonymous."""
        self.granted: bool = False
        """True once every check of the plan has passed. Only then may an endpoint run."""
        self.expects_body: bool = False
        """True when the request may carry a body, within its declared bound; set by the body check of its plan."""
        self.gone: bool = False
        """True once the client went away in the middle of a body that streamed through, or left its web socket."""
        self.body: bytes | None = None
        """The whole body, once it was read within its bounds."""
        self.seen: list[bytes] | None = None
        """The beginning of a body that streamed through, so that the log of a failure can be kept free of it."""
        self.added: tuple[Block, ...] = ()
        """Headers the layers add to whatever goes out."""
        self.replaced: Answer | None = None
        """An answer that takes the place of whatever the app says, as long as it has said nothing."""
        self.started: bool = False
        self.status: int = 0
        self.cut: bool = False
        """True when the stream was cut because its session, token or account ended."""
        self.task: Any = None
        """The task of an open stream, while it is registered."""

    @property
    def response_headers(self) -> list[Header]:
        """The same as fields."""
        return [field for block in self.added for field in block.fields]

    def header(self, name: bytes) -> bytes:
        """Return the header's value, or empty bytes."""
        return self.headers.get(name, b"")
