"""Take over messages whose claims have expired because their passes died."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, RowMapping, delete, select

from retrycli.domain.identity import MessageIdentity, birth_of
from retrycli.domain.message import QueuedMessage, UnusableMessage, ticket_text
from retrycli.domain.outcome import PROCESS_DIED, Outcome, OutcomeKind
from retrycli.domain.transition import Claim, Decision, ExpiredClaim, Transition
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import load, with_queue
from retrycli.store.messages import addresses, row_by_row
from retrycli.store.results import finish_attempts
from retrycli.store.schema import attempts, queue
from retrycli.store.transitions import CLAIM, HELD_BY_ID

UNFINISHED_ATTEMPTS = select(attempts).where(id_in(attempts.c.message_id), row_by_row(attempts.c.finished_at.is_(None)))


def take_over(
    database: Database, connection: Connection, claim: Claim, ids: Sequence[int], now: datetime
) -> list[ExpiredClaim]:
    """Claim messages, and load those that are still failed; the others leave the queue."""
    rows = connection.execute(UNFINISHED_ATTEMPTS, {"ids": list(ids)}).mappings()
    # An attempt with an outcome and no end waits until its row is written.
    open_by_id = {row["message_id"]: row for row in rows}
    free = _without_locked(database, connection, ids)
    theirs = {"ids": free, "owner": claim.owner}
    connection.execute(CLAIM, {**theirs, "until": claim.expires_at})
    loaded = load(connection, connection.execute(with_queue(database).where(*HELD_BY_ID), theirs), free)
    gone = set(free) - {message.message_id for message in loaded}
    ended = [
        Decision(message_id, Transition.released(), _outcome_of(open_by_id.get(message_id)) or PROCESS_DIED)
        for message_id in gone
    ]
    finish_attempts(connection, ended, now)
    connection.execute(delete(queue).where(queue.c.message_id.in_(gone)))
    return [_expired_claim(message, open_by_id.get(message.message_id)) for message in loaded]


def _without_locked(database: Database, connection: Connection, ids: Sequence[int]) -> list[int]:
    """Leave out the messages whose rows another transaction has locked. A missing row is not locked."""
    if database.is_sqlite:
        return list(ids)
    m = database.messages.c
    there = select(m.id).where(id_in(m.id))
    all_rows = set(connection.execute(there, {"ids": list(ids)}).scalars())
    free = set(connection.execute(there.with_for_update(skip_locked=True), {"ids": list(ids)}).scalars())
    return [message_id for message_id in ids if message_id in free or message_id not in all_rows]


def _expired_claim(message: QueuedMessage | UnusableMessage, attempt: RowMapping | None) -> ExpiredClaim:
    if attempt is None:
        return ExpiredClaim(message, None)
    outcome = _outcome_of(attempt)
    if attempt["digest"] is None:  # by a version before 0005
        return ExpiredClaim(message, attempt["made_by"], outcome)
    took = None if attempt["duration_ms"] is None else timedelta(milliseconds=attempt["duration_ms"])
    before = MessageIdentity(birth_of(attempt["birth"]), attempt["digest"], attempt["ticket"])
    now = MessageIdentity(message.birth, message.digest, ticket_text(message.ticket_id))
    return ExpiredClaim(message, attempt["made_by"], outcome, before.difference(now), attempt["started_at"], took)


def _outcome_of(attempt: RowMapping | None) -> Outcome | None:
    if attempt is None or attempt["outcome"] is None:
        return None
    retry_after = attempt["retry_after_s"]
    return Outcome(
        OutcomeKind(attempt["outcome"]),
        attempt["status_code"],
        attempt["error"],
        None if retry_after is None else timedelta(seconds=retry_after),
        tuple(addresses(attempt["delivered_to"])),
        attempt["external_id"],
    )
