"""Correct times that were recorded while a clock was ahead, once the clock is right again.

Otherwise messages, claims and probes would wait for these times. A message waits at most as long as the schedule lets
any message wait, so it may be sent later than it should be, and never earlier than a failure would allow.
"""

from datetime import datetime, timedelta
from itertools import groupby

from sqlalchemy import case, func, or_, select, update

from retrycli.domain.message import State
from retrycli.domain.outcome import RETRY_AFTER_CAP
from retrycli.domain.passes import ClockWasAhead
from retrycli.domain.transition import ActionKind
from retrycli.store.database import Database
from retrycli.store.messages import UNFINISHED
from retrycli.store.own_tables import LEEWAY, is_clock_ahead, time_ahead
from retrycli.store.schema import acts, attempts, breakers, escalations, holds, passes, pause, queue, told

# Columns with times of past events, table by table.
#
# Not `queue.first_failed_at`: it counts as now while it lies ahead, because a clock that is behind would otherwise make
# the whole queue expire. The ends of pauses and holds may lie in the future, because an operator chose them.
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
LAST_ATTEMPT = select(func.max(attempts.c.number)).where(attempts.c.message_id == queue.c.message_id).scalar_subquery()


def repair_clock_skew(
    database: Database, now: datetime, lease: timedelta, longest_wait: timedelta
) -> ClockWasAhead | None:
    """Correct times that were recorded while a clock was ahead. Return the repairs; None if no recorded time lies more
    than `LEEWAY` ahead. ``lease`` is the duration of a claim, ``longest_wait`` that of the schedules.
    """
    if not is_clock_ahead(database, now):
        return None
    latest = now + max(longest_wait, RETRY_AFTER_CAP)
    # An operator may have spread messages over a longer time. The act is also from the wrong clock if it lies ahead.
    spread = select(acts.c.id).where(
        acts.c.message_id == queue.c.message_id,
        acts.c.act == ActionKind.REQUEUED.value,
        acts.c.at <= now + LEEWAY,
        acts.c.attempts >= func.coalesce(LAST_ATTEMPT, 0),
    )
    too_late = queue.c.state.in_(UNFINISHED), queue.c.next_attempt_at > latest, ~spread.exists()
    # Live owners keep their claims, because they renew the claims or finish before the new expiry.
    too_long = queue.c.state == State.SENDING.value, queue.c.claim_expires_at > now + lease
    probe_by = now + RETRY_AFTER_CAP
    with database.write() as connection:
        database.advisory_lock(connection)
        if (ahead := time_ahead(connection, now)) <= LEEWAY:  # another host's pass has already corrected the times
            return None
        messages = connection.execute(update(queue).where(*too_late).values(next_attempt_at=latest)).rowcount
        claims = connection.execute(update(queue).where(*too_long).values(claim_expires_at=now + lease)).rowcount
        connection.execute(update(breakers).where(breakers.c.probe_at > probe_by).values(probe_at=probe_by))
        before = now - timedelta.resolution  # so that a pass that starts now is the newest
        for table, columns in groupby(HAPPENED, lambda column: column.table):
            wrong = {column: case((column > now, before), else_=column) for column in columns}
            connection.execute(update(table).where(or_(*(column > now for column in wrong))).values(wrong))
        return ClockWasAhead(ahead, messages, claims)
