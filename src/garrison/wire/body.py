"""Reading, parsing and validating request bodies (RFC 8259, RFC 6901; CWE-400, CWE-20).

A body that says it is too large is refused before a byte of it is read; one that does not say is counted as it comes;
one that trickles is given up. JSON is what RFC 8259 says, strictly: UTF-8 without a byte order mark, no duplicate
names (two parsers would pick different ones), no NaN and no number beyond a float's. Validation tells where and what,
never the value: also not the one that a validator's exception, or pydantic itself, put into its message.
"""

import asyncio
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core.core_schema import ErrorType

from garrison.core.errors import Denied
from garrison.wire.answer import Receive

M = TypeVar("M", bound=BaseModel)
GRACE_S = 10.0
"""A body has this long, and a second more for each kilobyte that has arrived."""
BYTES_PER_S = 1024
MAX_ERRORS = 100
MAX_POINTER = 512
"""Characters of a pointer. Names are the client's: a long one, repeated in each error, would make a huge answer."""
_NOT_VALID = "Value is not valid"
_WITHOUT_INPUT: Final[Mapping[str, str]] = {
    "union_tag_invalid": "Input tag is not one of the expected tags",
    "uuid_parsing": "Input should be a valid UUID",
    "datetime_object_invalid": "Invalid datetime object",
    "timezone_offset": "Timezone offset is not the expected one",
    "bytes_invalid_encoding": "Data is not in the expected encoding",
    "json_invalid": "Invalid JSON",
    "mapping_type": "Input should be a valid mapping",
    "value_error": _NOT_VALID,
    "assertion_error": _NOT_VALID,
    "iteration_error": _NOT_VALID,
    "get_attribute_error": _NOT_VALID,
}
"""Pydantic's types whose message is made with input, or with the text of an exception (`int("secret")` repeats it)."""
_TOLD: Final = frozenset(get_args(ErrorType)) - _WITHOUT_INPUT.keys()
"""Pydantic's types whose message is made of the model alone, or of a length."""
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
            body.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite,
        )
        if b"\\u" in body:  # an escaped lone surrogate is no text: it has no UTF-8
            json.dumps(document, ensure_ascii=False).encode()
    except UnicodeError:
        raise Denied("bad_body", "the body is not UTF-8 text") from None
    except (ValueError, RecursionError):
        raise Denied("bad_body", "the body is not JSON") from None
    return document


def validate(model: type[M], document: Any) -> M:
    """Return the document as `model`. Raises Denied(`validation`) with `errors`.

    `model` is one of ours: what its validators say by `PydanticCustomError` is told as it is.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = error.errors(include_input=False, include_context=False, include_url=False)
        located = [{**one, "loc": ("body", *one["loc"])} for one in errors[:MAX_ERRORS]]
        raise Denied("validation", fields={"errors": problem_errors(located)}) from None


def problem_errors(errors: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return validation errors as the problem document tells them: `in`, `pointer` (RFC 6901), `code`, `detail`.

    Each of `errors` has pydantic's `loc` (beginning with where: `body`, `query`, `header`, `cookie`), `type`, `msg`,
    and `ctx` where a message was made with something. At most the first 100 are told. A message that may repeat input
    is replaced: those of `ValueError`, and of a `PydanticCustomError` with a context. One without is its author's text.
    """
    found = []
    for error in islice(errors, MAX_ERRORS):
        where, *path = error["loc"] or ("body",)
        place = {"cookie": "header"}.get(str(where), str(where))
        found.append({"in": place, "pointer": _pointer(path), "code": str(error["type"]), "detail": _detail(error)})
    return found


def _detail(error: Mapping[str, Any]) -> str:
    code = error["type"]
    if code in _TOLD:
        return str(error["msg"])
    return _WITHOUT_INPUT.get(code) or (_NOT_VALID if error.get("ctx") else str(error["msg"]))


def _pointer(path: Sequence[Any]) -> str:
    """Return the pointer, ending early, at a whole step, where it would be too long."""
    pointer = ""
    for step in path:
        longer = pointer + "/" + str(step).replace("~", "~0").replace("/", "~1")
        if len(longer) > MAX_POINTER:
            break
        pointer = longer
    return pointer


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _refuse_constant(_name: str) -> None:
    raise ValueError


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):  # 1e999 is no Infinity by another name
        raise ValueError
    return number
