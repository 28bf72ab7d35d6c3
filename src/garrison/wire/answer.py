"""An answer that Garrison itself gives: status, headers and body, complete in memory, sent in two ASGI messages."""

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

Header = tuple[bytes, bytes]
Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]
Receive = Callable[[], Awaitable[Message]]
Scope = MutableMapping[str, Any]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back. `headers` have lower-case names; content-length is added when sent. `code` is for audit."""

    status: int
    headers: tuple[Header, ...] = ()
    body: bytes = b""
    code: str = ""

    def with_headers(self, headers: Sequence[Header]) -> "Answer":
        """Return the same answer with more headers."""
        return Answer(self.status, self.headers + tuple(headers), self.body, self.code)


def json_answer(status: int, document: Any, headers: Sequence[Header] = ()) -> Answer:
    """Return an `application/json` answer, compact and ASCII-safe."""
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return Answer(status, ((b"content-type", b"application/json"), *headers), body)


def html_answer(status: int, page: str, headers: Sequence[Header] = ()) -> Answer:
    """Return an HTML answer. The page must come from an autoescaping template or hold no input."""
    return Answer(status, ((b"content-type", b"text/html; charset=utf-8"), *headers), page.encode())


def empty_answer(status: int = 204, headers: Sequence[Header] = ()) -> Answer:
    """Return an answer without a body."""
    return Answer(status, tuple(headers))


async def send_answer(answer: Answer, send: Send, *, head: bool = False) -> None:
    """Send the answer over ASGI; `head` leaves the body out and keeps its length (RFC 9110 9.3.2)."""
    headers = list(answer.headers)
    if answer.status != 204:
        headers.append((b"content-length", str(len(answer.body)).encode()))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else answer.body})
