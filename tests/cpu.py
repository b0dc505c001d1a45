"""Measure the duration of some work, independently of other work in this process and on this machine."""

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
