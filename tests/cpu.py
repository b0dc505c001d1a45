"""How long a piece of work takes, whatever else this process and this machine do."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object]) -> float:
    """The CPU seconds of the quickest of three calls, in this thread: a garbage collection falls on one of them."""
    return min(_once(work) for _ in range(3))


def _once(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before
