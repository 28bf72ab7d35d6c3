"""Every error of Garrison, and the one table that turns a code into an HTTP status.

    GarrisonError            code, detail
    ├── Denied               answers the client: a problem of `PROBLEMS`, with headers and fields
    ├── PolicyError          refuses to start: every mistake of policy or routes at once
    ├── SettingsError        refuses to start: every wrong setting at once, names only, never values
    └── StoreError           the store is out of reach or full: everything that asks it fails closed (503)

Text is for people. Code compares `code`, never text (ASVS 5.0 V16.5.1: generic messages outward).
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Problem(NamedTuple):
    """What the client is told: RFC 9457 `status` and `title`. The title says nothing about this one request."""

    status: int
    title: str


PROBLEMS: Mapping[str, Problem] = {
    "bad_request": Problem(400, "The request is malformed."),
    "bad_path": Problem(400, "The path is not in its normal form."),
    "bad_host": Problem(400, "The Host header is missing or not allowed."),
    "bad_body": Problem(400, "The body is not what this call expects."),
    "validation": Problem(400, "The input is not valid."),
    "two_credentials": Problem(400, "The request carries two credentials."),
    "https_required": Problem(400, "This call needs HTTPS; the credential it carried should be considered lost."),
    "invalid_grant": Problem(400, "The refresh token is not valid, has been used, or belongs to another device."),
    "provider_refused": Problem(403, "The provider did not sign you in here; begin again."),
    "common_password": Problem(400, "This password is among the most common ones; choose another."),
    "unauthenticated": Problem(401, "Sign in first."),
    "invalid_token": Problem(401, "The credential is not valid or has ended."),
    "invalid_proof": Problem(401, "The proof of possession is not valid for this request."),
    "invalid_credentials": Problem(401, "The credentials are not right."),
    "forbidden": Problem(403, "This is not yours to do."),
    "wrong_network": Problem(403, "This key may not be used from here."),
    "insufficient_scope": Problem(403, "The credential's scope does not reach this far."),
    "insufficient_factor": Problem(401, "Prove who you are once more."),
    "cross_site": Problem(403, "This request came from another site."),
    "cross_origin": Problem(403, "This origin is not allowed."),
    "undecided": Problem(403, "Nothing was decided about this route."),
    "not_found": Problem(404, "There is nothing here."),
    "method_not_allowed": Problem(405, "This method is not offered here."),
    "request_timeout": Problem(408, "The request took too long to arrive."),
    "body_too_large": Problem(413, "The body is larger than this call takes."),
    "uri_too_long": Problem(414, "The request target is too long."),
    "unsupported_media_type": Problem(415, "This call takes application/json."),
    "rate_limited": Problem(429, "Too many requests."),
    "headers_too_large": Problem(431, "The headers are too large or too many."),
    "internal": Problem(500, "Something went wrong on our side."),
    "overloaded": Problem(503, "Too busy at the moment."),
    "store_unavailable": Problem(503, "A part that this call needs is out of reach."),
    "issuer_unavailable": Problem(503, "Whoever issued this token could not be asked for its keys."),
    "owner_check_failed": Problem(503, "Whether this is yours could not be found out."),
    "not_exposed": Problem(503, "This server is set up for development and answers on this machine only."),
}
"""Code → status and title. Every code that a client can see stands here; a test holds that each is reachable."""


class GarrisonError(Exception):
    """Base of all. `code` is stable; `detail` is for people and may change."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(detail or code)
        self.code = code
        self.detail = detail


class Denied(GarrisonError):
    """The answer to the client is no. Raised by identity services and cold paths; the hot path returns answers.

    `code` must be a key of `PROBLEMS`. `headers` go out as they are (lower-case names). `fields` become members of
    the problem document beside the standard ones. `detail` goes to the client too: never put input or secrets there.
    """

    def __init__(
        self,
        code: str,
        detail: str = "",
        *,
        headers: Sequence[tuple[bytes, bytes]] = (),
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.problem = PROBLEMS[code]
        self.headers = tuple(headers)
        self.fields = dict(fields or {})


class PolicyError(GarrisonError):
    """The policy and the routes do not fit together: the app must not start.

    `refusals` holds one plain sentence for every mistake, naming route and reason.
    """

    def __init__(self, *refusals: str, code: str = "policy") -> None:
        super().__init__(code, "\n".join(refusals))
        self.refusals = refusals


class SettingsError(GarrisonError):
    """Settings are missing or wrong. `problems` are (variable, what to do), never a value."""

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        super().__init__("settings", "\n".join(f"{name}: {text}" for name, text in problems))
        self.problems = tuple(problems)


class StoreError(GarrisonError):
    """The store could not answer. `code` is `store_unavailable`, `store_full`, `store_busy` or `store_schema`."""

    def __init__(self, code: str = "store_unavailable", detail: str = "") -> None:
        super().__init__(code, detail)
