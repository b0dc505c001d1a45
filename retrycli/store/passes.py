"""The books of the passes: which there were, which destinations are down, whether deliveries are paused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, or_, select, update

from retrycli.domain.events import ClockWasAhead
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.pass_record import COUNTS, PassRecord, Pause, PauseRecord
from retrycli.domain.pass_summary import PassResult, PassSummary, StartedBy, StopReason
from retrycli.store import clock_repair, counters, pruning
from retrycli.store.breakers import Breakers
from retrycli.store.schema import acts, attempts, passes, pause

if TYPE_CHECKING:
    from sqlalchemy import Row

    from retrycli.domain.operator_action import OperatorAction

ATTEMPTS_LOOKED_AT = 1_000
"""How many attempts show with which route the last pass started. A pass that made more has served every route."""
UNRECORDED = "the process was killed, or the database could not be written when it ended"
"""Why nothing is known of the end of a pass."""


class Ledger(Breakers):
    """What passes remember from one to the next.

    Args:
        database: where it is kept.
    """

    def start_pass(
        self, pass_id: str, *, host: str, pid: int, now: datetime, started_by: StartedBy = StartedBy.UNKNOWN
    ) -> None:
        """Write down that a pass has begun."""
        row = {"id": pass_id, "host": host, "pid": pid, "started_at": now, "heartbeat_at": now}
        row["started_by"] = started_by
        with self._database.write() as connection:
            connection.execute(insert(passes).values(row | dict.fromkeys(COUNTS, 0)))

    def repair_clock_skew(self, now: datetime, lease: timedelta) -> ClockWasAhead | None:
        """Put right what was written by a clock that was ahead: see `retrycli.store.clock_repair`."""
        return clock_repair.repair_clock_skew(self._database, now, lease)

    def heartbeat(self, pass_id: str, now: datetime) -> None:
        """Write down that a pass is alive."""
        with self._database.write() as connection:
            connection.execute(update(passes).where(passes.c.id == pass_id).values(heartbeat_at=now))

    def finish_pass(self, summary: PassSummary, now: datetime, *, swept_to: int | None = None) -> None:
        """Write down how a pass ended."""
        values = {name: getattr(summary, name) for name in (*COUNTS, "reason", "detail")}
        with self._database.write() as connection:
            counters.count_pass(connection, summary.pass_id, summary.result)
            connection.execute(
                update(passes)
                .where(passes.c.id == summary.pass_id)
                .values(finished_at=now, heartbeat_at=now, result=summary.result, swept_to=swept_to, **values)
            )

    def mark_dead_passes(self, pass_id: str, *, silent_since: datetime) -> None:
        """Mark unfinished passes as interrupted that have given no sign of life since a time, whatever their host.

        They ended with their last one; what they sent is counted from their attempts.
        """
        sent = (
            select(func.count())
            .where(attempts.c.pass_id == passes.c.id, attempts.c.outcome == OutcomeKind.DELIVERED.value)
            .scalar_subquery()
        )
        ended = {
            "finished_at": passes.c.heartbeat_at,
            "result": PassResult.INTERRUPTED,
            "reason": StopReason.DIED,
            "detail": UNRECORDED,
        }
        with self._database.write() as connection:
            dead = connection.execute(
                update(passes)
                .where(passes.c.heartbeat_at < silent_since, passes.c.finished_at.is_(None), passes.c.id != pass_id)
                .values(sent=sent, **ended)
            ).rowcount
            counters.add(connection, counters.PASSES, PassResult.INTERRUPTED, dead)

    def swept_to(self) -> int | None:
        """Where the last sweep of older messages left off; None where there was none."""
        statement = (
            select(passes.c.swept_to)
            .where(passes.c.swept_to.is_not(None))
            .order_by(passes.c.started_at.desc())
            .limit(1)
        )
        with self._database.read() as connection:
            return connection.execute(statement).scalar()

    def last_passes(self, limit: int, *, until: datetime | None = None) -> list[PassRecord]:
        """The newest passes, newest first; of those that began up to a time, where one is given."""
        statement = select(passes).order_by(passes.c.started_at.desc(), passes.c.id).limit(limit)
        if until is not None:
            statement = statement.where(passes.c.started_at <= until)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def passes_up_to(self, pass_id: str, limit: int) -> list[PassRecord]:
        """A pass and the last ones that began before it, newest first: whatever has begun since."""
        its_start = select(passes.c.started_at).where(passes.c.id == pass_id).scalar_subquery()
        statement = (
            select(passes)
            .where(passes.c.started_at <= its_start, or_(passes.c.started_at < its_start, passes.c.id == pass_id))
            .order_by(passes.c.started_at.desc(), passes.c.id)
            .limit(limit)
        )
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(statement)]

    def hosts(self, since: datetime, until: datetime) -> dict[str, datetime]:
        """The hosts that have made passes between two times, with the start of each one's newest."""
        newest = func.max(passes.c.started_at, type_=passes.c.started_at.type)
        lately = passes.c.started_at.between(since, until)
        statement = select(passes.c.host, newest).where(lately).group_by(passes.c.host)
        with self._database.read() as connection:
            return dict(connection.execute(statement.order_by(passes.c.host)).all())

    def last_start(self) -> str | None:
        """Return the destination of the first attempt of the newest pass, as far as the newest attempts show it."""
        newest = (
            select(attempts.c.id, attempts.c.destination, attempts.c.pass_id)
            .order_by(attempts.c.id.desc())
            .limit(ATTEMPTS_LOOKED_AT)
            .cte()
        )
        of_a_pass = select(newest.c.pass_id).where(newest.c.pass_id.is_not(None)).order_by(newest.c.id.desc()).limit(1)
        first = (
            select(newest.c.destination).where(newest.c.pass_id == of_a_pass.scalar_subquery()).order_by(newest.c.id)
        )
        with self._database.read() as connection:
            return connection.execute(first.limit(1)).scalar()

    def paused(self, now: datetime) -> str | None:
        """Why deliveries are held back, in words; None where they are not."""
        found = self.pause(now)
        if found is None:
            return None
        until = f" until {found.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" if found.until else ""
        return f"paused by {found.by}{until}" + (f": {found.reason}" if found.reason else "")

    def pause(self, now: datetime) -> Pause | None:
        """The pause that is in force."""
        in_force = select(pause).where(or_(pause.c.until.is_(None), pause.c.until > now)).limit(1)
        with self._database.read() as connection:
            row = connection.execute(in_force).one_or_none()
        return None if row is None else Pause(row.since, row.until, row.by, row.reason)

    def set_pause(self, wanted: Pause | None, act: OperatorAction | None = None) -> None:
        """Begin a pause in place of any other, or end it; and record the act."""
        from retrycli.store.act_rows import act_values  # a pass does without

        with self._database.write() as connection:
            connection.execute(delete(pause))
            if wanted is not None:
                connection.execute(insert(pause).values(asdict(wanted)))
            if act is not None:
                connection.execute(insert(acts).values(act_values(act)))

    def pauses(self, limit: int) -> list[PauseRecord]:
        """Return when deliveries were paused and resumed, newest first."""
        columns = [acts.c[field.name] for field in fields(PauseRecord)]
        statement = select(*columns).where(acts.c.message_id.is_(None)).order_by(acts.c.id.desc()).limit(limit)
        with self._database.read() as connection:
            return [PauseRecord(*row) for row in connection.execute(statement)]

    def prune(self, before: datetime, limit: int) -> int:
        """Forget attempts, acts and passes that ended before a time: a step of the round that passes make together.

        What has not ended is kept, however old, and so are the attempts of messages that are in the queue. For as long
        as the application keeps the row, so are those that tell whether its text may be sent.

        Args:
            before: what ended earlier is old.
            limit: how many attempts to look at, after the last one that the call before this one has looked at; and how
                many acts and passes to forget at most.

        Returns:
            How many went. That there were none does not mean that none is left.
        """
        return pruning.prune(self._database, before, limit)

    def prune_all(self, before: datetime, limit: int) -> Iterator[int]:
        """Forget the same, but all of it, in one walk with a short transaction for every so many attempts.

        Returns:
            How many went in each transaction, as it ends.
        """
        return pruning.prune_all(self._database, before, limit)

    def count_ended(self, before: datetime) -> dict[str, int]:
        """How many attempts, acts and passes of before a time there are to forget. It looks at all that ended."""
        return pruning.count_ended(self._database, before)


def _record(row: Row[tuple[object, ...]]) -> PassRecord:
    values = row._asdict()
    result = values["result"]
    return PassRecord(
        pass_id=values["id"],
        result=None if result is None else PassResult(result),
        started_by=StartedBy(values["started_by"] or StartedBy.UNKNOWN),
        **{name: values[name] for name in ("host", "pid", "started_at", "finished_at", "reason", "detail", *COUNTS)},
    )
