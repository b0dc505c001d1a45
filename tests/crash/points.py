"""Points of a pass at which a test can kill it: before and after each commit and each request, and some more.

The code of the pass contains no points. SQLAlchemy's events report the writes of a transaction, and a wrapper in the
`Dependencies` reports requests.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, Pool, event

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from retrycli.domain.message import QueuedMessage
    from retrycli.domain.outcome import LookUp, Outcome
    from retrycli.domain.transition import Overdue
    from retrycli.engine.ports import Dependencies, Gateway

BEFORE_A_REQUEST, AFTER_AN_ANSWER = "before a request", "after an answer"
WRITES = re.compile(r"(CREATE TABLE|INSERT INTO|UPDATE|DELETE FROM)\s+(?:retrycli_)?(\w+)")
SIGNS = {"INSERT INTO": "+", "UPDATE": "~", "DELETE FROM": "-"}
"""Signs for the kinds of writes in a transaction: rows were added, changed or removed."""
MADE_TABLES = "make tables"
BEFORE_COMMIT = "before commit: "
AGAIN = ", visit "
HEARD_OF_PYTHON = {"fcntl.flock": "before the lock", "socket.connect": "before a connection to the API"}
"""The names of points, by Python's audit event."""


def stands_for_others(visit: str) -> bool:
    """Return whether the default tests kill a pass at this visit. The long tests kill it at all visits to all points.

    A kill before a commit loses the transaction, so it leaves the same state as the previous point. Of the points
    before a commit, the default tests include only those before commits to the application's table.
    """
    is_first = AGAIN not in visit
    return is_first and (not visit.startswith(BEFORE_COMMIT) or "pending_messages" in visit)


class Points:
    """The points that this process reaches. It kills itself at one of them.

    Args:
        is_fatal: is called at each visit to a point.
        told: the file descriptor that receives the name of the fatal visit.
    """

    def __init__(self, is_fatal: Callable[[str], bool], told: int) -> None:
        self._is_fatal = is_fatal
        self._told = told
        self._visits: Counter[str] = Counter()
        self._written: list[str] = []
        self._turn = asyncio.Semaphore(1)
        self._not_yet_recorded = False

    def reach(self, name: str) -> None:
        """Count a visit to a point. Kill this process if the visit is fatal."""
        self._visits[name] += 1
        visit = name if self._visits[name] == 1 else f"{name}{AGAIN}{self._visits[name]}"
        if self._is_fatal(visit):
            os.write(self._told, visit.encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def listen(self) -> None:
        """Register the listeners that count this process's points."""
        event.listen(Engine, "before_cursor_execute", self._on_commit)
        event.listen(Engine, "after_cursor_execute", self._on_statement)
        event.listen(Engine, "commit", self._on_commit_to_a_file)
        event.listen(Engine, "rollback", self._on_rollback)
        event.listen(Pool, "checkin", self._on_checkin)
        sys.addaudithook(self._on_audit)

    def watch(self, deps: Dependencies) -> Dependencies:
        """Return dependencies whose gateway has a point before each request and after each answer."""
        return deps._replace(open_gateway=lambda: self._watched(deps.open_gateway))

    # -- what is heard ------------------------------------------------------------------------------------------

    def _on_statement(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        if found := WRITES.match(statement.lstrip()):
            verb, table = found.groups()
            words = MADE_TABLES if verb not in SIGNS else SIGNS[verb] + table
            if words not in self._written:
                self._written.append(words)

    def _on_commit_to_a_file(self, connection: Connection) -> None:
        driver = connection.connection.driver_connection
        if connection.dialect.name == "sqlite" and driver is not None and driver.in_transaction:
            self._before_commit()

    def _on_commit(self, _connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        """Reach a point before a COMMIT that retrycli sends itself. SQLAlchemy's commit event would come too late."""
        if statement == "COMMIT":
            self._before_commit()

    def _before_commit(self) -> None:
        if self._written:
            self.reach(f"{BEFORE_COMMIT}{self._in_words()}")

    def _on_rollback(self, _connection: Connection) -> None:
        self._written.clear()

    def _on_checkin(self, *_: object) -> None:
        """Reach a point after the commit: a connection is returned only after its writes are committed."""
        if self._written:
            written = self._in_words()
            self._written.clear()
            self.reach(f"after commit: {written}")
            if self._not_yet_recorded:
                self._not_yet_recorded = False
                self._turn.release()

    def _on_audit(self, name: str, _arguments: object) -> None:
        if point := HEARD_OF_PYTHON.get(name):
            self.reach(point)

    def _in_words(self) -> str:
        return MADE_TABLES if MADE_TABLES in self._written else " ".join(self._written)

    # -- the gateway --------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _watched(self, opened: Callable[[], AbstractAsyncContextManager[Gateway]]) -> AsyncIterator[Gateway]:
        async with opened() as gateway:
            yield _Watched(gateway, self)

    async def in_turn(self, gateway: Gateway, queued: QueuedMessage) -> Outcome:
        """Deliver only after the previous answer is recorded, so that passes reach nearly the same points."""
        await self._turn.acquire()
        self.reach(BEFORE_A_REQUEST)
        outcome = await gateway.deliver(queued)
        self._not_yet_recorded = True
        self.reach(AFTER_AN_ANSWER)
        return outcome


class _Watched:
    """A gateway that sends one request at a time, even if several attempts are in progress."""

    def __init__(self, gateway: Gateway, points: Points) -> None:
        self._gateway = gateway
        self._points = points
        self.overdue: tuple[Overdue, ...] = ()

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        return await self._points.in_turn(self._gateway, queued)

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        return await self._gateway.look_up(queued)
