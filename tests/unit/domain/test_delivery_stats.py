"""The figures derived from statistics: bars, totals, quantiles, and the outages derived from passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.delivery_stats import (
    DAY,
    HOUR,
    MAX_BARS,
    OUTCOMES,
    DeliveryStats,
    Outage,
    Slice,
    bar_for,
    bars,
    outages,
    quantile,
    unit_for,
)

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)

spans = st.timedeltas(min_value=timedelta(seconds=1), max_value=36_500 * DAY)


def figures(*slices: Slice, since: datetime = NOON - DAY, unit: timedelta = HOUR) -> DeliveryStats:
    return DeliveryStats(since, NOON, unit, slices, tries={}, waits={}, troubles=[], outages=[])


@given(spans)
def test_any_period_fits_the_number_of_bars(span: timedelta) -> None:
    """A slice can't be divided between bars, so a bar's length is a multiple of the slice's."""
    length = bar_for(span)
    assert span / length <= MAX_BARS or length >= 364 * DAY
    assert length % unit_for(span) == timedelta(0)


@given(spans, st.lists(st.tuples(st.floats(0, 1), st.sampled_from(OUTCOMES), st.integers(1, 10**6)), max_size=9))
def test_the_bars_contain_every_attempt_once(span: timedelta, told: list[tuple[float, str, int]]) -> None:
    """The first slice may begin before the period. Its attempts count too."""
    since, unit = NOON - min(span, 400 * DAY), unit_for(min(span, 400 * DAY))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    times = [since + part * (NOON - since) for part, _, _ in told]
    slices = [
        Slice(at - (at - epoch) % unit, outcome, number) for at, (_, outcome, number) in zip(times, told, strict=True)
    ]
    found = bars(figures(*slices, since=since, unit=unit), bar_for(NOON - since))
    assert sum(sum(value.values()) for value in found.values()) == sum(each.attempts for each in slices)
    assert next(iter(found)) <= since


def test_a_bar_contains_exactly_the_slices_of_its_period() -> None:
    told = [Slice(NOON - hours * HOUR, "delivered", hours) for hours in (24, 23, 22, 1)]
    found = bars(figures(*told), 2 * HOUR)
    assert list(found) == [NOON - hours * HOUR for hours in range(24, 0, -2)]
    assert [value.get("delivered", 0) for value in found.values()] == [47, 22, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]


def test_outcomes_are_in_order_and_without_empty_ones() -> None:
    told = [Slice(NOON - HOUR, outcome, 2) for outcome in ("under way", "permanent", "delivered", "delivered")]
    assert list(figures(*told).outcomes.items()) == [("delivered", 4), ("permanent", 2), ("under way", 2)]
    assert figures(*told).attempts == 8
    assert figures().outcomes == {}


@pytest.mark.parametrize(
    ("waits", "share", "minutes"),
    [
        ({}, 0.5, None),
        ({15: 5, 30: 5}, 0.5, 15),
        ({15: 5, 30: 6}, 0.5, 30),
        ({30: 1, 15: 19}, 0.95, 15),
        ({30: 1, 15: 18}, 0.95, 30),
        ({15: 99, 540: 1}, 1, 540),
    ],
)
def test_a_quantile_is_the_wait_within_which_that_share_was_delivered(
    waits: dict[int, int], share: float, minutes: int | None
) -> None:
    assert quantile(waits, share) == (None if minutes is None else minutes * MINUTE)


@pytest.mark.parametrize(
    ("passes", "expected"), [("", []), ("udduud", [(1, 3), (5, None)]), ("dudu", [(0, 1), (2, 3)])]
)
def test_an_outage_lasts_from_its_first_pass_to_the_first_that_succeeds(
    passes: str, expected: list[tuple[int, int | None]]
) -> None:
    """Each letter is an hourly pass: ``d`` found the API down, and ``u`` found it up."""
    told = [(NOON + hour * HOUR, summary == "d") for hour, summary in enumerate(passes)]
    found = [Outage(NOON + a * HOUR, None if b is None else NOON + b * HOUR) for a, b in expected]
    assert outages(told) == found


def test_a_continuing_outage_lasts_until_now() -> None:
    assert Outage(NOON, None).length(NOON + 3 * HOUR) == 3 * HOUR
    assert Outage(NOON, NOON + HOUR).length(NOON + 3 * HOUR) == HOUR
