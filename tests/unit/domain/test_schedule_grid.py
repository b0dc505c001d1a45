"""The times of the next passes, according to a cron line, past passes or the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.passes import is_late
from retrycli.domain.schedule_grid import MAX_TICKS, Grid, Listed, Ticks, by_clock, by_cron, grid

NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
QUARTER = 15 * MINUTE


def test_without_a_pass_there_is_no_grid() -> None:
    assert grid([], QUARTER) is None


def test_one_pass_makes_a_grid() -> None:
    assert grid([NOON], QUARTER) == Grid(NOON, QUARTER)


def test_ticks_a_few_seconds_early_or_late_are_on_one_grid() -> None:
    starts = [NOON + timedelta(seconds=20), NOON - QUARTER, NOON - 2 * QUARTER]
    assert grid(starts, QUARTER) == Grid(starts[0], QUARTER)


def test_a_late_pass_does_not_move_the_grid() -> None:
    assert grid([NOON + 7 * MINUTE, NOON, NOON - QUARTER, NOON - QUARTER - MINUTE], QUARTER) == Grid(NOON, QUARTER)


def test_without_a_usual_offset_the_newest_pass_sets_the_grid() -> None:
    assert grid([NOON + 7 * MINUTE, NOON], QUARTER) == Grid(NOON + 7 * MINUTE, QUARTER)


@pytest.mark.parametrize(
    ("seconds", "number"), [(-1, 0), (0, 1), (1, 1), (899, 1), (900, 2), (9000, 11), (-901, -1), (-900, 0)]
)
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


def test_there_is_a_tick_at_the_end_of_time() -> None:
    assert Grid(NOON, timedelta(days=400))[10**6] == datetime.max.replace(tzinfo=UTC)


@pytest.mark.parametrize(("minutes", "late"), [(0, False), (34, False), (35, True), (600, True)])
def test_the_scheduler_looks_dead_after_two_intervals_and_five_minutes(minutes: int, *, late: bool) -> None:
    assert is_late(NOON, NOON + minutes * MINUTE, QUARTER) is late


KATHMANDU = timezone(timedelta(hours=5, minutes=45))


def times(found: Ticks | None, now: datetime, number: int = 3) -> list[str]:
    """Return the times of the next ticks, in UTC."""
    assert found is not None
    first = found.after(now)
    return [f"{found[first + each]:%d %H:%M}" for each in range(number)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/15 * * * *", ["02 12:15", "02 12:30", "02 12:45"]),
        ("7,22,37,52 * * * *", ["02 12:07", "02 12:22", "02 12:37"]),
        ("* * * * *", ["02 12:01", "02 12:02", "02 12:03"]),
        ("0 * * * *", ["02 13:00", "02 14:00", "02 15:00"]),
        ("@hourly", ["02 13:00", "02 14:00", "02 15:00"]),
        ("5,10 * * * *", ["02 12:05", "02 12:10", "02 13:05"]),
        ("0 */6 * * *", ["02 18:00", "03 00:00", "03 06:00"]),
        ("0 8-18/5 * * mon-Fri", ["02 13:00", "02 18:00", "03 08:00"]),
        ("0 0 3 * 5", ["03 00:00", "06 00:00", "13 00:00"]),
        ("0 0 */2 * 7", ["15 00:00", "29 00:00", "05 00:00"]),
        ("30 6 * mar 0", ["08 06:30", "15 06:30", "22 06:30"]),
    ],
)
def test_a_cron_line_has_the_ticks_of_cron(line: str, expected: list[str]) -> None:
    assert times(by_cron(line, NOON, UTC), NOON) == expected


@pytest.mark.parametrize(
    "line",
    ["@reboot", "*/15 * * *", "60 * * * *", "5/15 * * * *", "1-0 * * * *", "~ * * * *", "*/0 * * * *", "0 0 30 2 *"],
)
def test_an_invalid_or_impossible_line_has_no_ticks(line: str) -> None:
    assert by_cron(line, NOON, UTC) is None


def test_cron_uses_local_time() -> None:
    """Kathmandu is 5 h 45 min ahead of UTC, so its half hours are quarter hours in UTC."""
    assert times(by_cron("*/30 * * * *", NOON, KATHMANDU), NOON) == ["02 12:15", "02 12:45", "02 13:15"]


@pytest.mark.skipif("Europe/Berlin" not in available_timezones(), reason="needs a time zone database (tzdata)")
def test_ticks_move_with_the_clock_at_daylight_saving_time() -> None:
    saturday = datetime(2026, 3, 28, 20, tzinfo=UTC)
    found = by_cron("0 */6 * * *", saturday, ZoneInfo("Europe/Berlin"))
    assert times(found, saturday) == ["28 23:00", "29 04:00", "29 10:00"]


def test_a_tick_is_strictly_after_the_time() -> None:
    found = by_cron("0 8 * * *", NOON, UTC)
    assert found is not None
    eight = found.next(NOON)
    assert found.next(eight) == eight + timedelta(days=1)
    assert found.first(0, lambda tick: tick >= eight + timedelta(days=400)) == found.after(NOON) + 400


def test_gives_up_on_listed_ticks_too() -> None:
    assert Listed(NOON + n * MINUTE for n in count()).first(0, lambda _: False) is None


@pytest.mark.parametrize(("minutes", "expected"), [(15, "12:15:00"), (60, "13:00:00"), (1440, "00:00:00")])
def test_an_interval_counts_by_the_clock(minutes: int, expected: str) -> None:
    assert f"{by_clock(minutes * MINUTE, NOON, UTC).next(NOON):%H:%M:%S}" == expected


def test_an_interval_that_cron_cannot_express_has_ticks_too() -> None:
    found = by_clock(7 * MINUTE, NOON, UTC).next(NOON)
    assert timedelta() < found - NOON <= 7 * MINUTE
