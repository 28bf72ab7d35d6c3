"""Problem documents (RFC 9457): `type title status code request_id`, and whatever fields the denial carries."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from garrison.core.errors import PROBLEMS, Denied
from garrison.wire.answer import Answer, Header

CONTENT_TYPE = (b"content-type", b"application/problem+json")
RETRY_SOON = ((b"retry-after", b"1"),)
"""Of a 503 that may be over in a moment: seconds."""


def problem(
    code: str,
    request_id: str,
    *,
    detail: str = "",
    headers: Sequence[Header] = (),
    fields: Mapping[str, Any] | None = None,
) -> Answer:
    """Return the problem answer of `code`, a key of `PROBLEMS`; `detail` must hold neither input nor secrets."""
    status, title = PROBLEMS[code]
    document: dict[str, Any] = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "request_id": request_id,
    }
    if detail:
        document["detail"] = detail
    if fields:
        document.update(fields)
    body = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    return Answer(status, (CONTENT_TYPE, *headers), body, code)


def problem_of(denied: Denied, request_id: str) -> Answer:
    """Return the answer that a `Denied` asks for."""
    return problem(denied.code, request_id, detail=denied.detail, headers=denied.headers, fields=denied.fields)
