"""Take over messages whose claims have expired because their passes died."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import delete, select, update

from retrycli.domain.claim import Claim, ExpiredClaim
from retrycli.domain.outcome import PROCESS_DIED
from retrycli.domain.transition import Decision, Transition
from retrycli.store.bulk import id_in
from retrycli.store.identity import expired_claim, load, open_attempts, outcome_of, with_queue
from retrycli.store.results import finish_attempts
from retrycli.store.schema import queue
from retrycli.store.transitions import HELD_BY_ID, claimed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from retrycli.store.database import Database


def take_over(
    database: Database, connection: Connection, claim: Claim, ids: Sequence[int], now: datetime
) -> list[ExpiredClaim]:
    """Claim messages, and load those that are still failed; the others leave the queue."""
    held_messages = with_queue(database).where(*HELD_BY_ID)
    open_by_id = open_attempts(connection, ids)
    free = _without_locked(database, connection, ids)
    connection.execute(update(queue).where(queue.c.message_id.in_(free)).values(claimed(claim)))
    loaded = load(connection, connection.execute(held_messages, {"ids": free, "owner": claim.owner}), free)
    gone = set(free) - {message.message_id for message in loaded}
    answers = {message_id: outcome_of(open_by_id.get(message_id)) or PROCESS_DIED for message_id in gone}
    finish_attempts(
        connection, [Decision(message_id, Transition.released(), answer) for message_id, answer in answers.items()], now
    )
    connection.execute(delete(queue).where(queue.c.message_id.in_(gone)))
    return [expired_claim(message, open_by_id.get(message.message_id)) for message in loaded]


def _without_locked(database: Database, connection: Connection, ids: Sequence[int]) -> list[int]:
    """Leave out the messages whose rows another transaction has locked. A missing row is not locked."""
    if database.is_sqlite:
        return list(ids)
    m = database.messages.c
    there = select(m.id).where(id_in(m.id))
    all_rows = set(connection.execute(there, {"ids": list(ids)}).scalars())
    free = set(connection.execute(there.with_for_update(skip_locked=True), {"ids": list(ids)}).scalars())
    return [message_id for message_id in ids if message_id in free or message_id not in all_rows]
