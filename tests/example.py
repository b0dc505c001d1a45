"""The example database: an application's table with messages in many states.

``python -m tests.example`` writes ``ticketing_agent.db.example`` in the project's top folder. A test
checks that the file is up to date.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import insert, update

from retrycli.domain.fingerprint import fingerprint
from retrycli.domain.message import EscalationReason, QueuedMessage, State, UnusableMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Decision, Transition
from retrycli.operations.demo import EXAMPLE, EXAMPLE_TIME
from retrycli.store import own_tables
from retrycli.store.database import Database
from retrycli.store.identity import identity_values, load, provisional_key, with_queue
from retrycli.store.messages import read_rows
from retrycli.store.schema import attempts, queue
from retrycli.store.transitions import seen_values
from tests.cli.application import TABLES as APPLICATION

TABLES = (
    APPLICATION.partition("CREATE INDEX")[0]
    .replace("NOT NULL\n);", "NOT NULL,\n    assigned_to VARCHAR(100)\n);")
    .replace("created_at DATETIME,", "created_at DATETIME NOT NULL,")
)

GREETING = "Hello,\n\n{}\n\nKind regards\nThe support desk\n"

# id, ticket, type, recipient, cc, subject, text, status, tries, last error, hours since creation, since failure
MESSAGES: list[tuple[object, ...]] = [
    (1, 4711, "customer", "ana@example.com", [], "Re: Invoice 2026-118", "Your corrected invoice is attached.", "sent",
     0, None, 70, None),
    (2, 4712, "customer", "bo@example.net", ["lead@example.net"], "Re: Log-in fails", "The account is open again.",
     "sent", 2, None, 69, None),
    (3, 4713, "supplier", "orders@parts.example", [], "Order 5521: missing box", "One of three boxes did not arrive.",
     "failed", 0, "HTTP 503", 3, 2),
    (4, 4713, "internal", None, [], "Supplier asked", "Wrote to the supplier; waiting for the tracking number.",
     "failed", 0, "HTTP 503", 3, 2),
    (5, 4714, "customer", "chloé@example.org", [], "Re: „Rückgabe“ — how?", "A label {is} on its \"way\".", "failed",
     1, "HTTP 502", 6, 5),
    (6, 4715, "customer", "dara@example.com", [], "Re: Delivery date", "It leaves the warehouse on Tuesday.", "failed",
     3, "ConnectionTimeoutError", 9, 0.2),
    (7, 4716, "supplier", "service@pumps.example", ["qa@example.com"], "Case 88: pump is loud", "Please see the video.",
     "failed", 8, "HTTP 500", 27, 5),
    (8, 4717, "customer", "eli@example.com", [], "Re: Refund", "The refund was booked today.", "failed", 9, "HTTP 504",
     30, 5),
    (9, 4718, "supplier", "desk@gone.example", [], "Order 5498", "Could you confirm the order?", "failed", 10,
     "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503", 52, 20),
    (10, 4719, "customer", "nobody@example.com", [], "Re: Address", "We have changed it.", "failed", 0,
     "HTTP 422: recipient unknown", 26, 25),
    (11, 4720, "customer", "fay@example.com", "not a list", "Re: Opening hours", "We are here from 8 to 17.", "failed",
     0, "HTTP 503", 4, 2),
    (12, 4711, "internal", None, [], "Called back", "Ana confirms that the invoice is right now.", "failed", 0,
     "HTTP 503", 3, 2),
    (13, 4721, "customer", "gil@example.com", [], "Re: Warranty", "The warranty runs until 2028.", "pending", 0, None,
     1, None),
    (14, 4722, "customer", "hana@example.com", [], "Re: Order 5530", "Both items are in stock.", "approved", 0, None,
     1, None),
    (15, 4723, "supplier", "sales@lamps.example", [], "Quote", "We no longer need the quote.", "rejected", 0, None,
     40, None),
    (16, 4724, "customer", "ivo@example.com", [], "Re: Noise", "A technician comes on Thursday.", "failed", 0,
     "HTTP 503", 2, 1),
]  # fmt: skip


def build(file: Path, *, now: datetime = EXAMPLE_TIME) -> None:
    """Create the example in a new file, with its times counted back from ``now``.

    Raises:
        FileExistsError: the file exists already.
    """
    file.touch(mode=0o600, exist_ok=False)
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL;" + TABLES)
        tickets = sorted({message[1] for message in MESSAGES}, key=str)
        connection.executemany(
            "INSERT INTO ticket_states VALUES (?, 'open', 'support')", [(ticket,) for ticket in tickets]
        )
        connection.executemany(
            f"INSERT INTO pending_messages VALUES ({', '.join('?' * 16)})", [_row(message, now) for message in MESSAGES]
        )
        connection.commit()
    database = Database(f"sqlite:///{file}")
    own_tables.ensure_tables(database, upgrade=True)
    with database.write() as opened:
        opened.execute(insert(queue), [_waiting(6, 4715, now), *(_escalated(*entry, now) for entry in ESCALATED)])
        tried = [entry[0] for entry in ESCALATED]
        found = opened.execute(with_queue(database).where(queue.c.message_id.in_(tried)))
        rows = read_rows(database, opened, tried)
        for message in load(opened, found, tried):
            seen = identity_values(Decision(message.message_id, Transition.released(), message=message))
            values = {**seen, **seen_values(rows[message.message_id])}
            opened.execute(update(queue).where(queue.c.message_id == message.message_id).values(values))
            opened.execute(insert(attempts), [each | _identity(message) for each in _history(message.message_id, now)])
    database.close()


ESCALATED = (
    (9, 4718, 20.0, EscalationReason.EXHAUSTED, Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")),
    (10, 4719, 25.0, EscalationReason.PERMANENT, Outcome(OutcomeKind.PERMANENT, 422, "HTTP 422: recipient unknown")),
)


def _row(message: tuple[object, ...], now: datetime) -> tuple[object, ...]:
    number, ticket, kind, to, cc, subject, text, status, tries, error, made, failed = message
    sent_at = _ago(now, float(str(made)) - 1) if status == "sent" else None
    lists = cc if isinstance(cc, str) else json.dumps(cc)
    return (
        number, ticket, kind, to, lists, "[]", subject, GREETING.format(text), "[]", 0.93, status, tries, error,
        _ago(now, made), _ago(now, made if failed is None else failed), sent_at,
    )  # fmt: skip


def _ago(now: datetime, hours: object) -> str:
    return str(now.replace(tzinfo=None) - timedelta(hours=float(str(hours))))


def _waiting(message_id: int, ticket_id: int, now: datetime) -> dict[str, object]:
    failed_at = now - timedelta(hours=9)
    return _entry(message_id, ticket_id, failed_at, now) | {
        "state": State.WAITING,
        "next_attempt_at": now + timedelta(minutes=105),
    }


def _escalated(
    message_id: int, ticket_id: int, hours: float, reason: EscalationReason, outcome: Outcome, now: datetime
) -> dict[str, object]:
    failed_at = now - timedelta(hours=hours)
    decision = Decision(message_id, Transition.escalated(reason, last_error=outcome.error), outcome)
    return _entry(message_id, ticket_id, failed_at, now) | {
        "state": State.ESCALATED,
        "escalated_at": failed_at,
        "escalation_reason": reason,
        "fingerprint": fingerprint(decision),
    }


def _entry(message_id: int, ticket_id: int, failed_at: datetime, now: datetime) -> dict[str, object]:
    [birth] = (_ago(now, message[10]) for message in MESSAGES if message[0] == message_id)
    return {
        "message_id": message_id,
        "next_attempt_at": None,
        "delivery_key": provisional_key(message_id, birth, failed_at),
        "first_failed_at": failed_at,
        "unknown_count": 0,
        "escalated_at": None,
        "escalation_reason": None,
        "fingerprint": None,
        "ticket": str(ticket_id),
        "birth": birth,
    }


def _identity(message: QueuedMessage | UnusableMessage) -> dict[str, object]:
    row = message.message if isinstance(message, QueuedMessage) else message
    return {
        "birth": message.birth,
        "digest": message.digest,
        "delivery_key": message.delivery_key,
        "ticket": str(message.ticket_id),
        "message_type": str(row.message_type),
        "deliveries": 0,
    }


def _history(message_id: int, now: datetime) -> list[dict[str, object]]:
    """Build the attempts of an escalated message."""
    told: list[tuple[int, str, int, str, float]]
    told = [(number, "transient", 503, "HTTP 503", 20 + 3 * (10 - number)) for number in range(1, 11)]
    if message_id == 10:
        told = [(1, "permanent", 422, "HTTP 422: recipient unknown", 25)]
    return [
        {
            "message_id": message_id,
            "number": number,
            "made_by": "pass",
            "started_at": now - timedelta(hours=hours),
            "finished_at": now - timedelta(hours=hours) + timedelta(milliseconds=180),
            "outcome": outcome,
            "status_code": status,
            "error": error,
            "duration_ms": 180,
        }
        for number, outcome, status, error, hours in told
    ]


if __name__ == "__main__":
    target = Path(sys.argv[1] if len(sys.argv) > 1 else EXAMPLE)
    target.unlink(missing_ok=True)
    build(target)
