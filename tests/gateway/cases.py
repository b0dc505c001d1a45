"""Server behaviour after a request, and the resulting outcomes. The server need not be a ticketing API.

Each case is tested over plain HTTP, and those in `OVER_TLS` also over TLS. The delivery must
end within a second of its deadline, use little memory, and show no secret in a log line or an error.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass

from retrycli.domain.outcome import OutcomeKind
from tests.gateway.deliveries import PATH
from tests.gateway.hostile import (
    SUCCEEDED,
    Behaviour,
    Connection,
    answer,
    close,
    deafness,
    drip,
    flood,
    http,
    in_pieces,
    raw,
    reset,
    silence,
    then_close,
    then_reset,
)

DEADLINE = 1
"""The deadline of a delivery, in seconds, if the server never ends its answer."""
PATIENCE = 5.0
"""The deadline of a delivery, in seconds, if the server ends its answer."""

MIB = 2**20
GIB = 2**30

DELIVERED = OutcomeKind.DELIVERED
UNKNOWN = OutcomeKind.UNKNOWN
TRANSIENT = OutcomeKind.TRANSIENT
UNREACHABLE = OutcomeKind.UNREACHABLE
UNAUTHORIZED = OutcomeKind.UNAUTHORIZED
PERMANENT = OutcomeKind.PERMANENT

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """One action of a server after a request, and its outcome."""

    name: str
    behaviour: Behaviour
    kind: OutcomeKind
    status: int | None = None
    says: str = ""
    """The expected beginning of the error."""
    hungry: bool = False
    """Whether a client that read the whole answer would run out of memory."""
    hasty: bool = False
    """Whether the server acts before it has read the body. The request then has a large body."""

    @property
    def deadline(self) -> float:
        return DEADLINE if self.says in {NO_ANSWER, NOT_SENT} else PATIENCE


def bomb(*, wbits: int, coding: str) -> Behaviour:
    """Return an answer of about a MiB that unpacks to a GiB."""
    packer = zlib.compressobj(9, wbits=-15)
    mib = packer.compress(b"a" * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    start = zlib.compressobj(9, wbits=wbits).flush()[: {31: 10, 15: 2}[wbits]]
    return raw(http(200, start + mib * (GIB // MIB), {"Content-Encoding": coding}))


def reset_within_the_body(connection: Connection) -> None:
    """Read a part of the request's body, and reset the connection."""
    connection.sock.recv(4096)
    connection.reset()


def echo(connection: Connection) -> None:
    asked = connection.asked
    assert asked is not None
    head = "".join(f"{name}: {value}\r\n" for name, value in asked.headers.items())
    connection.send(f"{asked.method} {asked.path} HTTP/1.1\r\n{head}\r\n".encode() + asked.body)


NO_ANSWER = f"no response within {DEADLINE} s"
NOT_SENT = f"not sent within {DEADLINE} s"
NO_JSON = "HTTP 200, but the response can't be read as JSON"
TOO_LONG = "HTTP 200, but the response is too long to be read"
NO_HTTP = "HttpProcessingError"

