"""A gate that holds requests at the sandbox, so that a test controls which requests are in flight."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

from tests.cli.command import wait_until

if TYPE_CHECKING:
    import subprocess

FREE = 50
"""The number of requests that are answered immediately. After them, a pass has reached its full concurrency."""


class Gate:
    """A gate that lets the first `FREE` requests through, and then as many as the test permits.

    At the end of its ``with`` block it lets all through, so that a pass ends even if an assertion fails.
    """

    def __init__(self) -> None:
        self.held = 0
        """The number of requests that had to wait."""
        self._free = threading.Semaphore(FREE)
        self._counting = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.let_through()

    def pass_through(self, _latency: float) -> None:
        """Wait for the test's permission instead of the sandbox's latency."""
        if not self._free.acquire(blocking=False):
            with self._counting:
                self.held += 1
            self._free.acquire()

    def wait_until_held(self, requests: int, process: subprocess.Popen[str] | None = None) -> None:
        """Wait for this number of requests. The process, if given, must not end before."""
        wait_until(lambda: self.held >= requests, process)

    def let_through(self, requests: int = 1_000_000) -> None:
        self._free.release(requests)
