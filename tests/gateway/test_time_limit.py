"""A time limit accepts an answer that arrived in time, even if the busy event loop reads it late."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from retrycli.gateway.delivery import LATE_SECONDS, TimeLimit

SHORT = 0.1
STALL = SHORT + 4 * LATE_SECONDS


async def read_within(seconds: float, *, stall: float, send_after: float | None) -> bytes:
    """Read from a socket with a time limit while the event loop is blocked for a time."""
    loop = asyncio.get_running_loop()
    here, there = socket.socketpair()
    with here, there:
        here.setblocking(False)  # noqa: FBT003  the method takes only a boolean
        if send_after is not None:
            loop.call_later(send_after, there.send, b"answer")
        loop.call_later(0.01, time.sleep, stall)
        async with TimeLimit(seconds):
            return await loop.sock_recv(here, 100)


def test_an_answer_that_arrived_while_the_loop_was_blocked_is_read() -> None:
    assert asyncio.run(read_within(SHORT, stall=STALL, send_after=0)) == b"answer"
    assert asyncio.run(read_within(SHORT, stall=STALL, send_after=STALL)) == b"answer"


@pytest.mark.parametrize("stall", [0, STALL])
def test_an_answer_is_never_awaited_without_limit(stall: float) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        asyncio.run(read_within(SHORT, stall=stall, send_after=None))
    assert time.monotonic() - began >= SHORT


def test_a_busy_loop_postpones_the_limit_once() -> None:
    async def busy() -> None:
        loop = asyncio.get_running_loop()

        def keep() -> None:
            time.sleep(2 * LATE_SECONDS)
            loop.call_soon(keep)

        loop.call_soon(keep)
        async with TimeLimit(SHORT):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        asyncio.run(busy())


def test_cancelling_the_block_works() -> None:
    async def cancelled() -> None:
        async with TimeLimit(10):
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(0)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
