"""Apply operators' actions to the application's rows, the queue and the attempts.

Each change applies only to messages in the expected state, so an action that comes too late changes nothing.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any, assert_never

from sqlalchemy import Connection, bindparam, delete, func, insert, select, update

from retrycli.domain.identity import birth_of
from retrycli.domain.message import MessageStatus, Place, QueuedMessage, State, UnusableMessage
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.sanitize import as_utf8
from retrycli.domain.transition import OF_HOLDS, ActionKind, Decision, Transition, as_written
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.enrolment import DECIDING_COLUMNS
from retrycli.store.identity import BIRTH, OWN, birth_text, load, with_queue
from retrycli.store.messages import (
    ESCALATED,
    columns_without_body,
    has_status,
    message_of,
    queued_ids,
    row_by_row,
    rows_of,
)
from retrycli.store.results import finish_attempts, start_attempts
from retrycli.store.row_changes import (
    ALL_WRITTEN,
    Written,
    reset_retry_counts,
    set_status,
    write_messages,
)
from retrycli.store.schema import acts, attempts, escalations, queue
from retrycli.store.transitions import NOT_ESCALATED, escalate, waiting_row

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
    """Apply one kind of action to messages, in a writing transaction, and return which rows are unchanged because they
    are locked or reject it.
    """
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
                ACKNOWLEDGE,
                [{"of_id": message_id, "name": act.by, "at": act.at} for message_id, act in able.items()],
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
    """Record messages as delivered because an operator confirmed the delivery, and mark their rows as sent.

    An attempt is recorded for each message, even if its row rejects the change, so that no pass sends the text again.
    Nothing is recorded for a message whose row is locked.
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
        start_attempts(connection, sendable, pass_id=None, made_by=by, place_of=lambda _: Place(), probe=False, now=at)
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
    """Lock and return the rows, by id, of messages that are unchanged since `retrycli reject` rejected them.

    An unchanged row still has the status rejected and the error that retrycli wrote. If the id now belongs to another
    message, the error differs. Messages with a later action, queued messages and locked rows are left out.
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
        select(m.c.id, a.started_at, a.waited_s, a.birth.label(OWN + "attempt_birth"), birth_text(m).label(BIRTH))
        .join_from(m, attempts, a.message_id == m.c.id)
        .where(id_in(m.c.id), a.waited_s.is_not(None))
    )
    rows = rows_of(connection.execute(statement, {"ids": list(ids)})) if ids else []
    found: dict[int, datetime] = {}
    for row in rows:
        birth = row[OWN + "attempt_birth"]
        if birth is not None and birth_of(birth) == birth_of(row[BIRTH]):
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
