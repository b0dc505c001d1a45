"""Forget the old history: attempts, acts and passes."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, exists, func, or_, select

from retrycli.outcome import INTERRUPTED, OutcomeKind
from retrycli.schema import acts, attempts, escalations, passes, queue
from retrycli.store import totals
from retrycli.store.application import row_by_row

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Table

    from retrycli.store.database import Database

DELIVERED, UNKNOWN, TRANSIENT = (
    each.value for each in (OutcomeKind.DELIVERED, OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT)
)
IN_THE_QUEUE = exists().where(queue.c.message_id == attempts.c.message_id)


def prune(database: Database, before: datetime, limit: int) -> int:
    """Forget what is old, at most so many of each. See `retrycli.store.ledger.Ledger.prune`."""
    a, gone = attempts.c, 0
    may_go = row_by_row(~IN_THE_QUEUE, ~_is_needed(database))
    old = select(a.id).where(a.finished_at < before, may_go).order_by(a.finished_at, a.id).limit(limit)
    with database.write() as connection:
        leaving = a.id.in_(connection.execute(old).scalars().all())
        counted_to = totals.count_leaving(connection, leaving)
        totals.remember_leaving(connection, _oldest(passes, passes.c.finished_at, before, limit))
        gone += connection.execute(delete(attempts).where(leaving)).rowcount
        for table, ended_at in ((acts, acts.c.at), (passes, passes.c.finished_at)):
            gone += connection.execute(delete(table).where(_oldest(table, ended_at, before, limit))).rowcount
        connection.execute(delete(escalations).where(escalations.c.at < before))
        totals.follow_the_newest(connection, counted_to)
    return gone


def count_ended(database: Database, before: datetime) -> dict[str, int]:
    """Count what there is to forget. See `retrycli.store.ledger.Ledger.count_ended`."""
    old = {
        attempts: and_(attempts.c.finished_at < before, row_by_row(~IN_THE_QUEUE, ~_is_needed(database))),
        acts: acts.c.at < before,
        passes: passes.c.finished_at < before,
    }
    with database.read() as connection:
        return {
            table.name.removeprefix("retrycli_"): connection.execute(
                select(func.count()).select_from(table).where(condition)
            ).scalar_one()
            for table, condition in old.items()
        }


def _is_needed(database: Database) -> ColumnElement[bool]:
    """Whether an attempt tells if its message's text may be sent again.

    It may have delivered, or reached some of the recipients, or it is the last of its text that did: that one knows
    how many there were before.
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


def _oldest(table: Table, ended_at: ColumnElement[datetime], before: datetime, limit: int) -> ColumnElement[bool]:
    """Whether a row is among the so many that ended first, and before a time."""
    ended = select(table.c.id).where(ended_at < before).order_by(ended_at, table.c.id)
    return table.c.id.in_(ended.limit(limit))
