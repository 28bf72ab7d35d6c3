"""The connection to Redis: in order, within its deadline or not at all, from any event loop, and found again."""

import asyncio
import contextlib
import datetime
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from bench.redis_server import RedisServer
from garrison.store.redis import ANSWER_S, MOST_PAUSE_S, Connection, RedisError, packed, redis_address
from tests.store.redis_rig import Watched, private_redis, within

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def private() -> Iterator[RedisServer]:
    """One for faults."""
    with private_redis() as server:
        yield server


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies may take their time: where the machine is busy, the deadline is not what is tested."""
    monkeypatch.setattr("garrison.store.redis.ANSWER_S", 5.0)


# Addresses


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("redis://cache", ("cache", 6379, "", 0, "", "")),
        ("redis://cache:7000/3", ("cache", 7000, "", 3, "", "")),
        ("redis://cache/?db=3", ("cache", 6379, "", 3, "", "")),
        ("redis://:p%40ss%2Fword@[::1]:7000", ("::1", 7000, "", 0, "", "p@ss/word")),
        ("redis://ada:secret@cache", ("cache", 6379, "", 0, "ada", "secret")),
        ("unix:///run/redis.sock", ("", 6379, "/run/redis.sock", 0, "", "")),
        ("unix://ada:secret@/run/redis.sock?db=2", ("", 6379, "/run/redis.sock", 2, "ada", "secret")),
    ],
)
def test_an_address_says_where_and_who(url: str, parts: tuple[object, ...]) -> None:
    found = redis_address(url)
    assert (found.host, found.port, found.path, found.database, found.user, found.password) == parts
    assert found.tls is None
    assert "secret" not in repr(found)


def test_tls_verifies_certificate_and_name() -> None:
    found = redis_address("rediss://cache")
    assert found.tls is not None
    assert found.tls.verify_mode == ssl.CERT_REQUIRED
    assert found.tls.check_hostname


@pytest.mark.parametrize(
    "url",
    [
        "cache:6379",
        "http://cache",
        "redis://",
        "redis://cache:port",
        "redis://cache:70000",
        "redis://cache/one",
        "redis://ada@cache",
        "redis://cache/99999",
        "redis://cache/0/1",
        "redis://cache?ssl_cert_reqs=none",
        "redis://cache?ssl_ca_certs=/etc/ca.pem",
        "rediss://cache?ssl_ca_certs=/nowhere/ca.pem",
        "rediss://cache?ssl_check_hostname=false",
        "redis://cache#0",
        "unix://",
        "unix:///run/redis.sock?db=x",
        "redis://[::1",
    ],
)
def test_what_is_no_address_or_would_weaken_it_is_refused_without_its_value(url: str) -> None:
    with pytest.raises(ValueError, match=r"write redis://|cannot be read") as caught:
        redis_address(url)
    assert "nowhere" not in str(caught.value)


# Commands and replies


@pytest.mark.usefixtures("patient")
async def test_replies_come_to_whom_they_belong(server: RedisServer) -> None:
    redis = Watched(server.url)
    connection = await redis.opened()
    assert await connection.call("SET", "k", b"\x00\r\n\xff") == b"OK"
    assert await connection.call("GET", "k") == b"\x00\r\n\xff"
    found = await asyncio.gather(*(connection.call("ECHO", str(number)) for number in range(5000)))
    assert found == [str(number).encode() for number in range(5000)]
    await redis.close()
    assert redis.told == []


@pytest.mark.usefixtures("patient")
async def test_an_error_is_its_first_word_and_nothing_of_what_it_names(server: RedisServer) -> None:
    redis = Watched(server.url)
    connection = await redis.opened()
    with pytest.raises(RedisError) as caught:
        await connection.call("EVALSHA", "canary" * 6 + "abcd", 0)
    assert caught.value.reason == "noscript"
    with pytest.raises(RedisError) as caught:
        await connection.call("CANARY", "canary")
    assert caught.value.reason == "err"
    assert "canary" not in str(caught.value).lower()
    assert await connection.call("PING") == b"PONG", "an error is a reply like others"
    await redis.close()


@pytest.mark.usefixtures("patient")
async def test_whoever_stops_waiting_takes_nobody_elses_reply(server: RedisServer) -> None:
    redis = Watched(server.url)
    connection = await redis.opened()
    first = asyncio.ensure_future(connection.call("ECHO", "first"))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(connection.call("ECHO", "second"))
    first.cancel()
    assert await second == b"second"
    await redis.close()


@pytest.mark.parametrize("said", [b"?garbage\r\n", b"+OK\r\n+OK\r\n+OK\r\n", b"$99999999999999999999\r\n"])
async def test_what_speaks_otherwise_is_given_up(said: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(said)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as other:
        port = other.sockets[0].getsockname()[1]
        redis = Watched(f"redis://127.0.0.1:{port}")
        for _ in within(5):
            await redis.open()
            if redis.told:
                break
            await asyncio.sleep(0.01)
        assert redis.told == ["protocol"]
        await redis.close()


# Deadlines


async def test_what_hangs_is_given_up_within_the_deadline_and_found_again(private: RedisServer) -> None:
    redis = Watched(private.url)
    connection = await redis.opened()
    private.stop()
    began = time.monotonic()
    found = await asyncio.gather(*(connection.call("PING") for _ in range(100)), return_exceptions=True)
    assert {one.reason for one in found if isinstance(one, RedisError)} == {"timed_out"}
    assert len(found) == 100
    assert time.monotonic() - began < 20 * ANSWER_S
    assert redis.connection() is None, "nobody is given a connection that hangs"
    with pytest.raises(RedisError):
        await connection.call("PING")
    private.go_on()
    began = time.monotonic()
    for _ in within(10):
        if redis.connection() is not None:
            break
        await asyncio.sleep(0.005)
    print(f"found again after {time.monotonic() - began:.2f} s")
    assert redis.told == ["timed_out", ""]
    await redis.close()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_loop_that_was_held_up_itself_blames_nobody(server: RedisServer, loop: str) -> None:
    async def hold_up() -> None:
        redis = Watched(server.url)
        connection = await redis.opened()
        for _ in range(3):
            asked = asyncio.ensure_future(connection.call("PING"))
            await asyncio.sleep(0)
            time.sleep(ANSWER_S * 2)  # noqa: ASYNC251 - this is what holds it up
            assert await asked == b"PONG"
        await redis.close()

    if loop == "uvloop":
        import uvloop

        uvloop.run(hold_up())
    else:
        asyncio.run(hold_up())


async def test_while_redis_is_away_it_is_tried_by_one_and_rarely(private: RedisServer) -> None:
    with private_redis("--requirepass", "right") as locked:
        redis = Watched(locked.url.replace("redis://", "redis://:wrong@"))
        assert not await redis.open(wait_s=5.0)
        await asyncio.sleep(2.5)
        for _ in range(10_000):
            assert redis.connection() is None
        assert not await redis.open(), "and at once: nobody waits for what failed a moment ago"
        await redis.close()
        assert redis.told == ["wrongpass at AUTH"]
        right = Watched(locked.url.replace("redis://", "redis://:right@"))
        stats = (await (await right.opened()).call("INFO", "stats")).decode()
        await right.close()
    tries = int(stats.partition("total_connections_received:")[2].split()[0]) - 2
    assert 2 <= tries <= 2 + 2.5 / (MOST_PAUSE_S / 2) + 6


async def test_one_that_answers_steadily_and_too_late_is_no_use() -> None:
    """A command each millisecond, each reply a little later than the one before it: something always arrives."""
    loop = asyncio.get_running_loop()
    delay_s = 0.0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while asked := await reader.read(4096):
                for _ in range(asked.count(b"PING")):
                    loop.call_later(delay_s, writer.write, b"+PONG\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as fake:
        redis = Watched(f"redis://127.0.0.1:{fake.sockets[0].getsockname()[1]}")
        connection = await redis.opened()
        for _ in range(2000):
            if not connection.is_open:
                break
            connection.send(packed("PING"), lambda _: None)
            delay_s += 0.0003
            await asyncio.sleep(0.001)
        assert not connection.is_open
        assert delay_s < 0.3, "soon"
        await redis.close()


# Event loops


@pytest.mark.usefixtures("patient")
def test_every_loop_has_a_connection_of_its_own_and_takes_it_along(server: RedisServer) -> None:
    redis = Watched(server.url)
    for number in range(20):

        async def use(text: str) -> None:
            connection = await redis.opened()
            assert await connection.call("ECHO", text) == text.encode()

        asyncio.run(use(str(number)))
    assert redis.told == []
    for _ in within(5):
        if server.ask("CLIENT", "LIST").count(" addr=") <= 1:  # the one that asks
            break
    assert redis._keepers == {}


def test_where_there_is_no_connection_nobody_waits() -> None:
    async def use() -> None:
        redis = Watched("redis://127.0.0.1:1")
        assert redis.connection() is None
        await redis.open()
        assert redis.connection() is None

    asyncio.run(use())


# Who may


@pytest.mark.usefixtures("patient")
async def test_tls_with_a_ca_of_ones_own(tmp_path: Path) -> None:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    pem, key_file = tmp_path / "ca.pem", tmp_path / "key.pem"
    pem.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with private_redis() as plain:
        options = ("--tls-cert-file", str(pem), "--tls-key-file", str(key_file), "--tls-auth-clients", "no")
        set_up = [
            plain.ask("CONFIG", "SET", name[2:], value) for name, value in zip(options[::2], options[1::2], strict=True)
        ]
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
        if "OK" not in plain.ask("CONFIG", "SET", "tls-port", str(port)):
            pytest.skip(f"this redis-server has no TLS: {set_up}")
        good = Watched(f"rediss://localhost:{port}?ssl_ca_certs={pem}")
        assert await (await good.opened()).call("PING") == b"PONG"
        await good.close()
        for url in (f"rediss://localhost:{port}", f"rediss://127.0.0.1:{port}?ssl_ca_certs={pem}"):
            bad = Watched(url)  # nobody we know has signed it; it is for another name
            assert not await bad.open(wait_s=5.0)
            assert bad.told == ["unreachable"]
            await bad.close()


@pytest.mark.usefixtures("patient")
async def test_a_password_and_a_database_of_ones_own(private: RedisServer) -> None:
    private.ask("ACL", "SETUSER", "ada", "on", ">s3cret/@", "~*", "+@all")
    redis = Watched(f"redis://ada:s3cret%2F%40@127.0.0.1:{private.port}/5")
    connection = await redis.opened()
    await connection.call("SET", "here", "yes")
    await redis.close()
    assert private.ask("EXISTS", "here") == ":0\r\n"
    assert "db5:keys=1" in private.ask("INFO", "keyspace")


def test_a_command_is_words_of_any_bytes() -> None:
    assert packed("SET", b"\x00\r\n", 5) == b"*3\r\n$3\r\nSET\r\n$3\r\n\x00\r\n\r\n$1\r\n5\r\n"


async def test_a_closed_connection_says_so_at_once() -> None:
    connection, told = Connection(), list[object]()
    connection.send(packed("PING"), told.append)
    assert isinstance(told[0], RedisError)
    connection.fail(RedisError("closed"))
