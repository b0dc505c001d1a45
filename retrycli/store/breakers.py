"""What passes remember of destinations: circuit breakers, refusals and rates."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select, update

from retrycli.domain import incidents
from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.outcome import ALIVE, IN_DOUBT, OutcomeKind
from retrycli.domain.pass_record import PassRecord
from retrycli.domain.pass_summary import StopReason
from retrycli.store.schema import attempts, breakers, rates

if TYPE_CHECKING:
    from sqlalchemy import Row

    from retrycli.store.database import Database

MOST_HOSTS = 100
"""Each host has one turn reserved at most, so no turn is further ahead than that of so many."""


class Breakers:
    """The destinations of messages.

    Args:
        database: where they are remembered.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def breaker(self, destination: str) -> Breaker:
        """What is remembered of a destination."""
        with self._database.read() as connection:
            row = connection.execute(select(breakers).where(breakers.c.destination == destination)).one_or_none()
        return Breaker(destination) if row is None else _breaker(row)

    def breaker_to_judge(self, destination: str) -> Breaker:
        """The same, which no other pass changes until this transaction ends."""
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            return self.breaker(destination)

    def take_probe(self, breaker: Breaker, until: datetime) -> bool:
        """Take the one probe that is due of a destination, so that no other pass sends one until a time.

        Returns:
            Whether it was there to be taken: another pass may have been faster.
        """
        as_remembered = (
            breakers.c.destination == breaker.destination,
            breakers.c.state == breaker.state.value,
            breakers.c.probe_at == breaker.probe_at,
        )
        with self._database.write() as connection:
            return connection.execute(update(breakers).where(*as_remembered).values(probe_at=until)).rowcount == 1

    def take_turn(self, destination: str, now: datetime, interval: timedelta, too_late: datetime) -> datetime:
        """Reserve a time for one request, so that those of all hosts together keep their distance.

        Args:
            destination: where the request goes.
            now: the time.
            interval: how far apart requests are.
            too_late: when it is of no use any more.

        Returns:
            When it may go out: now, or an interval after the one before it. Nothing is reserved that comes too late.
        """
        last = select(rates.c.next_at).where(rates.c.destination == destination)
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            free_at = connection.execute(last).scalar()
            turn = now if free_at is None else max(free_at, now)
            if turn - now > MOST_HOSTS * interval:
                turn = now  # a clock was wrong, and must delay nobody
            if turn >= too_late:
                return turn
            row = {"destination": destination, "next_at": turn + interval}
            if free_at is None:
                connection.execute(insert(rates).values(row))
            else:
                connection.execute(update(rates).where(rates.c.destination == destination).values(row))
        return turn

    def breakers(self) -> list[Breaker]:
        """All that is remembered of destinations in trouble."""
        with self._database.read() as connection:
            return [_breaker(row) for row in connection.execute(select(breakers).order_by(breakers.c.destination))]

    def standing_breakers(self, destinations: Collection[str | None], at: datetime) -> list[Breaker]:
        """Return what stands against some destinations.

        A rest is over when its time is; an open breaker, when a probe comes through. Of a destination that was given up
        none ever will.
        """
        known = [breaker for breaker in self.breakers() if breaker.destination in destinations]
        return [breaker for breaker in known if breaker.state is BreakerState.OPEN or breaker.blocks(at)]

    def save_breaker(self, breaker: Breaker) -> None:
        """Remember a destination; one that is well is forgotten."""
        with self._database.write() as connection:
            connection.execute(delete(breakers).where(breakers.c.destination == breaker.destination))
            if not breaker.is_healthy:
                row = asdict(breaker) | {"tickets": json.dumps(breaker.tickets) if breaker.tickets else None}
                connection.execute(insert(breakers).values(row))

    def refusals(self, passes: Sequence[PassRecord]) -> dict[str, PassRecord]:
        """Return the destinations that refuse us, each with the last pass that it refused.

        A refusal stands until a pass finds out more, or anybody delivers something there. That of our credentials is
        over, too, with a later answer about a message.

        Args:
            passes: the last passes, newest first.
        """
        newest = [found[0] for reason in incidents.REFUSED if (found := incidents.lasting(reason, passes))]
        return {destination: record for record in newest for destination in self._tried_in_vain(record)}

    def _tried_in_vain(self, tried: PassRecord) -> list[str]:
        """List the destinations that refused a pass, and have shown no sign since that this is over."""
        kinds = (attempts.c.destination, attempts.c.pass_id, attempts.c.outcome, attempts.c.status_code)
        since = attempts.c.finished_at >= tried.started_at  # there is an index of these
        with self._database.read() as connection:
            found = connection.execute(select(*kinds).where(since, kinds[0].is_not(None)).distinct()).all()
        over = {to for to, _, outcome, _ in found if outcome == OutcomeKind.DELIVERED}
        if tried.reason == StopReason.CREDENTIALS_REFUSED:
            # Whoever judges a message has taken our credentials; what stands in between may give the answers in doubt.
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


def _breaker(row: Row[tuple[object, ...]]) -> Breaker:
    values = row._asdict()
    tickets = json.loads(values["tickets"] or "{}")
    return Breaker(**{**values, "state": BreakerState(values["state"]), "tickets": tickets})
