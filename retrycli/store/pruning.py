"""Delete old history: attempts, actions and passes.

Many old attempts are kept as long as the application keeps their rows, and only reading an attempt shows if it may go.
So each pass examines the next batch of attempts by id, and starts again after the last one: the cost does not grow with
the history, and each round examines every attempt.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import and_, delete, exists, func, or_, select

from retrycli.domain.operator_action import ActionKind
from retrycli.domain.outcome import INTERRUPTED, OutcomeKind
from retrycli.store import counters
from retrycli.store.messages import row_by_row
from retrycli.store.schema import acts, attempts, escalations, passes, queue

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Table

    from retrycli.store.database import Database

DELIVERED, UNKNOWN, TRANSIENT = (
    kind.value for kind in (OutcomeKind.DELIVERED, OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT)
)
IN_THE_QUEUE = exists().where(queue.c.message_id == attempts.c.message_id)
# A scalar subquery, because with `exists` a planner may scan the whole queue.
ITS_MESSAGE = select(queue.c.message_id).where(queue.c.message_id == acts.c.message_id).scalar_subquery()
DECIDES = row_by_row(acts.c.act == ActionKind.REQUEUED.value, ITS_MESSAGE.is_not(None))
"""Condition that an action is an operator's decision to send a message that is queued: see `identity.History`."""


class _Step(NamedTuple):
    """Result of one transaction."""

    gone: int
    """Number of deleted attempts, actions and passes."""
    upto: int
    """Id of the last examined attempt."""
    is_last: bool
    """True if no attempt follows it."""


def prune(database: Database, before: datetime, limit: int) -> int:
    """Continue the round that all passes share: see `retrycli.store.passes.Ledger.prune`."""
    with database.write() as connection:
        step = _step(database, connection, before, limit, after=counters.pruned_to(connection))
        counters.set_pruned_to(connection, counters.START if step.is_last else step.upto)
    return step.gone


def prune_all(database: Database, before: datetime, limit: int) -> Iterator[int]:
    """Examine all attempts once: see `retrycli.store.passes.Ledger.prune_all`."""
    upto, done = counters.START, False
    while not done:
        with database.write() as connection:
            step = _step(database, connection, before, limit, after=upto)
        yield step.gone
        upto, done = step.upto, step.is_last and not step.gone


def count_ended(database: Database, before: datetime) -> dict[str, int]:
    """Count the rows to delete: see `retrycli.store.passes.Ledger.count_ended`."""
    old = {
        attempts: and_(attempts.c.finished_at < before, row_by_row(~IN_THE_QUEUE, ~_is_needed(database))),
        acts: and_(acts.c.at < before, ~DECIDES),
        passes: passes.c.finished_at < before,
    }
    with database.read() as connection:
        return {
            table.name.removeprefix("retrycli_"): connection.execute(
                select(func.count()).select_from(table).where(condition)
            ).scalar_one()
            for table, condition in old.items()
        }


def _step(database: Database, connection: Connection, before: datetime, limit: int, *, after: int) -> _Step:
    """Examine the next attempts after an id, and delete those that may go, with the oldest actions and passes.

    Old passes are not needed, and few old actions are, so the first ones found may go.
    """
    a = attempts.c
    looked_at = select(a.id).where(a.id > after).order_by(a.id).limit(limit).subquery()
    number, last = connection.execute(select(func.count(), func.max(looked_at.c.id))).one()
    upto = after if last is None else last
    may_go = row_by_row(a.finished_at < before, ~IN_THE_QUEUE, ~_is_needed(database))
    ids = connection.execute(select(a.id).where(a.id > after, a.id <= upto, may_go)).scalars().all()
    leaving = a.id.in_(ids)
    # From here on another host's pass waits: it may have found the same rows, and must not count them again.
    counted_to = counters.count_leaving(connection, leaving)
    gone = connection.execute(delete(attempts).where(leaving)).rowcount
    counters.follow_the_newest(connection, counted_to)
    old_acts = _oldest(acts, acts.c.at, before, limit, ~DECIDES)
    old_passes = _oldest(passes, passes.c.finished_at, before, limit)
    counters.remember_leaving(connection, old_passes)
    gone += connection.execute(delete(acts).where(old_acts)).rowcount
    gone += connection.execute(delete(passes).where(old_passes)).rowcount
    connection.execute(delete(escalations).where(escalations.c.at < before))
    return _Step(gone, upto, is_last=number < limit)


def _is_needed(database: Database) -> ColumnElement[bool]:
    """Build the condition that an attempt decides if its text may be sent again.

    It may have delivered, or reached some recipients, or it is its text's last delivery, which holds the number of
    earlier ones.
    """
    m, later = database.messages.c, attempts.alias("later")
    newer = (later.c.message_id == attempts.c.message_id, later.c.number > attempts.c.number)
    same_text = (later.c.digest == attempts.c.digest, later.c.birth == attempts.c.birth)
    is_last = ~exists().where(*newer, *same_text, later.c.outcome == DELIVERED)
    delivered = and_(attempts.c.outcome == DELIVERED, attempts.c.digest.is_not(None), is_last)
    interrupted = and_(attempts.c.outcome == TRANSIENT, attempts.c.status_code.in_(INTERRUPTED))
    unsettled = or_(attempts.c.outcome == UNKNOWN, interrupted)
    tells = or_(unsettled, attempts.c.delivered_to.is_not(None), delivered)
    return and_(tells, exists().where(m.id == attempts.c.message_id))


def _oldest(
    table: Table, ended_at: ColumnElement[datetime], before: datetime, limit: int, *conditions: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Build the condition that a row is among the first `limit` that ended before a time."""
    ended = select(table.c.id).where(ended_at < before, *conditions).order_by(ended_at, table.c.id)
    return table.c.id.in_(ended.limit(limit))
