"""Compute statistics of attempts, passes and outages in the database, so that a long history uses little memory."""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, String, and_, case, cast, func, or_, select

from retrycli.domain.delivery_stats import (
    DAY,
    HOUR,
    TEN_MINUTES,
    UNDER_WAY,
    DeliveryStats,
    FailureCause,
    Group,
    GroupBy,
    Outage,
    PassMark,
    Slice,
    outages,
    unit_for,
)
from retrycli.domain.fingerprint import cause
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import StopReason
from retrycli.store.database import Queries
from retrycli.store.schema import attempts, passes

# Maximum number of error texts to read, the most frequent first. Texts that differ only in digits count as one.
MAX_TEXTS = 20_000
MAX_CAUSES = 1000
MAX_PASSES = 20_000  # maximum number of passes to read: about two weeks at one pass per minute
DISORDER = DAY  # assumed limit: an attempt started at most this long before any attempt with a lower id

# Number of leading characters that all times within a period share when they are written as text.
PREFIX_LENGTHS = {DAY: len("2025-03-03"), HOUR: len("2025-03-03 12"), TEN_MINUTES: len("2025-03-03 12:3")}

a = attempts.c
DELIVERED = a.outcome == OutcomeKind.DELIVERED.value
FAILED = a.outcome != OutcomeKind.DELIVERED.value
COUNT = func.count()


class Statistics(Queries):
    """Read statistics of attempts and passes."""

    def figures(self, since: datetime, until: datetime) -> DeliveryStats:
        """Return statistics of the attempts and outages since a given time. `until` is the current time."""
        unit = unit_for(until - since)
        with self._database.read() as connection:
            within = _since(connection, since)
            return DeliveryStats(
                since=since,
                until=until,
                unit=unit,
                slices=self._slices(connection, within, unit),
                troubles=_failure_causes(connection, within),
                outages=_outages(connection, since),
                **_deliveries(connection, within),
            )

    def groups(self, by: GroupBy, since: datetime, *, limit: int) -> list[Group]:
        """Group the attempts since a given time by a property. Return the largest groups, or the first hours. Attempts
        whose messages were deleted have no type and no ticket.
        """
        m = self._database.messages.c
        keys: dict[GroupBy, ColumnElement[Any]] = {
            GroupBy.OUTCOME: func.coalesce(a.outcome, UNDER_WAY),
            GroupBy.TYPE: cast(m.message_type, String),
            GroupBy.TICKET: cast(m.ticket_id, String),
            GroupBy.HOUR: self._time_prefix(a.started_at, PREFIX_LENGTHS[HOUR]),
        }
        key = keys[by]
        order = [key] if by is GroupBy.HOUR else [COUNT.desc(), key]
        statement = select(key, COUNT, func.count(case((DELIVERED, 1)))).group_by(key).order_by(*order).limit(limit)
        if by in {GroupBy.TYPE, GroupBy.TICKET}:
            statement = statement.join_from(attempts, self._database.messages, m.id == a.message_id, isouter=True)
        with self._database.read() as connection:
            rows = connection.execute(statement.where(_since(connection, since)))
            return [Group(_time(key) if by is GroupBy.HOUR else key, made, good) for key, made, good in rows]

    def passes(self, since: datetime) -> list[PassMark]:
        """Return the passes since a given time, oldest first; at most the newest `MAX_PASSES`."""
        p = passes.c
        since_then = select(p.started_at, p.result, p.reason).where(p.started_at >= since)
        newest = self._database.rows(since_then.order_by(p.started_at.desc(), p.id).limit(MAX_PASSES))
        return [PassMark(*row) for row in reversed(newest)]

    def outages(self, since: datetime) -> list[Outage]:
        """Return the outages that passes since a given time encountered."""
        with self._database.read() as connection:
            return _outages(connection, since)

    def first_and_last_pass(self) -> tuple[datetime | None, datetime | None]:
        """Return when the first and the newest stored pass began."""
        at = passes.c.started_at
        first, last = (self._database.scalar(select(at).order_by(order).limit(1)) for order in (at, at.desc()))
        return first, last

    def _slices(self, connection: Connection, within: ColumnElement[bool], unit: timedelta) -> list[Slice]:
        at = self._time_prefix(a.started_at, PREFIX_LENGTHS[unit])
        found = connection.execute(select(at, a.outcome, COUNT).where(within).group_by(at, a.outcome).order_by(at))
        return [Slice(_time(text), outcome or UNDER_WAY, number) for text, outcome, number in found]

    def _time_prefix(self, time: ColumnElement[Any], letters: int) -> ColumnElement[str]:
        # Only a server has to convert times, because SQLite stores them as text in UTC.
        if not self._database.is_sqlite:
            time = func.to_char(func.timezone("UTC", time), "YYYY-MM-DD HH24:MI", type_=String)
        return func.substr(time, 1, letters, type_=String)


