"""The apps that are measured: a raw ASGI handler, Starlette and FastAPI, each with the same two routes.

`bare(framework)` is the app alone, `guarded(framework)` the same app behind `Garrison(policy).protect(app)`. Both
answer the same few bytes and do nothing else, which is the worst case for a guard: whatever a handler does besides
makes its share smaller. The policy stands in a table, so that bare and guarded run the very same functions.
"""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from garrison import Garrison, Policy, allow, public
from garrison.wire.answer import ASGIApp, Receive, Scope, Send

POLICY = Policy(("GET /public", public), ("GET /private", allow(signed_in=True)))
_BODY = b'{"status":"ok"}'
_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(_BODY)).encode())],
}
_REST = {"type": "http.response.body", "body": _BODY}


async def raw(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer anything with the same 15 bytes; the least an ASGI app can do."""
    if scope["type"] == "lifespan":
        while True:
            kind = (await receive())["type"].removeprefix("lifespan.")
            await send({"type": f"lifespan.{kind}.complete"})
            if kind == "shutdown":
                return
    await send(_START)
    await send(_REST)


def starlette_app() -> ASGIApp:
    """Return a Starlette app with the two routes."""

    async def answer(_request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/public", answer), Route("/private", answer)])


def fastapi_app() -> ASGIApp:
    """Return a FastAPI app with the two routes."""
    app = FastAPI()

    async def answer() -> dict[str, str]:
        return {"status": "ok"}

    app.get("/public")(answer)
    app.get("/private")(answer)
    return app


_MAKERS: Mapping[str, Callable[[], ASGIApp]] = {
    "raw ASGI": lambda: raw,
    "Starlette": starlette_app,
    "FastAPI": fastapi_app,
}
FRAMEWORKS = tuple(_MAKERS)


def bare(framework: str) -> ASGIApp:
    """Return the app of this framework as it is."""
    return _MAKERS[framework]()


def guarded(framework: str, settings: Any = None, policy: Policy = POLICY) -> ASGIApp:
    """Return the app of this framework behind its guard; `settings` None: those of the environment."""
    return Garrison(policy, settings=settings).protect(_MAKERS[framework]())
