"""Data of destinations that passes share: circuit breakers, refusals and rates."""

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

MAX_HOSTS = 100
"""Assumed maximum number of hosts. Each host reserves at most one turn, so no turn is further ahead."""


class Breakers:
    """Remember destinations between passes.

    Args:
        database: holds retrycli's own tables.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def breaker(self, destination: str) -> Breaker:
        """Return the breaker of a destination; a closed one if none is stored."""
        with self._database.read() as connection:
            row = connection.execute(select(breakers).where(breakers.c.destination == destination)).one_or_none()
        return Breaker(destination) if row is None else _breaker(row)

    def breaker_to_judge(self, destination: str) -> Breaker:
        """Return the same, and keep other passes from changing it until this transaction ends."""
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            return self.breaker(destination)

    def take_probe(self, breaker: Breaker, until: datetime) -> bool:
        """Reserve the due probe of a destination until a time, so that no other pass sends one.

        Returns:
            False if another pass was faster.
        """
        as_remembered = (
            breakers.c.destination == breaker.destination,
            breakers.c.state == breaker.state.value,
            breakers.c.probe_at == breaker.probe_at,
        )
        with self._database.write() as connection:
            return connection.execute(update(breakers).where(*as_remembered).values(probe_at=until)).rowcount == 1

    def take_turn(self, destination: str, now: datetime, interval: timedelta, too_late: datetime) -> datetime:
        """Reserve a time for one request, so that requests of all hosts together keep the interval.

        Args:
            destination: the request's destination.
            now: current time.
            interval: minimum time between requests.
            too_late: time from which on nothing is reserved.

        Returns:
            The time to send at: now, or an interval after the previous request.
        """
        last = select(rates.c.next_at).where(rates.c.destination == destination)
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            free_at = connection.execute(last).scalar()
            turn = now if free_at is None else max(free_at, now)
            if turn - now > MAX_HOSTS * interval:
                turn = now  # a wrong clock must not delay other hosts
            if turn >= too_late:
                return turn
            row = {"destination": destination, "next_at": turn + interval}
            if free_at is None:
                connection.execute(insert(rates).values(row))
            else:
                connection.execute(update(rates).where(rates.c.destination == destination).values(row))
        return turn

    def breakers(self) -> list[Breaker]:
        """Return the stored breakers, by destination."""
        with self._database.read() as connection:
            return [_breaker(row) for row in connection.execute(select(breakers).order_by(breakers.c.destination))]

    def standing_breakers(self, destinations: Collection[str | None], at: datetime) -> list[Breaker]:
        """Return the breakers that block some destinations.

        A rest ends at its time, an open breaker only with a successful probe. Destinations that are no longer used get
        no probes, so they are left out.
        """
        known = [breaker for breaker in self.breakers() if breaker.destination in destinations]
        return [breaker for breaker in known if breaker.state is BreakerState.OPEN or breaker.blocks(at)]

    def save_breaker(self, breaker: Breaker) -> None:
        """Store a breaker, or delete it if it is healthy."""
        with self._database.write() as connection:
            connection.execute(delete(breakers).where(breakers.c.destination == breaker.destination))
            if not breaker.is_healthy:
                row = asdict(breaker) | {"tickets": json.dumps(breaker.tickets) if breaker.tickets else None}
                connection.execute(insert(breakers).values(row))

    def refusals(self, passes: Sequence[PassRecord]) -> dict[str, PassRecord]:
        """Return the destinations that refuse requests, with the last pass that they refused.

        A refusal ends with a delivery, or when a later pass finds out more. Refused credentials also count as accepted
        with a later answer about a message.

        Args:
            passes: the last passes, newest first.
        """
        newest = [found[0] for reason in incidents.REFUSED if (found := incidents.lasting(reason, passes))]
        return {destination: record for record in newest for destination in self._refused_by(record)}

    def _refused_by(self, tried: PassRecord) -> list[str]:
        """List the destinations that refused a pass and have shown no sign of recovery since."""
        kinds = (attempts.c.destination, attempts.c.pass_id, attempts.c.outcome, attempts.c.status_code)
        since = attempts.c.finished_at >= tried.started_at  # has an index
        with self._database.read() as connection:
            found = connection.execute(select(*kinds).where(since, kinds[0].is_not(None)).distinct()).all()
        over = {to for to, _, outcome, _ in found if outcome == OutcomeKind.DELIVERED}
        if tried.reason == StopReason.CREDENTIALS_REFUSED:
            # A server that judges a message has accepted the credentials. Doubtful answers may come from a proxy.
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
