"""The events of a pass, and the summary that counts them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retrycli.domain.message import EscalationReason, MessageType
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import (
    BreakerClosed,
    BreakerOpened,
    ClaimsExpired,
    ClockWasAhead,
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    MessageRescheduled,
    PassResult,
    PassStarted,
    PassStopped,
    PassSummary,
    StopReason,
    Tally,
)

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")


def rescheduled(outcome: OutcomeKind) -> MessageRescheduled:
    return MessageRescheduled(7, 12345, MessageType.SUPPLIER, 1, outcome, 503, NOON)


def released(outcome: OutcomeKind) -> MessageReleased:
    return MessageReleased(7, 12345, MessageType.SUPPLIER, 0, outcome, 429)


def escalated(reason: EscalationReason) -> MessageEscalated:
    return MessageEscalated(7, 12345, MessageType.SUPPLIER, 10, reason)


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        (MessageDelivered(7, 12345, MessageType.SUPPLIER, 0), ["sent"]),
        (rescheduled(OutcomeKind.TRANSIENT), ["rescheduled"]),
        (rescheduled(OutcomeKind.UNKNOWN), ["rescheduled", "unknown"]),
        (released(OutcomeKind.THROTTLED), ["released"]),
        (released(OutcomeKind.UNKNOWN), ["released", "unknown"]),
        (escalated(EscalationReason.EXHAUSTED), ["escalated"]),
        (escalated(EscalationReason.UNKNOWN), ["escalated", "unknown"]),
        (PassStarted("pass", due=40), []),
        (ClaimsExpired(released=2, unknown=3), []),
        (ClockWasAhead(timedelta(days=30), messages=2, claims=1), []),
        (MessageMovedOn(7, OutcomeKind.UNKNOWN), []),
        (BreakerOpened("tickets.example.com", failures=5, probe_at=NOON), []),
        (BreakerClosed("tickets.example.com"), []),
        (PassStopped(StopReason.DEADLINE), []),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_each_event_is_counted_as_what_it_says(event: Event, counted: list[str]) -> None:
    tally = Tally()
    for times in (0, 1, 2):
        summary = tally.summary("pass", PassResult.COMPLETED, timedelta(0))._asdict()
        assert {name: summary[name] for name in COUNTS} == dict.fromkeys(COUNTS, 0) | dict.fromkeys(counted, times)
        tally.count(event)


@pytest.mark.parametrize(
    ("duration", "seconds"), [(timedelta(microseconds=1_234_567), 1.235), (timedelta(minutes=12), 720.0)]
)
def test_a_summary_has_its_end_and_its_duration_to_the_millisecond(duration: timedelta, seconds: float) -> None:
    summary = Tally().summary("pass", PassResult.STOPPED, duration, reason=StopReason.BREAKER_OPEN, detail="5 failures")
    assert (summary.pass_id, summary.result, summary.duration_seconds) == ("pass", PassResult.STOPPED, seconds)
    assert (summary.reason, summary.detail) == ("breaker_open", "5 failures")


EXIT_STATUSES = {
    StopReason.BREAKER_OPEN: 69,
    StopReason.SAME_ANSWER: 69,
    StopReason.LOCK_HELD: 75,
    StopReason.CREDENTIALS_REFUSED: 77,
    StopReason.UNREAD_ANSWER: 78,
    StopReason.SIGNAL: 143,
}


@pytest.mark.parametrize("reason", [None, *StopReason])
def test_a_pass_ends_its_command_with_a_status_of_its_own(reason: StopReason | None) -> None:
    status = PassSummary("a-pass", PassResult.COMPLETED, reason=reason).exit_status
    assert status == (0 if reason is None else EXIT_STATUSES.get(reason, 0))
