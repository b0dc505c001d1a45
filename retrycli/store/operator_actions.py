"""Perform operators' actions on messages. A message that is no longer in the expected state is left unchanged, so
an action that comes too late changes nothing.
"""

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from types import MappingProxyType
from typing import Any, assert_never

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    delete,
    func,
    insert,
    or_,
    select,
    union,
    update,
)

from retrycli.domain.errors import InvalidMessage, NotActionable, RetrycliError, again_if_lost
from retrycli.domain.identity import TEXT_COLUMNS, digest_of
from retrycli.domain.message import Message, MessageStatus, QueuedMessage, State, UnusableMessage, utc_time
from retrycli.domain.operator_action import OperatorAction, not_taken, refusal, stale
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import OF_HOLDS, ActionKind, Decision, Transition, as_written
from retrycli.store.bulk import id_in
from retrycli.store.database import Database, Queries
from retrycli.store.enrolment import DECIDING_COLUMNS
from retrycli.store.error_messages import IN_THE_WAY
from retrycli.store.history import UNSETTLED, act_values, require_free, standings
from retrycli.store.identity import (
    BIRTH,
    OWN,
    QUEUED,
    birth_text,
    identity_values,
    is_same,
    is_the_queues,
    load,
    with_queue,
)
from retrycli.store.messages import (
    ESCALATED,
    columns_without_body,
    has_status,
    message_of,
    queued_ids,
    row_by_row,
    rows_of,
    updated_at_text,
    visible,
)
from retrycli.store.results import finish_attempts, start_attempts
from retrycli.store.row_changes import ALL_WRITTEN, Written, reset_retry_counts, set_status, write_messages, write_text
from retrycli.store.schema import acts, attempts, escalations, queue
from retrycli.store.transitions import NOT_ESCALATED, escalate, seen_values, waiting_row

OF_ID = queue.c.message_id == bindparam("of_id")
FREE = queue.c.state != State.SENDING.value
NEW = queue.c.acknowledged_at.is_(None)
REQUEUE = (
    update(queue).where(OF_ID, ESCALATED).values(**NOT_ESCALATED, unknown_count=0, next_attempt_at=bindparam("due"))
)
FORGET_ESCALATIONS = delete(escalations).where(
    escalations.c.delivery_key.in_(select(queue.c.delivery_key).where(id_in(queue.c.message_id)))
)
WAITING = select(queue.c.message_id).where(id_in(queue.c.message_id), row_by_row(queue.c.state == State.WAITING.value))
ACKNOWLEDGE = (
    update(queue)
    .where(OF_ID, ESCALATED, NEW)
    .values(acknowledged_by=bindparam("name"), acknowledged_at=bindparam("at"))
)
NOTE = update(queue).where(OF_ID, ESCALATED).values(note=bindparam("text"))
LEAVE = delete(queue).where(OF_ID, FREE)


def change_queue(
    database: Database, connection: Connection, kind: ActionKind, able: Mapping[int, OperatorAction]
) -> Written:
    """Apply one kind of action to messages. Return which rows are unchanged because they are locked or reject it."""
    match kind:
        case ActionKind.REQUEUED:
            written = reset_retry_counts(database, connection, able)
            rows: list[dict[str, Any]] = [
                {"of_id": message_id, "due": able[message_id].due} for message_id in able.keys() - written.unchanged
            ]
            if rows:
                # Forget the earlier escalations, so that operators are notified if the message is escalated again.
                connection.execute(FORGET_ESCALATIONS, {"ids": [row["of_id"] for row in rows]})
                connection.execute(REQUEUE, rows)
            return written
        case ActionKind.REJECTED:
            errors = {message_id: act.last_error for message_id, act in able.items()}
            before, after = MessageStatus.FAILED, MessageStatus.REJECTED
            written = set_status(database, connection, errors, before=before, after=after)
            _dequeue(connection, able.keys() - written.unchanged)
            return written
        case ActionKind.MARKED_SENT:
            enrolled = _enrol_unknown(database, connection, able)
            written = _mark_delivered(database, connection, able)
            # A message that was enrolled only for this action leaves the queue again if its row is locked.
            _dequeue(connection, (able.keys() - written.unchanged) | (enrolled & set(written.locked)))
            return written
        case ActionKind.ACKNOWLEDGED:
            connection.execute(
                ACKNOWLEDGE, [{"of_id": message_id, "name": act.by, "at": act.at} for message_id, act in able.items()]
            )
        case ActionKind.NOTED:
            connection.execute(NOTE, [{"of_id": message_id, "text": act.note} for message_id, act in able.items()])
        case ActionKind.EDITED | ActionKind.LOOKED_UP | ActionKind.PAUSED | ActionKind.HELD | ActionKind.RESUMED:
            raise AssertionError(f"`perform` does not support the action {kind}")
        case _:
            assert_never(kind)
    return ALL_WRITTEN


