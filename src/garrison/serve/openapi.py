"""OpenAPI 3.1 documents: ours, generated from the endpoints' own data, and what the app's gains.

What a route demands is known, so what it may answer is known, too: 401 and 403 where somebody must be signed in, 404
where an owner is asked, 429 where there is a limit, 413 where there is a body. Nothing is written by hand, so nothing
can go stale.
"""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from pydantic.json_schema import models_json_schema

from garrison.core.errors import PROBLEMS
from garrison.guard.endpoint import Endpoint
from garrison.policy.rules import CREDENTIAL_KINDS, Rule

SECURITY_SCHEMES: dict[str, Any] = {
    "session": {"type": "apiKey", "in": "cookie", "name": "__Host-garrison", "description": "Over http: `garrison`."},
    "bearer": {"type": "http", "scheme": "bearer"},
    "key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "Or as a bearer token."},
}
BASIC_SCHEME: dict[str, Any] = {"basic": {"type": "http", "scheme": "basic"}}
_FIRST_PARTY = frozenset({"session", "bearer"})
_BEARERS = frozenset({"bearer", "client", "key", "foreign"})
PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem document",
    "required": ["type", "title", "status", "code", "request_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(PROBLEMS)},
        "request_id": {"type": "string"},
        "detail": {},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["in", "pointer", "code", "detail"],
                "properties": {
                    "in": {"enum": ["body", "query", "header"]},
                    "pointer": {"type": "string"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
_ALWAYS = frozenset({"bad_request", "rate_limited", "store_unavailable"})
_RETRY = {"Retry-After": {"description": "Seconds until it may succeed", "schema": {"type": "integer"}}}


def codes_of(rule: Rule | None, *, method: str, has_body: bool) -> frozenset[str]:
    """Return the problem codes that the guard itself may answer with on a route of this rule."""
    codes = set(_ALWAYS)
    if rule is None or not rule.public:
        codes |= {"unauthenticated", "forbidden"}
    else:
        codes |= {"invalid_token"}
    if method not in ("GET", "HEAD", "OPTIONS"):
        codes |= {"cross_site"}
    if has_body:
        codes |= {"bad_body", "body_too_large"}
    if rule is not None and rule.owner is not None:
        codes |= {"not_found"}
    return frozenset(codes)


def problem_answers(codes: Iterable[str], reference: str = "#/components/schemas/Problem") -> dict[str, Any]:
    """Return the OpenAPI `responses` of these codes, one entry per status."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    answers: dict[str, Any] = {}
    for status, names in sorted(by_status.items()):
        answer: dict[str, Any] = {
            "description": " ".join(PROBLEMS[name].title for name in names),
            "content": {"application/problem+json": {"schema": {"$ref": reference}}},
        }
        if status in (429, 503):
            answer["headers"] = deepcopy(_RETRY)
        answers[str(status)] = answer
    return answers


def security_of(rule: Rule | None, *, basic: bool) -> list[dict[str, Any]]:
    """Return the credentials that a rule takes. A key has no roles and owns nothing; `basic`: HTTP Basic is on."""
    kinds, scopes = _FIRST_PARTY, []
    if rule is not None:
        kinds, scopes = rule.credentials or (CREDENTIAL_KINDS if rule.scopes else _FIRST_PARTY), sorted(rule.scopes)
    found: list[dict[str, Any]] = []
    if "session" in kinds:
        found.append({"session": []})
    if kinds & _BEARERS:
        found.append({"bearer": scopes})
    if rule is not None and "key" in kinds and not rule.roles and rule.owner is None:
        found.append({"key": scopes})
    if basic and "basic" in kinds:
        found.append({"basic": []})
    return found


def identity_document(
    endpoints: Iterable[Endpoint], *, prefix: str, server: str, version: str, basic: bool = False
) -> dict[str, Any]:
    """Return the OpenAPI document of our own endpoints."""
    listed = [endpoint for endpoint in endpoints if endpoint.in_openapi]
    inputs = {endpoint.body for endpoint in listed if endpoint.body is not None}
    outputs = {endpoint.answer for endpoint in listed if endpoint.answer is not None}
    references, definitions = models_json_schema(
        sorted(
            [*((model, "validation") for model in inputs), *((model, "serialization") for model in outputs)],
            key=lambda pair: (pair[0].__name__, pair[1]),
        ),
        ref_template="#/components/schemas/{model}",
    )
    paths: dict[str, Any] = {}
    for endpoint in listed:
        operation: dict[str, Any] = {
            "summary": endpoint.summary,
            "operationId": endpoint.method.lower() + endpoint.path.replace("/", "_").replace("{", "").replace("}", ""),
            "tags": [endpoint.path.split("/")[1]],
        }
        codes = codes_of(endpoint.rule, method=endpoint.method, has_body=endpoint.body is not None) | endpoint.errors
        if endpoint.infrastructure:
            codes = frozenset({"bad_request"}) | endpoint.errors
        elif endpoint.method not in ("GET", "HEAD"):
            codes |= {"unsupported_media_type", "bad_body", "body_too_large"}
        if endpoint.body is not None:
            codes |= {"validation"}
            schema = references[(endpoint.body, "validation")]
            operation["requestBody"] = {
                "required": not endpoint.body_optional,
                "content": {"application/json": {"schema": schema}},
            }
        if endpoint.path_parameters:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "description": text, "schema": {"type": "string"}}
                for name, text in endpoint.path_parameters.items()
            ]
        success: dict[str, Any] = {"description": "Success"}
        if endpoint.answer is not None:
            schema = references[(endpoint.answer, "serialization")]
            success["content"] = {"application/json": {"schema": schema}}
        answers = problem_answers(codes)
        if endpoint.infrastructure and endpoint.answer is not None and "503" in answers:
            answers["503"]["content"] = {"application/json": success["content"]["application/json"]}
        operation["responses"] = {str(endpoint.status): success, **answers}
        operation["security"] = [] if endpoint.rule.public else security_of(endpoint.rule, basic=basic)
        if endpoint.rule.public and endpoint.entry:
            operation["security"] = [{"key": []}] if endpoint.needs_key else [{}, {"session": []}]
        paths.setdefault(prefix + endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "Garrison identity", "version": version},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "schemas": {"Problem": PROBLEM_SCHEMA, **definitions.get("$defs", {})},
            "securitySchemes": _schemes(basic=basic),
        },
    }


def enriched(
    document: Mapping[str, Any], rules: Mapping[tuple[str, str], Rule | None], *, basic: bool = False
) -> dict[str, Any]:
    """Return the app's document with our security schemes, refusals, and 400 in place of 422.

    `rules` maps (METHOD, path template) to the rule. Operations that are not in it (undecided) say 401 and 403.
    """
    result = deepcopy(dict(document))
    components = result.setdefault("components", {})
    components.setdefault("schemas", {}).setdefault("GarrisonProblem", PROBLEM_SCHEMA)
    components.setdefault("securitySchemes", {}).update(_schemes(basic=basic))
    for path, operations in result.get("paths", {}).items():
        for method, operation in operations.items():
            if method not in ("get", "put", "post", "delete", "options", "head", "patch", "trace"):
                continue
            rule = rules.get((method.upper(), path))
            _enrich(operation, rule, method.upper(), basic=basic)
    if not _mentions(result, "#/components/schemas/HTTPValidationError"):
        for name in ("HTTPValidationError", "ValidationError"):
            components["schemas"].pop(name, None)
    return result


def _enrich(operation: dict[str, Any], rule: Rule | None, method: str, *, basic: bool) -> None:
    reference = "#/components/schemas/GarrisonProblem"
    answers = operation.setdefault("responses", {})
    validated = answers.get("422", {}).get("content", {}).get("application/json", {}).get("schema", {})
    if validated.get("$ref") == "#/components/schemas/HTTPValidationError":
        del answers["422"]
        answers.update({k: v for k, v in problem_answers({"validation"}, reference).items() if k not in answers})
    has_path = any(parameter.get("in") == "path" for parameter in operation.get("parameters", ()))
    codes = set(codes_of(rule, method=method, has_body="requestBody" in operation))
    if has_path:
        codes.add("not_found")
    for status, answer in problem_answers(codes, reference).items():
        answers.setdefault(status, answer)
    if rule is None or not rule.public:
        operation["security"] = security_of(rule, basic=basic)
        if rule is not None:
            operation["x-garrison"] = rule.described()


def _schemes(*, basic: bool) -> dict[str, Any]:
    return {**SECURITY_SCHEMES, **(BASIC_SCHEME if basic else {})}


def _mentions(value: Any, reference: str) -> bool:
    if isinstance(value, dict):
        return value.get("$ref") == reference or any(
            _mentions(child, reference) for key, child in value.items() if key != "HTTPValidationError"
        )
    return isinstance(value, list) and any(_mentions(child, reference) for child in value)
