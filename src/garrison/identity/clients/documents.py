"""The clients that have a document: fetched rarely, kept for a while, driven into nothing by whoever makes up URLs.

    kept, and not old            at hand; nothing is fetched
    asked for at the same time   one fetch for all who wait
    failed a moment ago          not tried again for `PAUSE_S`: that is a pause, no memory of what was answered
    all others                   fetched, if the asker's budget, the process's and the places under way allow

A stranger may ask for any URL, so what a stranger can cause is bounded three times; a client that shows a code or a
refresh token of its own was let in by a person, and has a budget that strangers cannot use up. Such a client may also
go on for a day with the document that was fetched last, while its host is down: what it may was decided at consent.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import structlog

from garrison.core.clock import Clock
from garrison.core.durations import Limit
from garrison.core.errors import GarrisonError
from garrison.guard.limit_table import LimitTable
from garrison.identity.clients.document import DocumentError, DocumentUrl, client_of, document_url
from garrison.identity.clients.fetch import DocumentFetcher, UnreachableError
from garrison.identity.clients.model import Client

LEAST_AGE_S, MOST_AGE_S = 60.0, 86_400.0
PAUSE_S = 15.0
FETCHES = Limit(120, 60)
"""Of all strangers together. These three are counted in each process, for each has its own documents to fetch."""
FETCHES_OF_ONE = Limit(12, 60)
"""Of the strangers of one address; an office behind one address shares what is kept."""
FETCHES_OF_KNOWN = Limit(120, 60)
MOST_AT_ONCE = 16
MOST_KEPT = 1024
"""About 12 MB, were each document as large as may be."""
_log = structlog.get_logger("garrison")


class DocumentUnavailableError(GarrisonError):
    """Whether there is such a client cannot be told now: its host did not answer, or too much was asked."""


class Kept(NamedTuple):
    """A client as its document had it. Times are the boot clock's."""

    client: Client
    fresh_until: float
    good_until: float


class Failed(NamedTuple):
    """A fetch that gave no client: whether the document was refused, and until when no other is tried."""

    is_refused: bool
    until: float


class ClientDocuments:
    """The clients of one process that have a document. Those that are used least lately are forgotten first."""

    def __init__(
        self,
        fetcher: DocumentFetcher,
        clock: Clock,
        *,
        scopes: Sequence[str],
        audience: str,
        development: bool,
        share: int = 1,
    ) -> None:
        self._fetcher = fetcher
        self._clock = clock
        self._scopes = tuple(scopes)
        self._audience = audience
        self._development = development
        table = LimitTable(most=4096)
        self._of_one = table.limiter(FETCHES_OF_ONE, share=share)
        self._of_all = table.limiter(FETCHES, share=share)
        self._of_known = table.limiter(FETCHES_OF_KNOWN, share=share)
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._failed: OrderedDict[str, Failed] = OrderedDict()
        self._running: dict[str, asyncio.Task[None]] = {}

    def known(self, client_id: str) -> Client | None:
        """Return the client whose document is at hand, be it old; nothing is fetched."""
        kept = self._kept.get(client_id)
        return kept.client if kept is not None and self._clock.boot() < kept.good_until else None

    def unread(self, client_id: str) -> Client | None:
        """Return who a client says to be whose id may be one with a document: public, and with nothing to ask for."""
        url = document_url(client_id, development=self._development)
        if url is None:
            return None
        return Client(client_id, url.host, (), (), (), (), "active", epoch=1, created_at=0.0, is_public=True)

    async def asked_by(self, client_id: str, network: str) -> Client | None:
        """Return the client, for a stranger of this network; None where there is no such client.

        Raises DocumentUnavailableError.
        """
        return await self._find(client_id, network)

    async def met_again(self, client_id: str) -> Client | None:
        """Return the client, which has shown a code or a refresh token of its own; None where there is none.

        Raises DocumentUnavailableError.
        """
        try:
            return await self._find(client_id, None)
        except DocumentUnavailableError:
            client = self.known(client_id)
            if client is None:
                raise
            return client

    async def _find(self, client_id: str, network: str | None) -> Client | None:
        url = document_url(client_id, development=self._development)
        if url is None:
            return None
        client = self._fresh(client_id)
        if client is not None:
            return client
        if not self._is_paused(client_id):
            await asyncio.shield(self._start(url, network))
            client = self._fresh(client_id)
        if client is not None:
            return client
        failed = self._failed.get(client_id)
        if failed is None or not failed.is_refused:
            raise DocumentUnavailableError("document_unavailable")
        return None

    def _fresh(self, client_id: str) -> Client | None:
        kept = self._kept.get(client_id)
        if kept is None or self._clock.boot() >= kept.fresh_until:
            return None
        self._kept.move_to_end(client_id)
        return kept.client

    def _is_paused(self, client_id: str) -> bool:
        failed = self._failed.get(client_id)
        return failed is not None and self._clock.boot() < failed.until

    def _start(self, url: DocumentUrl, network: str | None) -> "asyncio.Task[None]":
        """Return the fetch under way, or a new one. Raises DocumentUnavailableError where none may begin."""
        loop = asyncio.get_running_loop()
        running = self._running.get(url.text)
        if running is not None and not running.done() and running.get_loop() is loop:
            return running
        boot = self._clock.boot()
        if len(self._running) >= MOST_AT_ONCE:
            self._running = {name: task for name, task in self._running.items() if _is_under_way(task, loop)}
        if len(self._running) >= MOST_AT_ONCE:
            raise DocumentUnavailableError("busy")
        if network is None:
            is_admitted = self._of_known.take("", boot) >= 0.0
        else:
            is_admitted = self._of_one.take(network, boot) >= 0.0 and self._of_all.take("", boot) >= 0.0
        if not is_admitted:
            raise DocumentUnavailableError("busy")
        task = loop.create_task(self._run(url), name="client document")
        self._running[url.text] = task
        return task

    async def _run(self, url: DocumentUrl) -> None:
        try:
            fetched = await self._fetcher.fetch(url)
            client = client_of(url, fetched.body, scopes=self._scopes, audience=self._audience)
        except (DocumentError, UnreachableError) as error:
            _log.warning("client_document", host=url.host, problem=error.code)
            self._fail(url, is_refused=isinstance(error, DocumentError))
        except Exception:  # what a stranger's host sends must not become an error of ours
            _log.exception("client_document", host=url.host)
            self._fail(url, is_refused=True)
        else:
            boot = self._clock.boot()
            age_s = min(MOST_AGE_S, max(LEAST_AGE_S, fetched.max_age_s))
            self._failed.pop(url.text, None)
            self._kept[url.text] = Kept(client, boot + age_s, boot + MOST_AGE_S)
            self._kept.move_to_end(url.text)
            _bound(self._kept)
        finally:
            if self._running.get(url.text) is asyncio.current_task():
                del self._running[url.text]

    def _fail(self, url: DocumentUrl, *, is_refused: bool) -> None:
        """Note a failure. Where the host has spoken, what it said before is over."""
        if is_refused:
            self._kept.pop(url.text, None)
        self._failed[url.text] = Failed(is_refused, self._clock.boot() + PAUSE_S)
        self._failed.move_to_end(url.text)
        _bound(self._failed)


def _is_under_way(task: "asyncio.Task[None]", loop: asyncio.AbstractEventLoop) -> bool:
    return not task.done() and task.get_loop() is loop


def _bound(kept: "OrderedDict[str, Kept] | OrderedDict[str, Failed]") -> None:
    while len(kept) > MOST_KEPT:
        kept.popitem(last=False)