def _dequeue(connection: Connection, ids: Collection[int]) -> None:
    if ids:
        connection.execute(LEAVE, [{"of_id": message_id} for message_id in ids])


def escalate_unwritten(database: Database, connection: Connection, acts: Mapping[int, OperatorAction]) -> None:
    """Escalate messages whose rows could not be marked as rejected or sent, so that no pass sends them."""
    _enrol_unknown(database, connection, acts)
    waiting = connection.execute(WAITING, {"ids": list(acts)}).scalars()
    decisions = [Decision(message_id, Transition.unwritten()) for message_id in waiting]
    escalate(database, connection, decisions, max(act.at for act in acts.values()))


def _enrol_unknown(database: Database, connection: Connection, acts: Mapping[int, OperatorAction]) -> set[int]:
    m = database.messages
    known = queued_ids(connection, acts)
    found = connection.execute(
        select(m.c.id, m.c.ticket_id, birth_text(m)).where(id_in(m.c.id)), {"ids": list(acts)}
    ).all()
    unknown = [
        waiting_row(message_id, ticket, as_utf8(birth), first_failed_at=acts[message_id].at, now=acts[message_id].at)
        for message_id, ticket, birth in found
        if message_id not in known
    ]
    if unknown:
        connection.execute(insert(queue), unknown)
    return {row["message_id"] for row in unknown}


STATED = Outcome(OutcomeKind.DELIVERED, error="stated by an operator")


def _mark_delivered(database: Database, connection: Connection, acts: Mapping[int, OperatorAction]) -> Written:
    """Record messages as delivered because an operator confirmed the delivery, and mark their rows as sent. Record an
    attempt even if the row rejects the change, so that no pass sends the text again, but none if the row is locked.
    """
    found = connection.execute(with_queue(database).where(id_in(queue.c.message_id)), {"ids": list(acts)})
    decisions = [
        Decision(message.message_id, Transition.delivered(), STATED, None, acts[message.message_id].at, message)
        for message in load(connection, found, list(acts))
    ]
    written = write_messages(database, connection, decisions)
    stated = [decision for decision in decisions if decision.message_id not in written.locked]

    def recorder(decision: Decision) -> tuple[str, datetime]:
        return acts[decision.message_id].by, acts[decision.message_id].at

    for (by, at), some in groupby(as_written(stated, written.refused), recorder):
        recorded = list(some)
        sendable = [decision.message for decision in recorded if isinstance(decision.message, QueuedMessage)]
        start_attempts(connection, sendable, made_by=by, now=at)
        finish_attempts(connection, recorded, at)
    return written


LAST_ACTS = (
    select(func.max(acts.c.id))
    .where(id_in(acts.c.message_id), row_by_row(acts.c.act.not_in(sorted(OF_HOLDS))))
    .group_by(acts.c.message_id)
)
REJECTIONS = select(acts.c.message_id, acts.c.by, acts.c.detail, acts.c.at).where(
    acts.c.id.in_(LAST_ACTS), acts.c.act == ActionKind.REJECTED.value
)

