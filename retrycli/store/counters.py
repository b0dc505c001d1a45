"""Totals that only increase, even when the rows that they count are pruned.

A pass is counted when it ends. Attempts are counted in bulk: the stored totals include the attempts up to a watermark,
and each read counts the later ones. The watermark is an attempt's id. It stays below attempts that may still get an
outcome, and below ids that another host's open transaction may still add.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Table,
    and_,
    case,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)

from retrycli.domain.outcome import INTERRUPTED, NOT_PROCESSED, OutcomeKind
from retrycli.domain.passes import PassResult
from retrycli.domain.transition import ActionKind
from retrycli.store.database import Database, Queries
from retrycli.store.messages import row_by_row
from retrycli.store.schema import acts, attempts, escalations, holds, passes, queue, totals

# The condition that an attempt with this outcome may have delivered its message; see `may_have_arrived`.
IN_DOUBT = or_(
    attempts.c.outcome == OutcomeKind.UNKNOWN.value,
    and_(
        attempts.c.outcome == OutcomeKind.TRANSIENT.value,
        attempts.c.status_code >= INTERRUPTED.start,
        attempts.c.status_code < INTERRUPTED.stop,
        attempts.c.status_code != NOT_PROCESSED,
    ),
)

# Names in the table of totals. COUNTED_TO is the watermark. FORGOTTEN are times of pruned passes, in Unix seconds.
ATTEMPTS, PASSES, COUNTED_TO, FORGOTTEN = "attempts", "passes", "attempts_counted_to", "forgotten"
FIRST_START, LAST_SUCCESS = "first_start", "last_success"
PRUNED_TO = "attempts_pruned_to"  # id of the last attempt that the current pruning round has examined

# Time from an attempt's end until the watermark may pass it: another host may still add an attempt with a lower id.
SETTLING = timedelta(minutes=10)
GIVEN_UP = timedelta(days=1)  # age at which an unfinished attempt no longer holds back the watermark
LOCKED_MARK = select(totals.c.value).where(totals.c.name == COUNTED_TO, totals.c.label == "").with_for_update()


class Counted(NamedTuple):
    """Totals of attempts by outcome and of passes by result, and times of pruned passes."""

    attempts: Mapping[str, int]
    passes: Mapping[str, int]
    first_start: datetime | None  # start of the first pruned pass
    last_success: datetime | None  # end of the last completed pass that was pruned


class Totals(Queries):
    """Count attempts and passes since the tables were created."""

    def roll_up(self, now: datetime) -> None:
        """Add the settled attempts above the watermark to the totals, and raise the watermark."""
        unsettled = or_(
            attempts.c.finished_at >= now - SETTLING,
            and_(attempts.c.finished_at.is_(None), attempts.c.started_at >= now - GIVEN_UP),
        )
        with self._database.write() as connection:
            mark: int = connection.execute(LOCKED_MARK).scalar_one()
            newest = _newest(connection)  # read first, so that later attempts are counted next time
            first = select(attempts.c.id).where(attempts.c.id > mark, unsettled).order_by(attempts.c.id).limit(1)
            stop = connection.execute(first).scalar()
            # The new watermark is the last attempt before the first unsettled one. Ids between these two attempts may
            # belong to an open transaction.
            upto = newest if stop is None else min(newest, _newest(connection, attempts.c.id < stop))
            for outcome, number in connection.execute(_outcomes_after(mark).where(attempts.c.id <= upto)).all():
                add(connection, ATTEMPTS, outcome, number)
            _set_mark(connection, mark, upto)

    def read(self) -> Counted:
        """Return the totals, including the attempts above the watermark."""
        counted: dict[str, dict[str, int]] = {ATTEMPTS: {}, PASSES: {}, COUNTED_TO: {}, FORGOTTEN: {}}
        with self._database.read() as connection:
            for name, label, value in connection.execute(select(totals)):
                counted.setdefault(name, {})[label] = value
            made = counted[ATTEMPTS]
            for outcome, number in connection.execute(_outcomes_after(counted[COUNTED_TO].get("", 0))):
                made[outcome] = made.get(outcome, 0) + number
        times = {label: datetime.fromtimestamp(value, UTC) for label, value in counted[FORGOTTEN].items()}
        return Counted(made, counted[PASSES], times.get(FIRST_START), times.get(LAST_SUCCESS))


def _remember_leaving(connection: Connection, leaving: ColumnElement[bool]) -> None:
    # The metrics still report these times after the passes are deleted.
    p = passes.c
    success = case((p.result == PassResult.COMPLETED.value, p.finished_at))
    times = select(func.min(p.started_at, type_=p.started_at.type), func.max(success, type_=p.finished_at.type))
    first_start, last_success = connection.execute(times.where(leaving)).one()
    kept = select(totals.c.label).where(totals.c.name == FORGOTTEN)
    if first_start is not None and FIRST_START not in connection.execute(kept).scalars().all():
        _set(connection, FORGOTTEN, FIRST_START, int(first_start.timestamp()))
    if last_success is not None:
        _set(connection, FORGOTTEN, LAST_SUCCESS, int(last_success.timestamp()))


def add(connection: Connection, name: str, label: str, number: int) -> None:
    """Increase a total. Create the total if it does not exist."""
    if not number:
        return
    this = (totals.c.name == name, totals.c.label == label)
    if not connection.execute(update(totals).where(*this).values(value=totals.c.value + number)).rowcount:
        connection.execute(insert(totals).values(name=name, label=label, value=number))


def _set(connection: Connection, name: str, label: str, value: int) -> None:
    connection.execute(delete(totals).where(totals.c.name == name, totals.c.label == label))
    add(connection, name, label, value)


def _outcomes_after(mark: int) -> Select[Any]:
    return (
        select(attempts.c.outcome, func.count())
        .where(attempts.c.id > mark, attempts.c.outcome.is_not(None))
        .group_by(attempts.c.outcome)
    )


def _set_mark(connection: Connection, before: int, after: int) -> None:
    if after != before:
        connection.execute(update(totals).where(totals.c.name == COUNTED_TO).values(value=after))


def _newest(connection: Connection, *among: ColumnElement[bool]) -> int:
    return connection.execute(select(func.max(attempts.c.id)).where(*among)).scalar() or 0


IN_THE_QUEUE = exists().where(queue.c.message_id == attempts.c.message_id)
# This is a scalar subquery, because with `exists` a planner may scan the whole queue.
ITS_MESSAGE = select(queue.c.message_id).where(queue.c.message_id == acts.c.message_id).scalar_subquery()

# Condition for requeues of queued messages. A requeue decides which earlier attempts count for a message: see
# `retrycli.domain.identity.History`.
DECIDES = row_by_row(acts.c.act == ActionKind.REQUEUED.value, ITS_MESSAGE.is_not(None))


def prune(database: Database, before: datetime, limit: int) -> int:
    """Delete attempts, actions and passes that ended before a given time and are no longer needed. Each call is one
    step of a round over all attempts; the next call, by any pass, continues the round. A step examines at most
    ``limit`` attempts, and deletes at most ``limit`` actions and passes. Return the number of deleted rows; zero does
    not mean that none are left to delete.

    Keep unfinished attempts, and the attempts and requeues of queued messages, regardless of their age. While the
    application keeps a row, also keep the attempts that determine whether its text may be sent again.
    """
    with database.write() as connection:
        after = connection.execute(select(totals.c.value).where(totals.c.name == PRUNED_TO)).scalar() or 0
        gone, upto, is_last = _step(database, connection, before, limit, after=after)
        _set(connection, PRUNED_TO, "", 0 if is_last else upto)
    return gone


def prune_all(database: Database, before: datetime, limit: int) -> Iterator[int]:
    """Delete all rows that `prune` would delete in a full round, and yield the number that each short transaction
    deletes.
    """
    upto, done = 0, False
    while not done:
        with database.write() as connection:
            gone, upto, is_last = _step(database, connection, before, limit, after=upto)
        yield gone
        done = is_last and not gone


def count_ended(database: Database, before: datetime) -> dict[str, int]:
    """Count the attempts, actions and passes that pruning would delete, by table."""
    old = {
        attempts: and_(attempts.c.finished_at < before, row_by_row(~IN_THE_QUEUE, ~_is_needed(database))),
        acts: and_(acts.c.at < before, ~DECIDES),
        passes: passes.c.finished_at < before,
    }
    return {
        table.name.removeprefix("retrycli_"): database.scalar(select(func.count()).select_from(table).where(condition))
        or 0
        for table, condition in old.items()
    }


def _step(
    database: Database, connection: Connection, before: datetime, limit: int, *, after: int
) -> tuple[int, int, bool]:
    """Examine the next attempts after an id, and delete what `prune` deletes. Actions and passes need no cursor: almost
    all old ones can be deleted, so each step begins at the oldest. Return the number of deleted rows, the id of the
    last examined attempt, and whether the round is complete.
    """
    a = attempts.c
    looked_at = select(a.id).where(a.id > after).order_by(a.id).limit(limit).subquery()
    number, last = connection.execute(select(func.count(), func.max(looked_at.c.id))).one()
    upto = after if last is None else last
    may_go = row_by_row(a.finished_at < before, ~IN_THE_QUEUE, ~_is_needed(database))
    leaving = a.id.in_(connection.execute(select(a.id).where(a.id > after, a.id <= upto, may_go)).scalars().all())
    # Lock the watermark, so that passes on other hosts wait. These passes may have found the same attempts, which must
    # be counted only once.
    mark: int = connection.execute(LOCKED_MARK).scalar_one()
    # Of the attempts to delete, count those above the watermark. They have ended, so their outcomes are final, even if
    # unsettled attempts lie between them and the watermark.
    for outcome, count in connection.execute(_outcomes_after(mark).where(leaving)).all():
        add(connection, ATTEMPTS, outcome, count)
    gone = connection.execute(delete(attempts).where(leaving)).rowcount
    _set_mark(connection, mark, min(mark, _newest(connection)))  # SQLite reuses ids above the newest attempt
    old_passes = _oldest(passes, passes.c.finished_at, before, limit)
    _remember_leaving(connection, old_passes)
    gone += connection.execute(delete(acts).where(_oldest(acts, acts.c.at, before, limit, ~DECIDES))).rowcount
    gone += connection.execute(delete(passes).where(old_passes)).rowcount
    connection.execute(delete(escalations).where(escalations.c.at < before))
    connection.execute(delete(holds).where(holds.c.until < before))
    return gone, upto, number < limit


def _is_needed(database: Database) -> ColumnElement[bool]:
    """Build the condition that an attempt determines whether its text may be sent again, and that its message still has
    a row. Such an attempt may have delivered the text, has reached some recipients, or is the last delivery of the
    text, which also stores the number of earlier ones.
    """
    later = attempts.alias("later")
    is_last = ~exists().where(
        later.c.message_id == attempts.c.message_id,
        later.c.number > attempts.c.number,
        later.c.digest == attempts.c.digest,
        later.c.birth == attempts.c.birth,
        later.c.outcome == OutcomeKind.DELIVERED.value,
    )
    tells = or_(
        IN_DOUBT,
        attempts.c.delivered_to.is_not(None),
        and_(attempts.c.outcome == OutcomeKind.DELIVERED.value, attempts.c.digest.is_not(None), is_last),
    )
    # The row may come back although ``database.where`` hides it now.
    return and_(tells, exists().where(database.table.has_id(attempts.c.message_id)))


def _oldest(
    table: Table, ended_at: ColumnElement[datetime], before: datetime, limit: int, *conditions: ColumnElement[bool]
) -> ColumnElement[bool]:
    """Build the condition that a row is among the first `limit` rows that ended before a given time."""
    ended = select(table.c.id).where(ended_at < before, *conditions).order_by(ended_at, table.c.id)
    return table.c.id.in_(ended.limit(limit))
