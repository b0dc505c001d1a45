"""What is left to do when a clock was ahead for a while and has been put right.

Whatever was written by it is still to come: each message would wait until then, each claim would hold until then. A
wait is kept as long as it was, from now on, so that nothing is sent early; and what is told to have happened later than
now happened just before, so that all this is done once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, bindparam, case, func, or_, select, update

from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.events import ClockWasAhead
from retrycli.domain.message import State
from retrycli.domain.operator_action import ActionKind
from retrycli.domain.outcome import RETRY_AFTER_CAP
from retrycli.store.bulk import BulkStatement
from retrycli.store.counters import WARNED
from retrycli.store.picking import UNFINISHED
from retrycli.store.schema import acts, attempts, breakers, escalations, passes, pause, queue, told, totals

if TYPE_CHECKING:
    from sqlalchemy import Connection, RowMapping

    from retrycli.store.database import Database

LEEWAY = timedelta(minutes=30)
"""The clocks of hosts differ a little, and are set back a little. For so long a message may wait because of it."""
LOOKED_AT = 10
"""So many of the newest passes are looked at: of several hosts, the last to begin may not be the one that was wrong."""
AT_ONCE = 5_000
"""So many messages are in memory at once."""

NEWEST = select(passes.c.heartbeat_at).order_by(passes.c.started_at.desc()).limit(LOOKED_AT).subquery()
LATEST = select(
    select(func.max(NEWEST.c.heartbeat_at, type_=passes.c.heartbeat_at.type)).scalar_subquery(),
    # What people do leaves no pass behind, and makes claims and takes messages in all the same.
    select(attempts.c.started_at).order_by(attempts.c.id.desc()).limit(1).scalar_subquery(),
    select(acts.c.at).order_by(acts.c.id.desc()).limit(1).scalar_subquery(),
)
DUE = queue.c.next_attempt_at
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
"""When a pass last tried a message and can have set its time: a wait counts from the pass's start. No time is set where
the API asks for a rest, and by an attempt by hand."""
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
    told.c.since,
    told.c.told_at,
)
"""Times at which something was, so none of them is to come.

When a pause ends is for whoever began it to say, and the turns of ``run.rate_per_second`` right themselves.
"""


def repair_clock_skew(database: Database, now: datetime, lease: timedelta) -> ClockWasAhead | None:
    """Put right what was written by a clock that was ahead, if there is any of it.

    Args:
        database: where it was written.
        now: the time, by the clock that is right.
        lease: how long a claim lasts.

    Returns:
        What was put right; None where nothing had to be.
    """
    with database.read() as connection:
        if _ahead(connection, now) <= LEEWAY:
            return None
    with database.write() as connection:
        database.advisory_lock(connection)
        ahead = _ahead(connection, now)
        if ahead <= LEEWAY:  # the pass of another host was faster
            return None
        messages = _mend_waits(connection, now)
        claims = _mend_claims(connection, now, lease)
        _mend_breakers(connection, now, ahead)
        _mend_history(connection, now)
        return ClockWasAhead(ahead, messages, claims)


def _ahead(connection: Connection, now: datetime) -> timedelta:
    """How far the latest that was written down is still to come; below zero where it is not."""
    return max((time - now for time in connection.execute(LATEST).one() if time is not None), default=timedelta(0))


def _mend_waits(connection: Connection, now: datetime) -> int:
    """Have messages wait as long as they were to, but from now on; how many there are."""
    mended, page = 0, WAITS
    while rows := connection.execute(page, {"now": now}).mappings().all():
        waits = list(_mended_waits(rows, now))
        SET_WAITS.execute(connection, waits)
        mended += len(waits)
        page = WAITS.where(queue.c.message_id > rows[-1]["message_id"])
    return mended


def _mended_waits(rows: Sequence[RowMapping], now: datetime) -> Iterator[dict[str, Any]]:
    for row in rows:
        since, due = _since(row), row["next_attempt_at"]
        if since is not None and now < since <= due:
            yield {"message_id": row["message_id"], "was": due, "next_attempt_at": now + (due - since)}


def _since(row: RowMapping) -> datetime | None:
    """What a message's wait counts from; None where a person has named the time.

    Whatever was before it failed was done about an earlier failure, or about the message that had its id then.
    """
    tried_at: datetime | None = row["tried_at"]
    requeued_at: datetime | None = row["requeued_at"]
    first_failed_at: datetime = row["first_failed_at"]
    since = first_failed_at if tried_at is None else max(tried_at, first_failed_at)
    if requeued_at is not None and since <= requeued_at:
        return requeued_at if row["next_attempt_at"] == requeued_at else None
    return since


def _mend_claims(connection: Connection, now: datetime, lease: timedelta) -> int:
    """Have claims lapse when they would if they were made now; how many there are.

    Whoever holds one and is alive keeps it: long before that it is renewed.
    """
    too_late = (queue.c.state == State.SENDING.value, queue.c.claim_expires_at > now + lease + LEEWAY)
    return connection.execute(update(queue).where(*too_late).values(claim_expires_at=now + lease)).rowcount


def _mend_breakers(connection: Connection, now: datetime, ahead: timedelta) -> None:
    """Have destinations probed as long from now as it was from the latest that was written down.

    Where one has asked for a rest, that stays as it may be right: a rest is never longer than so much.
    """
    blocking = or_(
        and_(breakers.c.state == BreakerState.OPEN.value, breakers.c.probe_at > now),
        breakers.c.probe_at > now + RETRY_AFTER_CAP,
    )
    for row in connection.execute(select(breakers).where(blocking)).all():
        this = update(breakers).where(breakers.c.destination == row.destination)
        connection.execute(this.values(probe_at=max(row.probe_at - ahead, now)))


def _mend_history(connection: Connection, now: datetime) -> None:
    """What was later than now was just before: this pass is the newest."""
    before = now - timedelta.resolution
    for column in HAPPENED:
        connection.execute(update(column.table).where(column > now).values({column.name: before}))
    seconds = int(now.timestamp())
    warned = update(totals).where(totals.c.name == WARNED, totals.c.value > seconds)
    connection.execute(warned.values(value=seconds))
