"""The chain: every request's way, written once.

      arrival ▸ proxies ▸ host ▸ HTTPS ▸ bounds ▸ limit by address ▸ CORS ▸ route        before: same for all
    ▸ authenticate ▸ CSRF ▸ limit by principal ▸ authorize ▸ body                         the route's plan
    ▸ handler ▸ headers, errors, audit

One loop over flat tuples compiled at start, no nested middleware: a refusal is an early return, the way out is one
function around `send`. Any unexpected error in a layer denies. A warm request waits for nothing of ours, but once for
Redis where limits are counted there: layers are plain functions, and only a cold path returns something to await. What
was rejected: a middleware per layer (a BaseHTTPMiddleware costs 139 µs each), and decorators around handlers (off after
a framework's next release).
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from garrison.core.errors import Denied, StoreError
from garrison.guard.audit import Refusals
from garrison.guard.body import BodyTooLarge, counted_receive, is_json, read_json
from garrison.guard.endpoint import Endpoint
from garrison.guard.failures import is_broken_json, log_failure, log_outage
from garrison.guard.headers import HeaderSets
from garrison.guard.layer import BeforeLayer
from garrison.guard.limits import settled
from garrison.guard.own import answer_own
from garrison.guard.plan import Plan
from garrison.guard.renewal import offer_renewal
from garrison.guard.streams import CredentialEnded, Streams
from garrison.wire.answer import Answer, ASGIApp, Message, Receive, Scope, Send, send_answer
from garrison.wire.call import ENDED, Call
from garrison.wire.header_lines import TakesHeaderLines
from garrison.wire.problem import RETRY_SOON, problem, problem_of


class Chain:
    """The guard of one app: `http` and `websocket` are called by the door with the app behind them."""

    __slots__ = ("_arrival", "_before", "_default_headers", "_infrastructure", "_refusals", "_streams")

    def __init__(
        self,
        arrival: Sequence[BeforeLayer],
        before: Sequence[BeforeLayer],
        infrastructure: Mapping[str, Endpoint],
        default_headers: HeaderSets,
        streams: Streams,
        refusals: Refusals,
    ) -> None:
        self._arrival = tuple(arrival)
        self._before = (*arrival, *before)
        self._infrastructure = dict(infrastructure)
        self._default_headers = default_headers
        self._streams = streams
        self._refusals = refusals

    async def http(self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one HTTP request: answer it ourselves, or let `inner` answer it.

        Whatever the app does, the client gets a whole answer or a closed connection.
        """
        if scope["path"] in self._infrastructure:
            await self._health(scope, receive, send)
            return
        call = Call(scope)
        answer: Answer | None = None
        try:
            for layer in self._before:
                answer = layer(call)
                if answer is not None:
                    break
            else:
                plan: Plan = call.plan
                for check in plan.checks:
                    found = check(call)
                    if found is not None:
                        answer = found if found.__class__ is Answer else await found  # type: ignore[misc]
                        if answer is not None:
                            break
                else:
                    if call.hits is not None:
                        answer = await settled(call)
                    if answer is None:
                        if call.credential is not None and call.expects_body:
                            receive = self._streams.attended(call, receive)
                        if plan.endpoint is not None:
                            answer = await answer_own(call, plan.endpoint, receive)
                        elif call.expects_body:
                            if is_json(call.header(b"content-type")):
                                receive = await read_json(call, receive, plan.max_body)
                            else:
                                receive = counted_receive(call, receive, plan.max_body)
        except Denied as denied:
            answer = problem_of(denied, call.request_id)
        except CredentialEnded:
            answer = call.replaced
        except StoreError as error:
            log_outage(call, error)
            answer = problem("store_unavailable", call.request_id, headers=RETRY_SOON)
        except Exception as error:
            log_failure("failed", call, error)
            answer = problem("internal", call.request_id)
        if answer is not None:
            if call.hits is not None:
                answer = await _limited_first(call, answer)
            await self._answer(call, answer, send)
            return
        scope["garrison"] = call
        scope["user"] = call.principal
        call.granted = plan.grants
        try:
            await inner(scope, receive, self._way_out(call, send))
        except asyncio.CancelledError:
            if not call.cut:
                raise
            _uncancel()
            call.replaced = problem("invalid_token", call.request_id)
        except (BodyTooLarge, CredentialEnded):
            pass
        except Exception as error:
            if call.gone:  # whatever the app raises then is no failure, and nobody is there to be answered
                pass
            elif call.replaced is None and is_broken_json(call, error):
                call.replaced = problem("bad_body", call.request_id)
            elif call.replaced is None:
                log_failure("failed", call, error)
                if _in_process_client(call):
                    raise
                call.replaced = problem("internal", call.request_id)
        finally:
            if call.task is not None:
                self._streams.close(call)
            plan.counts[call.status] += 1
            call.scope = ENDED
        if call.replaced is not None and not call.status:
            await self._answer(call, call.replaced, send)

    async def websocket(self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Guard one web socket: refuse the handshake, or let `inner` accept it."""
        call = Call(scope)
        answer: Answer | None = None
        try:
            for layer in self._before:
                answer = layer(call)
                if answer is not None:
                    break
            else:
                for check in call.plan.checks:
                    found = check(call)
                    if found is not None:
                        answer = found if found.__class__ is Answer else await found
                        if answer is not None:
                            break
                else:
                    if call.hits is not None:
                        answer = await settled(call)
        except Denied as denied:
            answer = problem_of(denied, call.request_id)
        except StoreError as error:
            log_outage(call, error)
            answer = problem("store_unavailable", call.request_id)
        except Exception as error:
            log_failure("failed", call, error)
            answer = problem("internal", call.request_id)
        if answer is not None:
            if call.hits is not None:
                answer = await _limited_first(call, answer)
            await self._refuse_handshake(call, answer, send)
            return
        ended = False

        async def watched_receive() -> Message:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                call.gone = True
            elif call.credential is not None and await self._streams.is_over(call):
                raise asyncio.CancelledError
            return message

        def watched_send(message: Message) -> Awaitable[None]:
            nonlocal ended
            if call.cut:
                raise asyncio.CancelledError
            if message["type"] == "websocket.close":
                ended = True
            return send(message)

        scope["garrison"] = call
        scope["user"] = call.principal
        call.granted = call.plan.grants
        self._streams.open(call)
        try:
            await inner(scope, watched_receive, watched_send)
        except asyncio.CancelledError:
            if not call.cut:
                raise
            _uncancel()
            if not (call.gone or ended):
                await send({"type": "websocket.close", "code": 1008, "reason": "session ended"})
        except Exception as error:
            if not call.gone:  # whatever the app raises when nobody is there any more is no failure
                log_failure("failed", call, error)
                if _in_process_client(call):
                    raise
                if not ended:
                    await send({"type": "websocket.close", "code": 1011})
        finally:
            if call.task is not None:
                self._streams.close(call)
            call.plan.counts[101] += 1
            call.scope = ENDED

    async def _health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a load balancer: no credentials, no host check, no HTTPS redirect, no limits."""
        call = Call(scope)
        endpoint = self._infrastructure[scope["path"]]
        answer: Answer | None = None
        try:
            for layer in self._arrival:
                answer = layer(call)
                if answer is not None:
                    break
            else:
                if call.method not in ("GET", "HEAD"):
                    answer = problem("method_not_allowed", call.request_id, headers=((b"allow", b"GET, HEAD"),))
                else:
                    answer = await answer_own(call, endpoint, receive)
        except Denied as denied:
            answer = problem_of(denied, call.request_id)
        except Exception as error:
            log_failure("failed", call, error)
            answer = problem("store_unavailable", call.request_id, headers=RETRY_SOON)
        await self._answer(call, answer, send)

    def _way_out(self, call: Call, send: Send) -> Send:
        """Return the `send` that the app gets: its answer with our headers, and registered if it is a stream."""
        taker: Any = getattr(send, "__self__", None)
        takes = isinstance(taker, TakesHeaderLines)
        rest: Send = taker.rest if takes else send

        def guarded_send(message: Message) -> Awaitable[None]:
            if call.status:  # it has begun
                if call.credential is not None and (call.cut or call.task is not None or "more_body" in message):
                    self._go_on(call, message)
                return rest(message)
            if call.replaced is not None:
                return _nothing()
            if message["type"] != "http.response.start":
                return send(message)
            call.status = status = message["status"]
            said = message.get("headers", ())
            if said.__class__ is not list:
                said = list(said)
            fields = dict(said)
            if call.credential is None:
                header_sets = call.plan.headers
            else:
                header_sets = call.plan.personal_headers
                if call.renewed is not None:
                    offer_renewal(call, said, stored=header_sets.stored)
                if b"content-length" not in fields:
                    self._streams.open(call)
            if takes and len(fields) == len(said):
                lines = header_sets.lines(fields, call.secure)
                if lines is not None:
                    return taker.begin(  # type: ignore[no-any-return]
                        status, fields, lines, call.added.lines, call.request_id
                    )
            more = (*call.added.fields, (b"x-request-id", call.request_id.encode()))
            return send({**message, "headers": header_sets.complete(said, more, secure=call.secure)})

        return guarded_send

    def _go_on(self, call: Call, message: Message) -> None:
        """See to the stream that the rest of a signed-in answer may be."""
        if call.cut:  # also where another task of the app's sends, or one that took no notice
            raise asyncio.CancelledError
        if message.get("more_body"):
            if call.task is None:
                self._streams.open(call)
        elif call.task is not None and message["type"] == "http.response.body":
            self._streams.close(call)  # what the app does after its answer is no stream any more

    async def _answer(self, call: Call, answer: Answer, send: Send) -> None:
        """Send an answer of our own with the headers of its plan; count it if it is a refusal."""
        endpoint = None if call.plan is None else call.plan.endpoint
        if answer.code and endpoint is not None and endpoint.says_errors is not None:
            answer = endpoint.says_errors(answer)
        headers = self._default_headers if call.plan is None or answer.status >= 400 else call.plan.headers
        if answer.status >= 400 or answer.code:
            self._refusals.note(call, answer.code, answer.status)
        if call.plan is not None:
            call.plan.counts[answer.status] += 1
        offer_renewal(call, answer.headers, stored=headers.stored)
        more = (*call.added.fields, (b"x-request-id", call.request_id.encode()))
        complete = headers.complete(answer.headers, more, secure=call.secure)
        call.status = answer.status
        await send_answer(
            Answer(answer.status, tuple(complete), answer.body, answer.code), send, head=call.method == "HEAD"
        )

    async def _refuse_handshake(self, call: Call, answer: Answer, send: Send) -> None:
        """Refuse a web socket before it is accepted: with our answer where the server can, else by closing."""
        self._refusals.note(call, answer.code, answer.status)
        if call.plan is not None:
            call.plan.counts[answer.status] += 1
        if "websocket.http.response" not in (call.scope.get("extensions") or {}):
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        more = (
            (b"x-request-id", call.request_id.encode()),
            (b"content-length", str(len(answer.body)).encode()),
        )
        headers = self._default_headers.complete(answer.headers, more, secure=call.secure)
        await send({"type": "websocket.http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": answer.body})


async def _limited_first(call: Call, answer: Answer) -> Answer:
    """Return what is said to a request that is refused while hits are under way: 429 comes before any other no."""
    try:
        return await settled(call) or answer
    except Exception as error:
        log_failure("failed", call, error)
        return problem("internal", call.request_id)


def _uncancel() -> None:
    """Take back the cancellation with which a stream was cut, so that the connection can be closed in order."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()


def _in_process_client(call: Call) -> bool:
    """Starlette's TestClient raises the app's exceptions in the test; real servers get an answer instead."""
    return call.peer == "testclient"


async def _nothing() -> None:
    return None
