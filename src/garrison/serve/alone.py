"""The identity server alone: `garrison serve` without an app. Everything but our own paths is a 404."""

from garrison.serve.garrison import Garrison
from garrison.wire.answer import Receive, Scope, Send, json_answer, send_answer


async def _nothing(scope: Scope, _receive: Receive, send: Send) -> None:
    """Never asked for a request, since the empty policy has no route; the guard speaks lifespan for it."""
    if scope["type"] != "lifespan":
        await send_answer(json_answer(404, {}), send)


app = Garrison().protect(_nothing)
