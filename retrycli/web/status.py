"""Keep the scheduler's status for a moment, because every open page asks for it again and again."""

import time
from collections.abc import Callable
from threading import Lock

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.operations.status import Status

KEPT_SECONDS = 2.0


class RecentStatus:
    """The status of one installation, at most `KEPT_SECONDS` old by a monotonic clock."""

    def __init__(self, settings: Settings, *, elapsed: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._elapsed = elapsed
        self._lock = Lock()
        self._kept: tuple[float, Status] | None = None

    def read(self) -> Status:
        """Return the status. Requests that arrive while it is read wait for it, and share it.

        Raises:
            DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
        """
        with self._lock:
            if self._kept is None or self._elapsed() - self._kept[0] > KEPT_SECONDS:
                self._kept = None
                found = operations.status.status(self._settings)
                self._kept = self._elapsed(), found
            return self._kept[1]

    def forget(self) -> None:
        """Forget the status, because this process has just changed it."""
        with self._lock:
            self._kept = None
