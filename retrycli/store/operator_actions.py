"""Perform operators' actions on messages. A message that is no longer in the expected state is left unchanged."""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from types import MappingProxyType
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, bindparam, func, insert, select, update

from retrycli.domain.errors import NotActionable, RetrycliError, again_if_lost
from retrycli.domain.message import Message, MessageStatus
from retrycli.domain.operator_action import OperatorAction, not_taken, refusal, stale
from retrycli.domain.transition import ActionKind, Decision, Transition
from retrycli.store.action_changes import (
    FREE,
    NEW,
    change_queue,
    escalate_unwritten,
    first_failures,
    invalid,
    rejected_by_us,
    take_back,
)
from retrycli.store.bulk import id_in
from retrycli.store.database import Queries
from retrycli.store.error_messages import IN_THE_WAY
from retrycli.store.history import act_values, require_free, standings
from retrycli.store.identity import BIRTH, OWN, birth_text, identity_values, is_the_queues, load, with_queue
from retrycli.store.messages import ESCALATED, RowState, has_status, message_of, row_by_row, rows_of, visible
from retrycli.store.row_changes import ALL_WRITTEN, write_text
from retrycli.store.schema import acts, attempts, queue
from retrycli.store.transitions import seen_values

GUARDS: Mapping[ActionKind, tuple[ColumnElement[bool], ...]] = {
    ActionKind.EDITED: (FREE,),
    ActionKind.REJECTED: (FREE,),
    ActionKind.REQUEUED: (ESCALATED, FREE),
    ActionKind.ACKNOWLEDGED: (ESCALATED, NEW),
    ActionKind.NOTED: (ESCALATED,),
    ActionKind.MARKED_SENT: (FREE,),
}

LAST_ATTEMPTS = (
    select(attempts.c.message_id, func.max(attempts.c.number))
    .where(id_in(attempts.c.message_id))
    .group_by(attempts.c.message_id)
)

# Actions on failed messages that are not being sent, even if they are not in the queue yet.
OF_ANY_FAILED = frozenset({ActionKind.REJECTED, ActionKind.MARKED_SENT})

# Actions of `Acts.perform` that change the application's rows. They skip locked rows.
CHANGE_ROWS = OF_ANY_FAILED | {ActionKind.REQUEUED}


@dataclass(frozen=True, slots=True)
class Performed:
    """The messages for which an action failed."""

    # Messages that were locked, or not in the expected state. `Acts.why_not` returns the reasons.
    lost: AbstractSet[int]
    refused: Mapping[int, str]  # messages whose rows rejected the change, with the reasons
    unfit: Mapping[int, str]  # messages that can't be sent in their present form, with the reasons


