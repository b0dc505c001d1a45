"""A proxy between a program and PostgreSQL, which counts awaited answers and can drop a commit or its answer."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from select import select
from threading import Event, Thread

BEGIN, COMMIT = b"BEGIN", b"COMMIT"
SYNC, FLUSH = b"S\0\0\0\4", b"H\0\0\0\4"
"""Messages that make the server send its answers. A program that does not await an answer sends neither."""


class Loses(Enum):
    """What the proxy drops before it closes the connection: the commit, or the server's answer to it."""

    THE_COMMIT = "commit"
    ITS_ANSWER = "answer"


class Proxy:
    """A proxy that forwards all data until a transaction with the given text commits. Then it drops the connection."""

    def __init__(self, port: int, text: bytes, loses: Loses) -> None:
        self._there = ("127.0.0.1", port)
        self._text = text
        self._loses = loses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.lost = Event()
        """Set when the commit or its answer is lost, which happens once."""
        self.awaited = 0
        """The number of answers that the program has awaited."""

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                Thread(target=self._between, args=(client,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _between(self, client: socket.socket) -> None:
        said = b""
        withheld: bytes | None = None
        with client, socket.create_connection(self._there) as server, suppress(ConnectionError):
            while True:
                readable, _, _ = select([client, server], [], [])
                if server in readable:
                    if not (answer := server.recv(65536)):
                        return
                    if withheld is None:
                        client.sendall(answer)
                    elif COMMIT in (withheld := withheld + answer):  # the server has committed
                        self.lost.set()
                        return
                if client in readable:
                    if not (question := client.recv(65536)):
                        return
                    self.awaited += question.count(SYNC) + question.count(FLUSH)
                    said = question if BEGIN in question else said + question
                    if COMMIT in question and self._text in said and not self.lost.is_set():
                        if self._loses is Loses.THE_COMMIT:
                            self.lost.set()
                            return
                        withheld = b""
                    server.sendall(question)


@contextmanager
def proxy(port: int, text: str, loses: Loses) -> Iterator[Proxy]:
    made = Proxy(port, text.encode(), loses)
    thread = Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join()
