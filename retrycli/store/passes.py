"""Store passes, pauses, the state of destinations, and records of sent notifications, and find the destinations that
refuse all requests.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnElement,
    CompoundSelect,
    Row,
    String,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    update,
)

from retrycli.domain import incidents
from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.incidents import Incident, Memory, Told, Topic, Turn
from retrycli.domain.message import State
from retrycli.domain.outcome import ALIVE, IN_DOUBT, OutcomeKind
from retrycli.domain.passes import (
    COUNTS,
    PassRecord,
    PassResult,
    PassSummary,
    Pause,
    PauseRecord,
    StartedBy,
    StopReason,
)
from retrycli.store import counters
from retrycli.store.database import Database, Queries
from retrycli.store.schema import acts, attempts, breakers, holds, passes, pause, queue, rates, told

if TYPE_CHECKING:
    from retrycli.domain.passes import Hold

# Number of newest attempts in which to look for the first attempt of the last pass (if the pass made more attempts, its
# earliest attempt among these is used), and for tickets that were refused.
ATTEMPTS_LOOKED_AT = 1_000
REFUSALS = frozenset({OutcomeKind.PERMANENT, OutcomeKind.REFUSED, OutcomeKind.UNAUTHORIZED})
UNRECORDED = "the process was killed, or could not record its end in the database"


class Ledger(Queries):
    """Store and read passes, pauses, and the state of destinations."""

    def start_pass(
        self, pass_id: str, *, host: str, pid: int, now: datetime, started_by: StartedBy = StartedBy.UNKNOWN
    ) -> None:
        """Record the start of a pass."""
        values = {"id": pass_id, "host": host, "pid": pid, "started_at": now, "heartbeat_at": now}
        with self._database.write() as connection:
            self._database.take_turn(connection)  # a pass begins before or after a change of what is accepted
            connection.execute(insert(passes).values({**values, **dict.fromkeys(COUNTS, 0), "started_by": started_by}))

    def heartbeat(self, pass_id: str, now: datetime) -> None:
        """Record that a pass is alive."""
        with self._database.write() as connection:
            connection.execute(update(passes).where(passes.c.id == pass_id).values(heartbeat_at=now))

    def finish_pass(self, summary: PassSummary, now: datetime, *, swept_to: int | None = None) -> None:
        """Record the end of a pass, and the id at which its sweep stopped."""
        values = {name: getattr(summary, name) for name in (*COUNTS, "result", "reason", "detail")}
        with self._database.write() as connection:
            running = select(func.count()).where(passes.c.id == summary.pass_id, passes.c.finished_at.is_(None))
            counters.add(connection, counters.PASSES, summary.result, connection.execute(running).scalar_one())
            connection.execute(
                update(passes)
                .where(passes.c.id == summary.pass_id)
                .values(finished_at=now, heartbeat_at=now, swept_to=swept_to, **values)
            )

    def mark_dead_passes(self, pass_id: str, *, silent_since: datetime) -> None:
        """Mark dead passes as interrupted: other unfinished passes of any host without a heartbeat since a given time.
        A dead pass ends with its last heartbeat, and has sent as many messages as its attempts show.
        """
        sent = (
            select(func.count())
            .where(attempts.c.pass_id == passes.c.id, attempts.c.outcome == OutcomeKind.DELIVERED.value)
            .scalar_subquery()
        )
        with self._database.write() as connection:
            dead = connection.execute(
                update(passes)
                .where(passes.c.heartbeat_at < silent_since, passes.c.finished_at.is_(None), passes.c.id != pass_id)
                .values(
                    sent=sent,
                    finished_at=passes.c.heartbeat_at,
                    result=PassResult.INTERRUPTED,
                    reason=StopReason.DIED,
                    detail=UNRECORDED,
                )
            ).rowcount
            counters.add(connection, counters.PASSES, PassResult.INTERRUPTED, dead)

    def swept_to(self) -> int | None:
        """Return the id at which the last sweep stopped; None if no pass has swept yet."""
        swept = select(passes.c.swept_to).where(passes.c.swept_to.is_not(None))
        return self._database.scalar(swept.order_by(passes.c.started_at.desc()).limit(1))

    def last_passes(self, limit: int, *, until: datetime | None = None) -> list[PassRecord]:
        """Return the newest passes, newest first. If a time is given, return only passes that began by then."""
        return self._newest(limit, *(() if until is None else (passes.c.started_at <= until,)))

    def passes_after(self, started_at: datetime, pass_id: str, limit: int) -> list[PassRecord]:
        """Return the passes that follow a pass in the list of passes, newest first."""
        follows = or_(passes.c.started_at < started_at, passes.c.id > pass_id)
        return self._newest(limit, passes.c.started_at <= started_at, follows)

    def passes_up_to(self, pass_id: str, limit: int) -> list[PassRecord]:
        """Return a pass and the passes that began before it, newest first."""
        its_start = select(passes.c.started_at).where(passes.c.id == pass_id).scalar_subquery()
        before = or_(passes.c.started_at < its_start, passes.c.id == pass_id)
        return self._newest(limit, passes.c.started_at <= its_start, before)

    def _newest(self, limit: int, *conditions: ColumnElement[bool]) -> list[PassRecord]:
        found = select(*RECORDED.values()).where(*conditions)
        newest = found.order_by(passes.c.started_at.desc(), passes.c.id).limit(limit)
        return [_record(row) for row in self._database.rows(newest)]

    def hosts(self, since: datetime, until: datetime) -> dict[str, datetime]:
        """Return the hosts with passes between two times, each with the start of its newest pass."""
        newest = func.max(passes.c.started_at, type_=passes.c.started_at.type)
        lately = select(passes.c.host, newest).where(passes.c.started_at.between(since, until))
        return dict(self._database.rows(lately.group_by(passes.c.host).order_by(passes.c.host)))

    def last_start(self) -> str | None:
        """Return the destination of the last pass's first attempt; None if no pass made any of the newest attempts."""
        newest = (
            select(attempts.c.id, attempts.c.destination, attempts.c.pass_id)
            .order_by(attempts.c.id.desc())
            .limit(ATTEMPTS_LOOKED_AT)
            .cte()
        )
        of_a_pass = select(newest.c.pass_id).where(newest.c.pass_id.is_not(None)).order_by(newest.c.id.desc()).limit(1)
        its_attempts = select(newest.c.destination).where(newest.c.pass_id == of_a_pass.scalar_subquery())
        return self._database.scalar(its_attempts.order_by(newest.c.id).limit(1))

    def refused_tickets(self, destination: str, since: datetime) -> Mapping[int, frozenset[str]]:
        """Return the tickets that a destination has refused since its last delivery, by status. Leave out attempts that
        began before the given time, and all but the newest attempts.
        """
        a = attempts.c
        newest = select(a.ticket, a.status_code, a.outcome, a.destination, a.started_at).order_by(a.id.desc())
        found: defaultdict[int, set[str]] = defaultdict(set)
        for row in self._database.rows(newest.limit(ATTEMPTS_LOOKED_AT)):
            if row.destination != destination:
                continue
            if row.outcome == OutcomeKind.DELIVERED or row.started_at < since:
                break
            if row.outcome in REFUSALS and row.ticket is not None:
                found[row.status_code or 0].add(row.ticket)
        return {status: frozenset(tickets) for status, tickets in found.items()}

    def pause(self, now: datetime) -> Pause | None:
        """Return the pause in force; None if deliveries are not paused."""
        return self.pause_and_holds(now)[0]

    def pause_and_holds(self, now: datetime) -> tuple[Pause | None, tuple[Hold, ...]]:
        """Return the pause in force, if any, and the active holds, in one query, because a running pass repeats it."""
        found = self._database.rows(_in_force(now))
        paused = next((Pause(row.since, row.until, row.by, row.reason) for row in found if row.kind == PAUSE), None)
        held = [row for row in found if row.kind != PAUSE]
        if not held:
            return paused, ()
        from retrycli.store.holds import holds_of  # not needed by a pass if nothing is held

        return paused, holds_of(self._database, held)

    def set_pause(self, wanted: Pause | None, act: Mapping[str, Any] | None = None) -> None:
        """Start a pause, or end it if `wanted` is None. Record `act`, if given (see `history.act_values`)."""
        with self._database.write() as connection:
            connection.execute(delete(pause))
            if wanted is not None:
                connection.execute(insert(pause).values(asdict(wanted)))
            if act is not None:
                connection.execute(insert(acts).values(act))

    def pauses(self, limit: int, *, until: datetime | None = None) -> list[PauseRecord]:
        """Return the pauses and resumptions of deliveries, newest first. If a time is given, leave out later ones."""
        columns = [acts.c[field.name] for field in fields(PauseRecord)]
        by_then = () if until is None else (acts.c.at <= until,)
        newest = select(*columns).where(acts.c.message_id.is_(None), *by_then).order_by(acts.c.id.desc()).limit(limit)
        return [PauseRecord(*row) for row in self._database.rows(newest)]

    def breaker(self, destination: str) -> Breaker:
        """Return the breaker of a destination; a closed breaker if none is stored."""
        found = self._database.rows(select(breakers).where(breakers.c.destination == destination))
        return _breaker(found[0]) if found else Breaker(destination)

    def breaker_to_judge(self, destination: str) -> Breaker:
        """Lock and return a destination's breaker, to be updated. Other callers wait until this transaction ends."""
        with self._database.write() as connection:
            self._database.take_turn(connection)
            return self.breaker(destination)

    def take_probe(self, breaker: Breaker, until: datetime) -> bool:
        """Reserve the due probe of a destination until a given time, so that no other pass sends a probe. Return False
        if another pass changed the breaker first.
        """
        unchanged = update(breakers).where(
            breakers.c.destination == breaker.destination,
            breakers.c.state == breaker.state.value,
            breakers.c.probe_at == breaker.probe_at,
        )
        with self._database.write() as connection:
            return connection.execute(unchanged.values(probe_at=until)).rowcount == 1

    def take_turn(self, destination: str, now: datetime, interval: timedelta, too_late: datetime) -> datetime:
        """Reserve a time for one request, so that the requests of all hosts keep the interval, and return it: now, or
        one interval after the previous request. Reserve nothing if the time is ``too_late`` or later.
        """
        with self._database.write() as connection:
            self._database.take_turn(connection)
            free_at = connection.execute(select(rates.c.next_at).where(rates.c.destination == destination)).scalar()
            turn = now if free_at is None else max(free_at, now)
            if turn - now > MAX_HOSTS * interval:
                turn = now  # ignore a reservation so far ahead; a host with a wrong clock may have made it
            if turn >= too_late:
                return turn
            connection.execute(delete(rates).where(rates.c.destination == destination))
            connection.execute(insert(rates).values(destination=destination, next_at=turn + interval))
        return turn

    def breakers(self) -> list[Breaker]:
        """Return the stored breakers, by destination."""
        return [_breaker(row) for row in self._database.rows(select(breakers).order_by(breakers.c.destination))]

    def standing_breakers(self, destinations: Collection[str | None], at: datetime) -> list[Breaker]:
        """Return the breakers of the given destinations that are down, or that block requests at a given time. Pass
        only destinations in use: without probes and deliveries, the breaker of another one stays open. So does every
        breaker while no message waits, which then no longer shows whether the destination works.
        """
        if self._database.scalar(FIRST_WAITING) is None:
            return []
        return [
            breaker
            for breaker in self.breakers()
            if breaker.destination in destinations and (breaker.needs_operator(at) or breaker.blocks(at))
        ]

    def save_breaker(self, breaker: Breaker) -> None:
        """Store a breaker, or delete it if it is healthy."""
        with self._database.write() as connection:
            connection.execute(delete(breakers).where(breakers.c.destination == breaker.destination))
            if not breaker.is_healthy:
                row = breaker._asdict() | {"tickets": json.dumps(breaker.tickets) if breaker.tickets else None}
                connection.execute(insert(breakers).values(row))


