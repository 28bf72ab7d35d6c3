"""Layer 12: what broke inside is told inside (RFC 9457 outward; ASVS 5.0 V16.5; CWE-209, CWE-532).

The client gets a generic problem with a request id. The log gets the exception with its frames under the same id,
with one thing taken out: whatever this request carried as a secret (credential headers, cookies, query values, JSON
strings), since exception texts quote their input and passwords ended up in logs of larger companies that way.
"""

import json
import re
import traceback
from urllib.parse import unquote_plus

import structlog

from garrison.core.errors import StoreError
from garrison.guard.body import KEPT_BYTES
from garrison.wire.call import Call

_log = structlog.get_logger("garrison")
_SECRET_HEADERS = (b"authorization", b"cookie", b"x-api-key", b"proxy-authorization")
_SHORTEST = 6
_MAX_FRAMES = 40
_MAX_TEXT = 32_768
"""Characters of an exception's text: an exception may quote a whole body, and each is looked through for words."""
_MAX_WORDS = 2000
_SEPARATORS = re.compile(r"[;=&,\s\"]+")


def log_failure(event: str, call: Call, error: BaseException, *, code: str = "internal") -> None:
    """Write the exception of this call to the log, without what the call carried."""
    trace = traceback.TracebackException.from_exception(error, limit=-_MAX_FRAMES)
    text = redacted(_bounded("".join(trace.format())), call)
    route = call.route.label if call.route is not None else ""
    _log.error(event, code=code, request_id=call.request_id, method=call.method, route=route, exception=text)


def log_outage(call: Call, error: StoreError) -> None:
    """Write that the store could not answer this call: one line, for in an outage there is one for each request."""
    route = call.route.label if call.route is not None else ""
    about = {"request_id": call.request_id, "method": call.method, "route": route}
    _log.error("store", code=error.code, detail=error.detail, **about)


def redacted(text: str, call: Call) -> str:
    """Return `text` without anything that this request carried in its credentials, query or body."""
    words: set[str] = set()
    for name in _SECRET_HEADERS:
        value = call.headers.get(name)
        if value:
            words.update(_SEPARATORS.split(value.decode("latin-1")))
    query = call.scope.get("query_string", b"").decode("latin-1")
    words.update(_SEPARATORS.split(query))
    words.update(_SEPARATORS.split(unquote_plus(query)))
    words.update(call.params.values())
    body = call.body or b"".join(call.seen or ())
    if body:
        words.update(_strings(body))
    forms = {form for word in words if len(word) >= _SHORTEST for form in (word, repr(word)[1:-1])}
    beginnings = {text[at : at + _SHORTEST] for at in range(len(text))}  # or each of 100,000 words is looked for: 1.7 s
    likely = [form for form in forms if form[:_SHORTEST] in beginnings]
    found = {form for form in likely if form in text} if len(likely) <= _MAX_WORDS else set(likely)
    if len(words) > _MAX_WORDS and found:
        return "[redacted: the exception repeats a request of too many words to take out one by one]"
    if found:
        longest_first = sorted(found, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), "[redacted]", text)
    return text


def is_broken_json(call: Call, error: BaseException) -> bool:
    """Say whether the app failed because the body is no JSON: the client's mistake, whatever type it declared."""
    body = call.body or b"".join(call.seen or ())
    if isinstance(error, json.JSONDecodeError):
        return _is(body, error.doc)
    if isinstance(error, UnicodeDecodeError):
        return _is(body, error.object)
    if type(error) is ValueError:  # a number of more digits than Python takes
        return _is(body, _document_of(error))
    return isinstance(error, RecursionError) and body.lstrip()[:1] in (b"[", b"{")


def _is(body: bytes, document: object) -> bool:
    """Say whether this is the document that was sent; of a long one the beginning is known."""
    raw = document.encode("utf-8", "surrogatepass") if isinstance(document, str) else document
    return raw == body or (len(body) >= KEPT_BYTES and isinstance(raw, bytes) and raw.startswith(body))


def _document_of(error: BaseException) -> object:
    """Return what the standard library's parser was reading when it raised this; None where somebody else raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or trace.tb_frame.f_globals.get("__name__") != "json.decoder":
        return None
    return trace.tb_frame.f_locals.get("s")


def _bounded(text: str) -> str:
    """Return the end of a long text, from the beginning of a line: half a word would not be known for a secret."""
    if len(text) <= _MAX_TEXT:
        return text
    return text[-_MAX_TEXT:].partition("\n")[2]


def _strings(body: bytes) -> set[str]:
    found: set[str] = set()
    try:
        pending = [json.loads(body)]
    except (ValueError, RecursionError):
        text = body.decode("utf-8", "replace")
        return {*_SEPARATORS.split(text), *_SEPARATORS.split(unquote_plus(text))}
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            found.add(value)
        elif isinstance(value, dict):
            found.update(value)
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return found
