"""Take back messages that an operator rejected with retrycli. Messages that the application rejected stay rejected."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, func, insert, select

from retrycli.domain.identity import birth_of
from retrycli.domain.message import MessageStatus, State
from retrycli.domain.operator_action import ActionKind, OperatorAction
from retrycli.domain.row_parsing import ticket_text
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import BIRTH, OWN, birth_text, encodable, provisional_key
from retrycli.store.messages import rows_of, status_text
from retrycli.store.row_changes import ALL_WRITTEN, Written, restore_messages
from retrycli.store.schema import acts, attempts, queue

LAST_ACTS = select(func.max(acts.c.id)).where(id_in(acts.c.message_id)).group_by(acts.c.message_id)
REJECTIONS = select(acts.c.message_id, acts.c.by, acts.c.detail, acts.c.at).where(
    acts.c.id.in_(LAST_ACTS), acts.c.act == ActionKind.REJECTED.value
)
KNOWN = select(queue.c.message_id).where(id_in(queue.c.message_id))

Row = Mapping[str, Any]


def rejected_by_us(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, Row]:
    """Read the messages that are still as `retrycli reject` left them, by id.

    Their rows are rejected with the error that retrycli wrote, and no action followed. Another message with a rejected
    one's id has another error.
    """
    these = {"ids": list(ids)}
    by_us = {
        row.message_id: OperatorAction.rejected(row.detail, by=row.by, at=row.at).last_error or ""
        for row in (connection.execute(REJECTIONS, these) if ids else ())
    }
    if not by_us:
        return {}
    m = database.messages
    there = (
        select(m.c.id, m.c.ticket_id, m.c.last_error, birth_text(m).label(BIRTH))
        .where(id_in(m.c.id), m.c.status == status_text(MessageStatus.REJECTED))
        .with_for_update(skip_locked=True)
    )
    known = set(connection.execute(KNOWN, these).scalars())
    rows = rows_of(connection.execute(there, {"ids": list(by_us)}))
    return {row["id"]: row for row in rows if row["id"] not in known and _is_ours(row["last_error"], by_us[row["id"]])}


def first_failures(database: Database, connection: Connection, ids: Collection[int]) -> dict[int, datetime]:
    """Return when messages first failed, by id, from attempts that recorded how long their messages had waited."""
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
    """Tell if an error is the one that retrycli wrote; its column may have cut it."""
    return isinstance(error, str) and bool(error) and written.startswith(error)


def take_back(
    database: Database, connection: Connection, rows: Mapping[int, Row], able: Mapping[int, OperatorAction]
) -> Written:
    """Let rejected messages wait again: failed, with a retry count of zero, due as the actions say."""
    errors = {
        message_id: f"Requeued by {act.by} after: {rows[message_id]['last_error']}" for message_id, act in able.items()
    }
    written = restore_messages(database, connection, errors) if errors else ALL_WRITTEN
    failed_at = first_failures(database, connection, errors)
    enrolled: list[dict[str, Any]] = [
        {
            "message_id": message_id,
            "state": State.WAITING,
            "next_attempt_at": act.due,
            "delivery_key": provisional_key(message_id, encodable(rows[message_id][BIRTH]), act.at),
            "first_failed_at": failed_at.get(message_id, act.at),
            "unknown_count": 0,
            "ticket": ticket_text(rows[message_id]["ticket_id"]),
            "birth": encodable(rows[message_id][BIRTH]),
        }
        for message_id, act in able.items()
        if message_id not in written.unchanged
    ]
    if enrolled:
        connection.execute(insert(queue), enrolled)
    return written
