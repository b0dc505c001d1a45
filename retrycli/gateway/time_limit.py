"""A time limit for a request. An answer that arrived in time is not late because this process read it late."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

LATE_SECONDS = 0.05
"""A timer that fires later than this shows that the process was suspended or its event loop blocked."""
GRACE_SECONDS = 0.5
"""Extra time for a suspended or blocked process to read the answers that arrived meanwhile."""


class TimeLimit:
    """Cancel a block after a time limit, as `asyncio.timeout` does.

    `asyncio` runs due timers before it delivers received data. After a suspended virtual machine, a SIGSTOP or a slow
    fsync it would drop an answer that arrived in time, and the message would be sent twice. If the timer fires late,
    the block gets `GRACE_SECONDS` more, or the delay if that is shorter. It gets them once, so that a server that keeps
    the loop busy can't extend the limit without end.

    Args:
        seconds: the limit.

    Raises:
        TimeoutError: the limit is over.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._schedule(self._seconds, self._on_timer)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        await self._timeout.__aexit__(kind, error, trace)

    def _schedule(self, seconds: float, fire: Callable[[float], None]) -> None:
        due = self._loop.time() + seconds
        self._timer = self._loop.call_at(due, fire, due)

    def _on_timer(self, due: float) -> None:
        late = self._loop.time() - due
        if late > LATE_SECONDS:
            self._schedule(min(late, GRACE_SECONDS), self._expire)
        else:
            self._expire(due)

    def _expire(self, _due: float) -> None:
        self._timeout.reschedule(self._loop.time())