FIRST_WAITING = select(queue.c.message_id).where(queue.c.state != State.ESCALATED.value).limit(1)
PAUSE = "pause"  # the kind of a row of `_in_force` that is not a hold


def _in_force(now: datetime) -> CompoundSelect[Any]:
    kind, none = literal_column(f"'{PAUSE}'", String).label("kind"), null()
    columns = (pause.c.since, pause.c.until, pause.c.by, pause.c.reason)
    paused = select(kind, none.label("target"), *columns, none.label("birth")).where(_lasts(pause.c.until, now))
    held = (holds.c.since, holds.c.until, holds.c.by, holds.c.reason)
    holding = select(holds.c.kind, holds.c.target, *held, holds.c.birth).where(_lasts(holds.c.until, now))
    return paused.union_all(holding)


def _lasts(until: ColumnElement[datetime], now: datetime) -> ColumnElement[bool]:
    return or_(until.is_(None), until > now)


# The fields of a `PassRecord`, and the columns that hold them.
RECORDED = {each.name: passes.c["id" if each.name == "pass_id" else each.name] for each in fields(PassRecord)}


def _record(row: Row[Any]) -> PassRecord:
    values: dict[str, Any] = dict(zip(RECORDED, row, strict=True))
    values["result"] = row.result and PassResult(row.result)
    values["started_by"] = StartedBy(row.started_by or StartedBy.UNKNOWN)
    return PassRecord(**values)


