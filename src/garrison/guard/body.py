"""Layer 11: the request body within its bounds, before anything parses it (CWE-400, CWE-770; ASVS 5.0 V4.3).

A body that says it is too large is refused before a byte of it is read; one that does not say is counted as it comes.
JSON bodies are read whole (they are parsed whole anyway) and their depth, keys and digits are bounded before the app's
parser sees them; the app then receives the same bytes. Other bodies stream through, counted.
"""

from garrison.core.errors import Denied
from garrison.guard.layer import Check
from garrison.wire.answer import Answer, Message, Receive
from garrison.wire.body import read_body
from garrison.wire.call import Call
from garrison.wire.json_bounds import check_json_bounds, check_json_text
from garrison.wire.problem import problem

KEPT_BYTES = 65_536
"""How much of a streamed body is kept at least, to take it out of the log if the app fails."""
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


def has_body(call: Call) -> bool:
    """Say whether the request may carry a body: framed by length or chunks, or by HTTP/2 without either, any method."""
    headers = call.headers
    length = headers.get(b"content-length")
    if length is not None:
        return length != b"0"
    if b"transfer-encoding" in headers:
        return True
    return call.scope.get("http_version", "1.1") not in ("1.1", "1.0")


def is_json(content_type: bytes) -> bool:
    """Say whether the media type is `application/json` or ends in `+json` (RFC 8259, RFC 6839)."""
    media = content_type.decode("latin-1").partition(";")[0].strip().lower()  # as frameworks do, other spaces included
    return media == "application/json" or media.endswith("+json")


def declared_length(call: Call) -> int | None:
    """Return Content-Length, None where absent. Raises Denied(`bad_request`) where it is no number."""
    length = call.headers.get(b"content-length")
    if length is None:
        return None
    if not length.isdigit() or len(length) > 18:
        raise Denied("bad_request", "Content-Length is not a number")
    return int(length)


def body_check(max_bytes: int) -> Check:
    """Return the check that refuses what declares itself too large; reading comes later, in `bounded_receive`."""

    def check_body(call: Call) -> Answer | None:
        if (
            _FRAMING.isdisjoint(call.headers) and call.scope.get("http_version") == "1.1"
        ):  # the usual case of `has_body`
            return None
        if has_body(call):
            length = declared_length(call)
            if length is not None and length > max_bytes:
                return problem("body_too_large", call.request_id, headers=((b"connection", b"close"),))
            call.expects_body = True
        return None

    return check_body


class BodyTooLarge(Exception):
    """Raised into the app when a body outgrows its bound while being streamed; the chain answers 413."""


async def read_json(call: Call, receive: Receive, max_bytes: int) -> Receive:
    """Read a JSON body within its bounds and return a `receive` that gives the same bytes once.

    Raises Denied(`body_too_large`, `bad_body`).
    """
    body = await read_body(receive, max_bytes, declared_length(call))
    check_json_text(body)
    check_json_bounds(body)
    call.body = body
    sent = False

    async def replay() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def counted_receive(call: Call, receive: Receive, max_bytes: int) -> Receive:
    """Return a `receive` that counts body bytes; beyond `max_bytes` it raises into the app and answers 413 instead.

    The app may catch what is raised (frameworks do, and answer 400): `call.replaced` wins over whatever it says.
    """
    left = max_bytes
    kept = 0
    seen = call.seen = []

    async def count() -> Message:
        nonlocal left, kept
        message = await receive()
        if message["type"] == "http.request":
            piece = message.get("body", b"")
            left -= len(piece)
            if kept < KEPT_BYTES:
                kept += len(piece)
                seen.append(piece)
            if left < 0:
                call.replaced = problem("body_too_large", call.request_id, headers=((b"connection", b"close"),))
                raise BodyTooLarge
        else:
            call.gone = True
        return message

    return count
