"""The figures of a simulation, and their words."""

from __future__ import annotations

from array import array
from datetime import timedelta

import pytest

from retrycli.config.settings import Settings
from retrycli.domain.simulation import Estimate, ReplayTally, SimulatedSchedule, Simulation, describe, rows
from tests.fakes import START

HOUR = timedelta(hours=1)


def tally(*waits: int, messages: int = 10, escalated: int = 0, requests: int = 0, in_outages: int = 0) -> ReplayTally:
    return ReplayTally(messages, escalated, requests, in_outages, array("q", waits))


def test_the_figures_count_waits_up_to_each_limit() -> None:
    found = tally(0, 3600, 3601, 4 * 3600, 24 * 3600, 24 * 3600 + 1, escalated=2, requests=9, in_outages=3).figures()
    assert found == {
        "messages": 10,
        "delivered_within_1h": 2,
        "delivered_within_4h": 4,
        "delivered_within_24h": 5,
        "escalated": 2,
        "requests_in_outages": 3,
        "requests": 9,
        "median_wait_seconds": 3600,
        "p95_wait_seconds": 24 * 3600,
    }


def test_without_deliveries_there_are_no_waits() -> None:
    found = tally().figures()
    assert (found["median_wait_seconds"], found["p95_wait_seconds"], found["delivered_within_24h"]) == (None, None, 0)


def test_tallies_of_several_types_add_up() -> None:
    whole = tally(60, requests=3, in_outages=1)
    whole.add(tally(120, messages=5, escalated=1, requests=4, in_outages=2))
    assert whole == tally(60, 120, messages=15, escalated=1, requests=7, in_outages=3)


@pytest.mark.parametrize(
    ("found", "estimate"),
    [([4, 9, 1], (4, 1, 9)), ([7], (7, 7, 7)), ([None, 5, None], (5, 5, 5)), ([None], (None, None, None))],
)
def test_an_estimate_is_the_median_and_the_range(
    found: list[int | None], estimate: tuple[int | None, int | None, int | None]
) -> None:
    assert Estimate.of(found) == estimate


def simulation(today: list[ReplayTally], proposed: list[ReplayTally] | None = None) -> Simulation:
    def schedule(tallies: list[ReplayTally]) -> SimulatedSchedule:
        figures = [each.figures() for each in tallies]
        return SimulatedSchedule("", {name: Estimate.of([each[name] for each in figures]) for name in figures[0]})

    return Simulation(
        since=START - 24 * HOUR,
        until=START,
        message_type=None,
        attempts=100,
        replays=len(today),
        outages=[],
        rates=[],
        today=schedule(today),
        proposed=None if proposed is None else schedule(proposed),
        section="schedule",
        lines=[],
    )


def test_the_rows_show_shares_ranges_and_differences() -> None:
    today = [tally(600, 5400, messages=8, requests=number) for number in (1200, 1100, 1300)]
    proposed = [tally(600, *[1800] * number, messages=8, escalated=2, requests=1200) for number in (3, 1, 2)]
    shown = {row[0]: row[1:] for row in rows(simulation(today, proposed))}
    assert shown == {
        "Messages": ("8", "8", "0"),
        "Delivered within 1 h": ("12.5%", "37.5% (25.0–50.0)", "+25.0 points"),
        "Delivered within 4 h": ("25.0%", "37.5% (25.0–50.0)", "+12.5 points"),
        "Delivered within 24 h": ("25.0%", "37.5% (25.0–50.0)", "+12.5 points"),
        "Escalated": ("0", "2", "+2"),
        "Requests in outages": ("0", "0", "0"),
        "Requests": ("1,200 (1,100–1,300)", "1,200", "0"),
        "Median wait, h:min": ("0:10", "0:30 (0:10–0:30)", "+0:20"),
        "95% wait, h:min": ("1:30", "0:30", "−1:00"),
    }


def test_the_rows_of_todays_schedule_have_one_value() -> None:
    shown = rows(simulation([tally()]))
    assert {len(row) for row in shown} == {2}
    assert shown[-1] == ("95% wait, h:min", "–")


def test_a_wait_without_deliveries_has_no_difference() -> None:
    shown = {row[0]: row[1:] for row in rows(simulation([tally(60)], [tally()]))}
    assert shown["Median wait, h:min"] == ("0:01", "–", "–")


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        ({}, "exponential from 15 min by 2 to 4 h, 10 retries"),
        ({"backoff": "linear", "max_retries": 1}, "linear 15 min, 1 retry"),
        (
            {"backoff": "fixed", "base_minutes": 90, "expires_after_hours": 72},
            "fixed 1 h 30 min, 10 retries, expires after 3 d",
        ),
        ({"backoff": "list", "waits_minutes": [5, 60]}, "list 5 min, 1 h, 10 retries"),
        ({"backoff": "python", "call": "waits:next_wait"}, "first 15 min, then by waits:next_wait, 10 retries"),
        (
            {"types": {"supplier": {"backoff": "fixed"}}},
            "customer, internal: exponential from 15 min by 2 to 4 h, 10 retries; supplier: fixed 15 min, 10 retries",
        ),
    ],
)
def test_a_schedule_is_described_in_words(schedule: dict[str, object], words: str) -> None:
    assert describe(Settings.model_validate({"schedule": schedule}).policies) == words
