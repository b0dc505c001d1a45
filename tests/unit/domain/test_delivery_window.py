"""Delivery windows: their texts, and when they are open, also when clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retrycli.domain.delivery_window import DAYS, DeliveryWindow, DeliveryWindows

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "America/Havana")
"""In Havana, clocks change at midnight; on Lord Howe, by half an hour. Kathmandu's offset is not a whole hour."""


def windows(*texts: str, zone: str = "Europe/Berlin") -> DeliveryWindows:
    return DeliveryWindows.parse(texts, ZoneInfo(zone))


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN, fold=fold)


@pytest.mark.parametrize(
    ("text", "days", "start", "end"),
    [
        ("Mon-Fri 08:00-18:00", {0, 1, 2, 3, 4}, 8, 18),
        ("sat 9:00 - 12:30", {5}, 9, 12.5),
        ("Fri - Mon 08:00-18:00", {4, 5, 6, 0}, 8, 18),
        (" DAILY 22:00-06:00 ", set(range(7)), 22, 30),
        ("Mon 22:00-00:00", {0}, 22, 24),
    ],
)
def test_a_window_has_days_and_times(text: str, days: set[int], start: float, end: float) -> None:
    assert DeliveryWindow.parse(text) == (frozenset(days), start * HOUR, end * HOUR)


@pytest.mark.parametrize(
    "text",
    [
        *("", "Mon", "08:00-18:00", "Mon-Fri 8-18", "Mon-Fri 08:00-18:00-20:00", "Mon -08:00-18:00", "Mon 8:0-18:00"),
        *("Mon-Fri 08:00-25:00", "Mon 24:00-06:00", "Mon 08:60-18:00", "Mon 08:00-24:30", "Monday 08:00-18:00"),
        *("daily-Fri 08:00-18:00", "Mon08:00-18:00", "Mon 08:00–18:00", "Mon ٠٨:00-18:00", "Mon 08:00-18:00\0"),
    ],
)
def test_another_text_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match='is not a valid delivery window; write days and times, such as "Mon-Fri '):
        DeliveryWindow.parse(text)


@pytest.mark.parametrize("text", ["daily 00:00-00:00", "Mon 8:00-08:00"])
def test_an_empty_window_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match='is an empty window; for whole days, write "daily 00:00-24:00"'):
        DeliveryWindow.parse(text)


MONDAY = "2025-03-03"
OPEN = [
    (("Mon-Fri 08:00-18:00",), f"{MONDAY} 08:00", True),
    (("Mon-Fri 08:00-18:00",), f"{MONDAY} 07:59:59", False),
    (("Mon-Fri 08:00-18:00",), f"{MONDAY} 17:59:59.999999", True),
    (("Mon-Fri 08:00-18:00",), f"{MONDAY} 18:00", False),
    (("Mon-Fri 08:00-18:00", "Sat 09:00-12:00"), "2025-03-08 11:00", True),
    (("Mon 22:00-06:00",), "2025-03-04 05:59", True),
    (("Mon 22:00-06:00",), "2025-03-04 06:00", False),
    (("Mon 22:00-24:00",), "2025-03-04 00:00", False),
]


@pytest.mark.parametrize(("texts", "at", "is_open"), OPEN)
def test_a_window_is_open_from_its_start_until_its_end(texts: tuple[str, ...], at: str, *, is_open: bool) -> None:
    assert windows(*texts).is_open(berlin(at)) is is_open
    assert windows(*texts).is_open(berlin(at).astimezone(UTC)) is is_open


OPENINGS = [
    ("an open window", "Mon-Fri 08:00-18:00", berlin(f"{MONDAY} 12:00:00.5"), berlin(f"{MONDAY} 12:00:00.5")),
    ("a week later", "Mon 08:00-18:00", berlin(f"{MONDAY} 18:00"), berlin("2025-03-10 08:00")),
    # On 2025-03-30, clocks jump from 02:00 to 03:00. On 2025-10-26, they go back from 03:00 to 02:00.
    ("over a change", "Mon-Fri 08:00-18:00", berlin("2025-03-28 18:00"), berlin("2025-03-31 08:00")),
    ("in the skipped hour", "daily 02:30-05:00", berlin("2025-03-30 00:00"), berlin("2025-03-30 03:00")),
    ("all of it skipped", "Sun 02:10-02:50", berlin("2025-03-30 00:00"), berlin("2025-04-06 02:10")),
    ("ending in the skipped hour", "Sun 01:00-02:30", berlin("2025-03-30 01:59"), berlin("2025-03-30 01:59")),
    ("in the repeated hour", "Sun 02:10-02:20", berlin("2025-10-26 00:00"), berlin("2025-10-26 02:10")),
    ("again", "Sun 02:10-02:20", berlin("2025-10-26 02:20"), berlin("2025-10-26 02:10", fold=1)),
    ("open when it begins again", "Sun 01:00-02:30", berlin("2025-10-26 02:45"), berlin("2025-10-26 02:00", fold=1)),
]


