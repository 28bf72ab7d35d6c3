"""A small ASGI app on the edge, in a process of its own: it answers with what it saw, and remembers it.

    python -m tests.edge.echo PORT WORKERS [bound=value …]

`/seen` gives what was seen since the last time · `/early` answers without reading · `/slow` takes a second ·
`/large` sends 64 MB · `/pid` · `/die` ends its process · anything else is read and echoed.
"""

import asyncio
import base64
import json
import os
import sys
import time
from typing import Any

from garrison.serve.edge import EdgeProtocol
from garrison.serve.server import serve

SEEN: list[list[Any]] = []
FAIL = os.environ.get("ECHO_FAIL", "")
START_S = float(os.environ.get("ECHO_START_S", "0"))


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive: Any, send: Any) -> None:
    await receive()
    if START_S:
        await asyncio.sleep(START_S)
    if FAIL == "raise":
        raise RuntimeError("the lake is frozen")
    if FAIL == "hang":
        time.sleep(60)  # noqa: ASYNC251 - a start-up that hangs the whole process
    if FAIL:
        await send({"type": "lifespan.startup.failed", "message": FAIL})
        return
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


async def websocket(scope: Any, receive: Any, send: Any) -> None:
    SEEN.append(["websocket", scope["path"]])
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": message.get("text") or ""})


async def http(scope: Any, receive: Any, send: Any) -> None:
    path = scope["path"]
    if path == "/seen":
        seen, SEEN[:] = list(SEEN), []
        await answer(send, seen)
        return
    SEEN.append([scope["method"], scope["raw_path"].decode()])
    if path == "/die":
        os._exit(7)
    if path == "/pid":
        await answer(send, [os.getpid(), os.getppid(), os.getpgrp(), os.environ.get("GARRISON_PROCESSES")])
        return
    if path == "/early":
        await answer(send, "early")
        return
    if path == "/slow":
        await asyncio.sleep(1)
        await answer(send, "slow")
        return
    if path == "/large":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(1024):
            await send({"type": "http.response.body", "body": b"x" * 65_536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})
        return
    body = b""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            SEEN.append(["disconnected", path])
            return
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in scope["headers"]]
    document = {
        "method": scope["method"],
        "path": path,
        "raw_path": scope["raw_path"].decode(),
        "query": scope["query_string"].decode(),
        "version": scope["http_version"],
        "headers": headers,
        "body": base64.b64encode(body).decode(),
        "client": scope["client"][0],
    }
    await answer(send, document)


async def answer(send: Any, document: Any) -> None:
    body = json.dumps(document).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> int:
    port, workers, *bounds = sys.argv[1:]
    values = {
        name: float(value) if "." in value else int(value)
        for name, _, value in (bound.partition("=") for bound in bounds)
    }
    protocol = type("Bounded", (EdgeProtocol,), {"__slots__": (), **values})
    return serve(
        app,
        host="127.0.0.1",
        port=int(port),
        workers=int(workers),
        ready=lambda: print("ready", flush=True),
        protocol=protocol,
    )


if __name__ == "__main__":
    sys.exit(main())
