"""A simulated night without the ticketing API, with the real engine and a fake clock, and the resulting reports."""

from __future__ import annotations

import re
import shutil
from datetime import UTC, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from retrycli.store.delivery_stats import Statistics
from retrycli.store.summaries import QueueCounts
from retrycli.views.report.page import ReportData, render
from tests.fakes import CUT_OFF, DELIVERED, NOT_FOUND, START, TICK, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.domain.delivery_stats import DeliveryStats

HOUR = timedelta(hours=1)
DAWN = START + 9 * HOUR
MESSAGES = 300
PERMANENT = (7, 111, 222)
"""Messages that the API will never accept."""


@pytest.fixture(scope="module")
def night(blank_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Simulate nine hours without the API, in which 300 messages fail, and eight hours with it."""
    file = tmp_path_factory.mktemp("night") / "agent.db"
    shutil.copy(blank_database, file)
    stage = Stage(file)
    coming = iter(range(1, MESSAGES + 1))
    while stage.clock.now < DAWN + 8 * HOUR:
        tick = stage.clock.now
        down = tick < DAWN
        if down:
            at = str(tick.replace(tzinfo=None))
            stage.add(*islice(coming, 9), created_at=at, updated_at=at)
        stage.run(CUT_OFF if down else dict.fromkeys(PERMANENT, NOT_FOUND), takes=timedelta(seconds=0.1))
        stage.clock.now = tick + TICK
    yield stage
    stage.database.close()


def figures(stage: Stage) -> DeliveryStats:
    return Statistics(stage.database).figures(START - HOUR, stage.clock.now)


def test_the_outages_start_and_end_are_exact_to_the_tick(night: Stage) -> None:
    """An outage ends with the pass whose probe succeeds. Probes are at most one hour apart, so the end is at most an
    hour late.
    """
    [outage] = figures(night).outages
    assert START <= outage.began_at <= START + 2 * TICK
    assert outage.ended_at is not None
    assert DAWN <= outage.ended_at <= DAWN + HOUR


def test_all_but_permanent_messages_are_delivered_and_their_waits_are_complete(night: Stage) -> None:
    """Most messages were not attempted while the API was down, so their first attempt succeeded."""
    found = figures(night)
    assert found.delivered == MESSAGES - len(PERMANENT) == sum(found.waits.values())
    assert found.tries[1] > MESSAGES / 2
    assert max(found.waits) >= 9 * 60
    assert found.outcomes["permanent"] == len(PERMANENT)
    assert found.outcomes["unreachable"] == sum(
        cause.attempts for cause in found.troubles if cause.outcome == "unreachable"
    )


def test_the_reports_headline_mentions_the_night(night: Stage) -> None:
    statistics = Statistics(night.database)
    first, last = statistics.first_and_last_pass()
    page = render(
        ReportData(
            figures=figures(night),
            state="ok",
            messages=QueueCounts(night.database).counts(night.clock.now),
            first_pass=first,
            last_pass=last,
            passes=statistics.passes(START - HOUR),
            interval=TICK,
            causes=[],
        ),
        zone=UTC,
    )
    headline = re.search("<h1>(.*)</h1>", page)
    assert headline is not None
    assert re.fullmatch(
        r"The ticketing API was down from Mon 3 Mar 12:\d\d to 21:\d\d but is back; 3 messages need an operator\.",
        headline[1],
    )
    assert "and none is missing" in page
    assert DELIVERED.kind in page
