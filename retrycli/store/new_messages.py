"""Add newly failed messages to the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import insert, select

from retrycli.domain.message import State
from retrycli.domain.row_parsing import ticket_text
from retrycli.domain.transition import Decision
from retrycli.store.bulk import id_in
from retrycli.store.identity import birth_text, encodable
from retrycli.store.keys import provisional_key
from retrycli.store.schema import queue
from retrycli.store.transitions import escalate

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database

KNOWN = select(queue.c.message_id).where(id_in(queue.c.message_id))


def add_messages(
    database: Database, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime
) -> Mapping[int, str]:
    """Add messages to the queue: see `Enrolment.enrol`."""
    with database.write() as connection:
        database.advisory_lock(connection)
        ids = [decision.message_id for decision, _, _ in entries]
        known = set(connection.execute(KNOWN, {"ids": ids}).scalars())
        fresh = [entry for entry in entries if entry[0].message_id not in known]
        births = _births(database, connection, [decision.message_id for decision, _, _ in fresh])
        rows = [_waiting(*entry, birth=births.get(entry[0].message_id), now=now) for entry in fresh]
        if rows:
            connection.execute(insert(queue), rows)
        escalated = [decision for decision, _, _ in fresh if decision.transition.reason]
        return escalate(database, connection, escalated, now)


def _births(database: Database, connection: Connection, ids: Sequence[int]) -> Mapping[int, str]:
    m = database.messages
    births = connection.execute(select(m.c.id, birth_text(m)).where(id_in(m.c.id)), {"ids": ids}) if ids else ()
    return {message_id: encodable(birth) for message_id, birth in births}


def _waiting(
    decision: Decision, first_failed_at: datetime, ticket_id: int | str, *, birth: str | None, now: datetime
) -> dict[str, object]:
    return {
        "message_id": decision.message_id,
        "state": State.WAITING,
        "next_attempt_at": decision.transition.next_attempt_at or now,
        "delivery_key": provisional_key(decision.message_id, birth or "", now),
        "first_failed_at": first_failed_at,
        "unknown_count": 0,
        "ticket": ticket_text(ticket_id),
        "birth": birth,
    }
