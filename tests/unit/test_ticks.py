"""Cron's grid, as it is read from the passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.ticks import FARTHEST, Grid, grid, is_late

NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE


def test_without_a_pass_there_is_no_grid() -> None:
    assert grid([], QUARTER) is None


def test_one_pass_makes_a_grid() -> None:
    assert grid([NOON], QUARTER) == Grid(NOON, QUARTER)


def test_ticks_that_come_some_seconds_early_or_late_are_on_one_grid() -> None:
    starts = [NOON + timedelta(seconds=20), NOON - QUARTER, NOON - 2 * QUARTER]
    assert grid(starts, QUARTER) == Grid(starts[0], QUARTER)


def test_a_pass_by_hand_does_not_move_the_grid() -> None:
    assert grid([NOON + 7 * MINUTE, NOON, NOON - QUARTER, NOON - QUARTER - MINUTE], QUARTER) == Grid(NOON, QUARTER)


def test_where_none_is_usual_the_newest_pass_makes_the_grid() -> None:
    assert grid([NOON + 7 * MINUTE, NOON], QUARTER) == Grid(NOON + 7 * MINUTE, QUARTER)


@pytest.mark.parametrize(
    ("seconds", "number"), [(-1, 0), (0, 1), (1, 1), (899, 1), (900, 2), (9000, 11), (-901, -1), (-900, 0)]
)
def test_the_first_tick_after_a_time(seconds: int, number: int) -> None:
    assert Grid(NOON, QUARTER).after(NOON + timedelta(seconds=seconds)) == number


@given(st.integers(-5, 1000), st.integers(-5, 1000))
def test_the_first_tick_at_which_something_holds_is_found(start: int, opens: int) -> None:
    ticks = Grid(NOON, QUARTER)
    assert ticks.first(start, lambda tick: tick >= ticks[opens]) == max(start, opens)


def test_what_never_holds_is_given_up_after_few_looks() -> None:
    looks: list[datetime] = []

    def never(tick: datetime) -> bool:
        looks.append(tick)
        return False

    assert Grid(NOON, QUARTER).first(1, never) is None
    assert len(looks) <= FARTHEST.bit_length() + 1


def test_beyond_the_end_of_time_there_is_a_tick_too() -> None:
    assert Grid(NOON, timedelta(days=400))[10**6] == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (34, False), (35, True), (600, True)])
def test_after_two_intervals_and_five_minutes_the_scheduler_looks_dead(minutes: int, *, late: bool) -> None:
    assert is_late(NOON, NOON + minutes * MINUTE, QUARTER) is late
