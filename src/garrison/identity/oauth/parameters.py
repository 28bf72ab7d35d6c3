"""The parameters of a request: a form (RFC 6749 appendix B), or the same names in a JSON object.

A parameter that comes twice is an error, `resource` and `audience` excepted (RFC 8707 section 2, RFC 8693 section 2.1);
unknown ones are ignored; an empty one counts as absent (RFC 6749 section 3.2).
"""

from collections.abc import Mapping, Sequence, Set
from urllib.parse import parse_qsl

from garrison.core.errors import Denied
from garrison.guard.body import is_json
from garrison.identity.clients.model import Client
from garrison.identity.oauth.errors import NO_AUDIENCE, NOT_ITS_AUDIENCE, NOT_ITS_SCOPE, OAuthError
from garrison.wire.body import parse_json
from garrison.wire.json_bounds import check_json_bounds

_MOST = 100
_REPEATABLE = frozenset({"resource", "audience"})


class Parameters:
    """What came, by name."""

    __slots__ = ("_found",)

    def __init__(self, found: Mapping[str, Sequence[str]]) -> None:
        self._found = found

    def one(self, name: str) -> str:
        """Return the parameter, the empty string where it is absent."""
        values = self._found.get(name, ())
        return values[0] if values else ""

    def all(self, name: str) -> Sequence[str]:
        """Return every value of a parameter that may be repeated."""
        return self._found.get(name, ())


def read_parameters(content_type: bytes, body: bytes) -> Parameters:
    """Return the parameters. Raises OAuthError(`invalid_request`)."""
    pairs = _of_json(body) if is_json(content_type) else _of_form(content_type, body)
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if value:
            found.setdefault(name, []).append(value)
    if any(len(values) > 1 and name not in _REPEATABLE for name, values in found.items()):
        raise OAuthError("invalid_request", "a parameter came twice")
    return Parameters(found)


def asked_audience(client: Client, parameters: Parameters) -> str:
    """Return the one audience that is asked for, the client's usual one where none is.

    Raises OAuthError(`invalid_target`).
    """
    wanted = {*parameters.all("audience"), *parameters.all("resource")}
    if len(wanted) > 1 or (wanted and not wanted <= set(client.audiences)) or not client.audiences:
        raise OAuthError("invalid_target", NOT_ITS_AUDIENCE if client.audiences else NO_AUDIENCE)
    return wanted.pop() if wanted else client.audiences[0]


def asked_scope(client: Client, parameters: Parameters, *, beside: Set[str] = frozenset()) -> str:
    """Return the scopes that are asked for, all of the client's where none is; `beside` may be asked for as well.

    Raises OAuthError(`invalid_scope`).
    """
    asked = set(parameters.one("scope").split())
    if asked - set(client.scopes) - beside:
        raise OAuthError("invalid_scope", NOT_ITS_SCOPE)
    return " ".join(sorted(asked or set(client.scopes)))


def _of_form(content_type: bytes, body: bytes) -> Sequence[tuple[str, str]]:
    media = content_type.decode("latin-1").partition(";")[0].strip().lower()
    if media != "application/x-www-form-urlencoded":
        raise OAuthError("invalid_request", "send a form, application/x-www-form-urlencoded, or JSON")
    try:
        return parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_MOST,
            strict_parsing=bool(body),
        )
    except ValueError:
        raise OAuthError("invalid_request", "the form cannot be read") from None


def _of_json(body: bytes) -> Sequence[tuple[str, str]]:
    try:
        check_json_bounds(body)
        document = parse_json(body)
    except Denied as denied:
        raise OAuthError("invalid_request", denied.detail) from None
    if not isinstance(document, dict):
        raise OAuthError("invalid_request", "the body is no JSON object")
    pairs: list[tuple[str, str]] = []
    for name, value in document.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str):
                pairs.append((name, one))
            elif one is not None:
                raise OAuthError("invalid_request", "parameters are texts")
    return pairs
