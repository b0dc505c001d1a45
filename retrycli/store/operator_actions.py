"""Operators' actions on messages. Each change names the state it expects, so that a late action changes nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any, assert_never

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, func, insert, select, update

from retrycli.domain.errors import RetrycliError, again_if_lost
from retrycli.domain.message import Message, MessageStatus, State, UnusableMessage
from retrycli.domain.operator_action import ActionKind, OperatorAction, refusal
from retrycli.domain.row_parsing import ticket_text
from retrycli.domain.transition import Decision, Transition
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.enrolment import DECIDING_COLUMNS
from retrycli.store.history import act_values
from retrycli.store.identity import BIRTH, OWN, birth_text, is_the_queues, provisional_key
from retrycli.store.marking import mark_delivered
from retrycli.store.messages import columns_without_body, message_of, row_by_row, rows_of, standings, status_text
from retrycli.store.rejected import first_failures, rejected_by_us, take_back
from retrycli.store.row_changes import ALL_WRITTEN, Written, reject_messages, reset_retry_counts
from retrycli.store.schema import acts, attempts, escalations, queue
from retrycli.store.transitions import NOT_ESCALATED, escalate

OF_ID = queue.c.message_id == bindparam("of_id")
FREE = queue.c.state != State.SENDING.value
ESCALATED = queue.c.state == State.ESCALATED.value
NEW = queue.c.acknowledged_at.is_(None)
GUARDS: Mapping[ActionKind, tuple[ColumnElement[bool], ...]] = {
    ActionKind.EDITED: (FREE,),
    ActionKind.REJECTED: (FREE,),
    ActionKind.REQUEUED: (ESCALATED,),
    ActionKind.ACKNOWLEDGED: (ESCALATED, NEW),
    ActionKind.NOTED: (ESCALATED,),
    ActionKind.MARKED_SENT: (FREE,),
}
"""Conditions on the queue row for each kind of action."""

REQUEUE = (
    update(queue).where(OF_ID, ESCALATED).values(**NOT_ESCALATED, unknown_count=0, next_attempt_at=bindparam("due"))
)
FORGET_ESCALATIONS = delete(escalations).where(
    escalations.c.delivery_key.in_(select(queue.c.delivery_key).where(id_in(queue.c.message_id)))
)
KNOWN = select(queue.c.message_id).where(id_in(queue.c.message_id))
WAITING = select(queue.c.message_id).where(id_in(queue.c.message_id), row_by_row(queue.c.state == State.WAITING.value))
LAST_ATTEMPTS = (
    select(attempts.c.message_id, func.max(attempts.c.number))
    .where(id_in(attempts.c.message_id))
    .group_by(attempts.c.message_id)
)
ACKNOWLEDGE = (
    update(queue)
    .where(OF_ID, ESCALATED, NEW)
    .values(acknowledged_by=bindparam("name"), acknowledged_at=bindparam("at"))
)
NOTE = update(queue).where(OF_ID, ESCALATED).values(note=bindparam("text"))
LEAVE = delete(queue).where(OF_ID, FREE)
OF_ANY_FAILED = frozenset({ActionKind.REJECTED, ActionKind.MARKED_SENT})
"""Actions on failed messages in any state, even if the queue does not know them yet."""
CHANGE_ROWS = OF_ANY_FAILED | {ActionKind.REQUEUED}
"""Actions that change the application's rows. They skip locked rows."""
NONE: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Performed:
    """Result of an action."""

    lost: AbstractSet[int]
    """Messages in another state or locked: nothing was changed. `Acts.why_not` tells the reasons."""
    refused: Mapping[int, str]
    """Messages whose rows refused the change, and why."""
    unfit: Mapping[int, str]
    """Messages that can't be sent as they are, and why: nothing was changed."""


