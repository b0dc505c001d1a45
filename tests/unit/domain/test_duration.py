"""Parsing durations such as 15m, and describing durations in words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.duration import LONGEST, UNITS, duration, in_words

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
