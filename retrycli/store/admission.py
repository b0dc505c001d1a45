"""Admit messages to the queue: newly failed ones, and escalated messages that the application has changed."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update

from retrycli.domain.message import MessageStatus, QueuedMessage, UnusableMessage
from retrycli.domain.transition import ChangedMessage, Decision, TransitionKind, as_written
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import birth_text, encodable, load, with_queue
from retrycli.store.messages import ESCALATED, RowState, queued_ids, read_rows, row_by_row, status_text
from retrycli.store.schema import queue
from retrycli.store.transitions import NOT_ESCALATED, escalate, identity_values, seen_values, waiting_row


def add_messages(
    database: Database, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime
) -> Mapping[int, str]:
    """Add messages to the queue: see `Enrolment.enrol`."""
    m = database.messages
    with database.write() as connection:
        database.advisory_lock(connection)
        known = queued_ids(connection, [decision.message_id for decision, _, _ in entries])
        fresh = [entry for entry in entries if entry[0].message_id not in known]
        ids = [decision.message_id for decision, _, _ in fresh]
        found = connection.execute(select(m.c.id, birth_text(m)).where(id_in(m.c.id)), {"ids": ids}) if ids else ()
        births = {message_id: encodable(birth) for message_id, birth in found}
        rows = [
            waiting_row(
                decision.message_id,
                ticket_id,
                births.get(decision.message_id),
                first_failed_at=failed_at,
                now=now,
                due=decision.transition.next_attempt_at or now,
            )
            for decision, failed_at, ticket_id in fresh
        ]
        if rows:
            connection.execute(insert(queue), rows)
        return escalate(database, connection, [decision for decision, _, _ in fresh if decision.transition.reason], now)


SEEN_OF = select(queue.c.message_id, queue.c.digest, queue.c.seen_count, queue.c.seen_error).where(
    id_in(queue.c.message_id)
)


def review(
    database: Database, ids: Collection[int], decide: Callable[[ChangedMessage], Decision], now: datetime
) -> list[Decision]:
    """Let escalated messages wait again, escalate them again, or store the present state of their rows (released).

    Neither the application nor an operator can change these messages meanwhile. A message that one of them has locked
    is left to the next pass.

    Args:
        database: holds the queue and the application's table.
        ids: the escalated messages.
        decide: decides about a complete message; its second argument says whether the application has changed the
            message.
        now: the current time, for ``escalated_at``.

    Returns:
        The decisions, as written.
    """
    m = database.messages
    unlocked = (
        select(queue.c.message_id)
        .join_from(queue, m, m.c.id == queue.c.message_id)
        .where(id_in(queue.c.message_id), row_by_row(ESCALATED, m.c.status == status_text(MessageStatus.FAILED)))
        .order_by(queue.c.message_id)
        .with_for_update(skip_locked=True)
    )
    with database.write() as connection:
        free = list(connection.execute(unlocked, {"ids": list(ids)}).scalars())
        rows = read_rows(database, connection, free)
        reviewed = _decided(database, connection, free, rows, decide)
        anew = [decision for decision in reviewed if decision.transition.reason]
        refused = escalate(database, connection, anew, now)
        for decision in reviewed:
            if decision.transition.reason:
                continue
            values = {**identity_values(decision), **seen_values(rows[decision.message_id])}
            if decision.transition.kind is TransitionKind.ENROLLED:
                values |= {
                    **NOT_ESCALATED,
                    "next_attempt_at": decision.transition.next_attempt_at,
                    "unknown_count": decision.transition.unknown_count or 0,
                }
            connection.execute(update(queue).where(queue.c.message_id == decision.message_id, ESCALATED).values(values))
        return as_written(reviewed, refused)


def would_review(
    database: Database, ids: Collection[int], decide: Callable[[ChangedMessage], Decision]
) -> list[Decision]:
    """Return what `review` would decide, without writing anything."""
    with database.read() as connection:
        return _decided(database, connection, ids, read_rows(database, connection, ids), decide)


def _decided(
    database: Database,
    connection: Connection,
    ids: Collection[int],
    rows: Mapping[int, RowState],
    decide: Callable[[ChangedMessage], Decision],
) -> list[Decision]:
    known = {row.message_id: row for row in connection.execute(SEEN_OF, {"ids": list(ids)})}
    found = connection.execute(with_queue(database).where(id_in(queue.c.message_id)), {"ids": list(ids)})
    return [
        decide(ChangedMessage(message, _was_changed(known[message.message_id], message, rows[message.message_id])))
        for message in load(connection, found, list(ids))
    ]


def _was_changed(known: Row[Any, Any, Any, Any], message: QueuedMessage | UnusableMessage, row: RowState) -> bool:
    # A newer `updated_at` alone does not count.
    seen = seen_values(row)
    return known.digest is not None and bool(
        known.digest != message.digest
        or known.seen_count != seen["seen_count"]
        or known.seen_error != seen["seen_error"]
    )
