"""What is measured: how many messages are where, how old they are, and what the last passes came to."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import case, func, select

from retrycli.events import PassResult
from retrycli.message import State
from retrycli.schema import passes, queue

if TYPE_CHECKING:
    from retrycli.store.database import Database


@dataclass(frozen=True, slots=True)
class Group:
    """The messages of one state and type in the queue."""

    state: State
    message_type: str | None
    """None where the application has meanwhile deleted the row."""
    number: int
    first_failed_at: datetime
    """Of the one that failed first."""
    escalated_at: datetime | None
    """Of the one that was escalated first."""
    unacknowledged_at: datetime | None
    """The same of those that nobody has acknowledged."""


@dataclass(frozen=True, slots=True)
class Run:
    """When a pass that has ended was made."""

    started_at: datetime
    finished_at: datetime


class Measures:
    """Reads, and changes nothing.

    Args:
        database: where to look.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def groups(self) -> list[Group]:
        """The messages in the queue. Of the application's table the type is read, and nothing else."""
        m = self._database.messages.c
        nobodys = case((queue.c.acknowledged_at.is_(None), queue.c.escalated_at))
        statement = (
            select(
                queue.c.state,
                m.message_type,
                func.count(),
                func.min(queue.c.first_failed_at),
                func.min(queue.c.escalated_at),
                func.min(nobodys),
            )
            .join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
            .group_by(queue.c.state, m.message_type)
        )
        with self._database.read() as connection:
            return [Group(State(state), *rest) for state, *rest in connection.execute(statement)]

    def last_pass(self, *, result: PassResult | None = None) -> Run | None:
        """The newest pass that has ended, or that has ended so."""
        wanted = passes.c.finished_at.is_not(None) if result is None else passes.c.result == result.value
        statement = (
            select(passes.c.started_at, passes.c.finished_at)
            .where(wanted)
            .order_by(passes.c.started_at.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            row = connection.execute(statement).one_or_none()
        return None if row is None else Run(*row)
