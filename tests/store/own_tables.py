"""Functions that fill and read retrycli's own tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from retrycli.domain.message import EscalationReason, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.transition import Claim, Decision, IdRange, Transition
from retrycli.store import schema
from retrycli.store.enrolment import Enrolment
from tests.store.application import HOUR, MINUTE, NOON, TICKET

if TYPE_CHECKING:
    from sqlalchemy import Table

    from retrycli.store.claims import Claims
    from retrycli.store.database import Database

PASS = Claim("the-pass", NOON + 13 * MINUTE)
"""The claim of the pass in most tests."""
FAILED_AT = NOON - 15 * MINUTE


def entry(message_id: int, *, at: datetime = NOON, failed_at: datetime = FAILED_AT) -> tuple[Decision, datetime, int]:
    """Return the enrolment of a message that is due at `at`."""
    return Decision(message_id, Transition.enrolled(at)), failed_at, TICKET


def enrol(database: Database, ids: Iterable[int], *, at: datetime = NOON, failed_at: datetime = FAILED_AT) -> None:
    """Enrol messages that are due at `at`."""
    Enrolment(database).enrol([entry(message_id, at=at, failed_at=failed_at) for message_id in ids], NOON - HOUR)


def escalate(
    database: Database, message_id: int, *, at: datetime = NOON, error: str = "HTTP 404", outcome: Outcome | None = None
) -> None:
    """Enrol a message as escalated."""
    change = Transition.escalated(EscalationReason.PERMANENT, last_error=error)
    Enrolment(database).enrol([(Decision(message_id, change, outcome), FAILED_AT, TICKET)], at)


def begin(
    claims: Claims,
    ids: Sequence[int],
    claim: Claim = PASS,
    *,
    at: datetime = NOON,
    made_by: str = "pass",
    fit: Callable[[QueuedMessage], bool] = lambda _: True,
    probe: bool = False,
) -> list[QueuedMessage | UnusableMessage]:
    """Begin attempts at claimed messages."""
    pass_id = claim.owner if made_by == "pass" else None
    return claims.results.begin(claim, ids, made_by=made_by, pass_id=pass_id, now=at, fit=fit, probe=probe)


def retire(enrolment: Enrolment, span: IdRange) -> int:
    """Retire a range; return the number of messages that left the queue."""
    queued = select(func.count()).select_from(schema.queue)
    before = enrolment._database.rows(queued)[0][0]
    enrolment.retire(span)
    return before - enrolment._database.rows(queued)[0][0]


def queue_rows(database: Database) -> dict[int, dict[str, Any]]:
    """Return the queue's rows by message id."""
    return {row["message_id"]: row for row in _all(database, schema.queue)}


def attempt_rows(database: Database, message_id: int) -> list[dict[str, Any]]:
    """Return the attempts at one message, in the order of their start."""
    rows = [row for row in _all(database, schema.attempts) if row["message_id"] == message_id]
    return sorted(rows, key=lambda row: int(row["id"]))


def pass_rows(database: Database) -> dict[str, dict[str, Any]]:
    """Return the passes by id."""
    return {row["id"]: row for row in _all(database, schema.passes)}


def _all(database: Database, table: Table) -> list[dict[str, Any]]:
    with database.read() as connection:
        return [dict(row) for row in connection.execute(select(table)).mappings()]
