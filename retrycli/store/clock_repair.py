"""Correct times that were recorded while a clock was ahead, once the clock is right again.

Otherwise messages, claims and probes would wait for these times. A wait that began while the clock was ahead begins
again with its original length, so a message may be sent later than it should be, and never earlier.
"""

from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Select, Table, case, func, or_, select, update

from retrycli.domain.message import State
from retrycli.domain.outcome import RETRY_AFTER_CAP
from retrycli.domain.passes import ClockWasAhead
from retrycli.domain.transition import ActionKind
from retrycli.store.bulk import BulkStatement
from retrycli.store.database import Database
from retrycli.store.identity import LAST_NUMBER
from retrycli.store.messages import UNFINISHED
from retrycli.store.own_tables import LEEWAY, is_clock_ahead, time_ahead
from retrycli.store.schema import acts, attempts, breakers, escalations, holds, passes, pause, queue, told

# Columns with times of past events, table by table.
#
# Not `queue.first_failed_at`: it counts as now while it lies ahead, because a clock that is behind would otherwise make
# the whole queue expire.
HAPPENED = (
    *(passes.c.started_at, passes.c.heartbeat_at, passes.c.finished_at),
    *(attempts.c.started_at, attempts.c.finished_at),
    acts.c.at,
    *(queue.c.escalated_at, queue.c.acknowledged_at),
    escalations.c.at,
    breakers.c.opened_at,
    pause.c.since,
    holds.c.since,
    *(told.c.since, told.c.told_at),
)
LAST_PASS = (
    select(func.max(passes.c.started_at))
    .where(passes.c.id == attempts.c.pass_id, attempts.c.message_id == queue.c.message_id)
    .scalar_subquery()
)
REQUEUED = (
    select(func.max(acts.c.at))
    .where(
        acts.c.message_id == queue.c.message_id,
        acts.c.act == ActionKind.REQUEUED.value,
        acts.c.attempts >= func.coalesce(LAST_NUMBER, 0),
    )
    .scalar_subquery()
)
LAST_REQUEST = (
    select(func.max(attempts.c.started_at)).where(attempts.c.destination == breakers.c.destination).scalar_subquery()
)
# Keys, the ends of waits, and the events at one of which the wait began.
WAITS = (
    select(queue.c.message_id, queue.c.next_attempt_at, LAST_PASS, REQUEUED, queue.c.first_failed_at)
    .where(queue.c.state.in_(UNFINISHED))
    .with_for_update(of=queue)
)
RESTS = select(breakers.c.destination, breakers.c.probe_at, breakers.c.opened_at, LAST_REQUEST)


def repair_clock_skew(
    database: Database, now: datetime, lease: timedelta, longest_wait: timedelta
) -> ClockWasAhead | None:
    """Correct times that were recorded while a clock was ahead. Return the repairs; None if no recorded time lies more
    than `LEEWAY` ahead. ``lease`` is the duration of a claim, ``longest_wait`` that of the schedules.
    """
    if not is_clock_ahead(database, now):
        return None
    # An operator may have spread messages over a longer time. The act is also from the wrong clock if it lies ahead.
    waits = WAITS.where(or_(REQUEUED.is_(None), now + LEEWAY < REQUEUED))
    # Live owners keep their claims, because they renew the claims or finish before the new expiry.
    too_long = queue.c.state == State.SENDING.value, queue.c.claim_expires_at > now + lease
    with database.write() as connection:
        database.take_turn(connection)
        if (ahead := time_ahead(connection, now)) <= LEEWAY:  # another host's pass has already corrected the times
            return None
        messages = _begin_again(connection, waits, now, max(longest_wait, RETRY_AFTER_CAP))
        claims = connection.execute(update(queue).where(*too_long).values(claim_expires_at=now + lease)).rowcount
        _begin_again(connection, RESTS, now, RETRY_AFTER_CAP)
        for stops in (pause, holds):
            _keep_lengths(connection, stops, now)
        before = now - timedelta.resolution  # so that a pass that starts now is the newest
        for table, columns in groupby(HAPPENED, lambda column: column.table):
            wrong = {column: case((column > now, before), else_=column) for column in columns}
            connection.execute(update(table).where(or_(*(column > now for column in wrong))).values(wrong))
        return ClockWasAhead(ahead, messages, claims)


def _keep_lengths(connection: Connection, stops: Table, now: datetime) -> None:
    """Let pauses or holds that began in the future end as long after now as they were to last. Other ends stay, because
    an operator chose them.
    """
    key = list(stops.primary_key)
    ends = select(stops.c.until, stops.c.since, *key).where(stops.c.since > now, stops.c.until.is_not(None))
    for until, since, *values in connection.execute(ends).all():
        this = [column == value for column, value in zip(key, values, strict=True)]
        connection.execute(update(stops).where(*this).values(until=now + (until - since)))


def _begin_again(connection: Connection, waits: Select[Any], now: datetime, longest: timedelta) -> int:
    """Let the waits that began in the future begin now, with their length. Shorten all waits to ``longest``. Return the
    number of changed waits.
    """
    key, due = list(waits.selected_columns)[:2]
    changed = []
    for of, ends_at, *events in connection.execute(waits.where(due > now)):
        began_at = max((at for at in events if at is not None and now < at <= ends_at), default=now)
        length = min(ends_at - began_at, longest)
        if now + length != ends_at:
            changed.append({key.name: of, due.name: now + length})
    types = {column.name: column.type for column in (key, due)}
    write = BulkStatement(lambda to: update(key.table).where(key == to[key.name]).values({due: to[due.name]}), types)
    write.execute(connection, changed)
    return len(changed)
