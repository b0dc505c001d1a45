"""Outages derived from passes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retrycli.domain.delivery_stats import Outage, outages

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        ("", []),
        ("uuu", []),
        ("d", [(0, None)]),
        ("uddu", [(1, 3)]),
        ("du", [(0, 1)]),
        ("udduud", [(1, 3), (5, None)]),
        ("dudu", [(0, 1), (2, 3)]),
    ],
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
