"""Select due messages, and the single ones that a pass picks."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, bindparam, case, func, or_, select, true

from retrycli.domain.claim import Route
from retrycli.domain.message import MessageType, State
from retrycli.store.messages import row_by_row, status_text
from retrycli.store.schema import attempts, queue

if TYPE_CHECKING:
    from sqlalchemy import Select

    from retrycli.store.database import Database


def is_due(due_by: datetime) -> tuple[ColumnElement[bool], ...]:
    """Build the only condition by which messages are counted, claimed, shown and explained as due."""
    return queue.c.state == State.WAITING.value, queue.c.next_attempt_at <= due_by


EARLIER = queue.alias("earlier")
UNFINISHED = (State.WAITING.value, State.SENDING.value)
HELD_BACK = (
    EARLIER.c.ticket == queue.c.ticket,
    EARLIER.c.message_id < queue.c.message_id,
    EARLIER.c.state.in_(UNFINISHED),
)
"""Condition that holds a message back if a ticket's order is kept: an earlier message waits or is being sent."""
FIRST_OF_TICKET = (
    select(queue.c.message_id)
    .where(queue.c.ticket == bindparam("of_ticket"), row_by_row(queue.c.state.in_(UNFINISHED)))
    .order_by(queue.c.message_id)
    .limit(1)
)


def in_route(database: Database, route: Route | None) -> list[ColumnElement[bool]]:
    """Build the conditions that leave out other routes' messages; none without a route."""
    m = database.messages.c

    # A scalar subquery, because with `exists` a planner may scan the application's whole table.
    kind = select(m.message_type).where(m.id == queue.c.message_id).scalar_subquery()

    def is_of(types: Collection[MessageType]) -> ColumnElement[int]:
        return case((or_(*(kind == status_text(message_type) for message_type in sorted(types))), 1), else_=0)

    but = [is_of(route.but) == 0] if route is not None and route.but else []
    only = [is_of(route.only) == 1] if route is not None and route.only is not None else []
    return but + only


def probes_of(message_id: Any, since: datetime) -> Select[Any]:  # noqa: ANN401  an id, or a column of ids
    """Select the times of the probes made with a message since a time."""
    return select(attempts.c.started_at).where(
        attempts.c.message_id == message_id, attempts.c.probe.is_(true()), attempts.c.started_at >= since
    )


def to_probe(due: Select[Any], since: datetime) -> tuple[Select[Any], Select[Any]]:
    """Pick the message to probe with: the oldest that has not been a probe since a time, or else the least recent
    probe.

    These are two queries. The first uses the index of due messages, however many there are. The second is needed only
    if all of them have been probes, and then they are few.
    """
    probes = probes_of(queue.c.message_id, since)
    last = probes.with_only_columns(func.max(attempts.c.started_at)).scalar_subquery()
    # A scalar subquery, because with `exists` a planner may scan all attempts.
    was_none = probes.limit(1).scalar_subquery().is_(None)
    oldest = queue.c.next_attempt_at, queue.c.message_id
    return due.where(was_none).order_by(*oldest).limit(1), due.order_by(last, *oldest).limit(1)


def elsewhere(due: Select[Any], tickets: Collection[str]) -> Select[Any]:
    """Pick the last due message of any other ticket."""
    other = or_(queue.c.ticket.is_(None), queue.c.ticket.not_in(tickets))
    return due.where(other).order_by(queue.c.next_attempt_at.desc(), queue.c.message_id.desc()).limit(1)
