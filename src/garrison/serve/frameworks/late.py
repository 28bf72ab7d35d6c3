"""Routes that appear after start: lists and routers that tell of what is added to them, before it can run.

They tell of what is moved or taken away, too: a router that was changed has to choose by itself again.
"""

from collections.abc import Callable, Iterable
from typing import Any

OnRoute = Callable[[Any], None]
OnChange = Callable[[], None]


class LockingList(list[Any]):
    """A router's routes: what is added is locked first."""

    def __init__(self, routes: Iterable[Any], lock: OnRoute, changed: OnChange) -> None:
        super().__init__(routes)
        self._lock = lock
        self._changed = changed

    def append(self, route: Any) -> None:
        self._adding(route)
        super().append(route)

    def insert(self, index: Any, route: Any) -> None:
        self._adding(route)
        super().insert(index, route)

    def extend(self, routes: Iterable[Any]) -> None:
        for route in routes:
            self.append(route)

    def __iadd__(self, routes: Any) -> Any:  # type: ignore[misc]  # the list type overloads __add__, not this
        self.extend(routes)
        return self

    def __setitem__(self, index: Any, routes: Any) -> None:
        routes = list(routes) if isinstance(index, slice) else routes
        self._adding(*(routes if isinstance(index, slice) else [routes]))
        super().__setitem__(index, routes)

    def __delitem__(self, index: Any) -> None:
        self._changed()
        super().__delitem__(index)

    def __imul__(self, times: Any) -> Any:  # type: ignore[misc]  # as above
        self._changed()
        return super().__imul__(times)

    def clear(self) -> None:
        self._changed()
        super().clear()

    def pop(self, *index: Any) -> Any:
        self._changed()
        return super().pop(*index)

    def remove(self, route: Any) -> None:
        self._changed()
        super().remove(route)

    def reverse(self) -> None:
        self._changed()
        super().reverse()

    def sort(self, **how: Any) -> None:
        self._changed()
        super().sort(**how)

    def _adding(self, *routes: Any) -> None:
        self._changed()
        for route in routes:
            self._lock(route)


def watch(router: Any, lock: OnRoute, lock_default: Callable[[Any], Any], changed: OnChange) -> None:
    """Lock what is added to the router's routes from now on, where the whole list is exchanged, too.

    The router gets a class of its own, derived from the one it has: its attributes cannot be watched otherwise.
    """
    if isinstance(router.routes, LockingList):
        return
    router.routes = LockingList(router.routes, lock, changed)
    base: Any = type(router)

    def set_attribute(router: Any, name: str, value: Any) -> None:
        if name == "routes":
            value = list(value)
            changed()
            for route in value:
                lock(route)
            value = LockingList(value, lock, changed)
        elif name == "default":
            value = lock_default(value)
        base.__setattr__(router, name, value)

    cls = type(base.__name__, (base,), {"__setattr__": set_attribute, "__module__": base.__module__})
    router.__class__ = cls
