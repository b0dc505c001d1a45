"""Claims and what comes of them. Each change names the state it expects, so that a late pass changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, exc, exists, func, or_, select, update

from retrycli.domain.fair_share import FairShare
from retrycli.domain.message import Claim, ExpiredClaim, MessageType, QueuedMessage, Route, State, UnusableMessage
from retrycli.domain.operator_action import no_such, not_free
from retrycli.domain.outcome import PROCESS_DIED
from retrycli.domain.retry_policy import Decision, Transition, WriteResult, as_written
from retrycli.store import picking
from retrycli.store.bulk import id_in
from retrycli.store.connection import NO_RESULT, errors_of_a_pipeline
from retrycli.store.error_messages import is_busy
from retrycli.store.identity import (
    FIRST_IDENTIFYING,
    as_found,
    identifying,
    lapsed,
    load,
    outcome_of,
    unfinished,
    with_queue,
)
from retrycli.store.messages import row_by_row, standings, status_of, status_text
from retrycli.store.recording import (
    HELD_IDS,
    HELD_OF_THESE,
    LEAVE_THE_QUEUE,
    finish_attempts,
    held,
    keep_outcomes,
    move,
    start_attempts,
    where_it_was,
)
from retrycli.store.row_changes import write_messages
from retrycli.store.row_states import read_rows
from retrycli.store.schema import queue

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database


def is_due(due_by: datetime) -> tuple[ColumnElement[bool], ...]:
    """What a pass may claim: the one predicate by which messages are counted, claimed, shown and explained as due."""
    return queue.c.state == State.WAITING.value, queue.c.next_attempt_at <= due_by


EARLIER = queue.alias("earlier")
UNFINISHED = (State.WAITING.value, State.SENDING.value)
BEFORE_IT = (
    EARLIER.c.ticket == queue.c.ticket,
    EARLIER.c.message_id < queue.c.message_id,
    EARLIER.c.state.in_(UNFINISHED),
)
"""What keeps a message back where a ticket's order is kept: an earlier one that waits or is being sent."""
FIRST_OF_TICKET = (
    select(queue.c.message_id)
    .where(queue.c.ticket == bindparam("of_ticket"), row_by_row(queue.c.state.in_(UNFINISHED)))
    .order_by(queue.c.message_id)
    .limit(1)
)
CLAIM_THESE = (
    update(queue)
    .where(id_in(queue.c.message_id), row_by_row(queue.c.state == State.WAITING.value))
    .values(state=State.SENDING.value, claimed_by=bindparam("owner"), claim_expires_at=bindparam("until"))
    .execution_options(**NO_RESULT)
)


BEFORE_ALL = -(2**63)
"""Before the first id there can be."""


