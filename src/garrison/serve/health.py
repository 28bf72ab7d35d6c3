"""Health endpoints: `/health/live` (the process answers) and `/health/ready` (it may be sent traffic).

No credentials, exempt from host check, HTTPS redirect and limits, because load balancers ask by address. Which part
is missing is told only to loopback and `HEALTH_NETWORKS`: everybody else learns 200 or 503.

Without Redis a process is ready all the same. What it holds can be lost, every process loses it at once, and a balancer
that took all of them out for it would make a small outage a whole one.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pydantic import BaseModel

from garrison.core.network import Network, is_in, is_loopback, parse_address
from garrison.guard.endpoint import Endpoint
from garrison.policy.rules import public
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

_CAN_BE_LOST = frozenset({"redis"})
Readiness = Callable[[], Awaitable[Mapping[str, bool]]]


class HealthAnswer(BaseModel):
    """`status` is `live`, `ready` or `not ready`; `parts` only for those who may know."""

    status: str
    parts: dict[str, bool] | None = None


def health_endpoints(ready: Readiness, networks: tuple[Network, ...]) -> tuple[Endpoint, ...]:
    """Return the two endpoints. `ready` returns part → whether it works, and never raises."""

    async def live(_call: Call, _body: Any) -> Answer:
        return json_answer(200, {"status": "live"})

    async def is_ready(call: Call, _body: Any) -> Answer:
        parts = await ready()
        well = all(works for part, works in parts.items() if part not in _CAN_BE_LOST)
        document: dict[str, object] = {"status": "ready" if well else "not ready"}
        if is_loopback(call.peer) or is_in(parse_address(call.peer), networks):
            document["parts"] = dict(parts)
        answer = json_answer(200 if well else 503, document)
        return answer if well else Answer(answer.status, answer.headers, answer.body, "not_ready")

    return (
        Endpoint("GET", "/health/live", public, live, "The process answers", answer=HealthAnswer, infrastructure=True),
        Endpoint(
            "GET",
            "/health/ready",
            public,
            is_ready,
            "It may be sent traffic",
            answer=HealthAnswer,
            infrastructure=True,
            errors=frozenset({"store_unavailable"}),
        ),
    )
