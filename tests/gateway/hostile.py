"""A real HTTP server on loopback that misbehaves as a test tells it to, and records everything it received.

Its reaction to a request is a `Behaviour`, a function of the connection. Behaviours are used in turn, and the last
one repeats::

    with Hostile(answer(401), answer(200)) as server:
        ...
    assert [each.path for each in server.requests] == [...]

It uses plain sockets and threads, because no HTTP library misbehaves in the ways that these tests need.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self, TypeVar

LOOPBACK = "127.0.0.1"
LINGER_0 = struct.pack("ii", 1, 0)
SEND_BUFFER = 64 * 1024
"""The size of the send buffer. It is small, so that the kernel does not buffer what the client never reads."""

SUCCEEDED = b'{"succeeded": true}'
"""The generic ticketing API's answer to a message that it has accepted."""


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it was received. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    connection: int
    """The number of the connection, starting at 1."""


@dataclass(slots=True)
class Connection:
    """The server's end of one connection."""

    sock: socket.socket
    closing: threading.Event
    number: int
    asked: Received | None = None
    """The request to be answered."""
    sent: int = 0
    _read: bytearray = field(default_factory=bytearray)

    def send(self, data: bytes) -> None:
        """Send all the data, or as much as the client accepts."""
        for start in range(0, len(data), SEND_BUFFER):
            piece = data[start : start + SEND_BUFFER]
            self.sock.sendall(piece)
            self.sent += len(piece)

    def drip(self, data: bytes, seconds: float) -> None:
        """Send one byte at a time, with a pause after each."""
        for byte in data:
            self.send(bytes([byte]))
            if self.closing.wait(seconds):
                return

    def wait_until_client_leaves(self) -> None:
        """Stay silent, and read until the client leaves."""
        while self.sock.recv(4096):
            pass

    def close(self) -> None:
        """Close the connection as a server does when it shuts down."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def reset(self) -> None:
        """Close the connection as a crashed server does: the client sees a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
        self.sock.close()

    def request(self, *, hasty: bool) -> Received | None:
        """Read the next request, or return None if the client has left."""
        while b"\r\n\r\n" not in self._read:
            if not (data := self.sock.recv(65536)):
                return None
            self._read += data
        head, _, rest = bytes(self._read).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = 0 if hasty else int(headers.get("content-length", "0"))
        while len(rest) < length:
            if not (data := self.sock.recv(65536)):
                return None
            rest += data
        self._read = bytearray(rest[length:])
        return Received(method, path, headers, rest[:length], self.number)


Behaviour = Callable[[Connection], None]