class Claims:
    """The queue as a pass works on it.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[Callable[[], bool]]:
        """Write all that is written inside in one transaction, as `Database.transaction` does."""
        return self._database.transaction(wait=wait)

    def patience(self) -> timedelta:
        """Return how long a transaction waits for a lock that the application holds."""
        return self._database.patience()

    def count_due(self, due_by: datetime) -> int:
        """How many messages are due."""
        statement = select(func.count()).select_from(queue).where(*is_due(due_by))
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def any_due(self, due_by: datetime, route: Route) -> bool:
        """Whether any message of a route is due."""
        statement = select(queue.c.message_id).where(*is_due(due_by), *self._in_lane(route)).limit(1)
        with self._database.read() as connection:
            return connection.execute(statement).scalar() is not None

    def is_due(self, message_id: int, due_by: datetime) -> bool:
        """Whether a pass may claim this message."""
        statement = select(queue.c.message_id).where(queue.c.message_id == message_id, *is_due(due_by))
        with self._database.read() as connection:
            return connection.execute(statement).scalar() is not None

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: FairShare | None = None, route: Route | None = None
    ) -> list[int]:
        """Claim due messages, the one that has waited longest first; their ids.

        Args:
            claim: who claims them, and until when.
            due_by: until when a message must have come due.
            limit: how many to look at.
            turns: whose turn it is among them; by default everybody's.
            route: which messages; by default all.
        """
        due = select(queue.c.message_id, queue.c.ticket).where(*is_due(due_by), *self._in_lane(route))
        if turns is not None and turns.per_ticket_order:
            due = due.where(~exists().where(*BEFORE_IT))
        if turns is not None and turns.passed_over:
            due = due.where(or_(queue.c.ticket.is_(None), queue.c.ticket.not_in(turns.passed_over)))
        due = due.order_by(queue.c.next_attempt_at, queue.c.message_id).limit(limit)
        with self._database.write() as connection:
            found = connection.execute(due.with_for_update(skip_locked=True, of=queue)).all()
            candidates = [(each.message_id, each.ticket) for each in found]
            ids = [each for each, _ in candidates] if turns is None else turns.take(candidates)
            _claim(connection, claim, ids)
            return ids

    def claim_first_of(
        self, claim: Claim, due_by: datetime, tickets: Collection[str], route: Route | None = None
    ) -> list[int]:
        """Claim of each ticket the first message that waits or is being sent, where it is due in a route; their ids."""
        with self._database.write() as connection:
            firsts = [connection.execute(FIRST_OF_TICKET, {"of_ticket": each}).scalar() for each in sorted(tickets)]
            due = select(queue.c.message_id).where(
                queue.c.message_id.in_(firsts), row_by_row(*is_due(due_by)), *self._in_lane(route)
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
        """Claim one due message to probe with; its id, if there is one.

        Args:
            claim: who claims it, and until when.
            due_by: until when it must have come due.
            since: when the breaker opened; no message is a second probe while another has been none.
            route: which messages; by default all.
            per_ticket_order: whether a ticket's messages keep their order.
        """
        return self._claim_one_of(
            claim, *picking.to_probe(self._due(due_by, route, per_ticket_order=per_ticket_order), since)
        )

    def claim_elsewhere(
        self,
        claim: Claim,
        due_by: datetime,
        tickets: Collection[str],
        route: Route | None = None,
        *,
        per_ticket_order: bool = False,
    ) -> list[int]:
        """Claim the message that came due last, of a ticket that is not among these; its id, if there is one."""
        return self._claim_one_of(
            claim, picking.elsewhere(self._due(due_by, route, per_ticket_order=per_ticket_order), tickets)
        )

    def _due(self, due_by: datetime, route: Route | None, *, per_ticket_order: bool) -> Select[Any]:
        due = select(queue.c.message_id).where(*is_due(due_by), *self._in_lane(route))
        return due.where(~exists().where(*BEFORE_IT)) if per_ticket_order else due

    def _claim_one_of(self, claim: Claim, *choices: Select[Any]) -> list[int]:
        """Claim what the first of these selections finds, or the next."""
        with self._database.write() as connection:
            ids: list[int] = []
            for each in choices:
                ids = ids or list(connection.execute(each.with_for_update(skip_locked=True, of=queue)).scalars())
            _claim(connection, claim, ids)
            return ids

    def count_probes(self, message_id: int, since: datetime) -> int:
        """Count the probes that a message has been since a time."""
        probes = picking.probes_of(message_id, since).subquery()
        with self._database.read() as connection:
            return connection.execute(select(func.count()).select_from(probes)).scalar_one()

    def _in_lane(self, route: Route | None) -> list[ColumnElement[bool]]:
        """What keeps other routes' messages out; nothing where there is one route."""
        m = self._database.messages.c

        # As a value for each row, and not by `exists`: for that a planner may go through the application's whole table.
        kind = select(m.message_type).where(m.id == queue.c.message_id).scalar_subquery()

        def is_of(types: Collection[MessageType]) -> ColumnElement[int]:
            return case((or_(*(kind == status_text(each) for each in sorted(types))), 1), else_=0)

        but = [is_of(route.but) == 0] if route is not None and route.but else []
        only = [is_of(route.only) == 1] if route is not None and route.only is not None else []
        return but + only

    def renew(self, claim: Claim) -> None:
        """Hold all that this claim has not lost for longer: until its new time."""
        with self._database.write() as connection:
            mine = (queue.c.state == State.SENDING.value, queue.c.claimed_by == claim.owner)
            connection.execute(update(queue).where(*mine).values(claim_expires_at=claim.expires_at))

    def claim_one(self, claim: Claim, message_id: int, now: datetime, verb: str = "retry") -> bool:
        """Claim one message whatever its wait, also an escalated one.

        Args:
            claim: who claims it, and until when.
            message_id: which.
            now: the time.
            verb: what the operator wants to do, for errors.

        Returns:
            Whether it was escalated.

        Raises:
            NoSuchMessage: the application's table has no such row.
            NotActionable: it is not failed, or somebody is sending it.
        """
        with self._database.write() as connection:
            standing = standings(self._database, connection, [message_id]).get(message_id)
            if standing is None:
                raise no_such(message_id)
            if (reason := not_free(standing, verb, now)) is not None:
                raise reason
            free = (queue.c.message_id == message_id, queue.c.state != State.SENDING.value)
            connection.execute(update(queue).where(*free).values(_claimed(claim)))
            return standing.state is State.ESCALATED

    def release(self, claim: Claim, ids: Collection[int]) -> None:
        """Give back claimed messages for which no attempt was begun."""
        if not ids:
            return
        with self._database.write() as connection:
            connection.execute(
                update(queue)
                .where(queue.c.message_id == bindparam("id"), *held(claim.owner))
                .values(state=where_it_was(), claimed_by=None, claim_expires_at=None),
                [{"id": each} for each in ids],
            )

    def begin(
        self,
        claim: Claim,
        ids: Sequence[int],
        *,
        made_by: str,
        pass_id: str | None,
        now: datetime,
        fit: Callable[[QueuedMessage], bool],
        destination_of: Callable[[str], str | None] = lambda _: None,
        probe: bool = False,
    ) -> list[QueuedMessage | UnusableMessage]:
        """Load claimed messages, and record an attempt for each one that is fit for it.

        Messages that the application has meanwhile sent, rejected or withdrawn leave the queue, and so do those whose
        id belongs to another message now: it is enrolled as new. Each attempt names the destination of its message's
        type.
        """
        with self._database.write() as connection:
            loaded = self._load(connection, claim, ids)
            if gone := set(ids) - {each.message_id for each in loaded}:
                connection.execute(delete(queue).where(queue.c.message_id.in_(gone), *held(claim.owner)))
            fit_ones = [each for each in loaded if isinstance(each, QueuedMessage) and fit(each)]
            start_attempts(
                connection,
                fit_ones,
                pass_id=pass_id,
                made_by=made_by,
                destination_of=destination_of,
                probe=probe,
                now=now,
            )
            return loaded

    def _load(self, connection: Connection, claim: Claim, ids: Sequence[int]) -> list[QueuedMessage | UnusableMessage]:
        """Load the messages of a claim that are still failed, and still the ones that were claimed."""
        found = connection.execute(self._held_messages, {"ids": ids, "owner": claim.owner})
        return load(connection, found, ids)

    # The statements of the innermost loop are put together once: that takes longer than to run them.

    @cached_property
    def _held_messages(self) -> Select[Any]:
        """Whole messages that are still failed, of a claim."""
        return with_queue(self._database).where(*HELD_OF_THESE)

    @cached_property
    def _held_rows(self) -> Select[Any]:
        """What identifies the messages of a claim, with the application's status."""
        m = self._database.messages
        return (
            select(m.c.id, status_of(self._database), *identifying(m))
            .join_from(queue, m, m.c.id == queue.c.message_id)
            .where(*HELD_OF_THESE)
        )

    @cached_property
    def _locked(self) -> Select[Any]:
        """The same, of rows that nobody else has locked."""
        return self._held_rows.with_for_update(skip_locked=True)

    def record_arrival(
        self, claim: Claim, settled: Decision, *, made_by: str, destination: str, started_at: datetime
    ) -> None:
        """Record an attempt at a claimed message that is found to have arrived, and its outcome.

        The message stays claimed. `record` writes its row; if the process dies before that, a later pass does.
        """
        with self._database.write() as connection:
            ours = _held_ones(connection, claim, [settled])
            start_attempts(
                connection,
                [each.message for each in ours if isinstance(each.message, QueuedMessage)],
                pass_id=None,
                made_by=made_by,
                destination_of=lambda _: destination,
                probe=False,
                now=started_at,
            )
            keep_outcomes(connection, ours, started_at)

    def record_answers(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts whose messages are not decided yet: these stay claimed.

        If the process dies before they are decided, the answers are known all the same.
        """
        with self._database.write() as connection:
            finish_attempts(connection, _held_ones(connection, claim, settled), now)

    def keep_outcomes(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts, and touch no row of the application's.

        The messages stay claimed. A later pass finds the outcomes and writes the rows.
        """
        with self._database.write() as connection:
            keep_outcomes(connection, _held_ones(connection, claim, settled), now)

    def record(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> WriteResult:
        """Write the results of claimed messages, in one transaction.

        Of a message whose row the application holds, or something that a trigger of its table writes, only the
        attempt's outcome is written. The message stays claimed.

        Raises:
            TransactionLost: a row has rolled back all. It is left out the next time.
        """
        by_id = {each.message_id: each for each in settled}
        with self._database.write() as connection:
            found = connection.execute(self._locked, {"ids": list(by_id), "owner": claim.owner})
            names = [*found.keys()][FIRST_IDENTIFYING:]
            as_they_are = {row[0]: as_found(by_id[row[0]], names, row) for row in found.all()}
            unlocked: set[int] = set()
            hidden: dict[int, str] = {}
            if len(as_they_are) < len(by_id):
                others = self._others(connection, claim, by_id.keys() - as_they_are.keys())
                unlocked = {each for each, is_there in others.items() if is_there}
                as_they_are |= dict.fromkeys(others.keys() - unlocked)
                hidden = dict.fromkeys(self._hidden(connection, claim, unlocked), self._why_hidden)
            ours = {each: one for each, one in as_they_are.items() if one is not None}
            theirs = [by_id[each] for each in as_they_are.keys() - ours.keys()]
            changed = {each: one for each, one in ours.items() if one is not by_id[each]}
            written = write_messages(self._database, connection, list(ours.values()))
            refused = {**written.refused, **hidden}
            kept = unlocked.difference(hidden).union(written.held)
            if kept:
                keep_outcomes(connection, [by_id[each] for each in kept], now)
            writable = [one for each, one in ours.items() if each not in kept] if kept else ours.values()
            final = as_written([*writable, *(by_id[each] for each in hidden)], refused)
            # Nothing is written into their rows, whatever was decided.
            left_alone = [each._replace(transition=Transition.released()) for each in theirs]
            finish_attempts(connection, [*final, *left_alone], now)
            unread = {each.message_id for each in final if each.transition.reason} - written.rows.keys()
            move(connection, claim, final, {**written.rows, **read_rows(self._database, connection, unread)}, now)
            if theirs:
                ids = [each.message_id for each in theirs]
                connection.execute(LEAVE_THE_QUEUE, {"ids": ids, "owner": claim.owner})
        lost = by_id.keys() - ours.keys() - unlocked
        return WriteResult(frozenset(lost), frozenset(kept), refused, changed)

    def _hidden(self, connection: Connection, claim: Claim, unlocked: Collection[int]) -> set[int]:
        """Return which of the rows that could not be locked a row-level policy hides from changes: nobody holds them.

        If one of them is held, nothing is known of the others until it is free.
        """
        if not unlocked:
            return set()
        try:
            with errors_of_a_pipeline(connection):
                connection.exec_driver_sql("SAVEPOINT hidden", execution_options=NO_RESULT)
                statement = self._held_rows.with_for_update(nowait=True)
                free = connection.execute(statement, {"ids": list(unlocked), "owner": claim.owner}).all()
        except exc.DBAPIError as error:
            if not is_busy(error):
                raise
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT hidden")
            return set()
        return set(unlocked) - {row[0] for row in free}

    @property
    def _why_hidden(self) -> str:
        table = self._database.messages.fullname
        return f"its row can be read and not changed; see to the row-level policies of {table}"

    def _others(self, connection: Connection, claim: Claim, ids: Collection[int]) -> dict[int, bool]:
        """Which of these messages this claim holds, and whether they are there or the application has deleted them."""
        m = self._database.messages.c
        others = (
            select(queue.c.message_id, m.id)
            .join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
            .where(queue.c.message_id.in_(ids), *held(claim.owner))
        )
        return {each: its_row is not None for each, its_row in connection.execute(others).all()}

    def take_over_expired(self, claim: Claim, now: datetime, limit: int) -> list[ExpiredClaim]:
        """Claim messages whose claims have expired, in the order of their ids; none if none is left.

        Messages whose rows the application holds are left for a later pass.

        Args:
            claim: the claim that takes over.
            now: the time.
            limit: how many to look at.
        """
        expired = (
            select(queue.c.message_id)
            .where(queue.c.state == State.SENDING.value, queue.c.claim_expires_at <= now)
            .order_by(queue.c.message_id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        after = BEFORE_ALL
        while True:
            with self._database.write() as connection:
                ids = list(connection.execute(expired.where(queue.c.message_id > after)).scalars())
                taken = self._take_over(connection, claim, ids, now) if ids else []
            if taken or not ids:
                return taken
            after = ids[-1]

    def _take_over(self, connection: Connection, claim: Claim, ids: Sequence[int], now: datetime) -> list[ExpiredClaim]:
        """Claim messages; what the application has meanwhile sent, rejected or withdrawn leaves the queue."""
        open_ones = unfinished(connection, ids)
        free = self._without_locked(connection, ids)
        connection.execute(update(queue).where(queue.c.message_id.in_(free)).values(_claimed(claim)))
        loaded = self._load(connection, claim, free)
        gone = set(free) - {each.message_id for each in loaded}
        answers = {each: outcome_of(open_ones.get(each)) or PROCESS_DIED for each in gone}
        finish_attempts(
            connection, [Decision(each, Transition.released(), answer) for each, answer in answers.items()], now
        )
        connection.execute(delete(queue).where(queue.c.message_id.in_(gone)))
        return [lapsed(each, open_ones.get(each.message_id)) for each in loaded]

    def _without_locked(self, connection: Connection, ids: Sequence[int]) -> list[int]:
        """Leave out the messages whose rows another transaction has locked; no row at all is not locked."""
        if self._database.is_sqlite:
            return list(ids)
        m = self._database.messages.c
        there = select(m.id).where(id_in(m.id))
        all_rows = set(connection.execute(there, {"ids": list(ids)}).scalars())
        free = set(connection.execute(there.with_for_update(skip_locked=True), {"ids": list(ids)}).scalars())
        return [each for each in ids if each in free or each not in all_rows]


def _held_ones(connection: Connection, claim: Claim, settled: Sequence[Decision]) -> list[Decision]:
    ids = [each.message_id for each in settled]
    ours = set(connection.execute(HELD_IDS, {"ids": ids, "owner": claim.owner}).scalars())
    return [each for each in settled if each.message_id in ours]


def _claim(connection: Connection, claim: Claim, ids: Sequence[int]) -> None:
    if ids:
        connection.execute(CLAIM_THESE, {"ids": ids, "owner": claim.owner, "until": claim.expires_at})


def _claimed(claim: Claim) -> dict[str, object]:
    return {
        "state": State.SENDING.value,
        "claimed_by": claim.owner,
        "claim_expires_at": claim.expires_at,
    }
