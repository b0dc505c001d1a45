"""Claim queued messages, and renew, release and take over claims.

Each change applies only to messages in the expected state, so a pass that has lost its claims changes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, RowMapping, Select, bindparam, exists, func, or_, select, true, update

from retrycli.domain.identity import MessageIdentity, birth_of
from retrycli.domain.message import QueuedMessage, State, UnusableMessage, ticket_text
from retrycli.domain.outcome import PROCESS_DIED, Outcome, OutcomeKind
from retrycli.domain.transition import Claim, Decision, ExpiredClaim, Route, Transition
from retrycli.store.bulk import id_in
from retrycli.store.connection import NO_RESULT
from retrycli.store.database import Database, Queries
from retrycli.store.identity import load, with_queue
from retrycli.store.messages import HELD_BACK, UNFINISHED, addresses, in_route, is_due, row_by_row, without_locked
from retrycli.store.schema import attempts, queue
from retrycli.store.transitions import CLAIM, CLAIM_FREE, FORMER_STATE, HELD, HELD_BY_ID, let_go

if TYPE_CHECKING:
    from retrycli.domain.fair_share import FairShare
    from retrycli.store.results import Results

CLAIM_WAITING = CLAIM.where(row_by_row(queue.c.state == State.WAITING.value)).execution_options(**NO_RESULT)

FIRST_OF_TICKET = (
    select(queue.c.message_id)
    .where(queue.c.ticket == bindparam("of_ticket"), row_by_row(queue.c.state.in_(UNFINISHED)))
    .order_by(queue.c.message_id)
    .limit(1)
)


class Claims(Queries):
    """Claim queued messages for a pass or an operator."""

    def count_due(self, due_by: datetime, route: Route | None = None) -> int:
        """Count the waiting messages of a route, by default of all routes, that are due by a given time."""
        due = (*is_due(due_by), *in_route(self._database, route))
        return self._database.scalar(select(func.count()).select_from(queue).where(*due)) or 0

    def any_due(self, due_by: datetime, route: Route) -> bool:
        """Return whether any message of a route is due."""
        return self._database.scalar(self._due(due_by, route).limit(1)) is not None

    def is_due(self, message_id: int, due_by: datetime) -> bool:
        """Return whether a message is waiting and due."""
        due = select(queue.c.message_id).where(queue.c.message_id == message_id, *is_due(due_by))
        return self._database.scalar(due) is not None

    def queued(self, message_id: int) -> QueuedMessage | UnusableMessage | None:
        """Return a failed message with its history, as a pass that claims it would load it; None if it has gone."""
        with self._database.read() as connection:
            found = connection.execute(with_queue(self._database).where(queue.c.message_id == message_id))
            return next(iter(load(connection, found, [message_id])), None)

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: FairShare | None = None, route: Route | None = None
    ) -> list[int]:
        """Claim messages that are due by a given time, the longest overdue first, and return their ids. Examine at most
        ``limit`` messages of the route, of which ``turns`` decides which to claim.
        """
        per_ticket_order = turns is not None and turns.per_ticket_order
        due = self._due(due_by, route, per_ticket_order=per_ticket_order).add_columns(queue.c.ticket)
        if turns is not None and turns.passed_over:
            due = due.where(or_(queue.c.ticket.is_(None), queue.c.ticket.not_in(turns.passed_over)))
        due = due.order_by(queue.c.next_attempt_at, queue.c.message_id).limit(limit)
        with self._database.write() as connection:
            found = connection.execute(due.with_for_update(skip_locked=True, of=queue)).all()
            candidates = [(row.message_id, row.ticket) for row in found]
            ids = [message_id for message_id, _ in candidates] if turns is None else turns.take(candidates)
            _claim(connection, claim, ids)
            return ids

    def claim_first_of(
        self, claim: Claim, due_by: datetime, tickets: Collection[str], route: Route | None = None
    ) -> list[int]:
        """Claim the first unfinished message of each ticket if it is due and in the route. Return the ids of the
        claimed messages.
        """
        with self._database.write() as connection:
            firsts = [connection.execute(FIRST_OF_TICKET, {"of_ticket": ticket}).scalar() for ticket in sorted(tickets)]
            due = select(queue.c.message_id).where(
                queue.c.message_id.in_(firsts), row_by_row(*is_due(due_by)), *in_route(self._database, route)
            )
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            _claim(connection, claim, ids)
            return ids

    def claim_probe(
        self,
        claim: Claim,
        due_by: datetime,
        since: datetime,
        route: Route | None = None,
        *,
        per_ticket_order: bool = False,
    ) -> list[int]:
        """Claim one due message as a probe. Return a list with its id; an empty list if no message was claimed. A
        message becomes a probe again only after every other due message has been a probe ``since`` the breaker opened.
        ``per_ticket_order`` leaves out messages that an earlier message of the same ticket holds back.
        """
        due = self._due(due_by, route, per_ticket_order=per_ticket_order)
        probes = _probes_of(queue.c.message_id, since)
        last = probes.with_only_columns(func.max(attempts.c.started_at)).scalar_subquery()
        # This is a scalar subquery, because with `exists` a planner may scan all attempts.
        was_none = probes.limit(1).scalar_subquery().is_(None)
        oldest = queue.c.next_attempt_at, queue.c.message_id
        # The first query uses the index on due messages, so it is fast for any number of them. The second query is
        # needed only if all due messages have been probes, so it reads few messages.
        choices = due.where(was_none).order_by(*oldest).limit(1), due.order_by(last, *oldest).limit(1)
        return self._claim_one_of(claim, *choices)

    def claim_elsewhere(
        self,
        claim: Claim,
        due_by: datetime,
        tickets: Collection[str],
        route: Route | None = None,
        *,
        per_ticket_order: bool = False,
    ) -> list[int]:
        """Among the due messages that belong to none of the given tickets, claim the one that came due last. Return a
        list with its id; an empty list if no message was claimed.
        """
        due = self._due(due_by, route, per_ticket_order=per_ticket_order)
        others = due.where(or_(queue.c.ticket.is_(None), queue.c.ticket.not_in(tickets)))
        last = others.order_by(queue.c.next_attempt_at.desc(), queue.c.message_id.desc()).limit(1)
        return self._claim_one_of(claim, last)

    def _due(self, due_by: datetime, route: Route | None, *, per_ticket_order: bool = False) -> Select[Any]:
        due = select(queue.c.message_id).where(*is_due(due_by), *in_route(self._database, route))
        return due.where(~exists().where(*HELD_BACK)) if per_ticket_order else due

    def _claim_one_of(self, claim: Claim, *choices: Select[Any]) -> list[int]:
        with self._database.write() as connection:
            ids: list[int] = []
            for choice in choices:
                ids = ids or list(connection.execute(choice.with_for_update(skip_locked=True, of=queue)).scalars())
            _claim(connection, claim, ids)
            return ids

    def count_probes(self, message_id: int, since: datetime) -> int:
        """Count a message's probes since a given time."""
        probes = _probes_of(message_id, since).subquery()
        return self._database.scalar(select(func.count()).select_from(probes)) or 0

    def renew(self, claim: Claim) -> None:
        """Extend the lease of all messages that this claim still holds."""
        held = update(queue).where(queue.c.state == State.SENDING.value, queue.c.claimed_by == claim.owner)
        with self._database.write() as connection:
            connection.execute(held.values(claim_expires_at=claim.expires_at))

    def claim_one(self, claim: Claim, message_id: int, now: datetime, verb: str = "retry") -> bool:
        """Claim one message, even if it is not due or is escalated. Return whether it was escalated. ``verb`` names the
        operator's action in errors.

        Raises:
            NoSuchMessage: the application's table has no such row.
            NotActionable: the message is not failed, or another process is sending it.
        """
        from retrycli.store.history import require_free  # not needed by a pass

        with self._database.write() as connection:
            standing = require_free(self._database, connection, message_id, verb, now)
            connection.execute(CLAIM_FREE, {"ids": [message_id], "owner": claim.owner, "until": claim.expires_at})
            return standing.state is State.ESCALATED

    def release(self, claim: Claim, ids: Collection[int]) -> None:
        """Release claimed messages that were not attempted. They return to the states that they had before."""
        if not ids:
            return
        with self._database.write() as connection:
            connection.execute(
                update(queue)
                .where(queue.c.message_id == bindparam("id"), HELD)
                .values(state=FORMER_STATE, claimed_by=None, claim_expires_at=None),
                [{"id": message_id, "owner": claim.owner} for message_id in ids],
            )

    @cached_property
    def results(self) -> Results:
        """Return the object that records the results of claimed messages."""
        from retrycli.store.results import Results  # not needed by a pass with nothing due

        return Results(self._database)

    def has_expired(self, now: datetime) -> bool:
        """Return whether any message's lease has expired."""
        found = select(queue.c.message_id).where(queue.c.state == State.SENDING.value, queue.c.claim_expires_at <= now)
        with self._database.read() as connection:
            return connection.execute(found.limit(1)).first() is not None

    def take_over_expired(self, claim: Claim, now: datetime, limit: int) -> list[ExpiredClaim]:
        """Claim messages whose lease has expired, in the order of their ids, and return the expired claims. Examine at
        most ``limit`` messages in one transaction. Skip locked rows; a later pass takes their messages over.
        """
        expired = (
            select(queue.c.message_id)
            .where(queue.c.state == State.SENDING.value, queue.c.claim_expires_at <= now)
            .order_by(queue.c.message_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        after = -(2**63)  # the lowest 64-bit integer, assumed to be lower than all ids
        while True:
            with self._database.write() as connection:
                ids = list(connection.execute(expired.where(queue.c.message_id > after)).scalars())
                if not ids:
                    return []
                taken = _take_over(self._database, connection, claim, ids, now)
            if taken:
                return taken
            after = ids[-1]


def _claim(connection: Connection, claim: Claim, ids: Sequence[int]) -> None:
    if ids:
        connection.execute(CLAIM_WAITING, {"ids": ids, "owner": claim.owner, "until": claim.expires_at})


def _probes_of(message_id: Any, since: datetime) -> Select[Any]:  # noqa: ANN401  an id, or a column of ids
    return select(attempts.c.started_at).where(
        attempts.c.message_id == message_id, attempts.c.probe.is_(true()), attempts.c.started_at >= since
    )


UNFINISHED_ATTEMPTS = select(attempts).where(id_in(attempts.c.message_id), row_by_row(attempts.c.finished_at.is_(None)))


def _take_over(
    database: Database, connection: Connection, claim: Claim, ids: Sequence[int], now: datetime
) -> list[ExpiredClaim]:
    from retrycli.store.results import finish_attempts  # needed only for expired claims

    rows = connection.execute(UNFINISHED_ATTEMPTS, {"ids": list(ids)}).mappings()
    # Unfinished attempts by message id. If such an attempt has an outcome, the outcome has not been written to the
    # message's row yet.
    open_by_id = {row["message_id"]: row for row in rows}
    free = without_locked(database, connection, ids)
    parameters = {"ids": free, "owner": claim.owner}
    connection.execute(CLAIM, {**parameters, "until": claim.expires_at})
    loaded = load(connection, connection.execute(with_queue(database).where(*HELD_BY_ID), parameters), free)
    gone = set(free) - {message.message_id for message in loaded}
    ended = [
        Decision(message_id, Transition.released(), _outcome_of(open_by_id.get(message_id)) or PROCESS_DIED)
        for message_id in gone
    ]
    finish_attempts(connection, ended, now)
    let_go(database, connection, claim, gone)
    return [_expired_claim(message, open_by_id.get(message.message_id)) for message in loaded]


def _expired_claim(message: QueuedMessage | UnusableMessage, attempt: RowMapping | None) -> ExpiredClaim:
    if attempt is None:
        return ExpiredClaim(message, None)
    outcome = _outcome_of(attempt)
    took = None if attempt["duration_ms"] is None else timedelta(milliseconds=attempt["duration_ms"])
    now = MessageIdentity(message.birth, message.digest, ticket_text(message.ticket_id))
    before = MessageIdentity(birth_of(attempt["birth"]), attempt["digest"], attempt["ticket"])
    return ExpiredClaim(message, attempt["made_by"], outcome, before.difference(now), attempt["started_at"], took)


def _outcome_of(attempt: RowMapping | None) -> Outcome | None:
    if attempt is None or attempt["outcome"] is None:
        return None
    retry_after = attempt["retry_after_s"]
    return Outcome(
        OutcomeKind(attempt["outcome"]),
        attempt["status_code"],
        attempt["error"],
        None if retry_after is None else timedelta(seconds=retry_after),
        tuple(addresses(attempt["delivered_to"])),
        attempt["external_id"],
    )
