"""Invariants that hold for the database and for the received messages, however often passes are killed."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from retrycli.domain.outcome import PROCESS_DIED
from tests.cli.command import wait_until
from tests.crash.scene import FIRST_TICKET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from retrycli.operations.sandbox import Sandbox
    from tests.crash.scene import Scene

OTHERS_AT_THE_SERVER = "pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
LEFT_ALONE = (
    "id, ticket_id, message_type, recipient_email, cc_emails, subject, body, confidence, created_at, updated_at"
)
STEP = timedelta(hours=5)
"""The time between two passes, after which every waiting message is due."""
MOST_PASSES = 10
"""The number of passes after which any remaining messages count as stuck."""


def message_id(ticket_id: str) -> int:
    """Return the id of a ticket's only message."""
    return int(ticket_id) - FIRST_TICKET


def nothing_is_left(stage: Scene) -> bool:
    """Return whether each message is sent or escalated."""
    if not stage.has_tables():
        return False
    escalated = "SELECT message_id FROM retrycli_queue WHERE state = 'escalated'"
    return stage.count(f"pending_messages WHERE status = 'failed' AND id NOT IN ({escalated})") == 0


def clear_up(stage: Scene, now: datetime) -> None:
    """Run passes until nothing is left. The first pass recovers the messages of dead passes."""
    for _ in range(MOST_PASSES):
        stage.run_once_at(now)
        if nothing_is_left(stage):
            return
        now += STEP
    raise AssertionError(f"still not done after {MOST_PASSES} passes")


def wait_until_forgotten(stage: Scene) -> None:
    """Wait until PostgreSQL has closed the session of a killed client. Until then, it may still execute statements."""
    if not stage.application.is_sqlite:
        wait_until(lambda: stage.count(OTHERS_AT_THE_SERVER) == 0)


def phase_of(stage: Scene, pid: int) -> tuple[str, int]:
    """Return the phase in which a process died, and the maximum number of its requests in flight."""
    if not stage.has_tables():
        return "1 before there were tables", 0
    passes = stage.rows("SELECT id, finished_at FROM retrycli_passes WHERE pid = ?", pid)
    if not passes:
        return "2 before its pass was written down", 0
    [[pass_id, finished_at]] = passes
    if finished_at is not None:
        return "7 after its pass was written down as ended", 0
    if in_flight := stage.count("retrycli_attempts WHERE pass_id = ? AND finished_at IS NULL", pass_id):
        return "6 with attempts in flight", in_flight
    if not stage.count("retrycli_queue WHERE claimed_by = ?", pass_id):
        return "3 before it had claims", 0
    tried = stage.count("retrycli_attempts WHERE pass_id = ?", pass_id)
    return ("5 with claims, between two attempts" if tried else "4 with claims, before the first attempt"), 0


def check_nothing_is_lost(stage: Scene, server: Sandbox, messages: int) -> None:
    """Check right after a kill that each message is sent, waiting with a time, claimed, or escalated."""
    if not stage.has_tables():
        assert server.received == ()
        return
    lost = """
        SELECT m.id FROM pending_messages m JOIN retrycli_queue q ON q.message_id = m.id WHERE NOT (
            m.status = 'failed' AND q.state = 'waiting' AND q.next_attempt_at IS NOT NULL AND q.claimed_by IS NULL
            OR m.status = 'failed' AND q.state = 'sending' AND q.claimed_by IS NOT NULL
                AND q.claim_expires_at IS NOT NULL
            OR m.status = 'failed' AND q.state = 'escalated'
        ) AND m.id <= ?
    """
    assert stage.rows(lost, messages) == []
    assert stage.count("pending_messages WHERE status IN ('failed', 'sent') AND id <= ?", messages) == messages
    _check_attempts_cover_arrivals(stage, server)


