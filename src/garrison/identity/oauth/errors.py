"""Errors as OAuth says them (RFC 6749 section 5.2): `{"error"}` in place of problem documents.

What the guard refuses here takes the same form: too many requests and an overloaded or unreachable part are
`temporarily_unavailable`, with `Retry-After`.
"""

from garrison.core.errors import GarrisonError
from garrison.wire.answer import Answer, Header, json_answer

NO_STORE = ((b"cache-control", b"no-store"), (b"pragma", b"no-cache"))
_BASIC = (b"www-authenticate", b'Basic realm="garrison", charset="UTF-8"')
_KEPT = frozenset({b"retry-after", b"ratelimit", b"ratelimit-policy"})


NOT_GRANTED = "this client may not use this grant"
NOT_ITS_SCOPE = "a scope that this client does not have"
NOT_ITS_AUDIENCE = "not one audience, or one that this client does not have"
NO_AUDIENCE = "this client is registered without an audience"


class OAuthError(GarrisonError):
    """An error of the protocol. `code` is the RFC's; `detail` goes to the client and must hold no input."""


def error_answer(error: str, status: int, description: str = "", headers: tuple[Header, ...] = ()) -> Answer:
    """Return the error's answer; `code` names it in the audit log."""
    document = {"error": error, **({"error_description": description} if description else {})}
    made = json_answer(status, document, (*NO_STORE, *headers))
    return Answer(made.status, made.headers, made.body, error)


def answer_of(error: OAuthError, *, by_basic: bool) -> Answer:
    """Return the answer to an error; a client that failed by HTTP Basic gets its challenge."""
    if error.code == "invalid_client":
        return error_answer(error.code, 401, error.detail, (_BASIC,) if by_basic else ())
    return error_answer(error.code, 400, error.detail)


def as_oauth(answer: Answer) -> Answer:
    """Return what a refusal of the guard's is called here; answers that are of this form already stay."""
    if not any(value == b"application/problem+json" for name, value in answer.headers if name == b"content-type"):
        return answer
    kept = tuple(header for header in answer.headers if header[0] in _KEPT)
    if answer.status == 429 or answer.status == 503:
        return error_answer("temporarily_unavailable", answer.status, headers=kept)
    if answer.status >= 500:
        return error_answer("server_error", answer.status, headers=kept)
    return error_answer("invalid_request", answer.status if answer.status in (405, 413, 415) else 400, headers=kept)
