"""What became of messages that were handed over to the application's own sender."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retrycli.domain.hand_over import (
    Answers,
    Fate,
    HandedOver,
    fate_of,
    is_down,
    is_left_behind,
    is_overdue,
    outcome_of,
)
from retrycli.domain.message import BY_PASS, State

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)


def given(
    at: datetime, fate: Fate = Fate.KEPT, state: State = State.HANDED_OVER, error: str | None = "x"
) -> HandedOver:
    return HandedOver(7, fate, at, state, BY_PASS, 2, error)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (None, Fate.WITHDRAWN),
        ("pending", Fate.WITHDRAWN),
        ("approved", Fate.WITHDRAWN),
        ("rejected", Fate.WITHDRAWN),
        ("sent", Fate.SENT),
        ("failed", Fate.FAILED),
        ("queued", Fate.KEPT),
        ("processing", Fate.KEPT),
    ],
)
def test_the_status_shows_the_fate_and_a_status_of_the_application_alone_shows_none(
    status: str | None, fate: Fate
) -> None:
    assert fate_of(status, None, None) is fate


@pytest.mark.parametrize(
    ("updated_at", "before", "fate"),
    [
        ("2025-03-03 12:00:00", "2025-03-03 12:00:00", Fate.PUT_BACK),
        ("2025-03-03 12:00:00.000", "2025-03-03T12:00:00", Fate.PUT_BACK),
        ("2025-03-03 11:00:00", "2025-03-03 12:00:00", Fate.PUT_BACK),  # from an older backup
        ("2025-03-03 12:00:01", "2025-03-03 12:00:00", Fate.FAILED),
        ("2025-03-03 12:00:00", None, Fate.FAILED),
        (None, "2025-03-03 12:00:00", Fate.FAILED),
        ("a while ago", "a while ago", Fate.PUT_BACK),
        ("a while ago", "long ago", Fate.FAILED),
    ],
)
def test_a_failed_row_that_is_not_newer_than_before_was_put_back(
    updated_at: str | None, before: str | None, fate: Fate
) -> None:
    assert fate_of("failed", updated_at, before) is fate
    assert fate_of("sent", updated_at, before) is Fate.SENT


def test_a_failure_has_the_rows_error_in_one_line() -> None:
    assert outcome_of(given(NOON, Fate.FAILED, error="550\nno such user")).error == "550 no such user"
    assert outcome_of(given(NOON, Fate.FAILED, error=None)).error == "the application's sender failed"


def test_only_a_message_that_waits_for_its_answer_is_overdue() -> None:
    assert is_overdue(given(NOON - HOUR), NOON, HOUR)
    assert not is_overdue(given(NOON - HOUR + MINUTE), NOON, HOUR)
    assert not is_overdue(given(NOON - HOUR, state=State.ESCALATED), NOON, HOUR)
    assert not is_overdue(given(NOON - HOUR, Fate.SENT), NOON, HOUR)


def test_the_sender_is_down_if_it_has_answered_nothing_since_an_overdue_message_was_handed_over() -> None:
    overdue = [given(NOON - 2 * HOUR), given(NOON - HOUR)]
    assert is_down(overdue, Answers())
    assert is_down(overdue, Answers(last=NOON - HOUR))
    assert not is_down(overdue, Answers(last=NOON - HOUR + MINUTE))
    assert not is_down([], Answers())


def test_a_sender_that_works_through_many_messages_leaves_none_behind() -> None:
    early = given(NOON - 5 * HOUR)
    assert not is_left_behind(early, Answers(last=NOON - MINUTE), NOON, HOUR)
    assert not is_left_behind(early, Answers(last=NOON - MINUTE, overtaken=NOON - 5 * HOUR), NOON, HOUR)


def test_a_message_is_left_behind_if_a_later_one_was_answered_or_all_is_quiet_again() -> None:
    early = given(NOON - 5 * HOUR)
    assert is_left_behind(early, Answers(last=NOON - MINUTE, overtaken=NOON - 4 * HOUR), NOON, HOUR)
    assert is_left_behind(early, Answers(last=NOON - HOUR), NOON, HOUR)