def _check_attempts_cover_arrivals(stage: Scene, server: Sandbox) -> None:
    """Check that each request's attempt was recorded before the request."""
    arrived = server.received  # read before the attempts, because requests of a dead pass may still arrive
    attempts = dict(stage.rows("SELECT message_id, count(*) FROM retrycli_attempts GROUP BY message_id"))
    assert [mail for mail in arrived if mail.times > attempts.get(message_id(mail.ticket_id), 0)] == []


def check_messages(stage: Scene, server: Sandbox, messages: int) -> None:
    """Check that in the end each message is sent or escalated, and that its history explains why.

    If a kill prevents the record of an outcome, it is unknown. Three unknown outcomes escalate the message.
    """
    received = server.received
    arrivals = {message_id(request.ticket_id): request for request in received}
    assert len(arrivals) == len(received), "a message has come under two keys"
    history: dict[int, list[Any]] = {}
    for of_id, *attempt in stage.rows(
        "SELECT message_id, number, outcome, error, finished_at, made_by FROM retrycli_attempts ORDER BY id"
    ):
        history.setdefault(of_id, []).append(attempt)
    queue = {row[0]: row[1:] for row in stage.rows("SELECT message_id, state, unknown_count FROM retrycli_queue")}
    rows = stage.rows(
        "SELECT id, status, retry_count, last_error, sent_at, body FROM pending_messages WHERE id <= ?", messages
    )
    assert len(rows) == len(history) == messages
    for of_id, status, retry_count, last_error, sent_at, body in rows:
        attempts, arrived = history[of_id], arrivals.get(of_id)
        outcomes = [outcome for _, outcome, _, _, _ in attempts]
        answered = [each for each in outcomes if each != "unknown"]
        assert [number for number, *_ in attempts] == list(range(1, len(attempts) + 1))
        assert all(finished_at and made_by == "pass" for *_, finished_at, made_by in attempts)
        assert all(error == PROCESS_DIED.error for _, outcome, error, *_ in attempts if outcome == "unknown")
        assert retry_count == outcomes.count("unknown")
        if of_id in queue:
            assert (status, sent_at, queue[of_id][0]) == ("failed", None, "escalated")
            assert (outcomes, queue[of_id][1]) == (["unknown"] * 3, 3)
            assert last_error.startswith("May have arrived")
        else:
            assert (answered, outcomes[-1]) == (["delivered"], "delivered")
            assert (status, last_error) == ("sent", None)
            assert sent_at
            assert arrived
        if arrived:
            assert arrived.times <= len(attempts)
            assert arrived.times == 1 or "unknown" in outcomes
            assert arrived.content["body"] == body


def check_passes(stage: Scene, killed: Mapping[int, str]) -> None:
    """Check that each pass has ended and counted its sent messages, and that killed passes are interrupted."""
    delivered = dict(
        stage.rows("SELECT pass_id, count(*) FROM retrycli_attempts WHERE outcome = 'delivered' GROUP BY pass_id")
    )
    passes = stage.rows("SELECT id, pid, result, sent, finished_at FROM retrycli_passes")
    interrupted = {pid for _, pid, result, *_ in passes if result == "interrupted"}
    assert interrupted == {pid for pid, phase in killed.items() if phase[0] in "3456"}
    for pass_id, pid, result, sent, finished_at in passes:
        assert finished_at
        assert result == ("interrupted" if pid in interrupted else "completed")
        assert sent == delivered.get(pass_id, 0)


def left_alone(stage: Scene, messages: int) -> list[Any]:
    """Return everything that no pass may change, such as the rows that have not failed."""
    return [
        stage.rows(f"SELECT {LEFT_ALONE} FROM pending_messages ORDER BY id"),
        stage.rows("SELECT * FROM pending_messages WHERE id > ? ORDER BY id", messages),
        stage.rows("SELECT * FROM ticket_states ORDER BY ticket_id"),
        stage.application.schema(but="retrycli_"),
        stage.rows("PRAGMA journal_mode") if stage.application.is_sqlite else None,
    ]
