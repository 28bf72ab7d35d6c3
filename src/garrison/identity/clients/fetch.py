"""Fetching a client's document from wherever a stranger says it is (CWE-918, the draft's section 8.6).

    resolve ▸ refuse unless every address is public ▸ connect to one of these very addresses ▸ TLS for the host's name

The name is resolved once: whoever answers differently the second time (DNS rebinding) is not asked a second time. No
redirects, cookies, credentials, proxies or decompression; five seconds for everything, name resolution included, and
10 KiB. Whatever goes wrong is told to the log alone: the answer to whoever asked is the same, or it would be a scanner.
"""

import asyncio
import re
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from garrison.core.errors import GarrisonError
from garrison.core.network import is_loopback, is_public
from garrison.identity.clients.document import DocumentError, DocumentUrl
from garrison.identity.issuers.fetch import ask_once, max_age_of

TIMEOUT_S = 5.0
MAX_BYTES = 10 * 1024
DEFAULT_AGE_S = 3600.0
MOST_LOOKUPS = 8
"""Names that one process resolves at a time: each is a thread, which ends when the system's resolver gives up."""
_MOST_TRIED = 3
_HEADERS = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "Garrison"}
_JSON = re.compile(r"application/(?:[a-z0-9!#$&^_.-]+\+)?json", re.ASCII)
_NOT_KEPT = re.compile(r"(?:^|[,\s])no-(?:store|cache)\b", re.IGNORECASE)

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""(host, port) → its addresses. Raises OSError."""


class Fetched(NamedTuple):
    """A document, and for how many seconds its host says it may be kept."""

    body: bytes
    max_age_s: float


class UnreachableError(GarrisonError):
    """There may be a document, but it was not to be had now. `code` says why, to whoever reads the log."""


class SystemResolver:
    """The system's resolver, in threads of its own, so that names that hang hold up neither others nor the end."""

    def __init__(self, most: int = MOST_LOOKUPS) -> None:
        self._free = threading.Semaphore(most)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """Return the host's addresses. Raises OSError, also when too many names are being resolved."""
        if not self._free.acquire(blocking=False):
            raise OSError("too many names at a time")
        loop = asyncio.get_running_loop()
        found: asyncio.Future[Sequence[str]] = loop.create_future()

        def settle(addresses: Sequence[str] | None) -> None:
            if found.done():  # whoever asked has given up
                return
            if addresses is None:
                found.set_exception(OSError("no such host"))
            else:
                found.set_result(addresses)

        def look_up() -> None:
            addresses: Sequence[str] | None = None
            try:
                infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(info[4][0]) for info in infos]
            except (OSError, UnicodeError):
                pass
            finally:
                self._free.release()
            try:
                loop.call_soon_threadsafe(settle, addresses)
            except RuntimeError:  # the loop has ended meanwhile
                return

        threading.Thread(target=look_up, name="resolve", daemon=True).start()
        return await found


class DocumentFetcher:
    """Fetches documents. `allows` says which addresses may be connected to; on this machine it is loopback ones."""

    def __init__(
        self,
        resolve: Resolve | None = None,
        *,
        allows: Callable[[str], bool] = is_public,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._resolve = SystemResolver() if resolve is None else resolve
        self._allows = allows
        self._tls = tls

    async def fetch(self, url: DocumentUrl) -> Fetched:
        """Return the document. Raises DocumentError for what must not or cannot be one, UnreachableError."""
        import aiohttp  # where no client has a document, it need not be installed

        try:
            async with asyncio.timeout(TIMEOUT_S):
                addresses = await self._addresses(url)
                return await self._from_one_of(addresses, url)
        except TimeoutError:
            raise UnreachableError("time") from None
        except (aiohttp.ClientError, OSError):
            raise UnreachableError("network") from None

    async def _addresses(self, url: DocumentUrl) -> Sequence[str]:
        """Return where the host is. Raises DocumentError where any of its addresses is one we do not connect to."""
        addresses = list(dict.fromkeys(await self._resolve(url.host, url.port)))
        allows = is_loopback if url.is_here else self._allows
        if not addresses or not all(allows(address) for address in addresses):
            raise DocumentError("address")
        return addresses

    async def _from_one_of(self, addresses: Sequence[str], url: DocumentUrl) -> Fetched:
        import aiohttp

        tried = addresses[:_MOST_TRIED]
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, sock_connect=TIMEOUT_S / _MOST_TRIED),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            middlewares=(ask_once,),
        ) as session:
            for address in tried[:-1]:
                try:
                    return await self._from(session, address, url)
                except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
                    continue
            return await self._from(session, tried[-1], url)

    async def _from(self, session: Any, address: str, url: DocumentUrl) -> Fetched:
        from yarl import URL

        scheme, _, rest = url.text.partition("://")
        authority, _, path = rest.partition("/")
        where = f"[{address}]" if ":" in address else address
        async with session.get(
            URL(f"{scheme}://{where}:{url.port}/{path}", encoded=True),
            headers={**_HEADERS, "host": authority},
            server_hostname=url.host,
            ssl=True if self._tls is None else self._tls,
            allow_redirects=False,
        ) as answer:
            if answer.status >= 500 or answer.status == 429:
                raise UnreachableError("status")
            if answer.status != 200:
                raise DocumentError("status")
            media = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
            if _JSON.fullmatch(media) is None:
                raise DocumentError("content_type")
            body = bytearray()
            async for piece in answer.content.iter_any():
                body += piece
                if len(body) > MAX_BYTES:
                    raise DocumentError("too_large")
            return Fetched(bytes(body), _max_age(", ".join(answer.headers.getall("cache-control", ()))))


def _max_age(cache_control: str) -> float:
    if _NOT_KEPT.search(cache_control) is not None:
        return 0.0
    return max_age_of(cache_control, default_s=DEFAULT_AGE_S)
