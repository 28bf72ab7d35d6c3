"""A real chain, every layer in place, around a small ASGI app; and a client that speaks ASGI to it."""

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.core.clock import ManualClock
from garrison.core.errors import StoreError
from garrison.core.network import parse_network
from garrison.core.principal import Factor, Principal
from garrison.guard.arrival import arrival_layer
from garrison.guard.audit import Refusals
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.guard.bounds import bounds_layer
from garrison.guard.chain import Chain
from garrison.guard.cors import cors_layer
from garrison.guard.endpoint import Endpoint
from garrison.guard.failures import log_failure
from garrison.guard.host import host_layer
from garrison.guard.https import https_layer
from garrison.guard.layer import BeforeLayer
from garrison.guard.limit_table import LimitTable
from garrison.guard.limiter import Limits
from garrison.guard.limits import address_layer, api_limit_check, endpoint_limit, route_limit
from garrison.guard.plan import Planner
from garrison.guard.proxies import proxies_layer
from garrison.guard.revocation import RevocationView
from garrison.guard.routing import routing_layer
from garrison.guard.settings import GuardSettings
from garrison.guard.streams import Streams
from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, Route
from garrison.policy.match import Matcher
from garrison.policy.rules import Rule
from garrison.wire.answer import ASGIApp, Message, Receive, Scope, Send, empty_answer
from garrison.wire.call import Call

PRODUCTION = GuardSettings(
    development=False,
    issuer="https://api.example.com",
    allowed_hosts=frozenset({"api.example.com"}),
    allowed_origins=frozenset({"https://app.example.com"}),
    trusted_proxies=(parse_network("198.51.100.0/24"),),
)


@dataclass
class Verified:
    """A credential that was verified at these versions."""

    principal: Principal
    account_id: str
    session_id: str
    expires_at: float = float("inf")
    account_version: int = 1
    session_version: int = 1
    rests_on: tuple[tuple[str, int], ...] = ()
    kid: str = ""


@dataclass
class Keyring:
    """Knows tokens (or cookies) by heart, like an authenticator with a warm cache; `broken` raises instead."""

    explicit: bool
    known: dict[str, Verified] = field(default_factory=dict)
    broken: Exception | None = None

    def check(self, call: Call) -> Outcome:
        if self.broken is not None:
            raise self.broken
        if self.explicit:
            kind, _, secret = call.header(b"authorization").decode("latin-1").partition(" ")
            return self.known.get(secret, REFUSED) if kind == "Bearer" else None
        name, _, secret = call.header(b"cookie").decode("latin-1").partition("=")
        return self.known.get(secret, REFUSED) if name == "session" else None


@dataclass
class Reply:
    """What went out over ASGI; `whole` says whether the answer was ended."""

    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.messages[0]["status"]) if self.messages else 0

    @property
    def headers(self) -> dict[str, str]:
        """Name → value. Only the fields of limits are lists (RFC 9651), the most important first."""
        found: dict[str, str] = {}
        for name, value in ((name.decode(), value.decode()) for name, value in self.messages[0]["headers"]):
            assert name not in found or name.startswith("ratelimit"), name
            found[name] = f"{found[name]}, {value}" if name in found else value
        return found

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages[1:])

    @property
    def code(self) -> str:
        """The problem's code, after a look at the rest of the problem; empty when it is none."""
        if self.headers.get("content-type") != "application/problem+json":
            return ""
        document = json.loads(self.body)
        assert document["status"] == self.status
        assert document["request_id"] == self.headers["x-request-id"]
        assert document["type"] == "about:blank"
        assert document["title"]
        return str(document["code"])

    @property
    def whole(self) -> bool:
        return bool(self.messages) and not self.messages[-1].get("more_body", False) and len(self.messages) > 1


