"""Documents of clients are fetched from wherever strangers say: only from the Internet, bounded, rarely (CWE-918).

Every host here is a real server over TCP; what names resolve to is told by an argument.
"""

import asyncio
import contextlib
import datetime
import gzip
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from garrison.core.clock import ManualClock
from garrison.identity.clients import documents as documents_module
from garrison.identity.clients.document import DocumentError, DocumentUrl, document_url
from garrison.identity.clients.documents import (
    FETCHES,
    FETCHES_OF_KNOWN,
    FETCHES_OF_ONE,
    MOST_AT_ONCE,
    PAUSE_S,
    ClientDocuments,
    DocumentUnavailableError,
)
from garrison.identity.clients.fetch import MAX_BYTES, TIMEOUT_S, DocumentFetcher, SystemResolver, UnreachableError

pytestmark = pytest.mark.anyio
NAME = "client.example.com"
Answers = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def head(*lines: str, status: str = "200 OK", media: str = "application/json") -> bytes:
    listed = (f"HTTP/1.1 {status}", f"content-type: {media}", "connection: close", *lines)
    return "\r\n".join((*listed, "", "")).encode()


def whole(body: bytes, *lines: str, **more: str) -> bytes:
    return head(f"content-length: {len(body)}", *lines, **more) + body


@dataclass
class Host:
    """Somebody's web server: it says `answer`, or what `answers` writes."""

    port: int = 0
    answer: bytes = b""
    answers: Answers | None = None
    connections: int = 0
    requests: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            self.requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            if self.answers is not None:
                await self.answers(writer)
            else:
                writer.write(self.answer)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def here(self, path: str = "/client.json") -> DocumentUrl:
        """Return the URL of a developer on this machine."""
        found = document_url(f"http://127.0.0.1:{self.port}{path}", development=True)
        assert found is not None
        return found

    def named(self, name: str = NAME, path: str = "/client.json") -> DocumentUrl:
        found = document_url(f"https://{name}:{self.port}{path}", development=False)
        assert found is not None
        return found


@contextlib.asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Host]:
    made = Host()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    async with serving() as made:
        yield made


@dataclass
class Names:
    """A resolver that says what it is told to say, each time the next thing."""

    said: list[Sequence[str]]
    asked: list[str] = field(default_factory=list)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.said[min(len(self.asked), len(self.said)) - 1]


async def code_of(work: Awaitable[Any]) -> str:
    with pytest.raises((DocumentError, UnreachableError)) as caught:
        await work
    assert caught.value.code == str(caught.value), "no text of somebody else's comes along"
    return f"{type(caught.value).__name__} {caught.value.code}"


# Where we connect to


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["::1"],
        ["10.0.0.7"],
        ["169.254.169.254"],
        ["fe80::1%1"],
        ["fd00::1"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["2002:7f00:1::1"],
        ["not an address"],
        ["1.1.1.1", "127.0.0.1"],
        ["127.0.0.1", "1.1.1.1"],
        [],
    ],
)
async def test_a_name_of_an_address_that_is_not_public_is_not_connected_to(host: Host, addresses: list[str]) -> None:
    names = Names([addresses])
    assert await code_of(DocumentFetcher(names).fetch(host.named())) == "DocumentError address"
    assert names.asked == [NAME]
    assert host.connections == 0


async def test_a_developers_document_comes_from_this_machine_alone(host: Host) -> None:
    host.answer = whole(b"{}")
    assert (await DocumentFetcher(Names([["127.0.0.1"]])).fetch(host.here())).body == b"{}"
    for address in ("1.1.1.1", "10.0.0.1", "0.0.0.0"):
        assert await code_of(DocumentFetcher(Names([[address]])).fetch(host.here())) == "DocumentError address"
    assert host.connections == 1


