"""What an adapter does: put the guard in front of an app, list its routes, and lock what runs them."""

from collections.abc import Awaitable, Callable, Mapping
from operator import methodcaller
from typing import Any, Protocol

from garrison.policy.decide import Decisions
from garrison.policy.inventory import Branch
from garrison.policy.lock import OnRefusal
from garrison.policy.table import Policy
from garrison.wire.answer import ASGIApp, Receive, Scope, Send

GUARD = "__garrison__"
"""Attribute under which a guarded app's class names its guard."""
own_root_path: Callable[[Scope], str] = methodcaller("get", "root_path", "")
"""The root path that the server gives, asked without a function of Python's, since it is asked at each request."""
Entry = Callable[[Any, Scope, Receive, Send], Awaitable[None]]


class Adapter(Protocol):
    """One app. `inner` is the app behind the guard; the rest is asked once, at start."""

    framework: str

    @property
    def inner(self) -> ASGIApp:
        """The app behind the guard."""

    def install(self, entry: Entry, *, owner: object) -> Any:
        """Put `entry` in front of the app and return the guarded app: the same object where that can be."""

    def inventory(self, policy: Policy) -> Branch:
        """Return the routes. Raises PolicyError for what cannot be guarded."""

    def lock(self, on_refusal: OnRefusal) -> None:
        """Lock every element of the inventory, and whatever is added from now on."""

    def has_late(self, scope: Scope) -> bool:
        """Say whether a route that appeared after `lock` would match."""

    def root_path(self, scope: Scope) -> str:
        """Return the root path under which the framework will match."""

    def prepare(self, decisions: Decisions, *, development: bool, basic: bool) -> None:
        """Adapt error answers and documents of the framework; `basic`: HTTP Basic is taken. Raises PolicyError."""

    def openapi(self) -> Mapping[str, Any] | None:
        """Return the app's own OpenAPI document, or None where it has none."""