Row = Mapping[str, Any]


def rejected_by_us(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, Row]:
    """Lock and return the rows, by id, of messages that are unchanged since `retrycli reject` rejected them: they still
    have the status rejected and the error that retrycli wrote, which differs if the id now belongs to another message.
    Messages with a later action, queued messages and locked rows are left out.
    """
    by_us = {
        row.message_id: OperatorAction.rejected(row.detail, by=row.by, at=row.at).last_error or ""
        for row in (connection.execute(REJECTIONS, {"ids": list(ids)}) if ids else ())
    }
    if not by_us:
        return {}
    m = database.messages
    rejected = (
        select(m.c.id, m.c.ticket_id, m.c.last_error, birth_text(m).label(BIRTH))
        .where(id_in(m.c.id), has_status(m.c, MessageStatus.REJECTED))
        .with_for_update(skip_locked=True)
    )
    known = queued_ids(connection, ids)
    rows = rows_of(connection.execute(rejected, {"ids": list(by_us)}))
    return {row["id"]: row for row in rows if row["id"] not in known and _is_ours(row["last_error"], by_us[row["id"]])}


def first_failures(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, datetime]:
    """Return when messages first failed, by id, calculated from the waiting times that their attempts recorded."""
    m = database.messages
    a = attempts.c
    statement = (
        select(m.c.id, m.c.ticket_id, birth_text(m).label(BIRTH), a.birth, a.ticket, a.started_at, a.waited_s)
        .join_from(m, attempts, a.message_id == m.c.id)
        .where(id_in(m.c.id), a.waited_s.is_not(None))
    )
    found: dict[int, datetime] = {}
    rows = rows_of(connection.execute(statement, {"ids": list(ids)})) if ids else ()
    for row in rows:
        if row["birth"] is not None and is_same(row):
            at = row["started_at"] - timedelta(seconds=row["waited_s"])
            found[row["id"]] = min(at, found.get(row["id"], at))
    return found


def _is_ours(error: object, written: str) -> bool:
    """Return whether an error is the one that retrycli wrote, possibly shortened to fit its column."""
    return isinstance(error, str) and bool(error) and written.startswith(error)


def take_back(
    database: Database, connection: Connection, rows: Mapping[int, Row], able: Mapping[int, OperatorAction]
) -> Written:
    """Restore rejected messages: set their rows to failed with a retry count of zero, and add them to the queue, due at
    the times in the actions. Return which rows are unchanged because they are locked or reject the change.
    """
    errors = {
        message_id: f"Requeued by {act.by} after: {rows[message_id]['last_error']}" for message_id, act in able.items()
    }
    written = set_status(database, connection, errors, before=MessageStatus.REJECTED, after=MessageStatus.FAILED)
    failed_at = first_failures(database, connection, errors)
    enrolled = [
        waiting_row(
            message_id,
            rows[message_id]["ticket_id"],
            as_utf8(rows[message_id][BIRTH]),
            first_failed_at=failed_at.get(message_id, act.at),
            now=act.at,
            due=act.due,
        )
        for message_id, act in able.items()
        if message_id not in written.unchanged
    ]
    if enrolled:
        connection.execute(insert(queue), enrolled)
    return written


def invalid(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, str]:
    """Find rows that are not valid messages, without reading their bodies. Return their problems by id."""
    columns = [column for column in columns_without_body(database) if column.name in DECIDING_COLUMNS]
    rows = rows_of(connection.execute(select(*columns).where(id_in(database.messages.c.id)), {"ids": list(ids)}))
    checked = map(message_of, rows)
    return {message.message_id: message.problem for message in checked if isinstance(message, UnusableMessage)}