class Hostile:
    """A misbehaving server. Its port refuses connections until the ``with`` block begins.

    Behaviours given as arguments apply to every path that ``at`` does not name.

    Args:
        behaviours: the reactions to the first request, the second, and so on; the last repeats.
        at: the reactions for single paths.
        tls: the TLS context; without a context, the server speaks plain HTTP.
        hasty: answer as soon as the head has arrived, without reading the body.
        at_accept: the reaction to each connection, before any handshake or request.
    """

    def __init__(
        self,
        *behaviours: Behaviour,
        at: Mapping[str, Sequence[Behaviour]] | None = None,
        tls: ssl.SSLContext | None = None,
        hasty: bool = False,
        at_accept: Behaviour | None = None,
    ) -> None:
        self._scripts = {"*": _Script(behaviours)} | {path: _Script(answer) for path, answer in (at or {}).items()}
        self._tls = tls
        self._hasty = hasty
        self._at_accept = at_accept
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._listener.bind((LOOPBACK, 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://{LOOPBACK}:{self.port}"
        self.requests: list[Received] = []
        self._asked = threading.Event()
        self.connections: list[Connection] = []

    def __enter__(self) -> Self:
        self._listener.listen(128)
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        with self._lock:
            for connection in self.connections:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=10)
        self._listener.close()

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.requests]

    def wait_until_asked(self) -> None:
        """Wait until a request has been read, which on a busy machine may be after the client has given up."""
        assert self._asked.wait(timeout=10), "no request came"

    @property
    def sent(self) -> int:
        """Return the number of bytes sent, including those still in socket buffers."""
        return sum(connection.sent for connection in self.connections)

    def _start(self, target: Callable[[], None]) -> None:
        thread = threading.Thread(target=target, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                if self._closing.is_set():
                    sock.close()
                    return
                connection = Connection(sock, self._closing, len(self.connections) + 1)
                self.connections.append(connection)
                self._start(partial(self._serve, connection))

    def _serve(self, connection: Connection) -> None:
        """Answer until either side ends the connection. In many tests the client leaves, so errors are ignored."""
        try:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._at_accept is not None:
                self._at_accept(connection)
                return
            if self._tls is not None:
                connection.sock = self._tls.wrap_socket(connection.sock, server_side=True)
            while (request := connection.request(hasty=self._hasty)) is not None:
                with self._lock:
                    self.requests.append(request)
                    self._asked.set()
                    behaviour = self._scripts.get(request.path, self._scripts["*"]).next()
                connection.asked = request
                behaviour(connection)
        except OSError:
            pass
        finally:
            connection.close()


class _Script:
    def __init__(self, behaviours: Sequence[Behaviour]) -> None:
        self._left = list(behaviours)

    def next(self) -> Behaviour:
        if not self._left:
            return answer(HTTPStatus.NOT_IMPLEMENTED)
        return self._left.pop(0) if len(self._left) > 1 else self._left[0]


Result = TypeVar("Result")
LIMITS = (0.3, 3.0, 30.0)


def at_the_limit(attempt: Callable[[float], Result], reached: Callable[[], object]) -> tuple[Result, float]:
    """Make an attempt whose time limit ends at a step of the server, and return its result and the limit in seconds.

    A busy machine may not reach the step within a short limit, so longer limits are tried until it does.
    """
    for seconds in LIMITS:
        result = attempt(seconds)
        if reached():
            return result, seconds
    raise AssertionError(f"the step was not reached within {seconds:g} s")


def http(
    status: int, body: bytes = b"", headers: Mapping[str, str] | None = None, *, length: int | None = None
) -> bytes:
    """Return the bytes of an answer; ``length`` replaces the true Content-Length."""
    reason = next((each.phrase for each in HTTPStatus if each == status), "Something")
    named = {"Content-Type": "application/json", **(headers or {})}
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in named.items())]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def answer(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Behaviour:
    """Send a plain answer, and keep the connection open."""
    return raw(http(status, body, headers))


def raw(data: bytes) -> Behaviour:
    """Send these bytes, and keep the connection open."""
    return lambda connection: connection.send(data)


def in_pieces(*pieces: bytes, seconds: float = 0.02) -> Behaviour:
    """Send these bytes in pieces, with a pause after each."""

    def play(connection: Connection) -> None:
        for piece in pieces:
            connection.send(piece)
            connection.closing.wait(seconds)

    return play


def then_close(data: bytes) -> Behaviour:
    """Send these bytes, and close the connection."""

    def play(connection: Connection) -> None:
        connection.send(data)
        connection.close()

    return play


def then_reset(data: bytes) -> Behaviour:
    """Send these bytes, and a moment later reset the connection, which discards data that the client has not read."""

    def play(connection: Connection) -> None:
        connection.send(data)
        connection.closing.wait(0.02)
        connection.reset()

    return play


def flood(data: bytes, *, after: bytes = b"") -> Behaviour:
    """Send ``after`` once, and then repeat these bytes as long as the client accepts them.

    ``after`` is sent together with the first repetition, so that no client reads it separately.
    """

    def play(connection: Connection) -> None:
        connection.send(after + data)
        while True:
            connection.send(data)

    return play


def close(connection: Connection) -> None:
    """Close the connection without an answer."""
    connection.close()


def reset(connection: Connection) -> None:
    """Reset the connection without an answer."""
    connection.reset()


def silence(connection: Connection) -> None:
    """Never answer, and wait until the client leaves."""
    connection.wait_until_client_leaves()


def deafness(connection: Connection) -> None:
    """Never answer and never read again, so that the server does not notice when the client leaves."""
    connection.closing.wait()


def drip(data: bytes, *, after: bytes = b"", seconds: float = 0.05) -> Behaviour:
    """Send one byte at a time, with a pause after each."""

    def play(connection: Connection) -> None:
        connection.send(after)
        connection.drip(data, seconds)

    return play


@contextmanager
def closed_port() -> Iterator[int]:
    """Reserve a port that refuses connections."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((LOOPBACK, 0))
        yield sock.getsockname()[1]


@contextmanager
def mute_port() -> Iterator[int]:
    """Provide a port that accepts a connection and then neither reads nor writes."""
    with socket.create_server((LOOPBACK, 0), backlog=8) as sock:
        yield sock.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """Provide a port that does not even accept a connection, because its queue is full."""
    with socket.create_server((LOOPBACK, 0), backlog=0) as sock, ExitStack() as stack:
        for _ in range(4):
            waiting = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            waiting.setblocking(False)  # noqa: FBT003  the method takes only a boolean
            waiting.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]
