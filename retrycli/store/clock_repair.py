"""Repair times that were recorded while a clock was ahead, once the clock is correct again.

Without the repair, messages and claims would wait until these times in the future. The repair keeps the length of each
wait but starts the wait now, so that nothing is sent early. It moves future times of past events to just before now, so
that the next pass finds nothing to repair.
"""

from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, and_, bindparam, case, func, or_, select, update

from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.message import State
from retrycli.domain.outcome import RETRY_AFTER_CAP
from retrycli.domain.passes import ClockWasAhead
from retrycli.domain.transition import ActionKind
from retrycli.store.bulk import BulkStatement
from retrycli.store.database import Database
from retrycli.store.messages import UNFINISHED
from retrycli.store.own_tables import LEEWAY, is_clock_ahead, time_ahead
from retrycli.store.schema import acts, attempts, breakers, escalations, holds, passes, pause, queue, told

AT_ONCE = 5_000  # maximum number of messages to hold in memory

DUE = queue.c.next_attempt_at

# The latest time at which a pass may have set the message's wait: the end of an attempt. A wait counts from the start
# of the pass, so it may be over before the attempt ends. The start of the pass is then used instead.
#
# Manual attempts set no wait. They belong to no pass, so they are excluded. A pass's attempt that uses up no retry
# makes the message due when the attempt ends, so the repaired message is due now.
TRIED_AT = (
    select(
        func.max(
            case(
                (attempts.c.finished_at <= DUE, attempts.c.finished_at),
                (passes.c.started_at <= DUE, passes.c.started_at),
            ),
            type_=passes.c.started_at.type,
        )
    )
    .join_from(attempts, passes, passes.c.id == attempts.c.pass_id, isouter=True)
    .where(attempts.c.message_id == queue.c.message_id, attempts.c.pass_id.is_not(None))
    .scalar_subquery()
)
REQUEUED_AT = (
    select(func.max(acts.c.at, type_=acts.c.at.type))
    .where(acts.c.message_id == queue.c.message_id, acts.c.act == ActionKind.REQUEUED.value)
    .scalar_subquery()
)
WAITS = (
    select(
        queue.c.message_id,
        queue.c.next_attempt_at,
        queue.c.first_failed_at,
        TRIED_AT.label("tried_at"),
        REQUEUED_AT.label("requeued_at"),
    )
    .where(
        queue.c.state.in_(UNFINISHED), queue.c.next_attempt_at > bindparam("now", type_=queue.c.next_attempt_at.type)
    )
    .order_by(queue.c.message_id)
    .limit(AT_ONCE)
)
SET_WAITS = BulkStatement(
    lambda of: (
        update(queue)
        .where(queue.c.message_id == of["message_id"], queue.c.next_attempt_at == of["was"])
        .values(next_attempt_at=of["next_attempt_at"])
    ),
    {
        "message_id": queue.c.message_id.type,
        "was": queue.c.next_attempt_at.type,
        "next_attempt_at": queue.c.next_attempt_at.type,
    },
)

# Columns with times of past events, which can't lie in the future.
#
# Other columns need no repair. The end of a pause or hold may lie in the future, because an operator chose it. The next
# turn for `run.rate_per_second` is ignored if it lies too far in the future.
HAPPENED = (
    passes.c.started_at,
    passes.c.heartbeat_at,
    passes.c.finished_at,
    attempts.c.started_at,
    attempts.c.finished_at,
    acts.c.at,
    queue.c.first_failed_at,
    queue.c.escalated_at,
    queue.c.acknowledged_at,
    escalations.c.at,
    breakers.c.opened_at,
    pause.c.since,
    holds.c.since,
    told.c.since,
    told.c.told_at,
)


def repair_clock_skew(database: Database, now: datetime, lease: timedelta) -> ClockWasAhead | None:
    """Repair times that were recorded while a clock was ahead.

    Args:
        database: holds the queue and the application's table.
        now: the current time by the correct clock.
        lease: the duration of a claim.

    Returns:
        The repairs; None if there was nothing to repair.
    """
    if not is_clock_ahead(database, now):
        return None
    with database.write() as connection:
        database.advisory_lock(connection)
        ahead = time_ahead(connection, now)
        if ahead <= LEEWAY:  # another host's pass has already repaired the times
            return None
        messages = _repair_waits(connection, now)
        # Live owners keep their claims, because they renew the claims or finish before the new expiry.
        too_late = (queue.c.state == State.SENDING.value, queue.c.claim_expires_at > now + lease + LEEWAY)
        claims = connection.execute(update(queue).where(*too_late).values(claim_expires_at=now + lease)).rowcount
        _repair_breakers(connection, now, ahead)
        before = now - timedelta.resolution  # so that a pass that starts now is the newest
        for column in HAPPENED:
            connection.execute(update(column.table).where(column > now).values({column.name: before}))
        return ClockWasAhead(ahead, messages, claims)


def _repair_waits(connection: Connection, now: datetime) -> int:
    repaired, page = 0, WAITS
    while rows := connection.execute(page, {"now": now}).mappings().all():
        waits = []
        for row in rows:
            since, due = _wait_start(row), row["next_attempt_at"]
            if since is not None and now < since <= due:
                waits.append({"message_id": row["message_id"], "was": due, "next_attempt_at": now + (due - since)})
        SET_WAITS.execute(connection, waits)
        repaired += len(waits)
        page = WAITS.where(queue.c.message_id > rows[-1]["message_id"])
    return repaired


def _wait_start(row: RowMapping) -> datetime | None:
    """Return the start of a message's wait; None if an operator has set its end.

    Events before the first failure belong to an earlier failure, or to an earlier message with this id.
    """
    tried_at: datetime | None = row["tried_at"]
    requeued_at: datetime | None = row["requeued_at"]
    first_failed_at: datetime = row["first_failed_at"]
    since = first_failed_at if tried_at is None else max(tried_at, first_failed_at)
    if requeued_at is not None and since <= requeued_at:
        return requeued_at if row["next_attempt_at"] == requeued_at else None
    return since


def _repair_breakers(connection: Connection, now: datetime, ahead: timedelta) -> None:
    """Restart the waits for probes. Each wait keeps its length, counted from the latest recorded time.

    Leave the wait of a Retry-After unchanged if it is at most `RETRY_AFTER_CAP`, because it may be correct.
    """
    blocking = or_(
        and_(breakers.c.state == BreakerState.OPEN.value, breakers.c.probe_at > now),
        breakers.c.probe_at > now + RETRY_AFTER_CAP,
    )
    for row in connection.execute(select(breakers).where(blocking)).all():
        restarted = update(breakers).values(probe_at=max(row.probe_at - ahead, now))
        connection.execute(restarted.where(breakers.c.destination == row.destination))
