"""Run an HTTP server that answers every POST with `{"succeeded": true}` and counts them: `server.py DELAY_MS`.

It prints its port when it listens. `GET /count` returns how many POSTs came since the last such request, and how many
of them are distinct.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop


def answer(body: bytes) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


SUCCEEDED = answer(b'{"succeeded": true}')


class Counter:
    """The number of POSTs and of distinct bodies, and the delay of each answer."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.count = 0
        self.bodies: set[int] = set()

    def add(self, body: bytes) -> None:
        self.count += 1
        self.bodies.add(hash(body))

    def take(self) -> bytes:
        counts = b"%d %d" % (self.count, len(self.bodies))
        self.count = 0
        self.bodies.clear()
        return counts


class Connection(asyncio.Protocol):
    """A connection that speaks a part of HTTP/1.1: requests need Content-Length and are not pipelined."""

    transport: asyncio.Transport

    def __init__(self, counter: Counter) -> None:
        self.counter = counter
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop uses its own class

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, end, body = self.received.partition(b"\r\n\r\n")
        if end and len(body) >= content_length(head):
            self.received = b""
            self.respond(head, body)

    def respond(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET /count "):
            self.transport.write(answer(self.counter.take()))
            return
        self.counter.add(body)
        if self.counter.delay:
            asyncio.get_running_loop().call_later(self.counter.delay, self.transport.write, SUCCEEDED)
        else:
            self.transport.write(SUCCEEDED)


def content_length(head: bytes) -> int:
    _, found, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0]) if found else 0


async def serve(delay: float) -> None:
    counter = Counter(delay)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(counter), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(float(sys.argv[1]) / 1000))
