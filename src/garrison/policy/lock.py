"""The second lock: an endpoint runs only if the guard decided exactly this request for exactly this endpoint.

The guard stands in front of the app and chooses a route by the request line. Between it and the endpoint runs code of
others: a middleware that rewrites the path or the method, a router that was changed after start, an app served without
its guard. So at start everything in the inventory that runs requests is wrapped. The wrapper lets a request through
only if the scope holds a granted `Call` of this process whose route is run by this very element, for the method, kind,
path and path parameters that the guard saw. Anything else is 403 and an event; nothing is ever inferred from headers.

Path parameters are compared beside the path, because the same path means others under another `root_path` or host.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from garrison.wire.answer import Answer, ASGIApp, Receive, Scope, Send, send_answer
from garrison.wire.call import Call
from garrison.wire.problem import problem

OnRefusal = Callable[[Scope, str], None]
"""Told of every refusal: the scope, and which element was to run."""
_NOTHING: Mapping[Any, Any] = {}
_ABSENT = object()


def locked(
    app: ASGIApp, element: object, name: str, on_refusal: OnRefusal, *, parameters: bool = True
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return `app` behind the lock. `element` is what `Route.element` must be; a late one equals no route's.

    `parameters`: False where the framework has not put any into the scope yet.
    """

    def run(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        call = scope.get("garrison")
        if (
            call.__class__ is Call
            and call.granted
            and call.route.route.element is element
            and scope["path"] == call.path
            and scope["type"] == call.kind
            and scope.get("method", "GET") == call.method  # of web sockets neither has one
            and (not parameters or not call.values or _holds(scope.get("path_params", _NOTHING), call.values))
        ):
            return app(scope, receive, send)
        on_refusal(scope, name)
        return _refuse(scope, receive, send)

    return run


def gate(
    app: ASGIApp, name: str, on_refusal: OnRefusal, shortcuts: Mapping[int, ASGIApp] = _NOTHING
) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
    """Return a router's `app` behind a gate that only requests with a `Call` pass: it stands before start, too.

    `shortcuts`: by identity of the element, what may run a request instead of `app`, where nothing was rewritten.
    """

    def run(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        call = scope.get("garrison")
        if call.__class__ is Call:
            if (
                call.granted
                and scope["path"] == call.path
                and (short := shortcuts.get(id(call.route.route.element))) is not None
            ):
                return short(scope, receive, send)
            return app(scope, receive, send)
        if scope["type"] == "lifespan":
            return app(scope, receive, send)
        on_refusal(scope, name)
        return _refuse(scope, receive, send)

    return run


def _holds(given: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    return given == values or all(given.get(name, _ABSENT) == value for name, value in values.items())


async def _refuse(scope: Scope, _receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": ""})
        return
    call = scope.get("garrison")
    request_id = call.request_id if call.__class__ is Call else ""
    answer = problem("undecided", request_id)
    await send_answer(Answer(answer.status, answer.headers, answer.body, answer.code), send)
