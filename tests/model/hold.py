"""A lock of the application on its file, or on one row of a server, for a number of retrycli's calls."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from sqlalchemy import make_url, text

from tests.store.application import is_sqlite

if TYPE_CHECKING:
    from tests.store.application import Application


class Hold:
    """The lock.

    Args:
        application: its owner.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._held = ExitStack()
        self._left = 0

    def take(self, message_id: int, calls: int) -> None:
        """Take the lock for this number of retrycli's port calls."""
        self.release()
        self._left = calls
        if is_sqlite(self._application.url):
            path = str(make_url(self._application.url).database)
            connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            self._held.enter_context(closing(connection))
            connection.execute("BEGIN IMMEDIATE")
        else:
            row = text("SELECT id FROM pending_messages WHERE id = :id FOR UPDATE")
            self._held.enter_context(self._application._engine.connect()).execute(row, {"id": message_id})

    def count(self) -> None:
        """Count a call, and release the lock after the last one."""
        self._left -= 1
        if self._left < 0:
            self.release()

    def release(self) -> None:
        """Release the lock."""
        self._held.close()