@dataclass
class Authority:
    """A certificate authority of this test run."""

    path: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    name: x509.Name = field(default_factory=lambda: x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")]))

    def certificate(self, key: ec.EllipticCurvePrivateKey, names: Sequence[x509.GeneralName]) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        is_own = not names
        built = (
            x509.CertificateBuilder()
            .subject_name(self.name if is_own else x509.Name([]))
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_own, path_length=None), critical=True)
        )
        if names:
            built = built.add_extension(x509.SubjectAlternativeName(names), critical=True)
        return built.sign(self.key, hashes.SHA256())

    def server(self, *names: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        listed: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        pem = serialization.Encoding.PEM
        file = self.path / f"{len(list(self.path.iterdir()))}.pem"
        file.write_bytes(
            key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
            + self.certificate(key, listed or [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]).public_bytes(pem)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def client(self) -> ssl.SSLContext:
        own = self.certificate(self.key, ()).public_bytes(serialization.Encoding.PEM)
        return ssl.create_default_context(cadata=own.decode())


def anywhere(_address: str) -> bool:
    """Loopback stands for the Internet where TLS is what is tested."""
    return True


async def test_the_connection_goes_to_the_address_that_was_checked_and_the_name_is_asked_once(tmp_path: Path) -> None:
    """DNS rebinding: the second answer of this name is another server, which never sees anybody."""
    authority = Authority(tmp_path)
    async with serving(authority.server(NAME)) as host:
        host.answer = whole(b'{"a":1}')
        names = Names([["127.0.0.1"], ["127.0.0.2"]])
        checked: list[str] = []

        def allows(address: str) -> bool:
            checked.append(address)
            return True

        fetched = await DocumentFetcher(names, allows=allows, tls=authority.client()).fetch(host.named())
        assert fetched.body == b'{"a":1}'
        assert (names.asked, checked, host.connections) == ([NAME], ["127.0.0.1"], 1)
        lines = host.requests[0].lower().split("\r\n")
        assert lines[0] == "get /client.json http/1.1"
        assert f"host: {NAME}:{host.port}" in lines
        sent = {line.partition(":")[0] for line in lines[1:] if line}
        assert sent <= {"host", "accept", "accept-encoding", "user-agent", "connection"}, "no cookie, no credential"


async def test_the_certificate_must_be_for_the_name_and_of_an_authority(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    names = Names([["127.0.0.1"]])
    for certified, trusted in (("other.example.com", authority.client()), (NAME, None), ("", authority.client())):
        tls = authority.server(certified) if certified else authority.server()
        async with serving(tls) as host:
            host.answer = whole(b"{}")
            fetcher = DocumentFetcher(names, allows=anywhere, tls=trusted)
            assert await code_of(fetcher.fetch(host.named())) == "UnreachableError network", certified
            assert host.requests == []


async def test_the_second_address_is_tried_where_nobody_listens_at_the_first(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with serving(authority.server(NAME)) as host:
        host.answer = whole(b"{}")
        names = Names([["127.0.0.9", "127.0.0.1"]])
        assert (await DocumentFetcher(names, allows=anywhere, tls=authority.client()).fetch(host.named())).body == b"{}"
        nobody = Names([["127.0.0.9"]])
        fetcher = DocumentFetcher(nobody, allows=anywhere, tls=authority.client())
        assert await code_of(fetcher.fetch(host.named())) == "UnreachableError network"


async def test_no_proxy_stands_between(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would resolve the name once more."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    host.answer = whole(b"{}")
    assert (await DocumentFetcher().fetch(host.here())).body == b"{}"


# What comes


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (whole(b"{}", "location: /other", status="302 Found"), "DocumentError status"),
        (whole(b"{}", "location: /other", status="307 Temporary Redirect"), "DocumentError status"),
        (whole(b"{}", "location: http://169.254.169.254/", status="301 Moved"), "DocumentError status"),
        (whole(b"{}", status="201 Created"), "DocumentError status"),
        (whole(b"", status="404 Not Found"), "DocumentError status"),
        (head(status="304 Not Modified"), "DocumentError status"),
        (whole(b"", status="500 Oh"), "UnreachableError status"),
        (whole(b"", status="429 Slow"), "UnreachableError status"),
        (whole(b"{}", media="text/html"), "DocumentError content_type"),
        (whole(b"{}", media="application/jsonp"), "DocumentError content_type"),
        (whole(b"{}", media="text/json"), "DocumentError content_type"),
        (whole(b"{}", media=""), "DocumentError content_type"),
        (whole(b" " * (MAX_BYTES + 1)), "DocumentError too_large"),
        (head(f"content-length: {10**12}") + b" " * (MAX_BYTES + 1), "DocumentError too_large"),
        (head("content-length: 100") + b"{}", "UnreachableError network"),
        (head("transfer-encoding: chunked") + b"zz\r\n", "UnreachableError network"),
        (b"SSH-2.0-OpenSSH_9.2p1\r\n", "UnreachableError network"),
        (b"", "UnreachableError network"),
        (head(*(f"x-{n}: y" for n in range(10_000))), "UnreachableError network"),
        (head("x: " + "y" * 1_000_000), "UnreachableError network"),
    ],
)
async def test_what_is_no_small_document_is_refused(host: Host, answer: bytes, code: str) -> None:
    host.answer = answer
    assert await code_of(DocumentFetcher().fetch(host.here())) == code
    assert all(request.startswith("GET /client.json ") for request in host.requests), "redirects are not followed"
    assert len(host.requests) == 1, "a lost connection is not asked again"


@pytest.mark.parametrize("media", ["application/json", "application/json; charset=utf-8", "Application/X.y+JSON"])
async def test_a_document_of_the_largest_size(host: Host, media: str) -> None:
    host.answer = whole(b" " * MAX_BYTES, media=media)
    assert len((await DocumentFetcher().fetch(host.here())).body) == MAX_BYTES


async def test_nothing_is_decompressed(host: Host) -> None:
    bomb = gzip.compress(b" " * 5_000_000)
    assert len(bomb) < MAX_BYTES
    host.answer = whole(bomb, "content-encoding: gzip")
    assert (await DocumentFetcher().fetch(host.here())).body == bomb


async def test_the_path_goes_out_as_it_is_written(host: Host) -> None:
    host.answer = whole(b"{}")
    await DocumentFetcher().fetch(host.here("/a%2Fb//c%7e;x=@,(1)"))
    assert host.requests[0].startswith("GET /a%2Fb//c%7e;x=@,(1) HTTP/1.1\r\n")


async def test_endless_and_slow_answers_and_names_end_in_time() -> None:
    async def silent(_writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(head("content-length: 1000"))
        for _ in range(1000):
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.2)

    async def headers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        for number in range(1000):
            writer.write(b"x-%d: y\r\n" % number)
            await writer.drain()
            await asyncio.sleep(0.2)

    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(head("transfer-encoding: chunked"))
        while True:
            writer.write(b"400\r\n" + b" " * 1024 + b"\r\n")
            await writer.drain()

    async def hangs(_host: str, _port: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    async def against(answers: Answers) -> str:
        async with serving() as host:
            host.answers = answers
            return await code_of(DocumentFetcher().fetch(host.here()))

    began = time.perf_counter()
    found = await asyncio.gather(
        *(against(answers) for answers in (silent, trickle, headers, endless)),
        code_of(DocumentFetcher(hangs).fetch(Host(port=443).named())),
    )
    assert found == ["UnreachableError time"] * 3 + ["DocumentError too_large", "UnreachableError time"]
    assert time.perf_counter() - began < 3 * TIMEOUT_S


async def test_names_are_resolved_in_a_few_threads_that_hold_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, release = threading.Event(), threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *rest: Any, **more: Any) -> Any:
        if host == "slow.example.com":
            hanging.set()
            release.wait(30)
            raise OSError("no such host")
        return real(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    resolver = SystemResolver(most=1)
    assert await resolver("127.0.0.1", 80) == ["127.0.0.1"]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(resolver("slow.example.com", 80), 0.1)
    assert hanging.is_set()
    with pytest.raises(OSError, match="too many"):
        await resolver("127.0.0.1", 80)
    release.set()
    for _ in range(200):
        with contextlib.suppress(OSError):
            assert await resolver("127.0.0.1", 80) == ["127.0.0.1"]
            break
        await asyncio.sleep(0.01)
    else:
        pytest.fail("the place was not given back")


@pytest.mark.parametrize("name", ["no-such-name.invalid", "x" * 64 + ".invalid"])
async def test_a_name_that_there_is_not_is_unreachable(name: str) -> None:
    fetch = DocumentFetcher().fetch(DocumentUrl(f"https://{name}/x", name, 443, is_here=False))
    assert await code_of(fetch) in ("UnreachableError network", "UnreachableError time")


# How rarely


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def documents(clock: ManualClock) -> ClientDocuments:
    return ClientDocuments(
        DocumentFetcher(), clock, scopes=("tasks:read",), audience="https://api.example.com", development=True
    )


def describe(host: Host, path: str = "/client.json", *lines: str, **members: Any) -> str:
    """Let the host describe a client, and return its id."""
    client_id = host.here(path).text
    document = {"client_id": client_id, "redirect_uris": ["https://app.example.com/cb"], **members}
    host.answer = whole(json.dumps(document).encode(), *lines)
    return client_id


async def is_unavailable(work: Awaitable[Any]) -> bool:
    try:
        await work
    except DocumentUnavailableError:
        return True
    return False


async def test_fifty_who_ask_at_once_cause_one_fetch_and_one_who_leaves_takes_it_from_nobody(
    host: Host, documents: ClientDocuments
) -> None:
    client_id = describe(host)
    first = asyncio.create_task(documents.asked_by(client_id, "network 0"))
    others = [asyncio.create_task(documents.asked_by(client_id, f"network {n}")) for n in range(1, 50)]
    await asyncio.sleep(0)
    first.cancel()
    found = await asyncio.gather(*others)
    assert {client.id for client in found if client is not None} == {client_id}
    assert len(host.requests) == 1
    assert first.cancelled()


@pytest.mark.parametrize(
    ("lines", "age_s"),
    [
        ((), 3600),
        (("cache-control: max-age=0",), 60),
        (("cache-control: public, max-age=300",), 300),
        (("cache-control: max-age=999999999",), 86_400),
        (("cache-control: no-store, max-age=5000",), 60),
        (("cache-control: no-cache",), 60),
        (("cache-control: private", "cache-control: max-age=120"), 120),
        (("cache-control: max-age=soon",), 3600),
    ],
)
async def test_a_document_is_kept_as_long_as_its_host_says_within_bounds(
    host: Host, documents: ClientDocuments, clock: ManualClock, lines: tuple[str, ...], age_s: float
) -> None:
    client_id = describe(host, "/client.json", *lines)
    for after_s, fetched in ((0, 1), (age_s - 1, 1), (1, 2)):
        clock.advance(after_s)
        assert await documents.asked_by(client_id, "n") is not None
        assert len(host.requests) == fetched


async def test_a_failure_is_not_repeated_at_once_and_not_for_long(
    host: Host, documents: ClientDocuments, clock: ManualClock
) -> None:
    client_id = describe(host)
    fine, host.answer = host.answer, whole(b"{}")
    for number in range(100):
        assert await documents.asked_by(client_id, f"network {number}") is None
    host.answer = fine
    assert await documents.asked_by(client_id, "n") is None
    assert len(host.requests) == 1
    clock.advance(PAUSE_S)
    assert await documents.asked_by(client_id, "n") is not None
    host.answer = whole(b"", status="503 Down")
    clock.advance(3600)
    assert await is_unavailable(documents.asked_by(client_id, "n")), "what is old is not what people are asked about"
    assert await is_unavailable(documents.asked_by(client_id, "n"))
    assert len(host.requests) == 3


async def test_strangers_can_cause_so_many_fetches_a_minute_and_no_more(
    host: Host, documents: ClientDocuments, clock: ManualClock
) -> None:
    client_id = describe(host)
    one = [await is_unavailable(documents.asked_by(host.here(f"/{n}").text, "one")) for n in range(100)]
    assert one == [False] * FETCHES_OF_ONE.count + [True] * (100 - FETCHES_OF_ONE.count)
    began = time.perf_counter()
    for number in range(2000):
        with contextlib.suppress(DocumentUnavailableError):
            await documents.asked_by(host.here(f"/more/{number}").text, f"network {number}")
    assert len(host.requests) == FETCHES.count
    print(f"2,000 made-up ids: {time.perf_counter() - began:.2f} s, {len(host.requests)} fetches")
    assert await is_unavailable(documents.asked_by(client_id, "somebody else"))
    assert await documents.met_again(client_id) is not None, "whom a person let in has a budget of its own"
    assert await documents.asked_by(client_id, "somebody else") is not None, "and what is at hand costs nothing"
    clock.advance(60)
    assert not await is_unavailable(documents.asked_by(host.here("/later").text, "one"))


async def test_clients_that_were_let_in_are_bounded_too(host: Host, documents: ClientDocuments) -> None:
    host.answer = whole(b"{}")
    for number in range(FETCHES_OF_KNOWN.count + 50):
        with contextlib.suppress(DocumentUnavailableError):
            await documents.met_again(host.here(f"/{number}").text)
    assert len(host.requests) == FETCHES_OF_KNOWN.count


async def test_so_many_at_a_time_and_no_more(host: Host, documents: ClientDocuments) -> None:
    let_go = asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        writer.write(whole(b"{}"))
        await writer.drain()

    host.answers = wait
    waiting = [
        asyncio.create_task(is_unavailable(documents.asked_by(host.here(f"/{n}").text, f"network {n}")))
        for n in range(MOST_AT_ONCE)
    ]
    while len(host.requests) < MOST_AT_ONCE:
        await asyncio.sleep(0.01)
    assert await is_unavailable(documents.asked_by(host.here("/next").text, "next"))
    let_go.set()
    assert await asyncio.gather(*waiting) == [False] * MOST_AT_ONCE
    assert not await is_unavailable(documents.asked_by(host.here("/next").text, "next"))


async def test_a_client_that_was_let_in_outlives_an_outage_for_a_day_but_not_its_hosts_word(
    host: Host, documents: ClientDocuments, clock: ManualClock
) -> None:
    client_id = describe(host)
    fine = host.answer
    assert await documents.met_again(client_id) is not None
    host.answer = whole(b"", status="502 Down")
    clock.advance(3601)
    assert await documents.met_again(client_id) is not None
    assert documents.known(client_id) is not None
    clock.advance(86_400)
    assert await is_unavailable(documents.met_again(client_id))
    assert documents.known(client_id) is None
    host.answer = fine
    clock.advance(PAUSE_S)
    assert await documents.met_again(client_id) is not None
    host.answer = whole(b"", status="410 Gone")
    clock.advance(3601)
    assert await documents.met_again(client_id) is None
    assert documents.known(client_id) is None


async def test_what_is_kept_is_bounded_and_what_is_used_stays(
    host: Host, documents: ClientDocuments, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents_module, "MOST_KEPT", 3)
    used = describe(host, "/used")
    assert await documents.asked_by(used, "n") is not None
    for number in range(9):
        client_id = describe(host, f"/{number}")
        assert await documents.met_again(client_id) is not None
        assert await documents.asked_by(used, "n") is not None
        await documents.met_again(host.here(f"/bad/{number}").text)
    assert len(documents._kept) == len(documents._failed) == 3
    assert documents.known(used) is not None
    assert documents.known(host.here("/0").text) is None


async def test_what_nobody_foresaw_is_a_refusal(
    documents: ClientDocuments, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks(_url: DocumentUrl) -> Any:
        raise LookupError("a bug")

    monkeypatch.setattr(documents._fetcher, "fetch", breaks)
    assert await documents.asked_by(host.here().text, "n") is None


async def test_nothing_is_fetched_for_an_id_that_is_no_address_of_a_document(
    host: Host, documents: ClientDocuments
) -> None:
    for path in ("/", "/a?b", "/a#b", "/../a", "/%2e%2e/a", ""):
        assert await documents.asked_by(f"http://127.0.0.1:{host.port}{path}", "n") is None, path
    assert host.connections == 0
