"""A night in which the ticketing API is down, passed by the real engine on a made-up clock, and what is told of it."""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from itertools import islice
from typing import TYPE_CHECKING

import pytest

from retrycli.store.delivery_stats import Statistics
from retrycli.store.summaries import QueueCounts
from retrycli.views.report.page import ReportData, render
from tests.fakes import CUT_OFF, DELIVERED, NOT_FOUND, START, TICK, Stage

if TYPE_CHECKING:
    from retrycli.domain.delivery_stats import DeliveryStats

HOUR = timedelta(hours=1)
DAWN = START + 9 * HOUR
MESSAGES = 300
PERMANENT = (7, 111, 222)
"""Messages that the API will never take."""


@pytest.fixture
def night(stage: Stage) -> Stage:
    """Nine hours without the API, with 300 messages failing meanwhile, and eight hours with it."""
    coming = iter(range(1, MESSAGES + 1))
    while stage.clock.now < DAWN + 8 * HOUR:
        tick = stage.clock.now
        down = tick < DAWN
        if down:
            at = str(tick.replace(tzinfo=None))
            stage.add(*islice(coming, 9), created_at=at, updated_at=at)
        stage.run(CUT_OFF if down else dict.fromkeys(PERMANENT, NOT_FOUND), takes=timedelta(seconds=0.1))
        stage.clock.now = tick + TICK
    return stage


def figures(stage: Stage) -> DeliveryStats:
    return Statistics(stage.database).figures(START - HOUR, stage.clock.now)


def test_the_outage_is_known_to_the_tick(night: Stage) -> None:
    """It ends with the pass whose probe got through: within the hour between probes."""
    [outage] = figures(night).outages
    assert START <= outage.began_at <= START + 2 * TICK
    assert outage.ended_at is not None
    assert DAWN <= outage.ended_at <= DAWN + HOUR


def test_every_message_is_delivered_but_the_permanent_ones_and_its_whole_wait_is_known(night: Stage) -> None:
    """Also of those that were not tried while the API was down: their first try came through."""
    found = figures(night)
    assert found.delivered == MESSAGES - len(PERMANENT) == sum(found.waits.values())
    assert found.tries[1] > MESSAGES / 2
    assert max(found.waits) >= 9 * 60
    assert found.outcomes["permanent"] == len(PERMANENT)
    assert found.outcomes["unreachable"] == sum(
        each.attempts for each in found.troubles if each.outcome == "unreachable"
    )


def test_the_report_tells_of_the_night_in_its_headline(night: Stage) -> None:
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
