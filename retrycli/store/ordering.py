"""The orders of a list of messages: the values to sort by, and the condition for the rows after a cursor."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    CompoundSelect,
    FromClause,
    and_,
    case,
    cast,
    func,
    literal,
    null,
    or_,
    select,
    tuple_,
    union_all,
)

from retrycli.domain.cursor import MessageCursor, Sort
from retrycli.domain.message import MessageStatus, State
from retrycli.store.database import Database
from retrycli.store.messages import has_status
from retrycli.store.schema import MAX_INT, queue


@dataclass(frozen=True, slots=True)
class Order:
    """An order of failed messages, with the id as the last criterion.

    Attributes:
        value: the sort column; null for an order by id.
        by: the values of ORDER BY before the id.
        id: the id column.
    """

    value: ColumnElement[Any]
    by: tuple[ColumnElement[Any], ...]
    id: ColumnElement[Any]

    @classmethod
    def of(cls, messages: FromClause, sort: Sort) -> "Order":
        """Return an order of the rows of the application's table, joined with their queue rows."""
        m = messages.c
        match sort:
            case "next":
                return cls._by_time(queue.c.next_attempt_at, m.id)
            case "age":
                return cls._by_time(queue.c.first_failed_at, m.id)
            case "tries":
                tries = _count(m.retry_count)
                return cls(tries, (tries.desc(),), m.id)
            case "id":
                return cls(null(), (), m.id)

    @classmethod
    def _by_time(cls, time: ColumnElement[Any], message_id: ColumnElement[Any]) -> "Order":
        return cls(time, (case((time.is_(None), 1), else_=0), time), message_id)

    def after(self, end: MessageCursor) -> ColumnElement[bool]:
        """Return the condition for the rows that follow a cursor of this order."""
        follows = self.id > end.key
        if end.order == "id":
            return follows
        if end.order == "tries":
            return or_(self.value < end.value, and_(self.value == end.value, follows))
        if end.value is None:  # rows without a time come last
            return and_(self.value.is_(None), follows)
        return or_(self.value > end.value, and_(self.value == end.value, follows), self.value.is_(None))


def soonest(
    database: Database, states: Collection[State], after: MessageCursor | None, limit: int
) -> CompoundSelect[Any]:
    """Select the ids and times of the failed messages with the earliest next attempts, in the order ``next``.

    The index of the queue has this order for each state, so few rows of each state are read. Messages
    without a next attempt come last in this order, and are left out.
    """
    due, number = queue.c.next_attempt_at, queue.c.message_id
    within: ColumnElement[bool] = due.is_not(None)
    if after is not None:
        within = tuple_(due, number) > tuple_(literal(after.value, due.type), after.key)
    parts = [
        select(number.label("id"), due.label("due"))
        .join_from(queue, database.messages, database.messages.c.id == number)
        .where(queue.c.state == state.value, within, has_status(database.messages.c, MessageStatus.FAILED))
        .order_by(due, number)
        .limit(limit)
        .subquery()
        for state in states
    ]
    return union_all(*(select(part) for part in parts)).order_by("due", "id").limit(limit)


def _count(column: ColumnElement[Any]) -> ColumnElement[int]:
    """Return a retry count as an integer. Values that are not valid counts, which SQLite can store, come first."""
    count = func.coalesce(column, 0)
    return case((count.between(-MAX_INT, MAX_INT), cast(count, BigInteger)), else_=MAX_INT + 1)
