"""Count messages by state, find the oldest messages and the last passes, and group escalated messages by cause."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, String, and_, case, cast, func, select

from retrycli.domain.fingerprint import cause
from retrycli.domain.listing import EscalationGroup, Filter
from retrycli.domain.message import MessageStatus, MessageType, State
from retrycli.domain.passes import PassResult
from retrycli.domain.transition import Route
from retrycli.store.database import Database, Queries
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import has_status, in_route, is_due
from retrycli.store.schema import passes, queue


@dataclass(frozen=True, slots=True)
class InQueue:
    """The numbers of queued messages, and since when the oldest ones have been waiting or escalated."""

    # Number of messages by state and type; None stands for any other type, or for a deleted row.
    numbers: Mapping[tuple[State, MessageType | None], int]
    waiting_since: datetime | None  # the first failure of the oldest waiting message
    escalated_since: datetime | None  # the time of the earliest escalation among escalated messages
    unacknowledged_since: datetime | None  # the time of the earliest escalation among unacknowledged messages


@dataclass(frozen=True, slots=True)
class PassTimes:
    """The start and end of a pass."""

    started_at: datetime
    finished_at: datetime


class QueueCounts(Queries):
    """Read-only queries that count messages and find the last pass."""

    # With GROUP BY on several columns, SQLite would sort all rows. With an index on the state, it would read rows in
    # order of time, jumping through the file. The conditional counts below read all rows once, in storage order.

    def in_queue(self) -> InQueue:
        """Count the queued messages by state and type, and find the earliest first failure and escalations."""
        m = self._database.messages.c
        kinds = [(state, kind) for state in State for kind in MessageType]
        # Compare as text. The application's enumeration may lack a type, and PostgreSQL would reject the comparison.
        message_type = cast(m.message_type, String)
        escalated = queue.c.state == State.ESCALATED.value
        statement = select(
            *(_count(queue.c.state == state.value, message_type == kind.value) for state, kind in kinds),
            *(_count(queue.c.state == state.value) for state in State),
            _earliest(queue.c.first_failed_at, queue.c.state == State.WAITING.value),
            _earliest(queue.c.escalated_at, escalated),
            _earliest(queue.c.escalated_at, and_(escalated, queue.c.acknowledged_at.is_(None))),
        ).join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
        found: list[Any] = [*self._database.rows(statement)[0]]
        of_kind, of_state = dict(zip(kinds, found, strict=False)), dict(zip(State, found[len(kinds) :], strict=False))
        numbers: dict[tuple[State, MessageType | None], int] = {}
        for state, whole in of_state.items():
            numbers |= {(state, kind): of_kind[state, kind] for kind in MessageType}
            numbers[state, None] = whole - sum(of_kind[state, kind] for kind in MessageType)
        return InQueue(numbers, *found[-3:])

    def counts(self, due_by: datetime, route: Route | None = None) -> dict[str, int]:
        """Count failed messages: waiting (including due ones), due, sending, escalated. With a route, the due messages
        are those that it includes and does not withhold.

        Messages that are not in the queue yet count as waiting; the next pass decides when they are due (see
        `retrycli.operations.dry_run.counts`).
        """
        m = self._database.messages
        is_counted_as_due = (*is_due(due_by), *in_route(self._database, route, joined=True))
        statement = (
            select(
                func.count().label("failed"),
                _count(*is_counted_as_due).label("due"),
                _count(queue.c.state == State.SENDING.value).label("sending"),
                _count(queue.c.state == State.ESCALATED.value).label("escalated"),
            )
            .join_from(m, queue, queue.c.message_id == m.c.id, isouter=True)
            .where(has_status(m.c, MessageStatus.FAILED))
        )
        [found] = self._database.rows(statement)
        others = {name: getattr(found, name) for name in ("sending", "escalated")}
        return {"waiting": found.failed - sum(others.values()), "due": found.due, **others}

    def last_pass(self, *, result: PassResult | None = None) -> PassTimes | None:
        """Return the newest pass that has ended; with `result`, the newest pass that ended with this result."""
        wanted = passes.c.finished_at.is_not(None) if result is None else passes.c.result == result.value
        ended = select(passes.c.started_at, passes.c.finished_at).where(wanted)
        newest = self._database.rows(ended.order_by(passes.c.started_at.desc()).limit(1))
        return PassTimes(*newest[0]) if newest else None


def _count(*conditions: ColumnElement[bool]) -> ColumnElement[int]:
    return func.count(case((and_(*conditions), 1)))


def _earliest(time: ColumnElement[datetime], condition: ColumnElement[bool]) -> ColumnElement[datetime]:
    return func.min(case((condition, time)), type_=time.type)


ESCALATED = Filter(state=State.ESCALATED)
MAX_GROUPS = 1000  # maximum number of causes to return, because no operator reads more


def escalation_groups(database: Database, among: Filter = ESCALATED) -> list[EscalationGroup]:
    """Group escalated messages by cause, the largest groups first. Return at most `MAX_GROUPS` groups. Leave out
    messages that the application has withdrawn.
    """
    views = MessageQueries(database)
    groups: dict[str | None, list[Row[Any]]] = {}
    for row in database.rows(_largest_groups(database, views, among)):
        groups.setdefault(row.fingerprint, []).append(row)
    firsts = array("q", (min(row.example for row in rows) for rows in groups.values()))
    examples = {message.id: message for message in views.pages(firsts, among)}
    return [
        EscalationGroup(
            fingerprint=fingerprint,
            cause=None if example.last_error is None else cause(example.last_error),
            count=sum(row.n for row in rows),
            new=sum(row.n - row.seen for row in rows),
            oldest=min(row.oldest for row in rows),
            newest=max(row.newest for row in rows),
            types={str(row.message_type): row.n for row in rows},
            example=example,
        )
        for (fingerprint, rows), first in zip(groups.items(), firsts, strict=True)
        if (example := examples.get(first)) is not None
    ]


def _largest_groups(database: Database, views: MessageQueries, among: Filter) -> Select[Any]:
    """Select each group's part of each message type, the largest groups first. All messages are read only once."""
    m = database.messages.c
    at = queue.c.escalated_at
    of_a_type = (
        views.failed(
            among,
            queue.c.fingerprint,
            m.message_type,
            func.count().label("n"),
            func.count(queue.c.acknowledged_at).label("seen"),
            func.min(at, type_=at.type).label("oldest"),
            func.max(at, type_=at.type).label("newest"),
            func.min(m.id).label("example"),
        )
        .group_by(queue.c.fingerprint, m.message_type)
        .subquery()
    )
    part = of_a_type.c
    size = func.sum(part.n).over(partition_by=part.fingerprint).label("size")
    first = func.min(part.example).over(partition_by=part.fingerprint).label("first")
    sized = select(of_a_type, size, first).subquery()
    place = func.dense_rank().over(order_by=(sized.c.size.desc(), sized.c.first)).label("place")
    placed = select(sized, place).subquery()
    return select(placed).where(placed.c.place <= MAX_GROUPS).order_by(placed.c.place, placed.c.message_type)