# Assumed maximum number of hosts. Each host reserves at most one turn, so no turn is further in the future than this
# number of intervals.
MAX_HOSTS = 100


def _breaker(row: Row[Any]) -> Breaker:
    tickets = json.loads(row.tickets or "{}")
    return Breaker(**{**row._asdict(), "state": BreakerState(row.state), "tickets": tickets})


EVERYBODY, UNDER_WAY = "everybody", "under way"

# The row with which a pass reserves the sending of notifications, so that two hosts do not send the same notification.
RESERVATION = (told.c.target == EVERYBODY, told.c.topic == UNDER_WAY)


class Targets(Queries):
    """Store and read the last reports to notification targets."""

    def begin_telling(self, now: datetime, until: datetime) -> bool:
        """Reserve the sending of notifications for this pass, until `end_telling` or a given time. Return False if
        another pass has the reservation.
        """
        with self._database.write() as connection:
            self._database.take_turn(connection)
            taken_until = connection.execute(select(told.c.told_at).where(*RESERVATION)).scalar()
            if taken_until is not None and now < taken_until:
                return False
            connection.execute(delete(told).where(*RESERVATION))
            connection.execute(
                insert(told).values(target=EVERYBODY, topic=UNDER_WAY, since=now, told_at=until, ended=False, times=0)
            )
        return True

    def end_telling(self) -> None:
        """Release the reservation of `begin_telling`."""
        with self._database.write() as connection:
            connection.execute(delete(told).where(*RESERVATION))

    def memory(self, target: str) -> Memory:
        """Return the last reports to a target, by topic. Leave out topics that only a newer retrycli knows."""
        known = select(told).where(told.c.target == target, told.c.topic.in_([topic.value for topic in Topic]))
        return {
            Topic(row.topic): Told(row.since, row.told_at, row.ended, row.times) for row in self._database.rows(known)
        }

    def remember(self, target: str, before: Memory, after: Memory) -> None:
        """Store the last reports to a target. Skip unchanged topics, because another pass may have updated them."""
        changed = [topic for topic in Topic if before.get(topic) != after.get(topic)]
        if not changed:
            return
        with self._database.write() as connection:
            self._database.take_turn(connection)
            connection.execute(
                delete(told).where(told.c.target == target, told.c.topic.in_([topic.value for topic in changed]))
            )
            for topic in changed:
                if (now := after.get(topic)) is not None:
                    connection.execute(insert(told).values(target=target, topic=topic.value, **now._asdict()))

    def follow(self, target: str, topic: Topic, found: Incident | None, at: datetime, remind: timedelta) -> Turn | None:
        """Return which change of an incident to report to a target, if any, and store the change as reported."""
        before = self.memory(target)
        turn, known = incidents.follow(found, before.get(topic), at, remind)
        if known is not None:
            self.remember(target, before, {**before, topic: known})
        return turn