def _since(connection: Connection, since: datetime) -> ColumnElement[bool]:
    # Ids grow with the start times, except within `DISORDER`. With a lower bound on the ids, older attempts need not be
    # read.
    return and_(a.id >= first_id(connection, since - DISORDER), a.started_at >= since)


def first_id(connection: Connection, since: datetime) -> int:
    """Find the id of the first attempt since a given time by binary search. The result may be lower if attempts
    directly before it were deleted. If there is no attempt since that time, return the last id or the next one; if
    there are no attempts at all, return 0.
    """
    # The lowest and the highest id need two queries, because SQLite would scan all ids to find both in one query.
    low, high = (connection.execute(select(extreme(a.id))).scalar() for extreme in (func.min, func.max))
    while low is not None and low < high:
        middle = (low + high) // 2
        found = connection.execute(select(a.id, a.started_at).where(a.id >= middle).order_by(a.id).limit(1)).one()
        low, high = (low, middle) if found.started_at >= since else (found.id + 1, high)
    return low or 0


def _deliveries(connection: Connection, within: ColumnElement[bool]) -> Mapping[str, Any]:
    minutes = a.waited_s // 60
    tries: Counter[int] = Counter()
    waits: Counter[int] = Counter()
    delivered = select(a.number, minutes, COUNT).where(within, DELIVERED).group_by(a.number, minutes)
    for number, waited, messages in connection.execute(delivered):
        tries[number] += messages
        if waited is not None:
            waits[waited] += messages
    return {"tries": dict(sorted(tries.items())), "waits": dict(sorted(waits.items()))}


def _failure_causes(connection: Connection, within: ColumnElement[bool]) -> list[FailureCause]:
    """Count failed attempts by cause. The database groups error texts that differ only in digits. This function groups
    the few remaining texts that differ only in ids and addresses. The highest id counts as the newest attempt of a
    group, because ids compare faster than times.
    """
    kind = (a.outcome, a.status_code)
    columns = (*kind, a.error, COUNT.label("n"), func.max(a.id).label("newest"))
    text = select(*columns).where(within, FAILED).group_by(*kind, a.error).subquery().c
    alike: ColumnElement[str] = text.error
    for digit in "0123456789":
        alike = func.replace(alike, digit, "", type_=String)
    number = func.sum(text.n)
    texts = (
        select(text.outcome, text.status_code, func.min(text.error), number, func.max(text.newest))
        .group_by(text.outcome, text.status_code, alike)
        .order_by(number.desc())
        .limit(MAX_TEXTS)
    )
    found: dict[tuple[str, int | None, str], tuple[int, int]] = {}
    for outcome, status, error, count, newest in connection.execute(texts):
        key = (outcome, status, cause(error or ""))
        before, newest_before = found.get(key, (0, newest))
        found[key] = (before + int(count), max(newest_before, newest))
    busiest = sorted(found.items(), key=lambda item: (-item[1][0], str(item[0])))[:MAX_CAUSES]
    started = select(a.id, a.started_at).where(a.id.in_([newest for _, (_, newest) in busiest]))
    times: dict[int, datetime] = dict(connection.execute(started).all())
    return [FailureCause(*key, count, times[newest]) for key, (count, newest) in busiest]


def _outages(connection: Connection, since: datetime) -> list[Outage]:
    # Leave out passes that do not show whether there is an outage, such as passes that had nothing to send.
    p = passes.c
    down = case((p.reason == StopReason.BREAKER_OPEN, 1), else_=0)
    telling = or_(down == 1, p.reason == StopReason.THROTTLED, p.sent + p.rescheduled > 0)
    turns: Select[Any] = select(
        p.started_at, down.label("down"), func.lag(down).over(order_by=(p.started_at, p.id)).label("before")
    ).where(telling, p.started_at >= since)
    turn = turns.subquery().c
    statement = select(turn.started_at, turn.down).where(turn.down.is_distinct_from(turn.before))
    rows = connection.execute(statement.order_by(turn.started_at))
    return outages((started_at, bool(stopped)) for started_at, stopped in rows)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text + "0000-00-00 00:00"[len(text) :]).replace(tzinfo=UTC)
