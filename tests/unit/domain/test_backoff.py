"""Backoff schedules: the wait before each retry, jitter, and overflow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.retry_policy import JITTER_FROM, LATEST, Backoff, BackoffKind

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)

EXPONENTIAL = Backoff()
LINEAR = Backoff(BackoffKind.LINEAR)
FIXED = Backoff(BackoffKind.FIXED)
LIST = Backoff(BackoffKind.LIST, waits=(timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=90)))


def minutes(*waits: float) -> list[timedelta]:
    return [timedelta(minutes=wait) for wait in waits]


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (EXPONENTIAL, minutes(15, 30, 60, 120, 240, 240, 240, 240, 240, 240)),
        (LINEAR, minutes(15, 15, 15, 15)),
        (FIXED, minutes(15, 15, 15, 15)),
        (LIST, minutes(5, 20, 90, 90, 90)),
        (Backoff(base=timedelta(minutes=10), factor=3), minutes(10, 30, 90, 240, 240)),
        (Backoff(factor=1), minutes(15, 15, 15)),
        (Backoff(base=timedelta(hours=8)), minutes(240, 240)),
        (Backoff(BackoffKind.FIXED, base=timedelta(hours=8)), minutes(480, 480)),
    ],
)
def test_each_schedule_has_its_documented_waits(backoff: Backoff, waits: list[timedelta]) -> None:
    assert [backoff.wait(retry) for retry in range(1, len(waits) + 1)] == waits


@pytest.mark.parametrize(("factor", "retry"), [(1.5, 10_000), (2.0, 10**9), (100.0, 1_000)])
def test_a_late_retry_waits_the_maximum_and_does_not_overflow(factor: float, retry: int) -> None:
    assert Backoff(factor=factor).wait(retry) == timedelta(hours=4)


@given(
    retry=st.integers(1, 10_000),
    base=st.timedeltas(timedelta(seconds=1), timedelta(days=365)),
    factor=st.floats(1, 100),
    cap=st.timedeltas(timedelta(seconds=1), timedelta(days=365)),
)
def test_exponential_waits_never_decrease_and_never_exceed_the_maximum(
    retry: int, base: timedelta, factor: float, cap: timedelta
) -> None:
    backoff = Backoff(base=base, factor=factor, cap=cap)
    assert min(base, cap) <= backoff.wait(retry) <= backoff.wait(retry + 1) <= cap


@pytest.mark.parametrize("backoff", [EXPONENTIAL, FIXED, LIST], ids=lambda backoff: str(backoff.kind))
def test_only_the_linear_schedule_uses_the_creation_time(backoff: Backoff) -> None:
    for created_at in (None, NOON - timedelta(days=1), NOON + timedelta(days=1)):
        assert backoff.next_attempt_at(2, since=NOON, created_at=created_at) == NOON + backoff.wait(2)


@pytest.mark.parametrize(
    ("retry", "failed_after", "due_after"),
    [
        (1, 40, 55),  # one base after the failure, which is later than one base after creation
        (2, 15, 30),
        (4, 20, 60),  # four bases after creation, which is later than one base after the failure
        (4, 300, 315),  # one base after the failure
    ],
)
def test_linear_retry_n_is_due_n_bases_after_creation_and_at_least_one_base_from_now(
    retry: int, failed_after: int, due_after: int
) -> None:
    due = LINEAR.next_attempt_at(retry, since=NOON + timedelta(minutes=failed_after), created_at=NOON)
    assert due == NOON + timedelta(minutes=due_after)


@pytest.mark.parametrize("backoff", [EXPONENTIAL, LINEAR], ids=lambda backoff: str(backoff.kind))
def test_a_time_after_the_year_9999_becomes_the_latest_possible(backoff: Backoff) -> None:
    late = LATEST - timedelta(minutes=1)
    assert backoff.next_attempt_at(1, since=late, created_at=late, jitter=1) == LATEST
    assert LINEAR.next_attempt_at(2**63 - 1, since=NOON, created_at=NOON) == LATEST


@pytest.mark.parametrize(
    ("wait", "due_after"), [(59.99, 59.99), (60, 72), (61, 73.2)], ids=["below", "an hour", "above"]
)
def test_jitter_starts_at_one_hour(wait: float, due_after: float) -> None:
    backoff = Backoff(BackoffKind.FIXED, base=timedelta(minutes=wait))
    assert backoff.next_attempt_at(1, since=NOON, jitter=1) == NOON + timedelta(minutes=due_after)


@given(
    retry=st.integers(1, 10_000),
    jitter=st.floats(-1, 1),
    spread=st.floats(0, 1),
    base=st.timedeltas(timedelta(minutes=1), timedelta(days=2)),
    kind=st.sampled_from([BackoffKind.EXPONENTIAL, BackoffKind.FIXED]),
)
def test_jitter_changes_a_long_wait_by_at_most_its_spread_and_a_short_one_never(
    retry: int, jitter: float, spread: float, base: timedelta, kind: BackoffKind
) -> None:
    backoff = Backoff(kind, base=base, spread=spread)
    wait = backoff.wait(retry)
    moved = backoff.next_attempt_at(retry, since=NOON, jitter=jitter) - NOON - wait
    assert abs(moved) <= (wait * spread + timedelta.resolution if wait >= JITTER_FROM else timedelta(0))


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_higher_roll_is_never_due_earlier(one: float, other: float) -> None:
    low, high = (EXPONENTIAL.next_attempt_at(5, since=NOON, jitter=roll) for roll in sorted([one, other]))
    assert low <= high