class Acts:
    """Perform operators' actions on failed messages.

    Args:
        database: holds the queue and the application's table.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def read(self, ids: Collection[int]) -> list[Message]:
        """Read whole messages; leave out rows that are not valid messages."""
        m = self._database.messages
        with self._database.read() as connection:
            rows = rows_of(connection.execute(select(m).where(id_in(m.c.id)), {"ids": list(ids)}))
        return [message for message in map(message_of, rows) if isinstance(message, Message)]

    def first_failures(self, ids: Collection[int]) -> dict[int, datetime]:
        """Return when messages first failed, by id, as far as their attempts show."""
        with self._database.read() as connection:
            return first_failures(self._database, connection, ids)

    def perform(
        self, kind: ActionKind, wanted: Mapping[int, OperatorAction], problems: Mapping[int, str] = NONE
    ) -> Performed:
        """Perform one kind of action on messages, and record it, in one transaction.

        Args:
            kind: the kind of action.
            wanted: the action to record, by message id.
            problems: messages that can't be sent as they are, and why: they are left unchanged.
        """
        return again_if_lost(lambda: self._perform(kind, wanted, problems))

    def _perform(
        self, kind: ActionKind, wanted: Mapping[int, OperatorAction], problems: Mapping[int, str]
    ) -> Performed:
        with self._database.write() as connection:
            rejected = self._rejected(connection, wanted) if kind is ActionKind.REQUEUED else {}
            able = {message_id: wanted[message_id] for message_id in (*self._lock(connection, kind, wanted), *rejected)}
            unfit = self._invalid(connection, able) if kind is ActionKind.REQUEUED else {}
            unfit |= {
                message_id: why
                for message_id, why in problems.items()
                if message_id in able and message_id not in unfit
            }
            able = {message_id: act for message_id, act in able.items() if message_id not in unfit}
            back = {message_id: act for message_id, act in able.items() if message_id in rejected}
            there = {message_id: act for message_id, act in able.items() if message_id not in rejected}
            written = self._change(connection, kind, there) if there else ALL_WRITTEN
            taken = take_back(self._database, connection, rejected, back) if back else ALL_WRITTEN
            held = {*written.locked, *taken.locked}
            able = {message_id: act for message_id, act in able.items() if message_id not in held}
            refused = {**written.refused, **taken.refused}
            # An operator's statement that a message has arrived holds, even if its row refuses the change.
            done = {
                message_id: act
                for message_id, act in able.items()
                if message_id not in refused or kind is ActionKind.MARKED_SENT
            }
            record_actions(connection, done)
            if kind in OF_ANY_FAILED and refused:
                self._escalate_unwritten(connection, {message_id: able[message_id] for message_id in refused})
        return Performed(wanted.keys() - able.keys() - unfit.keys(), refused, unfit)

    def _rejected(self, connection: Connection, wanted: Mapping[int, OperatorAction]) -> dict[int, Mapping[str, Any]]:
        """Read the messages that retrycli rejected. No pass enrols them until the transaction ends."""
        if not rejected_by_us(self._database, connection, wanted):
            return {}
        self._database.advisory_lock(connection)
        return rejected_by_us(self._database, connection, wanted)

    def _invalid(self, connection: Connection, ids: Collection[int]) -> dict[int, str]:
        """Return the rows that are not valid messages, and why. Their bodies are not read."""
        columns = [column for column in columns_without_body(self._database) if column.name in DECIDING_COLUMNS]
        rows = rows_of(
            connection.execute(select(*columns).where(id_in(self._database.messages.c.id)), {"ids": list(ids)})
        )
        checked = map(message_of, rows if ids else ())
        return {message.message_id: message.problem for message in checked if isinstance(message, UnusableMessage)}

    def _change(self, connection: Connection, kind: ActionKind, able: Mapping[int, OperatorAction]) -> Written:
        match kind:
            case ActionKind.REQUEUED:
                written = reset_retry_counts(self._database, connection, able)
                rows: list[dict[str, Any]] = [
                    {"of_id": message_id, "due": able[message_id].due} for message_id in able.keys() - written.unchanged
                ]
                if rows:
                    # The next escalation is notified again.
                    connection.execute(FORGET_ESCALATIONS, {"ids": [row["of_id"] for row in rows]})
                    connection.execute(REQUEUE, rows)
                return written
            case ActionKind.REJECTED:
                errors = {message_id: act.last_error for message_id, act in able.items()}
                written = reject_messages(self._database, connection, errors)
                self._dequeue(connection, able.keys() - written.unchanged)
                return written
            case ActionKind.MARKED_SENT:
                enrolled = self._enrol_unknown(connection, able)
                written = mark_delivered(self._database, connection, able)
                # A message whose row is locked returns to its former state.
                self._dequeue(connection, (able.keys() - written.unchanged) | (enrolled & set(written.locked)))
                return written
            case ActionKind.ACKNOWLEDGED:
                connection.execute(
                    ACKNOWLEDGE,
                    [{"of_id": message_id, "name": act.by, "at": act.at} for message_id, act in able.items()],
                )
            case ActionKind.NOTED:
                connection.execute(NOTE, [{"of_id": message_id, "text": act.note} for message_id, act in able.items()])
            case ActionKind.EDITED | ActionKind.LOOKED_UP | ActionKind.PAUSED | ActionKind.RESUMED:
                raise AssertionError(f"a message is not {kind} by `perform`")
            case _:
                assert_never(kind)
        return ALL_WRITTEN

    def _dequeue(self, connection: Connection, ids: Collection[int]) -> None:
        if ids:
            connection.execute(LEAVE, [{"of_id": message_id} for message_id in ids])

    def _escalate_unwritten(self, connection: Connection, acts: Mapping[int, OperatorAction]) -> None:
        """Escalate finished messages whose rows refused the change: a pass would send them."""
        self._enrol_unknown(connection, acts)
        at = max(act.at for act in acts.values())
        waiting = connection.execute(WAITING, {"ids": list(acts)}).scalars()
        escalate(
            self._database, connection, [Decision(message_id, Transition.unwritten()) for message_id in waiting], at
        )

    def _enrol_unknown(self, connection: Connection, acts: Mapping[int, OperatorAction]) -> set[int]:
        """Enrol the messages that the queue does not know, and return their ids."""
        m = self._database.messages.c
        these = {"ids": list(acts)}
        known = set(connection.execute(KNOWN, these).scalars())
        tickets = connection.execute(select(m.id, m.ticket_id).where(id_in(m.id)), these).all()
        unknown: list[dict[str, Any]] = [
            {
                "message_id": message_id,
                "state": State.WAITING,
                "delivery_key": provisional_key(message_id, "", acts[message_id].at),
                "first_failed_at": acts[message_id].at,
                "unknown_count": 0,
                "ticket": ticket_text(ticket),
            }
            for message_id, ticket in tickets
            if message_id not in known
        ]
        if unknown:
            connection.execute(insert(queue), unknown)
        return {row["message_id"] for row in unknown}

    def _lock(self, connection: Connection, kind: ActionKind, ids: Collection[int]) -> list[int]:
        """Return the ids that an action applies to; their rows stay locked until the transaction ends."""
        these = {"ids": list(ids)}

        def enrolled() -> list[int]:
            rows = rows_of(connection.execute(self._enrolled[kind], these))
            return [row["id"] for row in rows if is_the_queues(row)]

        if kind not in OF_ANY_FAILED:
            return enrolled()
        # Unknown messages must not be enrolled and claimed meanwhile. A pass may hold row locks while it waits for this
        # lock, so locked rows are skipped.
        self._database.advisory_lock(connection)
        return [*enrolled(), *connection.execute(self._unknown, these).scalars()]

    @cached_property
    def _enrolled(self) -> dict[ActionKind, Select[Any]]:
        """Build for each kind of action the query that locks the messages it applies to."""
        m = self._database.messages
        births = birth_text(m).label(BIRTH), queue.c.birth.label(OWN + "queue_birth")
        joined = select(m.c.id, *births).join_from(m, queue, queue.c.message_id == m.c.id).where(*self._these_failed)
        ordered = joined.order_by(m.c.id)
        return {
            kind: ordered.where(row_by_row(*guards)).with_for_update(skip_locked=kind in CHANGE_ROWS)
            for kind, guards in GUARDS.items()
        }

    @cached_property
    def _unknown(self) -> Select[Any]:
        """Build the query that locks failed messages that the queue does not know."""
        m = self._database.messages
        unknown = ~select(queue.c.message_id).where(queue.c.message_id == m.c.id).exists()
        return select(m.c.id).where(*self._these_failed, unknown).order_by(m.c.id).with_for_update(skip_locked=True)

    @property
    def _these_failed(self) -> tuple[ColumnElement[bool], ...]:
        m = self._database.messages.c
        return m.id.in_(bindparam("ids", expanding=True)), m.status == status_text(MessageStatus.FAILED)

    def write_down(self, done: Mapping[int, OperatorAction]) -> None:
        """Record actions that change no row, by message id."""
        with self._database.write() as connection:
            record_actions(connection, done)

    def why_not(self, kind: ActionKind, ids: Collection[int], now: datetime) -> dict[int, RetrycliError]:
        """Return why an action does not apply to messages, by id."""
        with self._database.read() as connection:
            return self._why_not(connection, kind, ids, now)

    def _why_not(
        self, connection: Connection, kind: ActionKind, ids: Collection[int], now: datetime
    ) -> dict[int, RetrycliError]:
        found = standings(self._database, connection, ids)
        return {message_id: refusal(kind, message_id, found.get(message_id), now) for message_id in sorted(ids)}


def record_actions(connection: Connection, done: Mapping[int, OperatorAction]) -> None:
    """Record actions in the history, by message id."""
    if not done:
        return
    requeued = [message_id for message_id, act in done.items() if act.kind is ActionKind.REQUEUED]
    made = dict(connection.execute(LAST_ATTEMPTS, {"ids": requeued}).all()) if requeued else {}
    rows: list[dict[str, Any]] = [
        {
            **act_values(act),
            "message_id": message_id,
            # By number and not by time, because hosts' clocks differ.
            "attempts": made.get(message_id, 0) if act.kind is ActionKind.REQUEUED else None,
        }
        for message_id, act in done.items()
    ]
    connection.execute(insert(acts), rows)
