"""Measure CPU time, which other threads and processes affect less than elapsed time."""

from __future__ import annotations

import time
from collections.abc import Callable


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return this thread's CPU seconds for the fastest of three calls: a garbage collection may slow one down."""
    return min(_once(work) for _ in range(3))


def _once(work: Callable[[], object]) -> float:
    before = time.thread_time()
    work()
    return time.thread_time() - before