CASES = (
    # Connections that end before the answer does.
    Case("closes after the request", close, UNKNOWN, says="ServerDisconnectedError"),
    Case("resets after the request", reset, UNKNOWN, says="ClientOSError"),
    Case("resets after the head", reset, UNKNOWN, says="ClientOSError", hasty=True),
    Case("resets within the body", reset_within_the_body, UNKNOWN, says="ClientOSError", hasty=True),
    Case("closes within its head", then_close(OK + b"Content-"), UNKNOWN, says="ServerDisconnectedError"),
    Case("resets within its head", then_reset(OK + b"Content-"), UNKNOWN, says="ClientOSError"),
    Case("closes within its body", then_close(http(200, SUCCEEDED, length=500)), UNKNOWN, says="ClientPayloadError"),
    Case("resets within its body", then_reset(http(200, SUCCEEDED, length=500)), UNKNOWN, says="ClientPayloadError"),
    Case("closes within an error's", then_close(http(500, b"half", length=500)), UNKNOWN, says="ClientPayloadError"),
    Case("closes within a chunk", then_close(CHUNKED + b"5\r\nhel"), UNKNOWN, says="ClientPayloadError"),
    # Answers that take too long, and some that never end.
    Case("says nothing", silence, UNKNOWN, says=NO_ANSWER),
    Case("does not read on", deafness, UNKNOWN, says=NO_ANSWER, hasty=True),
    Case("drips its head", drip(http(200, SUCCEEDED)), UNKNOWN, says=NO_ANSWER),
    Case(
        "drips its body",
        drip(SUCCEEDED + b" " * 60, after=http(200, length=len(SUCCEEDED) + 60)),
        UNKNOWN,
        says=NO_ANSWER,
    ),
    Case("stops within its body", raw(http(200, SUCCEEDED, length=500)), UNKNOWN, says=NO_ANSWER),
    Case("has no end", raw(OK + b"\r\n" + SUCCEEDED), UNKNOWN, says=NO_ANSWER),
    Case("has no last chunk", raw(CHUNKED + b"5\r\nhello\r\n"), UNKNOWN, says=NO_ANSWER),
    Case("says 100 and no more", raw(CONTINUE), UNKNOWN, says=NO_ANSWER),
    Case("says 100 for ever", flood(CONTINUE * 100), UNKNOWN, says=NO_ANSWER, hungry=True),
    Case("sends line ends for ever", flood(b"\r\n" * 2000), UNKNOWN, says=NO_ANSWER, hungry=True),
    Case("sends headers for ever", flood(b"X: y\r\n" * 500, after=OK), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("one header for ever", flood(b"a" * 4096, after=OK + b"X: "), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("long headers for ever", flood(b"X: %b\r\n" % (b"a" * 65_000), after=OK), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("a folded one for ever", flood(b" a\r\n" * 999, after=OK + b"X: "), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("one reason for ever", flood(b"a" * 4096, after=b"HTTP/1.1 200 "), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("a chunk's size for ever", flood(b"0" * 4096, after=CHUNKED), UNKNOWN, says=NO_ANSWER, hungry=True),
    Case("its extension for ever", flood(b"a" * 4096, after=CHUNKED + b"5;"), UNKNOWN, says=NO_ANSWER, hungry=True),
    Case("trailers for ever", flood(b"X: y\r\n" * 500, after=CHUNKED + b"0\r\n"), UNKNOWN, says=NO_HTTP, hungry=True),
    Case("chunks for ever", flood(b"1\r\na\r\n" * 999, after=CHUNKED), UNKNOWN, 200, says=TOO_LONG, hungry=True),
    # Large answers, and compressed ones, which the gateway does not unpack.
    Case(
        "a success of a GiB", flood(b"a" * MIB, after=http(200, length=GIB)), UNKNOWN, 200, says=TOO_LONG, hungry=True
    ),
    Case("blanks of a GiB", flood(b" " * MIB, after=http(200, length=GIB)), UNKNOWN, 200, says=TOO_LONG, hungry=True),
    Case("an error of a GiB", flood(b"a" * MIB, after=http(500, length=GIB)), TRANSIENT, 500, hungry=True),
    Case("a gzip bomb", bomb(wbits=31, coding="gzip"), UNKNOWN, 200, says=TOO_LONG, hungry=True),
    Case("a deflate bomb", bomb(wbits=15, coding="deflate"), UNKNOWN, 200, says=TOO_LONG, hungry=True),
    Case("brotli", answer(200, b"\x5b\xff\xff" * 9, {"Content-Encoding": "br"}), UNKNOWN, 200, says=NO_JSON),
    # Lengths that are invalid or contradict the body.
    Case("a length too small", raw(http(200, SUCCEEDED, length=5)), UNKNOWN, says=NO_HTTP),
    Case("a negative length", raw(OK + b"Content-Length: -1\r\n\r\n" + SUCCEEDED), UNKNOWN, says=NO_HTTP),
    Case("a length that is no number", raw(OK + b"Content-Length: many\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("two lengths", raw(OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"), UNKNOWN, says=NO_HTTP),
    Case("a length and chunks", raw(OK + b"Content-Length: 1\r\n" + CHUNKED[len(OK) :]), UNKNOWN, says=NO_HTTP),
    Case("a chunk's size is none", raw(CHUNKED + b"many\r\n"), UNKNOWN, says=NO_HTTP),
    Case("a chunk beyond numbers", raw(CHUNKED + b"f" * 17 + b"\r\na"), UNKNOWN, says=NO_HTTP),
    Case("a chunk of 2 EiB that stops", raw(CHUNKED + b"1" + b"f" * 15 + b"\r\na"), UNKNOWN, says=NO_ANSWER),
    Case("a chunk too long", raw(CHUNKED + b"1\r\nabc\r\n0\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("a 204 with a body", raw(OK.replace(b"200", b"204") + b"\r\n" + SUCCEEDED), UNKNOWN, says=NO_HTTP),
    # Valid but unusual answers.
    Case("100 and an answer", raw(CONTINUE + http(200, SUCCEEDED)), DELIVERED, 200),
    Case("100 a thousand times", raw(CONTINUE * 1000 + http(200, SUCCEEDED)), DELIVERED, 200),
    Case("hints and an answer", raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + http(200)), DELIVERED, 200),
    Case("a long header", raw(http(200, SUCCEEDED, {"X": "a" * 65_000})), DELIVERED, 200),
    Case("many headers", raw(http(200, SUCCEEDED, {f"X-{number}": "" for number in range(250)})), DELIVERED, 200),
    Case("a long reason", raw(b"HTTP/1.1 200 %b\r\nContent-Length: 0\r\n\r\n" % (b"a" * 65_000)), DELIVERED, 200),
    Case("two answers at once", raw(http(200, SUCCEEDED) + http(500)), DELIVERED, 200),
    Case("an answer in chunks", in_pieces(CHUNKED, b"13\r\n", SUCCEEDED, b"\r\n0\r\n\r\n"), DELIVERED, 200),
    Case("HTTP/1.0", then_close(b"HTTP/1.0 200 OK\r\n\r\n" + SUCCEEDED), DELIVERED, 200),
    Case("lines that end with LF alone", raw(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n"), DELIVERED, 200),
    # Redirects, none of which is followed.
    Case("a redirect to itself", answer(308, headers={"Location": PATH}), PERMANENT, 308),
    Case("to another host", answer(307, headers={"Location": "http://name.invalid/"}), PERMANENT, 307),
    Case("to a file", answer(302, headers={"Location": "file:///etc/passwd"}), PERMANENT, 302),
    Case("to nowhere", raw(b"HTTP/1.1 301 Moved\r\nLocation: \xff\xfe\r\nContent-Length: 0\r\n\r\n"), PERMANENT, 301),
    # Responses that do not answer the request in HTTP/1.1.
    Case("another protocol", raw(SWITCHING + b"\x81\x05hello"), UNKNOWN, 101),
    Case("another, for ever", flood(b"a" * MIB, after=SWITCHING), UNKNOWN, 101, hungry=True),
    Case("a status of 0", raw(b"HTTP/1.1 000 None\r\nContent-Length: 0\r\n\r\n"), UNKNOWN, 0),
    Case("a status of 99", raw(b"HTTP/1.1 099 None\r\nContent-Length: 0\r\n\r\n"), UNKNOWN, 99),
    Case("a status of 1000", raw(b"HTTP/1.1 1000 OK\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("HTTP/7.1", raw(b"HTTP/7.1 200 OK\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("HTTP/0.9", then_close(SUCCEEDED), UNKNOWN, says=NO_HTTP),
    Case("SMTP", raw(b"220 mail.example.com ESMTP\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("HTTP/2", raw(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" * 9), UNKNOWN, says=NO_HTTP),
    Case("TLS", raw(b"\x15\x03\x03\x00\x02\x02\x46"), UNKNOWN, says=NO_HTTP),
    Case("a NUL in a header", raw(OK + b"X: a\0b\r\nContent-Length: 0\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("a header without a colon", raw(OK + b"garbage\r\nContent-Length: 0\r\n\r\n"), UNKNOWN, says=NO_HTTP),
    Case("the request itself", echo, UNKNOWN, says=NO_HTTP),
)


def token(text: str) -> bytes:
    """Return the body of a log-in answer with a token."""
    return json.dumps({"access_token": text, "token_type": "bearer"}).encode()


NO_TOKEN = "log-in: HTTP 200, no valid access_token"

LOG_INS = (
    Case("says nothing", silence, UNREACHABLE, says=NOT_SENT),
    Case("drips a token", drip(http(200, token("t1"))), UNREACHABLE, says=NOT_SENT),
    Case("closes", close, UNREACHABLE, says="log-in: ServerDisconnectedError"),
    Case("resets", reset, UNREACHABLE, says="log-in: ClientOSError"),
    Case("closes within a token", then_close(http(200, token("t1"), length=99)), UNREACHABLE, says="log-in: ClientPay"),
    Case("SMTP", raw(b"220 mail.example.com ESMTP\r\n\r\n"), UNREACHABLE, says="log-in: HttpProcessingError"),
    Case("the request itself", echo, UNREACHABLE, says="log-in: HttpProcessingError"),
    Case("100 for ever", flood(CONTINUE * 100), UNREACHABLE, says=NOT_SENT, hungry=True),
    Case("headers for ever", flood(b"X: y\r\n" * 500, after=OK), UNREACHABLE, says="log-in: HttpProc", hungry=True),
    Case("a GiB", flood(b"a" * MIB, after=http(200, length=GIB)), UNAUTHORIZED, 200, says=NO_TOKEN, hungry=True),
    Case(
        "an error of a GiB",
        flood(b"a" * MIB, after=http(500, length=GIB)),
        TRANSIENT,
        says="log-in: HTTP 500",
        hungry=True,
    ),
    Case("a bomb", bomb(wbits=31, coding="gzip"), UNAUTHORIZED, 200, says=NO_TOKEN, hungry=True),
    Case("no token", answer(200, b"{}"), UNAUTHORIZED, 200, says=NO_TOKEN),
    Case("a token of a MiB", answer(200, token("a" * MIB)), UNAUTHORIZED, 200, says=NO_TOKEN, hungry=True),
    Case("a token of two lines", answer(200, token("t1\r\nX-Evil: 1")), UNAUTHORIZED, 200, says=NO_TOKEN),
    Case("a redirect", answer(302, headers={"Location": "/sso"}), UNAUTHORIZED, 302, says="log-in: HTTP 302"),
    Case("another protocol", raw(SWITCHING), UNAUTHORIZED, 101, says="log-in: HTTP 101"),
)
"""Behaviours during a log-in. If the log-in fails, the message has not been sent."""

READ_AT_MOST = 2_500_000
"""The maximum number of bytes that fit into socket buffers after the client stops reading."""
