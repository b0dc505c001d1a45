"""The events of a pass, and the summary that counts them."""

from __future__ import annotations

from dataclasses import asdict
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
PASS = "8c7c1f0e"
COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")


def delivered() -> MessageDelivered:
    return MessageDelivered(7, 12345, MessageType.SUPPLIER, 0)


def rescheduled(outcome: OutcomeKind = OutcomeKind.TRANSIENT) -> MessageRescheduled:
    return MessageRescheduled(7, 12345, MessageType.SUPPLIER, 1, outcome, 503, NOON)


def released(outcome: OutcomeKind = OutcomeKind.THROTTLED) -> MessageReleased:
    return MessageReleased(7, 12345, MessageType.SUPPLIER, 0, outcome, 429)


def escalated(reason: EscalationReason = EscalationReason.EXHAUSTED) -> MessageEscalated:
    return MessageEscalated(7, 12345, MessageType.SUPPLIER, 10, reason)


def counts(*events: Event) -> dict[str, int]:
    """Return the summary's counts after these events, without zeros."""
    tally = Tally()
    for each in events:
        tally.count(each)
    summary = asdict(tally.summary(PASS, PassResult.COMPLETED, timedelta(seconds=1)))
    return {name: summary[name] for name in COUNTS if summary[name]}


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        (delivered(), {"sent": 1}),
        (rescheduled(OutcomeKind.TRANSIENT), {"rescheduled": 1}),
        (rescheduled(OutcomeKind.REFUSED), {"rescheduled": 1}),
        (rescheduled(OutcomeKind.UNKNOWN), {"rescheduled": 1, "unknown": 1}),
        (released(OutcomeKind.THROTTLED), {"released": 1}),
        (released(OutcomeKind.UNKNOWN), {"released": 1, "unknown": 1}),
        (escalated(EscalationReason.EXHAUSTED), {"escalated": 1}),
        (escalated(EscalationReason.PERMANENT), {"escalated": 1}),
        (escalated(EscalationReason.INVALID), {"escalated": 1}),
        (escalated(EscalationReason.EXPIRED), {"escalated": 1}),
        (escalated(EscalationReason.UNKNOWN), {"escalated": 1, "unknown": 1}),
        (PassStarted(PASS, due=40), {}),
        (ClaimsExpired(released=2, unknown=3), {}),
        (ClockWasAhead(timedelta(days=30), messages=2, claims=1), {}),
        (MessageMovedOn(7, OutcomeKind.DELIVERED), {}),
        (MessageMovedOn(7, OutcomeKind.UNKNOWN), {}),
        (BreakerOpened("tickets.example.com", failures=5, probe_at=NOON), {}),
        (BreakerClosed("tickets.example.com"), {}),
        (PassStopped(StopReason.DEADLINE), {}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_each_event_is_counted_as_what_it_says(event: Event, counted: dict[str, int]) -> None:
    assert counts(event) == counted


def test_events_add_up() -> None:
    assert counts(
        PassStarted(PASS, due=8),
        delivered(),
        rescheduled(),
        delivered(),
        rescheduled(OutcomeKind.UNKNOWN),
        released(),
        escalated(EscalationReason.UNKNOWN),
        delivered(),
        PassStopped(StopReason.LIMIT),
    ) == {"sent": 3, "rescheduled": 2, "released": 1, "escalated": 1, "unknown": 2}


def test_a_pass_with_nothing_to_do_counts_noughts() -> None:
    assert Tally().summary(PASS, PassResult.COMPLETED, timedelta(0)) == PassSummary(PASS, PassResult.COMPLETED)
    assert PassSummary(PASS, PassResult.COMPLETED).duration_seconds == 0.0


def test_a_tally_can_be_asked_while_it_counts() -> None:
    tally = Tally()
    tally.count(delivered())
    early = tally.summary(PASS, PassResult.COMPLETED, timedelta(seconds=1))
    tally.count(delivered())
    late = tally.summary(PASS, PassResult.COMPLETED, timedelta(seconds=2))
    assert (early.sent, late.sent) == (1, 2)


def test_a_tally_says_how_the_pass_ended_and_why() -> None:
    summary = Tally().summary(
        PASS, PassResult.STOPPED, timedelta(0), reason=StopReason.BREAKER_OPEN, detail="5 failures in a row"
    )
    assert summary.pass_id == PASS
    assert summary.result is PassResult.STOPPED
    assert summary.reason == "breaker_open"
    assert summary.detail == "5 failures in a row"


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        (timedelta(seconds=2.5), 2.5),
        (timedelta(microseconds=1_234_567), 1.235),
        (timedelta(minutes=12), 720.0),
        (timedelta(microseconds=499), 0.0),
    ],
)
def test_the_duration_is_in_seconds_to_the_millisecond(duration: timedelta, seconds: float) -> None:
    assert Tally().summary(PASS, PassResult.COMPLETED, duration).duration_seconds == seconds


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (None, 0),
        (StopReason.PAUSED, 0),
        (StopReason.LIMIT, 0),
        (StopReason.THROTTLED, 0),
        (StopReason.DEADLINE, 0),
        (StopReason.BREAKER_OPEN, 69),
        (StopReason.LOCK_HELD, 75),
        (StopReason.CREDENTIALS_REFUSED, 77),
        (StopReason.SIGNAL, 143),
    ],
)
def test_a_pass_ends_its_command_with_a_status_of_its_own(reason: StopReason | None, status: int) -> None:
    assert PassSummary("a-pass", PassResult.COMPLETED, reason=reason).exit_status == status
