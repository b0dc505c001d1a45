"""Claims and what comes of them. Each change names the state it expects, so that a late pass changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, Select, bindparam, case, delete, exists, func, or_, select, update

from retrycli.acts import no_such, not_free
from retrycli.message import Claim, Lane, Lapsed, MessageType, QueuedMessage, State, Status, UnusableMessage
from retrycli.outcome import LAPSED
from retrycli.policy import Recorded, Settled, Transition, as_written
from retrycli.schema import MOST, attempts, queue
from retrycli.store import picking
from retrycli.store.application import queued_of, row_by_row, rows_of, standings, status_of, word, write_messages
from retrycli.store.connecting import UNREAD
from retrycli.store.recording import (
    HELD_OF_THESE,
    NEXT_NUMBER,
    START_ATTEMPTS,
    UNDER_WAY,
    UNSETTLED_SINCE,
    finish_attempts,
    held,
    move,
    note_recipients,
    where_it_was,
)
from retrycli.store.these import among_ids
from retrycli.turns import Turns

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
    .where(among_ids(queue.c.message_id), row_by_row(queue.c.state == State.WAITING.value))
    .values(state=State.SENDING.value, claimed_by=bindparam("claimant"), claim_expires_at=bindparam("until"))
    .execution_options(**UNREAD)
)


class Claims:
    """The queue as a pass works on it.

    Args:
        database: where it is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def together(self) -> AbstractContextManager[None]:
        """Write all that is written inside in one transaction."""
        return self._database.together()

    def count_due(self, due_by: datetime) -> int:
        """How many messages are due."""
        statement = select(func.count()).select_from(queue).where(*is_due(due_by))
        with self._database.read() as connection:
            return connection.execute(statement).scalar_one()

    def any_due(self, due_by: datetime, lane: Lane) -> bool:
        """Whether any message of a lane is due."""
        statement = select(queue.c.message_id).where(*is_due(due_by), *self._in_lane(lane)).limit(1)
        with self._database.read() as connection:
            return connection.execute(statement).scalar() is not None

    def is_due(self, message_id: int, due_by: datetime) -> bool:
        """Whether a pass may claim this message."""
        statement = select(queue.c.message_id).where(queue.c.message_id == message_id, *is_due(due_by))
        with self._database.read() as connection:
            return connection.execute(statement).scalar() is not None

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: Turns | None = None, lane: Lane | None = None
    ) -> list[int]:
        """Claim due messages, the one that has waited longest first; their ids.

        Args:
            claim: who claims them, and until when.
            due_by: until when a message must have come due.
            limit: how many to look at.
            turns: whose turn it is among them; by default everybody's.
            lane: which messages; by default all.
        """
        due = select(queue.c.message_id, queue.c.ticket).where(*is_due(due_by), *self._in_lane(lane))
        if turns is not None and turns.in_order:
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
        self, claim: Claim, due_by: datetime, tickets: Collection[str], lane: Lane | None = None
    ) -> list[int]:
        """Claim of each ticket the first message that waits or is being sent, where it is due in a lane; their ids."""
        with self._database.write() as connection:
            firsts = [connection.execute(FIRST_OF_TICKET, {"of_ticket": each}).scalar() for each in sorted(tickets)]
            due = select(queue.c.message_id).where(
                queue.c.message_id.in_(firsts), row_by_row(*is_due(due_by)), *self._in_lane(lane)
            )
            ids = list(connection.execute(due.with_for_update(skip_locked=True)).scalars())
            _claim(connection, claim, ids)
            return ids

    def claim_probe(
        self, claim: Claim, due_by: datetime, since: datetime, lane: Lane | None = None, *, in_order: bool = False
    ) -> list[int]:
        """Claim one due message to probe with; its id, if there is one.

        Args:
            claim: who claims it, and until when.
            due_by: until when it must have come due.
            since: when the breaker opened; no message is a second probe while another has been none.
            lane: which messages; by default all.
            in_order: whether a ticket's messages keep their order.
        """
        return self._claim_one_of(claim, *picking.to_probe(self._due(due_by, lane, in_order=in_order), since))

    def claim_elsewhere(
        self,
        claim: Claim,
        due_by: datetime,
        tickets: Collection[str],
        lane: Lane | None = None,
        *,
        in_order: bool = False,
    ) -> list[int]:
        """Claim the message that came due last, of a ticket that is not among these; its id, if there is one."""
        return self._claim_one_of(claim, picking.elsewhere(self._due(due_by, lane, in_order=in_order), tickets))

    def _due(self, due_by: datetime, lane: Lane | None, *, in_order: bool) -> Select[Any]:
        due = select(queue.c.message_id).where(*is_due(due_by), *self._in_lane(lane))
        return due.where(~exists().where(*BEFORE_IT)) if in_order else due

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

    def _in_lane(self, lane: Lane | None) -> list[ColumnElement[bool]]:
        """What keeps other lanes' messages out; nothing where there is one lane."""
        m = self._database.messages.c

        # As a value for each row, and not by `exists`: for that a planner may go through the application's whole table.
        kind = select(m.message_type).where(m.id == queue.c.message_id).scalar_subquery()

        def is_of(types: Collection[MessageType]) -> ColumnElement[int]:
            return case((kind.in_([word(each) for each in sorted(types)]), 1), else_=0)

        but = [is_of(lane.but) == 0] if lane is not None and lane.but else []
        only = [is_of(lane.only) == 1] if lane is not None and lane.only is not None else []
        return but + only

    def renew(self, claim: Claim) -> None:
        """Hold all that this claim has not lost for longer: until its new time."""
        with self._database.write() as connection:
            mine = (queue.c.state == State.SENDING.value, queue.c.claimed_by == claim.claimant)
            connection.execute(update(queue).where(*mine).values(claim_expires_at=claim.expires_at))

    def claim_one(self, claim: Claim, message_id: int, now: datetime) -> bool:
        """Claim one message whatever its wait, also an escalated one.

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
            if (reason := not_free(standing, "retry", now)) is not None:
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
                .where(queue.c.message_id == bindparam("id"), *held(claim.claimant))
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
        probe: bool = False,
    ) -> list[QueuedMessage | UnusableMessage]:
        """Load claimed messages and write down an attempt for each one that is fit for it.

        What the application has meanwhile sent, rejected or taken back is dropped, and so is what this claim
        has lost.
        """
        with self._database.write() as connection:
            loaded = self._load(connection, claim, ids)
            if gone := set(ids) - {each.message_id for each in loaded}:
                connection.execute(delete(queue).where(queue.c.message_id.in_(gone), *held(claim.claimant)))
            started = [
                {
                    "message_id": each.message.id,
                    "number": each.attempt_number,
                    "waited_s": min(max(int((now - each.first_failed_at).total_seconds()), 0), MOST),
                }
                for each in loaded
                if isinstance(each, QueuedMessage) and fit(each)
            ]
            of_all = {"pass_id": pass_id, "made_by": made_by, "started_at": now, "probe": probe or None}
            START_ATTEMPTS.execute(connection, started, **of_all)
            return loaded

    def _load(self, connection: Connection, claim: Claim, ids: Sequence[int]) -> list[QueuedMessage | UnusableMessage]:
        found = connection.execute(self._held_messages, {"ids": ids, "claimant": claim.claimant})
        by_id = {row["id"]: row for row in rows_of(found)}
        return [queued_of(by_id[each]) for each in ids if each in by_id]

    # The statements of the innermost loop are put together once: that takes longer than to run them.

    @cached_property
    def _held_messages(self) -> Select[Any]:
        """Whole messages that are still failed, of a claim."""
        m = self._database.messages.c
        return (
            select(
                *m,
                queue.c.delivery_key.label("retrycli_delivery_key"),
                queue.c.first_failed_at.label("retrycli_first_failed_at"),
                queue.c.unknown_count.label("retrycli_unknown_count"),
                queue.c.delivered_to.label("retrycli_delivered_to"),
                NEXT_NUMBER.label("retrycli_attempt_number"),
                UNSETTLED_SINCE.label("retrycli_unsettled_since"),
            )
            .join_from(queue, self._database.messages, m.id == queue.c.message_id)
            .where(*HELD_OF_THESE, m.status == word(Status.FAILED))
        )

    @cached_property
    def _held_statuses(self) -> Select[Any]:
        """Messages of a claim, with the application's status."""
        m = self._database.messages.c
        return (
            select(queue.c.message_id, status_of(self._database))
            .join_from(queue, self._database.messages, m.id == queue.c.message_id)
            .where(*HELD_OF_THESE)
        )

    @cached_property
    def _locked(self) -> Select[Any]:
        return self._held_statuses.with_for_update()

    @cached_property
    def _locked_if_free(self) -> Select[Any]:
        return self._held_statuses.with_for_update(skip_locked=True)

    def record_answers(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> None:
        """Record the outcomes of attempts whose messages are not decided yet: these stay claimed.

        If the process dies before they are decided, the answers are known all the same.
        """
        held_ones = select(queue.c.message_id).where(*HELD_OF_THESE)
        ids = {"ids": [each.message_id for each in settled], "claimant": claim.claimant}
        with self._database.write() as connection:
            ours = set(connection.execute(held_ones, ids).scalars())
            finish_attempts(connection, [each for each in settled if each.message_id in ours], now)

    def record(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> Recorded:
        """Write down what came of claimed messages, in one transaction."""
        return self._record(claim, settled, now, wait=True)

    def record_free(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> Recorded:
        """The same, but for messages that the application holds just now: nobody waits for these."""
        return self._record(claim, settled, now, wait=False)

    def _record(self, claim: Claim, settled: Sequence[Settled], now: datetime, *, wait: bool) -> Recorded:
        ids = [each.message_id for each in settled]
        with self._database.write() as connection:
            locked = self._locked if wait else self._locked_if_free
            found = connection.execute(locked, {"ids": ids, "claimant": claim.claimant})
            status: dict[int, Any] = dict(found.all())
            unlocked: set[int] = set()
            if len(status) < len(ids):
                others = self._others(connection, claim, set(ids) - status.keys())
                unlocked = {each for each, is_there in others.items() if is_there}
                status |= dict.fromkeys(others.keys() - unlocked)
            ours = [each for each in settled if status.get(each.message_id) == Status.FAILED]
            taken_back = [each for each in settled if status.get(each.message_id, Status.FAILED) != Status.FAILED]
            refused = write_messages(self._database, connection, ours)
            if wait:  # then nobody holds these
                hidden = [each for each in settled if each.message_id in unlocked]
                refused |= {each.message_id: self._hidden for each in hidden if each.transition.changes_row}
                ours += hidden
            ours = as_written(ours, refused)
            note_recipients(connection, claim, ours)
            finish_attempts(connection, [*ours, *taken_back], now)
            move(connection, claim, ours, now)
            if taken_back:
                theirs = [each.message_id for each in taken_back]
                connection.execute(delete(queue).where(queue.c.message_id.in_(theirs), *held(claim.claimant)))
        not_ours = frozenset(ids) - {each.message_id for each in ours}
        return Recorded(not_ours - unlocked, not_ours & unlocked, refused)

    @property
    def _hidden(self) -> str:
        table = self._database.messages.fullname
        return f"its row can be read and not changed; see to the row-level policies of {table}"

    def _others(self, connection: Connection, claim: Claim, ids: Collection[int]) -> dict[int, bool]:
        """Which of these messages this claim holds, and whether they are there or the application has deleted them."""
        m = self._database.messages.c
        others = (
            select(queue.c.message_id, m.id)
            .join_from(queue, self._database.messages, m.id == queue.c.message_id, isouter=True)
            .where(queue.c.message_id.in_(ids), *held(claim.claimant))
        )
        return {each: its_row is not None for each, its_row in connection.execute(others).all()}

    def take_over_lapsed(self, claim: Claim, now: datetime, limit: int) -> list[Lapsed]:
        """Claim messages whose claim has lapsed, with the attempt that was under way, if any; none if none is left."""
        lapsed = (
            select(queue.c.message_id)
            .where(queue.c.state == State.SENDING.value, queue.c.claim_expires_at <= now)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        while True:
            with self._database.write() as connection:
                ids = list(connection.execute(lapsed).scalars())
                taken = self._take_over(connection, claim, ids, now) if ids else []
            if taken or not ids:
                return taken

    def _take_over(self, connection: Connection, claim: Claim, ids: Sequence[int], now: datetime) -> list[Lapsed]:
        """Claim messages; what the application has meanwhile sent, rejected or taken back is dropped."""
        connection.execute(update(queue).where(queue.c.message_id.in_(ids)).values(_claimed(claim)))
        loaded = self._load(connection, claim, ids)
        gone = set(ids) - {each.message_id for each in loaded}
        finish_attempts(connection, [Settled(each, Transition.released(), LAPSED) for each in gone], now)
        connection.execute(delete(queue).where(queue.c.message_id.in_(gone)))
        under_way = select(attempts.c.message_id, attempts.c.made_by).where(attempts.c.message_id.in_(ids), UNDER_WAY)
        made_by = dict(connection.execute(under_way).all())
        return [Lapsed(each, made_by.get(each.message_id)) for each in loaded]


def _claim(connection: Connection, claim: Claim, ids: Sequence[int]) -> None:
    if ids:
        connection.execute(CLAIM_THESE, {"ids": ids, "claimant": claim.claimant, "until": claim.expires_at})


def _claimed(claim: Claim) -> dict[str, object]:
    return {
        "state": State.SENDING.value,
        "claimed_by": claim.claimant,
        "claim_expires_at": claim.expires_at,
    }