class Rig:
    """One guarded app. `routes` are (methods, template, rule); `WS` is a web socket."""

    def __init__(
        self,
        routes: Sequence[tuple[str, str, Rule | None]],
        app: ASGIApp,
        *,
        settings: GuardSettings = PRODUCTION,
        arrival: Sequence[BeforeLayer] = (),
        before: Sequence[BeforeLayer] = (),
        late: Callable[[Scope], bool] = lambda scope: False,
        limits: Limits | None = None,
    ) -> None:
        self.app = app
        self.clock = ManualClock()
        self.view = RevocationView(self.clock)
        self.view.polled(self.clock.boot())
        self.streams = Streams(self.view)
        self.refusals = Refusals()
        self.tokens, self.cookies = Keyring(True), Keyring(False)
        self.owner_failures: list[BaseException] = []
        table: Limits = LimitTable() if limits is None else limits
        planner = Planner(
            settings,
            (self.tokens, self.cookies),
            api_limit=api_limit_check(settings, table),
            route_limit=route_limit(settings, table),
            endpoint_limit=endpoint_limit(settings, table),
            owner_failed=self._owner_failed,
        )
        decisions, leaves = Decisions(), []
        for methods, template, rule in routes:
            pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[^/]+)", re.escape(template))
            kind: Any = "websocket" if methods == "WS" else "http"
            leaf = Route(template, kind, re.compile(pattern + r"\Z"), frozenset(methods.split("|")), claims=None)
            leaves.append(leaf)
            decisions.by_route[leaf] = {}
            for method in methods.split("|"):
                decision = decisions.by_route[leaf][method] = Decision(leaf, method, rule, "test")
                decision.plan = planner.of_route(rule, method=method, websocket=kind == "websocket")
        unknown = Decision(Route("(late)", "http", re.compile(r"(?!)"), None), "*", None, "late")
        unknown.plan = planner.of_route(None, method="POST", websocket=False)
        layers = (
            host_layer(settings),
            https_layer(settings),
            bounds_layer(settings),
            address_layer(settings, table),
            cors_layer(settings),
            routing_layer(
                Matcher(Branch(tuple(leaves)), decisions),
                root_path=lambda scope: str(scope.get("root_path", "")),
                has_late=late,
                late=unknown,
                redirect=planner.of_redirect(),
            ),
        )

        async def live(_call: Call, _body: Any) -> Any:
            return empty_answer(204)

        self.chain = Chain(
            arrival=(
                arrival_layer(self.clock),
                *(one for one in (proxies_layer(settings),) if one is not None),
                *arrival,
            ),
            before=(*(layer for layer in layers if layer is not None), *before),
            infrastructure={"/health/live": Endpoint("GET", "/health/live", Rule(public=True), live, "Live")},
            default_headers=planner.private_headers,
            streams=self.streams,
            refusals=self.refusals,
        )

    def _owner_failed(self, call: Call, error: BaseException) -> None:
        self.owner_failures.append(error)
        log_failure("owner_check_failed", call, error, code="owner_check_failed")

    def person(self, id: str, *, factor_age_s: float = 0, expires_in_s: float = 1e9, **more: Any) -> Verified:
        """Let `Bearer id` and the cookie `session=id` be this account's."""
        factors = (Factor("password", self.clock.now() - factor_age_s),)
        principal = Principal(id=id, factors=factors, session_id=f"ses_{id}", **more)
        verified = Verified(principal, id, f"ses_{id}", self.clock.now() + expires_in_s)
        self.tokens.known[id] = self.cookies.known[id] = verified
        return verified

    def scope(self, kind: str, method: str, target: str, headers: dict[str, str] | None, **more: Any) -> Scope:
        path, _, query = target.partition("?")
        listed = {"host": "api.example.com", **(headers or {})}
        scope = {
            "type": kind,
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "scheme": "https" if kind == "http" else "wss",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in listed.items() if value],
            "client": ("192.0.2.1", 1),
            "server": ("192.0.2.2", 443),
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            **more,
        }
        if kind == "websocket":
            del scope["method"]
        return scope

    async def ask(
        self,
        method: str,
        target: str,
        headers: dict[str, str] | None = None,
        *,
        body: bytes | None = None,
        chunks: Sequence[bytes] = (),
        leaves: bool = False,
        **more: Any,
    ) -> Reply:
        """Send one request to its end; with `leaves` the client goes away after the chunks."""
        sent = {**(headers or {})}
        if body is not None:
            sent.setdefault("content-length", str(len(body)))
            sent.setdefault("content-type", "application/json")
        elif chunks or leaves:
            sent.setdefault("transfer-encoding", "chunked")
        pieces = [body] if body is not None else list(chunks)
        reply = Reply()

        async def receive() -> Message:
            if pieces:
                piece = pieces.pop(0)
                return {"type": "http.request", "body": piece, "more_body": bool(pieces) or leaves}
            if not leaves and not reply.messages:
                return {"type": "http.request", "body": b"", "more_body": False}
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            reply.messages.append(message)

        await self.chain.http(self.app, self.scope("http", method, target, sent, **more), receive, send)
        return reply


@dataclass
class Open:
    """A stream or web socket that goes on: what came so far, and its end."""

    task: "asyncio.Task[None]"
    sent: list[Message]
    inbox: "asyncio.Queue[Message]"
    started: asyncio.Event

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]


async def opened(
    rig: Rig,
    kind: str,
    target: str,
    headers: dict[str, str],
    *,
    until: str,
    method: str = "GET",
    body: bytes | None = None,
    **more: Any,
) -> Open:
    """Begin a stream or web socket in a task of its own and wait until it sent the first message of type `until`.

    `body`: the beginning of one that goes on; then nothing is waited for but that it was taken.
    """
    sent: list[Message] = []
    inbox: asyncio.Queue[Message] = asyncio.Queue()
    started = asyncio.Event()

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == until:
            started.set()

    request = {"type": "http.request", "body": body or b"", "more_body": body is not None}
    inbox.put_nowait(request if kind == "http" else {"type": "websocket.connect"})
    door: Callable[[ASGIApp, Scope, Receive, Send], Any] = rig.chain.http if kind == "http" else rig.chain.websocket
    scope = rig.scope(kind, method, target, headers, **more)
    task = asyncio.create_task(door(rig.app, scope, inbox.get, send))
    if body is not None:
        await asyncio.sleep(0.01)
        return Open(task, sent, inbox, started)
    waiting = asyncio.create_task(started.wait())
    await asyncio.wait({task, waiting}, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return Open(task, sent, inbox, started)


def store_error() -> StoreError:
    return StoreError("store_unavailable", "the disk is gone")
