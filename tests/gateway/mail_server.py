"""A mail server on loopback that answers as a test tells it to, and records what it received.

Each step of a conversation has an answer: a reply, or an action on the connection instead::

    with MailServer(RCPT={"bo@x.test": "550 5.1.1 no such user"}, end=hang_up) as server:
        ...
    assert server.mails == []
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from types import TracebackType
from typing import Self

LOOPBACK = "127.0.0.1"
LINGER_0 = struct.pack("ii", 1, 0)
EXTENSIONS = ("PIPELINING", "SIZE 100000000", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES")
USUAL = {
    "greeting": "220 mx.test ESMTP",
    "STARTTLS": "220 go ahead",
    "AUTH": "235 2.7.0 welcome",
    "MAIL": "250 2.1.0 ok",
    "RCPT": "250 2.1.5 ok",
    "DATA": "354 go on",
    "end": "250 2.0.0 Ok: queued as 4XyZ12",
    "QUIT": "221 2.0.0 bye",
}


@dataclass
class Peer:
    """The server's end of one connection."""

    sock: socket.socket
    closing: threading.Event
    said: list[str] = field(default_factory=list)
    """The lines that the client sent."""
    sender: str = ""
    recipients: list[str] = field(default_factory=list)
    encrypted: bool = False
    _read: bytes = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def line(self) -> str | None:
        """Read the next line, or return None if the client has left."""
        while b"\r\n" not in self._read:
            if not (data := self.sock.recv(65536)):
                return None
            self._read += data
        line, _, self._read = self._read.partition(b"\r\n")
        return line.decode()

    def mail(self, upto: int) -> bytes | None:
        """Return a mail without its final dot, or None if the client leaves or sends ``upto`` bytes first."""
        data = bytearray(self._read)
        while not data.endswith(b"\r\n.\r\n"):
            if len(data) >= upto or not (more := self.sock.recv(65536)):
                return None
            data += more
        self._read = b""
        return bytes(data[:-3])

    def wait_until_client_leaves(self) -> None:
        """Stay silent, and read until the client leaves."""
        while self.sock.recv(65536):
            pass


Answer = str | bytes | Callable[[Peer], None]


class Gone(Exception):
    """The connection was closed, or the conversation has ended."""


def hang_up(peer: Peer) -> None:
    """Close the connection as a server does when it shuts down."""
    with suppress(OSError):
        peer.sock.shutdown(socket.SHUT_RDWR)
    raise Gone


def reset(peer: Peer) -> None:
    """Reset the connection as a crashed server does."""
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
    peer.sock.close()
    raise Gone


def stall(peer: Peer) -> None:
    """Never answer again, and wait until the client leaves."""
    peer.wait_until_client_leaves()
    raise Gone


def drip(peer: Peer) -> None:
    """Send an endless reply, one byte at a time."""
    while not peer.closing.wait(0.01):
        peer.send(b"2")


def without_end(peer: Peer) -> None:
    """Send reply lines endlessly."""
    while not peer.closing.is_set():
        peer.send(b"250-and so on\r\n" * 1000)


@dataclass(frozen=True)
class Taken:
    """A mail that the server has accepted."""

    sender: str
    recipients: Sequence[str]
    raw: bytes

    @property
    def parsed(self) -> EmailMessage:
        """Parse the mail with the standard library, which is independent of the gateway."""
        return message_from_bytes(self.raw, policy=default)


class MailServer:
    """A mail server that listens during its ``with`` block.

    Args:
        extensions: the extensions that the server announces.
        tls: the context for STARTTLS, which the server then announces.
        from_the_start: use TLS before the first line.
        upto: read this number of bytes of a mail, and then do ``middle``.
        answers: the answers by step: ``greeting``, a command's name, ``middle`` (of the mail) and ``end``; for ``RCPT``
            also by address.
    """

    def __init__(
        self,
        *,
        extensions: Sequence[str] = EXTENSIONS,
        tls: ssl.SSLContext | None = None,
        from_the_start: bool = False,
        upto: int = 1 << 40,
        host: str = LOOPBACK,
        **answers: Answer | Mapping[str, Answer],
    ) -> None:
        offered = extensions if tls is None or from_the_start else [*extensions, "STARTTLS"]
        lines = ["mx.test", *offered]
        hello = "\r\n".join(f"250{' ' if line is lines[-1] else '-'}{line}" for line in lines)
        self._answers: dict[str, Answer | Mapping[str, Answer]] = {
            **USUAL,
            "EHLO": hello,
            "HELO": "250 mx.test",
            **answers,
        }
        self._tls = tls
        self._from_the_start = from_the_start
        self._upto = upto
        self.peers: list[Peer] = []
        self.mails: list[Taken] = []
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []
        self._host = f"[{host}]" if ":" in host else host
        self._socket = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)

    @property
    def port(self) -> int:
        return int(self._socket.getsockname()[1])

    @property
    def url(self) -> str:
        """Return the ``gateway.base_url`` of this server."""
        return f"{'smtps' if self._from_the_start else 'smtp'}://{self._host}:{self.port}"

    @property
    def said(self) -> list[str]:
        """Return the lines received in all conversations."""
        return [line for peer in self.peers for line in peer.said]

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for peer in self.peers:
            with suppress(OSError):
                socket.socket.shutdown(peer.sock, socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "the server did not end"

    def _start(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            peer = Peer(connection, self._closing)
            self.peers.append(peer)
            self._start(self._serve, peer)

    def _serve(self, peer: Peer) -> None:
        with suppress(Gone, OSError):
            if self._from_the_start:
                self._encrypt(peer)
            self._answer(peer, "greeting")
            while (line := peer.line()) is not None:
                peer.said.append(line)
                self._obey(peer, line)
        with suppress(OSError):
            peer.sock.close()

    def _obey(self, peer: Peer, line: str) -> None:
        step = line.partition(" ")[0].upper()
        about = line.partition("<")[2].partition(">")[0]
        reply = self._answer(peer, step, about)
        match step:
            case "STARTTLS" if reply.startswith("2"):
                self._encrypt(peer)
            case "MAIL":
                peer.sender = about
            case "RCPT" if reply.startswith("2"):
                peer.recipients.append(about)
            case "DATA" if reply.startswith("3"):
                self._take(peer)
            case "QUIT":
                hang_up(peer)
            case _:
                pass

    def _take(self, peer: Peer) -> None:
        raw = peer.mail(self._upto)
        if raw is None:
            self._answer(peer, "middle")
            raise Gone
        reply = self._answer(peer, "end")
        if reply.startswith("2"):
            self.mails.append(Taken(peer.sender, tuple(peer.recipients), raw.replace(b"\r\n..", b"\r\n.")))
        peer.recipients.clear()

    def _encrypt(self, peer: Peer) -> None:
        assert self._tls is not None
        peer.sock = self._tls.wrap_socket(peer.sock, server_side=True)
        peer.encrypted = True

    def _answer(self, peer: Peer, step: str, about: str = "") -> str:
        answer = self._answers.get(step, "500 5.5.1 what?" if step != "middle" else hang_up)
        if isinstance(answer, Mapping):
            answer = answer.get(about, USUAL[step])
        if callable(answer):
            answer(peer)
            return ""
        peer.send(answer if isinstance(answer, bytes) else f"{answer}\r\n".encode())
        return answer.decode("latin-1") if isinstance(answer, bytes) else answer