class Acts(Queries):
    """Perform operators' actions on failed messages."""

    def read(self, ids: Collection[int]) -> list[Message]:
        """Read messages with their bodies. Leave out rows that are not valid messages."""
        m = self._database.messages
        with self._database.read() as connection:
            rows = rows_of(connection.execute(select(*visible(m)).where(id_in(m.c.id)), {"ids": list(ids)}))
        return [message for message in map(message_of, rows) if isinstance(message, Message)]

    def first_failures(self, ids: Collection[int]) -> dict[int, datetime]:
        """Return when messages first failed, by id. Leave out messages without an attempt that shows the time."""
        with self._database.read() as connection:
            return first_failures(self._database, connection, ids)

    def perform(
        self, kind: ActionKind, wanted: Mapping[int, OperatorAction], problems: Mapping[int, str] = MappingProxyType({})
    ) -> Performed:
        """Perform one kind of action on messages, and record it, in one transaction. Leave messages unchanged that
        can't be sent in their present form, for the reasons in ``problems``.
        """
        if kind is ActionKind.REJECTED and MessageStatus.REJECTED not in self._database.table.literals:
            raise NotActionable(
                "messages can't be rejected, because database.status.rejected is not set; set it to the table's value "
                "for rejected messages. Nothing was written"
            )
        return again_if_lost(lambda: self._perform(kind, wanted, problems))

    def _perform(
        self, kind: ActionKind, wanted: Mapping[int, OperatorAction], problems: Mapping[int, str]
    ) -> Performed:
        with self._database.write() as connection:
            rejected = self._rejected(connection, wanted) if kind is ActionKind.REQUEUED else {}
            able = {message_id: wanted[message_id] for message_id in (*self._lock(connection, kind, wanted), *rejected)}
            unfit = invalid(self._database, connection, able) if kind is ActionKind.REQUEUED else {}
            unfit = {message_id: why for message_id, why in {**problems, **unfit}.items() if message_id in able}
            able = {message_id: act for message_id, act in able.items() if message_id not in unfit}
            restored = {message_id: act for message_id, act in able.items() if message_id in rejected}
            failed = {message_id: act for message_id, act in able.items() if message_id not in rejected}
            written = change_queue(self._database, connection, kind, failed) if failed else ALL_WRITTEN
            taken = take_back(self._database, connection, rejected, restored) if restored else ALL_WRITTEN
            locked = {*written.locked, *taken.locked}
            able = {message_id: act for message_id, act in able.items() if message_id not in locked}
            refused = {**written.refused, **taken.refused}
            # The actions to record. An operator's statement that a message was delivered is recorded even if the row
            # rejects the change.
            done = {
                message_id: act
                for message_id, act in able.items()
                if message_id not in refused or kind is ActionKind.MARKED_SENT
            }
            _record_actions(connection, done)
            if kind in OF_ANY_FAILED and refused:
                escalate_unwritten(self._database, connection, {message_id: able[message_id] for message_id in refused})
        return Performed(wanted.keys() - able.keys() - unfit.keys(), refused, unfit)

    def _rejected(self, connection: Connection, wanted: Mapping[int, OperatorAction]) -> dict[int, Mapping[str, Any]]:
        if not rejected_by_us(self._database, connection, wanted):
            return {}
        self._database.advisory_lock(connection)  # no pass enrols these messages until the transaction ends
        return rejected_by_us(self._database, connection, wanted)

    def _lock(self, connection: Connection, kind: ActionKind, ids: Collection[int]) -> list[int]:
        """Lock the rows to which an action applies, and return their ids. The locks last until the transaction ends."""
        parameters = {"ids": list(ids)}
        if kind in OF_ANY_FAILED:
            # No pass may enrol and claim these messages during the action. A pass that waits for the advisory lock may
            # hold row locks, so locked rows are skipped, which avoids a deadlock.
            self._database.advisory_lock(connection)
        rows = rows_of(connection.execute(self._enrolled[kind], parameters))
        unknown = connection.execute(self._unknown, parameters).scalars() if kind in OF_ANY_FAILED else ()
        return [*(row["id"] for row in rows if is_the_queues(row)), *unknown]

    @cached_property
    def _enrolled(self) -> dict[ActionKind, Select[Any]]:
        # Queries, by kind of action, that lock and return the queued messages to which the action applies.
        m = self._database.messages
        births = birth_text(m).label(BIRTH), queue.c.birth.label(OWN + "queue_birth")
        failed = (
            select(m.c.id, *births)
            .join_from(m, queue, queue.c.message_id == m.c.id)
            .where(m.c.id.in_(bindparam("ids", expanding=True)), has_status(m.c, MessageStatus.FAILED))
            .order_by(m.c.id)
        )
        return {
            kind: failed.where(row_by_row(*guards)).with_for_update(skip_locked=kind in CHANGE_ROWS)
            for kind, guards in GUARDS.items()
        }

    @cached_property
    def _unknown(self) -> Select[Any]:
        # A query that locks and returns failed messages that are not in the queue.
        m = self._database.messages
        unknown = ~select(queue.c.message_id).where(queue.c.message_id == m.c.id).exists()
        failed = m.c.id.in_(bindparam("ids", expanding=True)), has_status(m.c, MessageStatus.FAILED)
        return select(m.c.id).where(*failed, unknown).order_by(m.c.id).with_for_update(skip_locked=True)

    def write_down(self, done: Mapping[int, OperatorAction]) -> None:
        """Record actions, by message id, that do not change the application's rows."""
        with self._database.write() as connection:
            _record_actions(connection, done)

    def why_not(self, kind: ActionKind, ids: Collection[int], now: datetime) -> dict[int, RetrycliError]:
        """Return why an action does not apply to messages, by id."""
        with self._database.read() as connection:
            found = standings(self._database, connection, ids)
        return {message_id: refusal(kind, message_id, found.get(message_id), now) for message_id in sorted(ids)}

    def edit(
        self, message_id: int, act: OperatorAction, *, read: Mapping[str, object], changes: Mapping[str, str]
    ) -> None:
        """Change a message's text. The new text gets a new delivery key.

        Args:
            message_id: a message in the queue.
            act: the action to record.
            read: the values before the edit, as they were read, by column.
            changes: the new values by column.

        Raises:
            NoSuchMessage: the row no longer exists.
            StaleEdit: a value has changed since it was read.
            NotActionable: the message is not failed or is being sent, or its row can't store the new text.
        """
        if fixed := sorted(changes.keys() - self._database.table.names.keys()):
            raise NotActionable(
                f"the {fixed[0]} of message {message_id} can't be edited, because database.columns.{fixed[0]} is not a "
                "plain column; nothing was written"
            )
        again_if_lost(lambda: self._edit(message_id, act, read, changes))

    def _edit(
        self, message_id: int, act: OperatorAction, read: Mapping[str, object], changes: Mapping[str, str]
    ) -> None:
        m = self._database.messages
        # This query locks the row. Values are compared in Python, because invalid UTF-8 and bytes can be read, but not
        # passed as parameters.
        current = (
            select(m.c.id, *(m.c[name] for name in read))
            .join_from(m, queue, queue.c.message_id == m.c.id)
            .where(m.c.id == message_id, has_status(m.c, MessageStatus.FAILED), FREE)
            .with_for_update()
        )
        with self._database.write() as connection:
            row = connection.execute(current).mappings().one_or_none()
            if row is None:
                standing = standings(self._database, connection, [message_id]).get(message_id)
                raise refusal(ActionKind.EDITED, message_id, standing, act.at)
            if any(row[name] != value for name, value in read.items()):
                raise stale(message_id)
            self._check_room(connection, message_id, changes)
            written = write_text(self._database, connection, message_id, changes)
            if message_id in written.unchanged:
                raise not_taken(message_id, written.refused.get(message_id, IN_THE_WAY))
            # If the message is escalated, store the new state of its row. Otherwise the next pass would treat the edit
            # as a change by the application, and might make the message wait again.
            self._remember(connection, message_id, ESCALATED, written.rows.get(message_id))
            _record_actions(connection, {message_id: act})

    def _remember(
        self, connection: Connection, message_id: int, which: ColumnElement[bool], row: RowState | None = None
    ) -> None:
        """Store the current identity of a message and the given state of its row (None clears the state), if its queue
        row meets a condition.
        """
        this = queue.c.message_id == message_id
        found = connection.execute(with_queue(self._database).where(this, which))
        for message in load(connection, found, [message_id]):
            now = Decision(message_id, Transition.released(), message=message)
            values = {**identity_values(now), **seen_values(row)}
            connection.execute(update(queue).where(this).values(values))

    def _check_room(self, connection: Connection, message_id: int, changes: Mapping[str, str]) -> None:
        for name, new in changes.items():
            room = self._database.max_length(name)
            if room is not None and len(new) > room:
                raise NotActionable(
                    f"message {message_id} can't have a {name} of {len(new):,} characters, because its column "
                    f"holds only {room:,}; nothing was written"
                )
        if lacking := self._database.unencodable(connection, "".join(changes.values())):
            raise NotActionable(
                f"message {message_id}: the database's encoding can't represent these characters: {' '.join(lacking)}; "
                "remove them. Nothing was written"
            )

    def check_editable(self, message_id: int, now: datetime) -> bool:
        """Check that a message may be edited. Return whether it is in the queue.

        Raises:
            NoSuchMessage: the application's table has no such row.
            NotActionable: the message is not failed, or is being sent.
        """
        with self._database.read() as connection:
            return require_free(self._database, connection, message_id, "edit", now).state is not None


def _record_actions(connection: Connection, done: Mapping[int, OperatorAction]) -> None:
    if not done:
        return
    requeued = [message_id for message_id, act in done.items() if act.kind is ActionKind.REQUEUED]
    made = dict(connection.execute(LAST_ATTEMPTS, {"ids": requeued}).all()) if requeued else {}
    rows: list[dict[str, Any]] = [
        {
            **act_values(act),
            "message_id": message_id,
            # Store the number of the last attempt before the requeue. Times can't show which attempts came before the
            # requeue, because hosts' clocks differ.
            "attempts": made.get(message_id, 0) if act.kind is ActionKind.REQUEUED else None,
        }
        for message_id, act in done.items()
    ]
    connection.execute(insert(acts), rows)
