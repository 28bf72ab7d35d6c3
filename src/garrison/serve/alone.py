"""The identity server alone: `garrison serve` without an app. Everything but our own paths is a 404."""

from garrison.serve.garrison import Garrison
from garrison.wire.answer import Receive, Scope, Send, json_answer, send_answer


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Never reached: the empty policy has no route. Lifespan is spoken by the guard."""
    if scope["type"] == "lifespan":
        raise NotImplementedError("no lifespan")
    await send_answer(json_answer(404, {}), send)


app = Garrison().protect(_nothing)