@pytest.mark.parametrize("case", OPENINGS, ids=[case[0] for case in OPENINGS])
def test_the_next_opening_is_the_first_time_at_which_a_window_is_open(
    case: tuple[str, str, datetime, datetime],
) -> None:
    _, window, at, opening = case
    assert windows(window).next_opening(at) == opening.astimezone(UTC)


clock_times = st.builds(
    lambda minutes: f"{minutes // 60:02}:{minutes % 60:02}", st.integers(min_value=0, max_value=24 * 60 - 1)
)
days = st.one_of(
    st.just("daily"), st.sampled_from(DAYS), st.builds(lambda one, two: f"{one}-{two}", *[st.sampled_from(DAYS)] * 2)
)
texts = st.builds(
    lambda day, one, two: f"{day} {one}-{two}" if one != two else f"{day} 00:00-24:00", days, *[clock_times] * 2
)
EARLIEST, LATEST = datetime(2020, 1, 1), datetime(2035, 1, 1)  # noqa: DTZ001  hypothesis adds the zone
times = st.datetimes(EARLIEST, LATEST, timezones=st.just(UTC)).map(lambda time: time.replace(second=0, microsecond=0))


@settings(max_examples=300)
@given(st.lists(texts, min_size=1, max_size=3), st.sampled_from(ZONES), times)
@example(["sun 00:10-00:50"], "America/Havana", datetime(2025, 3, 8, tzinfo=UTC))
def test_the_next_opening_agrees_with_the_wall_clock_minute_by_minute(
    chosen: list[str], zone: str, at: datetime
) -> None:
    """Offsets change at whole minutes, so the windows open and close at whole minutes of UTC."""
    found = windows(*chosen, zone=zone)
    opening = found.next_opening(at)
    assert at <= opening <= at + 15 * DAY
    assert found.is_open(opening)
    assert opening == at or not found.is_open(opening - MINUTE)
    steps = int((opening - at) / MINUTE)
    for number in range(0, steps, max(steps // 500, 1)):
        assert not found.is_open(at + number * MINUTE)


@settings(max_examples=300)
@given(texts, st.sampled_from(ZONES), times)
def test_a_window_is_open_exactly_if_the_wall_clock_shows_its_times(text: str, zone: str, at: datetime) -> None:
    """This test computes the answer in another way: from the weekday and the time that the wall clock shows."""
    wall = at.astimezone(ZoneInfo(zone))
    days_, times_ = text.split()
    first, last = ("mon", "sun") if days_ == "daily" else (days_.split("-") * 2)[:2]
    span = (DAYS.index(last) - DAYS.index(first)) % 7
    start, end = times_.split("-")
    shown = f"{wall:%H:%M}"

    def begins(day: datetime) -> bool:
        return (day.weekday() - DAYS.index(first)) % 7 <= span

    today, yesterday = begins(wall), begins(wall.replace(tzinfo=None) - DAY)
    same_day = today and start <= shown < end
    over_midnight = (today and start <= shown) or (yesterday and shown < end)
    expected = same_day if start < end else over_midnight
    assert windows(text, zone=zone).is_open(at) is expected


@pytest.mark.parametrize(
    ("texts", "shortest"),
    [
        (("Mon-Fri 08:00-18:00", "Sat 09:00-09:10"), 10 * MINUTE),
        (("Mon 08:00-08:10", "Mon 08:10-09:00"), HOUR),
        (("Sun 23:50-24:00", "Mon 00:00-00:10"), 20 * MINUTE),
        (("daily 00:00-24:00",), 7 * DAY),
        (("Mon-Thu 00:00-24:00",), 4 * DAY),
        (("daily 08:00-18:00", "Mon 09:00-10:00"), 10 * HOUR),
    ],
)
def test_the_shortest_time_open_joins_adjacent_windows(texts: tuple[str, ...], shortest: timedelta) -> None:
    assert windows(*texts).shortest == shortest


def test_without_a_zone_the_machines_zone_decides() -> None:
    at = datetime(2025, 3, 3, 7, 30, tzinfo=UTC)
    found = DeliveryWindows.parse(["Mon 08:00-18:00"])
    assert found.is_open(at) is (8 <= at.astimezone().hour < 18)
    assert found.next_opening(at - DAY).astimezone().hour == 8
