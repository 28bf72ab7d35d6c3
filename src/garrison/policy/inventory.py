"""What an app serves, as data: the tree of routes that a framework adapter reads off the app.

A `Branch` (mount, host, the app itself) holds nodes in declaration order; a `Route` is a leaf. The regular expressions
are the framework's own, so that matching here is matching there. What an adapter cannot see through (a raw ASGI app
or static files under a mount, a front end) is one opaque route.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Union

Kind = Literal["http", "websocket"]
WEBSOCKET_METHOD = "WS"
"""How a web socket is written where methods stand: `WS /chat`."""


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """One leaf. `template` is the whole path from the app's root, `regex` matches what its branch leaves of it."""

    template: str
    kind: Kind
    regex: re.Pattern[str]
    methods: frozenset[str] | None
    """None: whatever the endpoint makes of it (raw ASGI)."""
    claims: frozenset[str] | None = frozenset()
    """Further methods on which the framework stops here, if only to say 405 (a class-based endpoint); None: every one.
    With other methods a later route may still take the request."""
    converters: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    """Path parameter → the framework's own conversion, which may raise ValueError."""
    endpoint: object = None
    """What decorators mark; None where nothing can be marked."""
    handlers: Mapping[str, object] = field(default_factory=dict)
    """Method → function, of a class-based endpoint."""
    element: object = None
    """The framework's own object that runs it: what the second lock compares."""
    docs: bool = False
    """True for the documentation that the framework makes itself."""
    opaque: bool = False
    own: bool = False
    """True for our own paths, which the framework knows nothing of."""

    def listed_methods(self) -> tuple[str, ...]:
        """Return the methods that need a decision, `*` where the route takes any, `WS` for a web socket."""
        if self.kind == "websocket":
            return (WEBSOCKET_METHOD,)
        return ("*",) if self.methods is None else tuple(sorted(self.methods))


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """Nodes under a path (`regex` has the group `path`), under a host name (`is_host`), or the root (no `regex`)."""

    children: tuple["Node", ...]
    template: str = ""
    regex: re.Pattern[str] | None = None
    converters: Mapping[str, Callable[[str], Any]] = field(default_factory=dict)
    is_host: bool = False
    redirects_slashes: bool = False
    last: tuple[Route, ...] = ()
    """Tried where no child matches and no slash redirect helps: a front end's files, the longest path first."""
    default: Route | None = None
    """What answers where nothing matches, if it is not the framework's own 404."""


Node = Union[Route, Branch]  # noqa: UP007 - Branch is not defined yet where it would be evaluated


def routes_of(branch: Branch) -> list[Route]:
    """Return the leaves in the order in which they are tried."""
    found: list[Route] = []
    for node in branch.children:
        if isinstance(node, Branch):
            found.extend(routes_of(node))
        else:
            found.append(node)
    found.extend(branch.last)
    if branch.default is not None:
        found.append(branch.default)
    return found