def refusing_destinations(database: Database, passes: Sequence[PassRecord]) -> dict[str, PassRecord]:
    """Return the destinations that refuse all requests, each with the newest pass whose requests it refused. The passes
    are the last ones, newest first. A destination's refusal ends with a delivery there, and with a later pass that
    delivers messages anywhere, unless another problem stops that pass. If the credentials were refused, a later
    response about a single message also ends the refusal.
    """
    newest = [found[0] for reason in incidents.REFUSED if (found := incidents.lasting(reason, passes))]
    return {destination: record for record in newest for destination in _refused_by(database, record)}


def _refused_by(database: Database, tried: PassRecord) -> list[str]:
    """List the destinations that refused requests of a pass and have shown no sign of recovery since."""
    kinds = (attempts.c.destination, attempts.c.pass_id, attempts.c.outcome, attempts.c.status_code)
    since = attempts.c.finished_at >= tried.started_at  # attempts.started_at has no index
    found = database.rows(select(*kinds).where(since, kinds[0].is_not(None)).distinct())
    over = {to for to, _, outcome, _ in found if outcome == OutcomeKind.DELIVERED}
    if tried.reason == StopReason.CREDENTIALS_REFUSED:
        # A server that accepts or rejects a single message has accepted the credentials. An ambiguous response does not
        # show this, because it may come from a proxy.
        over |= {
            to
            for to, pass_id, outcome, status in found
            if pass_id != tried.pass_id and outcome in ALIVE and status not in {None, *IN_DOUBT}
        }
    refused = {
        to
        for to, pass_id, outcome, status in found
        if pass_id == tried.pass_id and (outcome == OutcomeKind.UNAUTHORIZED or status in IN_DOUBT)
    }
    return sorted(refused - over)
