"""A lock of the application's: on its file, or on one row at a server. It ends after so many calls of retrycli's."""

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
        application: whose it is.
    """

    def __init__(self, application: Application) -> None:
        self._application = application
        self._held = ExitStack()
        self._left = 0

    def take(self, message_id: int, calls: int) -> None:
        """Take the lock, until retrycli has called its ports so often."""
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
        """Give the lock back."""
        self._held.close()
