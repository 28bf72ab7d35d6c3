"""Reading, parsing and validating request bodies (RFC 8259, RFC 6901; CWE-400, CWE-20).

A body that says it is too large is refused before a byte of it is read; one that does not say is counted as it comes;
one that trickles is given up. JSON is what RFC 8259 says, strictly: UTF-8 without a byte order mark, no duplicate
names (two parsers would pick different ones), no NaN. Validation tells where and what, never the value.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from garrison.core.errors import Denied
from garrison.wire.answer import Receive

M = TypeVar("M", bound=BaseModel)
GRACE_S = 10.0
"""A body has this long, and a second more for each kilobyte that has arrived."""
BYTES_PER_S = 1024
MAX_ERRORS = 100
_CLOSE = ((b"connection", b"close"),)


async def read_body(receive: Receive, max_bytes: int, declared_length: int | None) -> bytes:
    """Return the whole body.

    Raises Denied(`body_too_large`) as soon as it is known, Denied(`request_timeout`) for one that comes slower than
    1 kB/s after the first 10 s, Denied(`bad_request`) where the client went away in the middle.
    """
    if declared_length is not None and declared_length > max_bytes:
        raise Denied("body_too_large", headers=_CLOSE)
    message = await _next(receive, GRACE_S)
    body: bytes = message.get("body", b"")
    if len(body) > max_bytes:
        raise Denied("body_too_large", headers=_CLOSE)
    if not message.get("more_body", False):
        return body
    loop = asyncio.get_running_loop()
    started = loop.time()
    pieces, length = [body], len(body)
    while message.get("more_body", False):
        left = started + GRACE_S + length / BYTES_PER_S - loop.time()
        message = await _next(receive, left)
        piece: bytes = message.get("body", b"")
        pieces.append(piece)
        length += len(piece)
        if length > max_bytes:
            raise Denied("body_too_large", headers=_CLOSE)
    return b"".join(pieces)


async def _next(receive: Receive, timeout_s: float) -> Mapping[str, Any]:
    try:
        async with asyncio.timeout(max(0.0, timeout_s)):
            message = await receive()
    except TimeoutError:
        raise Denied("request_timeout", headers=_CLOSE) from None
    if message["type"] != "http.request":
        raise Denied("bad_request", "the client went away before the body was complete")
    return message


def parse_json(body: bytes) -> Any:
    """Return the document. Raises Denied(`bad_body`), saying what is wrong without repeating the input."""
    if body.startswith(b"\xef\xbb\xbf"):
        raise Denied("bad_body", "JSON has no byte order mark")
    try:
        document = json.loads(
            body.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
        if b"\\u" in body:  # an escaped lone surrogate is no text: it has no UTF-8
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise Denied("bad_body", "the body is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise Denied("bad_body", "the body is not JSON") from None
    return document


def validate(model: type[M], document: Any) -> M:
    """Return the document as `model`. Raises Denied(`validation`) with `errors`."""
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False, include_url=False)
        located = [{**one, "loc": ("body", *one["loc"])} for one in errors]
        raise Denied("validation", fields={"errors": problem_errors(located)}) from None


def problem_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return validation errors as the problem document tells them: `in`, `pointer` (RFC 6901), `code`, `detail`.

    Each of `errors` has pydantic's `loc` (beginning with where: `body`, `query`, `header`, `cookie`), `type`, `msg`.
    """
    found = []
    for error in list(errors)[:MAX_ERRORS]:
        where, *path = error["loc"] or ("body",)
        place = {"cookie": "header"}.get(str(where), str(where))
        found.append({"in": place, "pointer": _pointer(path), "code": str(error["type"]), "detail": str(error["msg"])})
    return found


def _pointer(path: Sequence[Any]) -> str:
    return "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in path)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse_constant(_name: str) -> None:
    raise ValueError
