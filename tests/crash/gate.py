"""A gate that holds requests at the sandbox, so that a test controls which requests are in flight."""

from __future__ import annotations

import threading

FREE = 50
"""The number of requests that are answered immediately. After them, a pass has reached its full concurrency."""
LONGEST_SECONDS = 30.0


class Gate:
    """A gate that lets the first `FREE` requests through, and then as many as the test permits."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(FREE)
        self._held = threading.Semaphore(0)

    def pass_through(self, _latency: float) -> None:
        """Wait for the test's permission instead of the sandbox's latency."""
        if not self._free.acquire(blocking=False):
            self._held.release()
            self._free.acquire()

    def wait_until_held(self, requests: int) -> None:
        for _ in range(requests):
            assert self._held.acquire(timeout=LONGEST_SECONDS), "the pass sends too little"

    def let_through(self, requests: int = 1_000_000) -> None:
        self._free.release(requests)
