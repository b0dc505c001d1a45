"""Parsing durations such as 15m, and describing durations in words."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.duration import LONGEST, UNITS, duration, in_words, in_zone, time_near

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("200ms", timedelta(milliseconds=200)),
        ("1.5h", timedelta(minutes=90)),
        ("0.5ms", timedelta(microseconds=500)),
        (" 10 m ", timedelta(minutes=10)),
        ("36500d", LONGEST),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text: str, length: timedelta) -> None:
    assert duration(text) == length


@pytest.mark.parametrize(
    "text", ["", "15", "m", "-5m", "+5m", "1h30m", "5 minutes", "1e3s", "1.h", ".5h", "5M", "1_0s", "٣s", "5m\n5"]
)
def test_an_invalid_duration_is_named_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a unit, such as 200ms, 2s, 15m, 2h or 7d") as caught:
        duration(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["36501d", "999999999999d", "9" * 400 + "ms"])
def test_a_duration_out_of_range_is_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="the maximum is 36500d"):
        duration(text)


@given(st.integers(0, 36_500), st.sampled_from(sorted(UNITS)))
def test_every_integer_is_read_exactly(number: int, unit: str) -> None:
    length = duration(f"{number}{unit}")
    assert length == number * UNITS[unit]
    assert NOW - length <= NOW <= NOW + length, "no overflow"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-5, "0 s"),
        (40, "40 s"),
        (59.6, "1 min"),
        (95, "1 min 35 s"),
        (3_599.6, "1 h"),
        (3600 + 59, "1 h 1 min"),
        (9 * 3600 + 900, "9 h 15 min"),
        (86_399, "1 d"),
        (36 * 3600, "1 d 12 h"),
    ],
)
def test_a_duration_in_words_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert in_words(timedelta(seconds=seconds)) == words


@pytest.mark.parametrize(
    ("text", "past", "expected"),
    [
        ("2h", False, "2026-03-01T14:00:00+01:00"),
        ("2h", True, "2026-03-01T10:00:00+01:00"),
        ("12:00", False, "2026-03-02T12:00:00+01:00"),
        ("12:00", True, "2026-03-01T12:00:00+01:00"),
        ("12:01", False, "2026-03-01T12:01:00+01:00"),
        ("12:01", True, "2026-02-28T12:01:00+01:00"),
        ("2026-02-28 05:30", True, "2026-02-28T05:30:00+01:00"),
        ("2026-02-28 05:30-02:00", True, "2026-02-28T08:30:00+01:00"),
        ("2026-03-05", True, "2026-03-05T00:00:00+01:00"),
    ],
)
def test_a_time_without_an_offset_is_one_of_the_zone(text: str, past: bool, expected: str) -> None:  # noqa: FBT001  a table
    zone = timezone(timedelta(hours=1))
    zoned = partial(in_zone, zone=zone)
    now = NOW.replace(tzinfo=zone)

    def local(time: datetime) -> datetime:
        return zoned(time if time.tzinfo is not None else time.replace(tzinfo=zone))

    found = time_near(text, now, local, past=past)
    assert (found, found.utcoffset()) == (datetime.fromisoformat(expected), timedelta(hours=1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("soon", "'soon' is not a valid time; write a duration ago (2h), a time of day (08:00), or a date and time"),
        ("0001-01-01", "'0001-01-01' is too far in the past; give a later time"),
        ("9999-12-31", "'9999-12-31' is too far in the future; give an earlier time"),
    ],
)
def test_a_time_that_is_none_or_far_away_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(why)}"):
        time_near(text, NOW, partial(in_zone, zone=UTC), past=True)
