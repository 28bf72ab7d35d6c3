"""What the edge takes and refuses: (raw bytes → status), whole, in single bytes, and behind another request."""

import base64
import contextlib
import json
import socket
from collections.abc import Iterator

import pytest

from tests.edge.rig import Echo, Reply, echo, read_all, replies

H = b" HTTP/1.1\r\nHost: a\r\n"
POST = b"POST /"
CHUNKED = b"POST /" + H + b"Transfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Echo]:
    with echo(header_deadline_s=1.0, body_grace_s=1.0) as server:
        yield server


def lines(count: int, length: int = 1) -> bytes:
    return b"".join(b"X-%04d: %s\r\n" % (number, b"v" * length) for number in range(count))


REFUSED: dict[str, tuple[int, bytes]] = {
    # line ends, folding, control bytes
    "bare LF": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "bare LF in the headers": (400, b"GET /" + H + b"X: y\nZ: z\r\n\r\n"),
    "bare LF at the end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "bare CR": (400, b"GET /" + H + b"X: y\rz\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\r\nHost: a\r\n\r\n"),
    "folded": (400, b"GET /" + H + b"X: y\r\n z" + END),
    "folded by a tab": (400, b"GET /" + H + b"X: y\r\n\tz" + END),
    "folded first": (400, b"GET / HTTP/1.1\r\n Host: a" + END),
    "NUL in a value": (400, b"GET /" + H + b"X: y\x00z" + END),
    "NUL in a name": (400, b"GET /" + H + b"X\x00: y" + END),
    "control byte": (400, b"GET /" + H + b"X: y\x01z" + END),
    "DEL": (400, b"GET /" + H + b"X: y\x7f" + END),
    "NUL in the target": (400, b"GET /\x00" + H + b"\r\n"),
    "high byte in the target": (400, b"GET /\xff" + H + b"\r\n"),
    "space before the colon": (400, b"GET /" + H + b"X : y" + END),
    "tab before the colon": (400, b"GET /" + H + b"X\t: y" + END),
    "no colon": (400, b"GET /" + H + b"abc" + END),
    "no name": (400, b"GET /" + H + b": y" + END),
    "high byte in a name": (400, b"GET /" + H + b"X\xff: y" + END),
    # request line
    "lower-case method": (400, b"get /" + H + b"\r\n"),
    "unknown method": (400, b"FROBNICATE /" + H + b"\r\n"),
    "method with a control byte": (400, b"G\x01T /" + H + b"\r\n"),
    "tabs": (400, b"GET\t/\tHTTP/1.1\r\nHost: a" + END),
    "space first": (400, b" GET /" + H + b"\r\n"),
    "space after the version": (400, b"GET / HTTP/1.1 \r\nHost: a" + END),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/0.9 by name": (400, b"GET / HTTP/0.9\r\nHost: a" + END),
    "HTTP/1.2": (400, b"GET / HTTP/1.2\r\nHost: a" + END),
    "HTTP/2.0": (400, b"GET / HTTP/2.0\r\nHost: a" + END),
    "HTTP/2 preface": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "lower-case version": (400, b"GET / http/1.1\r\nHost: a" + END),
    "no target": (400, b"GET " + H + b"\r\n"),
    "fragment": (400, b"GET /a#b" + H + b"\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    # Host
    "no Host": (400, b"GET / HTTP/1.1\r\nX: y" + END),
    "no Host in 1.0": (400, b"GET / HTTP/1.0\r\nX: y" + END),
    "two Hosts": (400, b"GET /" + H + b"Host: b" + END),
    "two equal Hosts": (400, b"GET /" + H + b"Host: a" + END),
    "empty Host": (400, b"GET / HTTP/1.1\r\nHost:" + END),
    "Host with a path": (400, b"GET / HTTP/1.1\r\nHost: a/b" + END),
    "Host with a user": (400, b"GET / HTTP/1.1\r\nHost: u@a" + END),
    "Host with a space": (400, b"GET / HTTP/1.1\r\nHost: a b" + END),
    "list of Hosts": (400, b"GET / HTTP/1.1\r\nHost: a, b" + END),
    "Host with a named port": (400, b"GET / HTTP/1.1\r\nHost: a:http" + END),
    # forms of the target
    "absolute, another host": (400, b"GET http://b/x" + H + b"\r\n"),
    "absolute, another port": (400, b"GET http://a:81/x" + H + b"\r\n"),
    "absolute, with a user": (400, b"GET http://u@a/x" + H + b"\r\n"),
    "absolute, another scheme": (400, b"GET ftp://a/x" + H + b"\r\n"),
    "absolute, without a host": (400, b"GET http:///x" + H + b"\r\n"),
    "absolute, no Host": (400, b"GET http://a/x HTTP/1.1\r\n\r\n"),
    "asterisk for GET": (400, b"GET *" + H + b"\r\n"),
    "asterisk and more": (400, b"OPTIONS *abc" + H + b"\r\n"),
    "CONNECT": (400, b"CONNECT a:80" + H + b"\r\n"),
    "CONNECT to a path": (400, b"CONNECT /" + H + b"\r\n"),
    "authority form for GET": (400, b"GET a:80" + H + b"\r\n"),
    # framing
    "CL and TE": (400, POST + H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "TE and CL": (400, POST + H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
    "two CL": (400, POST + H + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
    "two equal CL": (400, POST + H + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"),
    "list of CL": (400, POST + H + b"Content-Length: 3, 3\r\n\r\nabc"),
    "CL +3": (400, POST + H + b"Content-Length: +3\r\n\r\nabc"),
    "CL -3": (400, POST + H + b"Content-Length: -3\r\n\r\nabc"),
    "CL 0x3": (400, POST + H + b"Content-Length: 0x3\r\n\r\nabc"),
    "CL 1_0": (400, POST + H + b"Content-Length: 1_0\r\n\r\nabcdefghij"),
    "CL with a space behind": (400, POST + H + b"Content-Length: 3 \r\n\r\nabc"),
    "CL with a space inside": (400, POST + H + b"Content-Length: 1 3\r\n\r\nabc"),
    "empty CL": (400, POST + H + b"Content-Length:\r\n\r\nabc"),
    "CL beyond 64 bits": (400, POST + H + b"Content-Length: 99999999999999999999\r\n\r\nabc"),
    "TE gzip": (400, POST + H + b"Transfer-Encoding: gzip\r\n\r\nabc"),
    "TE gzip, chunked": (400, POST + H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
    "TE chunked, chunked": (400, POST + H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
    "TE identity": (400, POST + H + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n"),
    "TE xchunked": (400, POST + H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"),
    "TE Chunked": (400, POST + H + b"Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n"),
    "TE with a space behind": (400, POST + H + b"Transfer-Encoding: chunked \r\n\r\n0\r\n\r\n"),
    "TE with a control byte": (400, POST + H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
    "TE quoted": (400, POST + H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n'),
    "empty TE": (400, POST + H + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n"),
    "two TE": (400, POST + H + b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "two equal TE": (400, POST + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    "TE in 1.0": (400, b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
    # chunks
    "chunk line by LF": (400, CHUNKED + b"3\nabc\r\n0\r\n\r\n"),
    "chunk extension by LF": (400, CHUNKED + b"3;a\nabc\r\n0\r\n\r\n"),
    "chunk size with a space": (400, CHUNKED + b"3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size 0x3": (400, CHUNKED + b"0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size +3": (400, CHUNKED + b"+3\r\nabc\r\n0\r\n\r\n"),
    "chunk size -1": (400, CHUNKED + b"-1\r\nabc\r\n0\r\n\r\n"),
    "no chunk size": (400, CHUNKED + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk size beyond 64 bits": (400, CHUNKED + b"f" * 17 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk longer than said": (400, CHUNKED + b"3\r\nabcX\r\n0\r\n\r\n"),
    "chunk ended by LF": (400, CHUNKED + b"3\r\nabc\n0\r\n\r\n"),
    "long chunk extension": (400, CHUNKED + b"3;" + b"e" * 255 + b"\r\nabc\r\n0\r\n\r\n"),
    "long extension of the last chunk": (400, CHUNKED + b"3\r\nabc\r\n0;" + b"e" * 300 + b"\r\n\r\n"),
    "very long chunk extension": (400, CHUNKED + b"3;" + b"e" * 70_000 + b"\r\nabc\r\n0\r\n\r\n"),
    "chunk size with many zeros": (400, CHUNKED + b"0" * 300 + b"3\r\nabc\r\n0\r\n\r\n"),
    "NUL in a chunk extension": (400, CHUNKED + b"3;a\x00\r\nabc\r\n0\r\n\r\n"),
    "long trailers": (431, CHUNKED + b"3\r\nabc\r\n0\r\n" + lines(100, 50) + b"\r\n"),
    "framing in the trailers": (400, CHUNKED + b"3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n"),
    # sizes
    "101 headers": (431, b"GET /" + H + lines(100) + b"\r\n"),
    "20,000 headers": (431, b"GET /" + H + lines(20_000) + b"\r\n"),
    "33 kB in one header": (431, b"GET /" + H + b"X: " + b"v" * 33_000 + END),
    "33 kB in many": (431, b"GET /" + H + lines(90, 360) + b"\r\n"),
    "1 MB header without an end": (431, b"GET /" + H + b"X: " + b"v" * 1_000_000),
    "1 MB header name": (431, b"GET /" + H + b"X" * 1_000_000),
    "target of 8,193": (414, b"GET /" + b"a" * 8_192 + H + b"\r\n"),
    "target of 1 MB without an end": (414, b"GET /" + b"a" * 1_000_000),
    "query of 9 kB": (414, b"GET /?" + b"a" * 9_000 + H + b"\r\n"),
    # upgrades
    "web socket by POST": (400, b"POST /" + H + b"Upgrade: websocket\r\nConnection: upgrade" + END),
    "web socket in 1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade" + END),
    "web socket with a body": (
        400,
        b"GET /" + H + b"Upgrade: websocket\r\nConnection: upgrade\r\nContent-Length: 3\r\n\r\nabc",
    ),
    "web socket in chunks": (
        400,
        b"GET /" + H + b"Upgrade: websocket\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ),
    "web socket with a long line": (
        431,
        b"GET /" + H + b"Upgrade: websocket\r\nConnection: upgrade\r\nX: " + b"v" * 9_000 + END,
    ),
    "web socket of 101 headers": (
        431,
        b"GET /" + H + b"Upgrade: websocket\r\nConnection: upgrade\r\n" + lines(98) + b"\r\n",
    ),
    "web socket without Host": (400, b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade" + END),
    # nothing, or half of it
    "half a request line": (408, b"GET / HT"),
    "half a header": (408, b"GET /" + H + b"X: "),
    "body that does not come": (408, POST + H + b"Content-Length: 10\r\n\r\nabc"),
    "chunk that does not come": (408, CHUNKED + b"a\r\nabc"),
}
SMALL = {name: case for name, case in REFUSED.items() if len(case[1]) < 600 and case[0] != 408}


def is_problem(reply: Reply, status: int) -> bool:
    return (
        reply.status == status
        and b"\r\ncontent-type: application/problem+json\r\n" in reply.head
        and b"\r\nconnection: close" in reply.head
        and {"type", "title", "status", "code", "request_id"} == set(reply.json())
        and reply.json()["status"] == status
    )


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_with_a_problem_and_closed(server: Echo, name: str) -> None:
    status, data = REFUSED[name]
    (reply,) = server.ask(data)
    assert is_problem(reply, status), (reply, data[:80])
    # A request whose head was in order may have begun, and was told that its body would not come.
    assert [one for one in server.seen() if one not in (["POST", "/"], ["disconnected", "/"])] == []


def test_is_refused_in_single_bytes_too(server: Echo) -> None:
    for name, (status, data) in SMALL.items():
        replies_ = server.ask(data, piece=1)
        assert [reply.status for reply in replies_] == [status], name


def test_is_refused_behind_a_good_request_which_is_answered_first(server: Echo) -> None:
    for name, (status, data) in SMALL.items():
        first, second = (
            server.ask(b"GET /slow" + H + b"\r\n" + data)
            if name == "two CL"
            else server.ask(b"GET /first" + H + b"\r\n" + data)
        )
        assert first.status == 200, name
        assert is_problem(second, status), name


def test_nothing_behind_a_refusal_is_read(server: Echo) -> None:
    server.seen()
    for name, (_, data) in SMALL.items():
        server.ask(data + b"GET /smuggled" + H + b"\r\n")
        assert ["GET", "/smuggled"] not in server.seen(), name


ACCEPTED: dict[str, tuple[bytes, dict[str, object]]] = {
    "plain": (b"GET /a?b=c" + H + b"\r\n", {"path": "/a", "query": "b=c", "body": b""}),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: a" + END, {"version": "1.0"}),
    "empty lines first": (b"\r\n\r\nGET /" + H + b"\r\n", {"path": "/"}),
    "100 headers": (b"GET /" + H + lines(99) + b"\r\n", {"path": "/"}),
    "32 kB of headers": (b"GET /" + H + lines(80, 395) + b"\r\n", {"path": "/"}),
    "target of 8,192": (b"GET /" + b"a" * 8_191 + H + b"\r\n", {"path": "/" + "a" * 8_191}),
    "Host with a port": (b"GET / HTTP/1.1\r\nHost: a.b-c:8000" + END, {"path": "/"}),
    "Host in IPv6": (b"GET / HTTP/1.1\r\nHost: [::1]:8000" + END, {"path": "/"}),
    "Host without a space": (b"GET / HTTP/1.1\r\nHost:a" + END, {"path": "/"}),
    "absolute": (b"GET http://a/x?y" + H + b"\r\n", {"path": "/x", "raw_path": "/x", "query": "y"}),
    "absolute, other case": (b"GET HTTP://A/x" + H + b"\r\n", {"path": "/x"}),
    "absolute, no path": (b"GET http://a" + H + b"\r\n", {"path": "/"}),
    "absolute, only a query": (b"GET http://a?y=/" + H + b"\r\n", {"path": "/", "query": "y=/"}),
    "absolute, two slashes": (b"GET http://a//b" + H + b"\r\n", {"path": "//b"}),
    "asterisk": (b"OPTIONS *" + H + b"\r\n", {"path": "*", "method": "OPTIONS"}),
    "percent": (b"GET /a%2Fb" + H + b"\r\n", {"path": "/a/b", "raw_path": "/a%2Fb"}),
    "length": (POST + H + b"Content-Length: 3\r\n\r\nabc", {"body": b"abc"}),
    "length 0": (POST + H + b"Content-Length: 0\r\n\r\n", {"body": b""}),
    "100 kB": (POST + H + b"Content-Length: 100000\r\n\r\n" + b"b" * 100_000, {"body": b"b" * 100_000}),
    "body of line ends": (POST + H + b"Content-Length: 8\r\n\r\n" + END * 2, {"body": END * 2}),
    "chunks": (CHUNKED + b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n", {"body": b"abcde"}),
    "chunk of 100 kB": (CHUNKED + b"186A0\r\n" + b"c" * 100_000 + b"\r\n0\r\n\r\n", {"body": b"c" * 100_000}),
    "chunks of line ends": (CHUNKED + b"8\r\n" + END * 2 + b"\r\n2\r\n\r\n\r\n0\r\n\r\n", {"body": END * 2 + b"\r\n"}),
    "many chunks": (CHUNKED + b"1\r\nx\r\n" * 5_000 + b"0\r\n\r\n", {"body": b"x" * 5_000}),
    "extension of 250": (CHUNKED + b"3;" + b"e" * 250 + b"\r\nabc\r\n0\r\n\r\n", {"body": b"abc"}),
    "h2c ignored": (
        b"GET /" + H + b"Upgrade: h2c\r\nConnection: upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk" + END,
        {"path": "/"},
    ),
    "h2c ignored, with a body": (
        POST + H + b"Upgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 3\r\n\r\nabc",
        {"body": b"abc"},
    ),
    "h2c ignored, in chunks": (
        POST + H + b"Upgrade: h2c\r\nConnection: Upgrade\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        {"body": b"abc"},
    ),
}
LAST = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("piece", [0, 1, 7, 1_000])
@pytest.mark.parametrize("name", ACCEPTED)
def test_is_served_and_so_is_what_follows(server: Echo, name: str, piece: int) -> None:
    data, expected = ACCEPTED[name]
    if piece and len(data) > 1_000 * piece:
        data_pieces = piece * 100
    else:
        data_pieces = piece
    found = server.ask(data + LAST, piece=data_pieces)
    document = found[0].json()
    document["body"] = base64.b64decode(document["body"])
    assert {field: document[field] for field in expected} == expected
    assert not {"upgrade", "http2-settings"} & {name for name, _ in document["headers"]}
    if document["version"] == "1.0":
        assert len(found) == 1
    else:
        assert found[1].json()["path"] == "/last"
    assert len(server.seen()) == len(found)


def test_trailers_are_dropped(server: Echo) -> None:
    (reply, _) = server.ask(CHUNKED + b"3\r\nabc\r\n0\r\nHost: b\r\nAuthorization: x\r\n\r\n" + LAST)
    assert reply.json()["headers"] == [["host", "a"], ["transfer-encoding", "chunked"]]


def test_forwarding_headers_change_nothing(server: Echo) -> None:
    assert server.get("/", "X-Forwarded-For: 9.9.9.9", "X-Forwarded-Proto: https").json()["client"] == "127.0.0.1"


def test_no_server_header(server: Echo) -> None:
    assert b"server:" not in server.get().head.lower()


SMUGGLED = b"GET /smuggled" + H + b"\r\n"
ATTEMPTS = {
    "CL.TE": POST + H + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "TE.TE": POST + H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "CL.CL": POST + H + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "CL.0 by an upgrade": POST
    + H
    + b"Upgrade: h2c\r\nConnection: upgrade\r\nContent-Length: %d\r\n\r\n" % len(SMUGGLED)
    + SMUGGLED,
    "chunks by an upgrade": POST
    + H
    + b"Upgrade: x\r\nConnection: upgrade\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n" % len(SMUGGLED)
    + SMUGGLED
    + b"\r\n0\r\n\r\n",
    "behind a web socket": b"GET /ws"
    + H
    + b"Upgrade: websocket\r\nConnection: upgrade\r\nSec-WebSocket-Version: 13\r\n"
    + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    + SMUGGLED,
    "behind CONNECT": b"CONNECT a:80" + H + b"\r\n" + SMUGGLED,
    "in a GET's body": b"GET /" + H + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "in an unread body": b"POST /early" + H + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED,
    "behind Connection: close": b"GET /" + H + b"Connection: close\r\n\r\n" + SMUGGLED,
    "behind HTTP/1.0": b"GET / HTTP/1.0\r\nHost: a\r\n\r\n" + SMUGGLED,
    "in a chunk": CHUNKED + b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n",
    "in a chunk extension": CHUNKED + b'3;a="\r\n' + SMUGGLED + b'"\r\nabc\r\n0\r\n\r\n',
    "in a trailer": CHUNKED + b"0\r\nX: \n\n" + SMUGGLED,
    "in a header": b"GET /" + H + b"X: \n\n" + SMUGGLED,
    "behind an overlong chunk size": CHUNKED + b"10000000000000000\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize("name", ATTEMPTS)
def test_no_request_is_smuggled(server: Echo, name: str, piece: int) -> None:
    server.seen()
    with server.connect() as connection:
        data = ATTEMPTS[name]
        try:
            for start in range(0, len(data), piece or len(data)):
                connection.sendall(data[start : start + (piece or len(data))])
        except OSError:
            pass
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        read_all(connection)
    assert ["GET", "/smuggled"] not in server.seen()


def test_pipelined_requests_are_answered_in_order_and_bounded(server: Echo) -> None:
    many = b"".join(b"GET /%d" % number + H + b"\r\n" for number in range(60))
    found = server.ask(many + LAST)
    assert [reply.json()["path"] for reply in found] == [f"/{number}" for number in range(60)] + ["/last"]
    found = server.ask(b"".join(b"GET /%d" % number + H + b"\r\n" for number in range(5_000)))
    assert 60 < len(found) < 100
    assert is_problem(found[-1], 400)
    assert [reply.status for reply in found[:-1]] == [200] * (len(found) - 1)
    server.seen()


def test_a_body_that_nobody_reads_keeps_the_connection_only_when_short(server: Echo) -> None:
    found = server.ask(b"POST /early" + H + b"Content-Length: 1000\r\n\r\n" + b"b" * 1_000 + LAST)
    assert [json.loads(reply.body) if reply.body == b'"early"' else reply.status for reply in found] == ["early", 200]
    with server.connect() as connection:
        connection.sendall(b"POST /early" + H + b"Content-Length: 100000000\r\n\r\n")
        try:
            for _ in range(1_000):
                connection.sendall(b"b" * 65_536)
        except OSError:
            pass
        else:
            pytest.fail("it read on")
        assert [reply.body for reply in replies(read_all(connection))] == [b'"early"']
    server.seen()


def test_expect_is_answered_before_the_body(server: Echo) -> None:
    with server.connect() as connection:
        connection.sendall(POST + H + b"Connection: close\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert replies(read_all(connection))[0].status == 200
    server.seen()


def test_a_web_socket_passes(server: Echo) -> None:
    head = (
        b"GET /ws" + H + b"Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall(head)
        answer = connection.recv(4_096)
        assert answer.startswith(b"HTTP/1.1 101 ")
        connection.sendall(b"\x81\x82\x00\x00\x00\x00hi")
        assert connection.recv(4_096) == b"\x81\x02hi"
        connection.settimeout(2.5)  # beyond the header deadline, which must not run on
        with pytest.raises(TimeoutError):
            connection.recv(1)
    assert ["websocket", "/ws"] in server.seen()