def rewritten(database: Database, connection: Connection, ids: Collection[int]) -> set[int]:
    """Return the messages of which lists say that they may have arrived, although another text has since been written
    to their rows.
    """
    m, digest = database.messages.c, OWN + "digest"
    texts = [m[name] for name in TEXT_COLUMNS if name in m]
    in_doubt = (
        select(m.id, queue.c.digest.label(digest), *texts)
        .join_from(queue, database.messages, m.id == queue.c.message_id)
        .where(id_in(m.id), row_by_row(UNSETTLED))
    )
    rows = rows_of(connection.execute(in_doubt, {"ids": list(ids)}))
    return {row["id"] for row in rows if row.pop(digest) not in {None, digest_of(row)}}


GUARDS: Mapping[ActionKind, tuple[ColumnElement[bool], ...]] = {
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
TEXTS = select(queue.c.message_id, queue.c.digest, queue.c.ticket).where(id_in(queue.c.message_id))

# Actions on failed messages that are not being sent, even if they are not in the queue yet.
OF_ANY_FAILED = frozenset({ActionKind.REJECTED, ActionKind.MARKED_SENT})

# Actions after which an operator may decide otherwise.
CHANGES = (ActionKind.EDITED, ActionKind.REQUEUED, ActionKind.REJECTED, ActionKind.MARKED_SENT)

# Actions of `Acts.perform` that change the application's rows. They skip locked rows.
CHANGE_ROWS = OF_ANY_FAILED | {ActionKind.REQUEUED}


@dataclass(frozen=True, slots=True)
class Performed:
    """The messages for which an action failed."""

    # Messages that were locked, or not in the expected state. `Acts.why_not` returns the reasons.
    lost: AbstractSet[int]
    refused: Mapping[int, str]  # messages whose rows rejected the change, with the reasons
    unfit: Mapping[int, str]  # messages that can't be sent in their present form, with the reasons
    rewritten: AbstractSet[int]  # messages whose present text is not the one that may have arrived


def _time_or_none(text: str | None) -> datetime | None:
    try:
        return utc_time("updated_at", text)
    except InvalidMessage:
        return None


class Acts(Queries):
    """Perform operators' actions on failed messages."""

    def read(self, ids: Collection[int]) -> list[Message]:
        """Read messages with their bodies. Leave out rows that are not valid messages."""
        m = self._database.messages
        with self._database.read() as connection:
            rows = rows_of(connection.execute(select(*visible(m)).where(id_in(m.c.id)), {"ids": list(ids)}))
        return [message for message in map(message_of, rows) if isinstance(message, Message)]

    def first_failures(self, ids: Collection[int]) -> dict[int, datetime]:
        """Return when messages first failed, by id. Leave out messages for which neither the queue nor an attempt shows
        the time.
        """
        queued = select(queue.c.message_id, queue.c.first_failed_at).where(id_in(queue.c.message_id))
        with self._database.read() as connection:
            known = {row.message_id: row.first_failed_at for row in connection.execute(queued, {"ids": list(ids)})}
            return first_failures(self._database, connection, ids) | known

    def news(self, ids: Collection[int], since: datetime, until: datetime) -> set[int]:
        """Return the messages that were attempted, escalated or changed by an operator, that failed for the first time,
        or whose rows the application updated, after ``since``. Times after ``until`` are those of a wrong clock.
        """

        def is_new(*times: ColumnElement[datetime]) -> ColumnElement[bool]:
            return or_(*(and_(time > since, time <= until) for time in times))

        later = select(queue.c.message_id).where(
            id_in(queue.c.message_id), row_by_row(is_new(queue.c.first_failed_at, queue.c.escalated_at))
        )
        made = select(attempts.c.message_id).where(
            id_in(attempts.c.message_id), row_by_row(is_new(attempts.c.started_at, attempts.c.finished_at))
        )
        done = select(acts.c.message_id).where(
            id_in(acts.c.message_id), row_by_row(is_new(acts.c.at), acts.c.act.in_(CHANGES))
        )
        with self._database.read() as connection:
            found = set(connection.execute(union(later, made, done), {"ids": list(ids)}).scalars())
            return found | self._updated(connection, ids, since, until)

    def _updated(self, connection: Connection, ids: Collection[int], since: datetime, until: datetime) -> set[int]:
        m = self._database.messages
        if "updated_at" not in m.c:
            return set()
        # A time without a fraction may be rounded down.
        second = since.replace(microsecond=0)
        found = connection.execute(select(m.c.id, updated_at_text(m)).where(id_in(m.c.id)), {"ids": list(ids)})
        times = {message_id: _time_or_none(text) for message_id, text in found}
        return {
            message_id
            for message_id, at in times.items()
            if at is not None and at <= until and (at > since or (at.microsecond == 0 and at >= second))
        }

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
            unsent = rewritten(self._database, connection, able) if kind is ActionKind.MARKED_SENT else set[int]()
            able = {message_id: act for message_id, act in able.items() if message_id not in unsent | unfit.keys()}
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
        return Performed(wanted.keys() - able.keys() - unfit.keys() - unsent, refused, unfit, unsent)

    def _rejected(self, connection: Connection, wanted: Mapping[int, OperatorAction]) -> dict[int, Mapping[str, Any]]:
        if not rejected_by_us(self._database, connection, wanted):
            return {}
        self._database.take_turn(connection)  # no pass enrols these messages until the transaction ends
        return rejected_by_us(self._database, connection, wanted)

    def _lock(self, connection: Connection, kind: ActionKind, ids: Collection[int]) -> list[int]:
        """Lock the rows to which an action applies, and return their ids. The locks last until the transaction ends."""
        parameters = {"ids": list(ids)}
        if kind in OF_ANY_FAILED:
            # No pass may enrol and claim these messages during the action. A pass that waits for its turn may hold row
            # locks, so locked rows are skipped, which avoids a deadlock.
            self._database.take_turn(connection)
        rows = rows_of(connection.execute(self._enrolled(kind), parameters))
        unknown = connection.execute(self._unknown(), parameters).scalars() if kind in OF_ANY_FAILED else ()
        return [*(row["id"] for row in rows if is_the_queues(row)), *unknown]

    def _enrolled(self, kind: ActionKind) -> Select[Any]:
        # A query that locks and returns the queued messages to which an action applies.
        m = self._database.messages
        return (
            select(m.c.id, m.c.ticket_id, birth_text(m).label(BIRTH), *QUEUED)
            .join_from(m, queue, queue.c.message_id == m.c.id)
            .where(m.c.id.in_(bindparam("ids", expanding=True)), has_status(m.c, MessageStatus.FAILED))
            .where(row_by_row(*GUARDS[kind]))
            .order_by(m.c.id)
            .with_for_update(skip_locked=kind in CHANGE_ROWS)
        )

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
        """Change the text of a queued message, if its values are still those that were read. The new text gets a new
        delivery key.

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
            # If the message is escalated, store its new identity and the new state of its row. Otherwise the next pass
            # would treat the edit as a change by the application, and might make the message wait again.
            this = queue.c.message_id == message_id
            found = connection.execute(with_queue(self._database).where(this, ESCALATED))
            for message in load(connection, found, [message_id]):
                now = Decision(message_id, Transition.released(), message=message)
                values = {**identity_values(now), **seen_values(written.rows.get(message_id))}
                connection.execute(update(queue).where(this).values(values))
            _record_actions(connection, {message_id: act})

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
    texts = {row.message_id: row for row in connection.execute(TEXTS, {"ids": requeued})} if requeued else {}
    rows: list[dict[str, Any]] = []
    for message_id, act in done.items():
        values = {**act_values(act), "message_id": message_id, "attempts": None, "digest": None}
        if act.kind is ActionKind.REQUEUED:
            # Passes may repeat this text in this ticket, as far as the attempts up to this number have sent it. Times
            # can't show which attempts came before the requeue, because hosts' clocks differ.
            values["attempts"] = made.get(message_id, 0)
            if (text := texts.get(message_id)) is not None:
                values |= {"digest": text.digest, "ticket": text.ticket}
        rows.append(values)
    connection.execute(insert(acts), rows)
