"""What a layer is: a function compiled at start that looks at a call and says nothing, or no.

* A `BeforeLayer` runs before the route is known; it never waits.
* A `Check` belongs to the plan of one route. It returns None (pass), an `Answer` (no), or an awaitable of either, the
  last only on cold paths: a warm request waits for nothing of ours, but for the hits that are under way where limits
  are counted in Redis (`limits.py`).
"""

from collections.abc import Awaitable, Callable

from garrison.wire.answer import Answer
from garrison.wire.call import Call

BeforeLayer = Callable[[Call], Answer | None]
Check = Callable[[Call], "Answer | Awaitable[Answer | None] | None"]
