"""Keep what a server reads for a moment, because every open page and every probe asks for it again and again."""

import time
from collections.abc import Callable
from functools import partial
from threading import Lock
from typing import Any, Generic, TypeVar

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.operations.status import Status

KEPT_SECONDS = 2.0

Value = TypeVar("Value")


class Recent(Generic[Value]):
    """A value that is at most `KEPT_SECONDS` old by a monotonic clock."""

    def __init__(self, read: Callable[[], Value], *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._elapsed = elapsed
        self._lock = Lock()
        self._kept: tuple[float, Value] | None = None

    def read(self) -> Value:
        """Return the value, or raise what its source raises. Requests that arrive while it is read share it."""
        with self._lock:
            if self._kept is None or self._elapsed() - self._kept[0] > KEPT_SECONDS:
                self._kept = None
                found = self._read()
                self._kept = self._elapsed(), found
            return self._kept[1]

    def forget(self) -> None:
        """Forget the value, because this process has just changed it."""
        with self._lock:
            self._kept = None


class RecentStatistics:
    """Statistics, which can take seconds to read. They are read one after another, and kept for `KEPT_SECONDS` for
    those who wait. `retrycli.web.routing` limits how many requests wait.
    """

    def __init__(self, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._elapsed = elapsed
        self._lock = Lock()
        self._kept: dict[object, tuple[float, Any]] = {}

    def read(self, key: object, read: Callable[[], Value]) -> Value:
        """Return the statistics with a key. Requests for the same key share them."""
        with self._lock:
            now = self._elapsed()
            self._kept = {each: kept for each, kept in self._kept.items() if now - kept[0] <= KEPT_SECONDS}
            if key not in self._kept:
                found = read()
                self._kept[key] = self._elapsed(), found
            value: Value = self._kept[key][1]
            return value


class RecentStatus(Recent[Status]):
    """The scheduler's status; see `retrycli.operations.status.status`. With it, what other pages read seldom."""

    def __init__(self, settings: Settings, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        super().__init__(partial(operations.status.status, settings), elapsed=elapsed)
        self.statistics = RecentStatistics(elapsed=elapsed)
