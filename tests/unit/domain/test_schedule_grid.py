"""The ticks of an interval. `test_outlook` has those of the days on which the clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.outlook import MAX_TICKS, Grid, Ticks, by_clock, is_made
from retrycli.domain.passes import is_late
from retrycli.domain.retry_policy import LATEST

NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER, DAY = 15 * MINUTE, timedelta(days=1)


@pytest.mark.parametrize(("seconds", "number"), [(-901, -1), (-900, 0), (-1, 0), (0, 1), (899, 1), (900, 2)])
def test_finds_the_first_tick_after_a_time(seconds: int, number: int) -> None:
    assert Grid(NOON, QUARTER).after(NOON + timedelta(seconds=seconds)) == number


@given(st.integers(-5, 1000), st.integers(-5, 1000))
def test_finds_the_first_tick_that_meets_a_condition(start: int, opens: int) -> None:
    ticks = Grid(NOON, QUARTER)
    assert ticks.first(start, lambda tick: tick >= ticks[opens]) == max(start, opens)


def test_gives_up_early_on_a_condition_that_is_never_met() -> None:
    looks: list[datetime] = []

    def never(tick: datetime) -> bool:
        looks.append(tick)
        return False

    assert Grid(NOON, QUARTER).first(1, never) is None
    assert len(looks) <= MAX_TICKS.bit_length() + 1


@pytest.mark.parametrize(
    ("ticks", "number"), [(Grid(NOON, timedelta(days=400)), 10**6), (by_clock(DAY, NOON, UTC), 10**5)]
)
def test_there_is_a_tick_at_the_end_of_time(ticks: Ticks, number: int) -> None:
    assert ticks[number] == LATEST


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (34, False), (35, True), (600, True)])
def test_the_scheduler_looks_dead_after_two_intervals_and_five_minutes(minutes: int, *, late: bool) -> None:
    assert is_late(NOON, NOON + minutes * MINUTE, QUARTER) is late


# Kathmandu's half hours are quarter hours in UTC.
KATHMANDU = timezone(timedelta(hours=5, minutes=45))


@pytest.mark.parametrize(
    ("minutes", "expected", "zone"),
    [
        (7, ["02 12:02", "02 12:09", "02 12:16"], UTC),
        (7.5, ["02 12:07", "02 12:15", "02 12:22"], UTC),
        (360, ["02 18:00", "03 00:00", "03 06:00"], UTC),
        (1440, ["03 00:00", "04 00:00", "05 00:00"], UTC),
        (30, ["02 12:15", "02 12:45", "02 13:15"], KATHMANDU),
        (1440, ["02 18:15", "03 18:15", "04 18:15"], KATHMANDU),
    ],
)
def test_an_interval_counts_by_the_local_clock(minutes: float, expected: list[str], zone: tzinfo) -> None:
    found = by_clock(minutes * MINUTE, NOON, zone)
    first = found.after(NOON)
    assert [f"{found[first + each]:%d %H:%M}" for each in range(3)] == expected


def test_a_tick_is_strictly_after_the_time() -> None:
    found = by_clock(DAY, NOON, UTC)
    midnight = found.next(NOON)
    assert found.next(midnight) == midnight + DAY
    assert found.first(0, lambda tick: tick >= midnight + 400 * DAY) == found.after(NOON) + 400


@pytest.mark.parametrize(("seconds", "made"), [(-61, False), (-59, True), (0, True), (20, True)])
def test_a_pass_that_begins_a_little_early_belongs_to_its_tick(seconds: int, *, made: bool) -> None:
    assert is_made(NOON, [NOON - QUARTER, NOON + timedelta(seconds=seconds)], QUARTER) is made
