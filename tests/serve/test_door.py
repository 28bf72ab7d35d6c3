"""The entrance that `garrison serve` calls: the guard itself, never a way round it or round what stands before it."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from bench.apps import raw
from garrison import Garrison, Policy, allow, public
from garrison.serve.settings import Settings
from garrison.wire.answer import ASGIApp, Message, Receive, Scope, Send
from tests.serve.test_warm_path import scope
from tests.stores import store_url

POLICY = Policy(("GET /public", public), ("GET /private", allow(signed_in=True)))


def fastapi_app() -> FastAPI:
    app = FastAPI()
    app.get("/public")(lambda: "ok")
    app.get("/private")(lambda: "ok")
    return app


async def statuses(door: ASGIApp) -> list[int]:
    """Start the app behind the door, ask for both routes, and end it."""
    found: list[int] = []
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()

    async def live() -> None:
        await door({"type": "lifespan", "asgi": {"version": "3.0"}}, to_app.get, from_app.put)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            found.append(message["status"])

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    living = asyncio.create_task(live())
    await to_app.put({"type": "lifespan.startup"})
    assert (await from_app.get())["type"] == "lifespan.startup.complete"
    for path in ("/public", "/private"):
        await door(scope(path), receive, send)
    await to_app.put({"type": "lifespan.shutdown"})
    await living
    return found


@pytest.mark.parametrize("make", [fastapi_app, lambda: raw])
def test_the_door_is_the_guard(make: Any, tmp_path: Path) -> None:
    garrison = Garrison(POLICY, settings=Settings(database_url=store_url(tmp_path / "g.db"), secret="s" * 40))
    app = garrison.protect(make())
    assert garrison.door(app) is not app
    assert asyncio.run(statuses(garrison.door(app))) == [200, 401]


def test_whoever_stands_before_the_guard_keeps_that_place() -> None:
    garrison = Garrison(POLICY)
    app = garrison.protect(fastapi_app())

    class Watched(type(app)):  # type: ignore[misc]
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            await super().__call__(scope, receive, send)

    app.__class__ = Watched
    assert garrison.door(app) is app
