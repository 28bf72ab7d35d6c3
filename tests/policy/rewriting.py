"""Apps whose middlewares change what the guard decided about."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.middleware.base import BaseHTTPMiddleware

from garrison import allow, public
from tests.policy.tables import Ran, RawApp

Rewrite = Callable[[dict[str, Any]], None]


class Rewriting:
    """A pure ASGI middleware that changes the scope in place."""

    def __init__(self, app: Any, rewrite: Rewrite) -> None:
        self._app = app
        self._rewrite = rewrite

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            self._rewrite(scope)
        await self._app(scope, receive, send)


class Copying(Rewriting):
    """The same, on a copy of the scope, as careful middlewares do."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await super().__call__(dict(scope), receive, send)


class HttpRewriting(BaseHTTPMiddleware):
    """The same by Starlette's own base class."""

    def __init__(self, app: Any, rewrite: Rewrite) -> None:
        super().__init__(app)
        self._rewrite = rewrite

    async def dispatch(self, request: Any, call_next: Any) -> Any:
        self._rewrite(request.scope)
        return await call_next(request)


MIDDLEWARES = [Rewriting, Copying, HttpRewriting]


def app_of(ran: list[str], middleware: Any = None, rewrite: Rewrite | None = None) -> FastAPI:
    """An app of public routes and others that only an admin may call; `ran` notes what runs."""
    app = FastAPI()
    if middleware is not None:
        app.add_middleware(middleware, rewrite=rewrite)

    @app.get("/open")
    @public
    async def open_() -> str:
        ran.append("open")
        return "open"

    @app.get("/secret")
    @allow(role="admin")
    async def secret() -> str:
        ran.append("secret")
        return "secret"

    @app.get("/tasks/{id:int}")
    @public
    async def task(id: int) -> str:
        ran.append(f"task {id}")
        return "task"

    @app.delete("/tasks/{id:int}")
    @allow(role="admin")
    async def delete(id: int) -> str:
        ran.append(f"delete {id}")
        return "deleted"

    @app.api_route("/both/{id}", methods=["GET", "POST"])
    @public
    async def both(id: str, request: Request) -> str:
        ran.append(f"{request.method} both {id}")
        return "both"

    return app


def set_path(path: str) -> Rewrite:
    def rewrite(scope: dict[str, Any]) -> None:
        scope["path"] = path
        scope["raw_path"] = path.encode()

    return rewrite


def set_method(method: str) -> Rewrite:
    def rewrite(scope: dict[str, Any]) -> None:
        scope["method"] = method

    return rewrite


def method_override(scope: dict[str, Any]) -> None:
    """As middlewares for old browsers do."""
    for name, value in scope["headers"]:
        if name == b"x-http-method-override":
            scope["method"] = value.decode()


def raw_answer(label: str, ran: Ran) -> Any:
    """A raw ASGI endpoint that notes that it ran."""
    return RawApp(ran, label)


def nothing() -> Any:
    """A handler of its own at each call, since each can be marked once."""

    async def endpoint() -> str:
        return ""

    return endpoint
