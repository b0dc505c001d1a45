"""Hold requests at the sandbox, so that a test decides what is in flight when something happens."""

from __future__ import annotations

import threading

FREE = 50
"""The number of requests that are answered immediately. By then a pass has reached its full concurrency."""
LONGEST_SECONDS = 30.0


class Gate:
    """Lets the first `FREE` requests through, and then as many as a test permits."""

    def __init__(self) -> None:
        self._free = threading.Semaphore(FREE)
        self._held = threading.Semaphore(0)

    def pass_through(self, _latency: float) -> None:
        """Wait here, in place of the latency."""
        if not self._free.acquire(blocking=False):
            self._held.release()
            self._free.acquire()

    def wait_until_held(self, requests: int) -> None:
        """Wait until this number of further requests are held."""
        for _ in range(requests):
            assert self._held.acquire(timeout=LONGEST_SECONDS), "the pass sends too little"

    def let_through(self, requests: int = 1_000_000) -> None:
        self._free.release(requests)
