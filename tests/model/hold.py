"""A lock that the application holds during some of retrycli's calls, on the SQLite file or on one PostgreSQL row."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from tests.store.application import is_sqlite

if TYPE_CHECKING:
    from tests.store.application import Application


class Hold:
    """A lock that is released after a given number of calls.

    Args:
        application: the owner of the lock.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._held = ExitStack()
        self._left = 0

    def take(self, message_id: int, calls: int) -> None:
        """Acquire the lock, and hold it while retrycli makes this number of calls to its ports."""
        self.release()
        self._left = calls
        if is_sqlite(self._application.url):
            path = str(make_url(self._application.url).database)
            file = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._held.enter_context(closing(file))
            file.execute("BEGIN IMMEDIATE")
        else:
            server = self._held.enter_context(self._application._engine.connect())
            server.exec_driver_sql(self._application.row_lock(message_id))

    def count(self) -> None:
        """Count a call, and release the lock after the last one."""
        self._left -= 1
        if self._left < 0:
            self.release()

    def release(self) -> None:
        self._held.close()
