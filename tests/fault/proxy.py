"""A TCP proxy that does to connections what networks and machines do to them, for PostgreSQL and Redis alike.

    with FaultProxy("127.0.0.1", 5432) as proxy:
        proxy.set(BLACK_HOLE)           # from now on, for connections that are open and for new ones
        proxy.set(reset(within=4000))   # each is cut by RST at a byte of its own within its next 4,000
        proxy.set(PASS)

It runs on a loop and thread of its own, so that a test may block. Bytes are passed on as they come and never looked
at. Where an end was cut is drawn from `seed`.
"""

import asyncio
import random
import socket
import struct
import threading
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Kind = Literal["pass", "delay", "drop", "truncate", "reset", "black hole", "half-open"]
_CHUNK = 65_536
_NOW = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is done: `delay_s` to each piece, or an end within so many `bytes` of both directions together."""

    kind: Kind
    delay_s: float = 0.0
    bytes: int = 0


PASS = Fault("pass")
DROP = Fault("drop")
"""Everything is taken and thrown away; connections stay open, new ones too (a firewall that forgot them)."""
BLACK_HOLE = Fault("black hole")
"""Nothing is taken any more, of either side; it goes on where it stood when the fault ends (a partition)."""
HALF_OPEN = Fault("half-open")
"""The server hears everything; its answers, and its end, do not arrive. What it was told may have been done."""


def delay(seconds: float) -> Fault:
    """Pass each piece on so much later."""
    return Fault("delay", delay_s=seconds)


def truncate(within: int) -> Fault:
    """End each connection in order (FIN), at a byte of its own within its next so many."""
    return Fault("truncate", bytes=within)


def reset(within: int) -> Fault:
    """Cut each connection (RST), at a byte of its own within its next so many; 0 is at once."""
    return Fault("reset", bytes=within)


class FaultProxy:
    """Listens on a free port of 127.0.0.1 and passes on to one server. Used as a context manager."""

    def __init__(self, host: str, port: int, *, seed: int = 0) -> None:
        self._server = (host, port)
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-proxy", daemon=True)
        self._links: set[_Link] = set()
        self.fault = PASS
        self.changed = asyncio.Event()
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def set(self, fault: Fault) -> None:
        """Do this from now on. Connections that lost bytes are cut when their fault ends."""

        async def change() -> None:
            before, self.fault = self.fault, fault
            for link in list(self._links):
                if before.kind in ("drop", "half-open"):
                    link.cut()
                link.draw(fault, self._dice)
            self.changed.set()
            self.changed = asyncio.Event()

        asyncio.run_coroutine_threadsafe(change(), self._loop).result(10)

    @property
    def connections(self) -> int:
        """How many pass now."""
        return len(self._links)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._listener.close()
        for link in list(self._links):
            link.cut()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._serve(reader, writer)
        except asyncio.CancelledError:  # at the end, and asyncio would tell it as a failure
            return
        finally:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while self.fault.kind == "black hole":
            await self.changed.wait()
        try:
            there_reader, there_writer = await asyncio.open_connection(*self._server)
        except OSError:
            _reset(writer)
            return
        link = _Link(self, writer, there_writer)
        self._links.add(link)
        link.draw(self.fault, self._dice)
        try:
            await asyncio.gather(
                link.pump(reader, there_writer, back=False), link.pump(there_reader, writer, back=True)
            )
        except OSError:
            link.cut()
        finally:
            self._links.discard(link)
            for one in (writer, there_writer):
                one.close()


class _Link:
    """One connection: both its ends, and how many bytes are left to it."""

    def __init__(self, proxy: FaultProxy, here: asyncio.StreamWriter, there: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._writers = (here, there)
        self._left: int | None = None
        self._ended = False

    def draw(self, fault: Fault, dice: random.Random) -> None:
        """Draw the byte at which this connection ends."""
        if self._ended:
            return
        self._left = dice.randint(0, fault.bytes) if fault.kind in ("reset", "truncate") else None
        if self._left == 0:
            self._finish(fault)

    def cut(self) -> None:
        """End it by RST, to both sides."""
        for writer in self._writers:
            _reset(writer)

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, back: bool) -> None:
        """Pass on what one side says, `back` being the server's, as the fault of the moment wants it."""
        proxy = self._proxy
        while True:
            data = await reader.read(_CHUNK)
            while proxy.fault.kind == "black hole":
                await proxy.changed.wait()
            fault = proxy.fault
            if fault.kind == "drop" or (fault.kind == "half-open" and back):
                if data:
                    continue
                await proxy.changed.wait()  # the end is not heard of either; the change cuts
                return
            if not data:
                if writer.can_write_eof() and not self._ended:
                    writer.write_eof()
                return
            if self._ended:
                continue
            if fault.kind == "delay":
                await asyncio.sleep(fault.delay_s)
            if self._left is not None and len(data) >= self._left:
                writer.write(data[: self._left])
                await asyncio.sleep(0)  # what was let through is on its way before the end is
                self._finish(fault)
                continue
            if self._left is not None:
                self._left -= len(data)
            writer.write(data)
            await writer.drain()

    def _finish(self, fault: Fault) -> None:
        if fault.kind == "reset":
            self.cut()
            return
        self._ended = True
        for writer in self._writers:  # only half closed: closing what has unread bytes would be an RST
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    raw = writer.get_extra_info("socket")
    if raw is not None and raw.fileno() >= 0:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOW)
    writer.transport.abort()
