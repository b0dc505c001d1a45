"""The strip of the last day's passes and outages."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from xml.etree import ElementTree as ET

import pytest

from retrycli.domain.delivery_stats import DAY, HOUR, Outage, PassMark
from retrycli.views.report.charts import MARKS
from retrycli.views.report.recent import RecentPasses, sample, strip

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = 15 * MINUTE


def recent(
    *minutes_ago: float, first: float = 3000, outages: tuple[Outage, ...] = (), result: str | None = "completed"
) -> RecentPasses:
    passes = [PassMark(NOON - minutes * MINUTE, result, None) for minutes in minutes_ago]
    return RecentPasses(NOON - DAY, NOON, NOON - first * MINUTE, passes, outages, TICK)


def drawn(found: RecentPasses) -> list[dict[str, str]]:
    """Return the attributes of the boxes, without the background."""
    svg = ET.fromstring(strip(found, title="<tea>"))
    assert svg[0].text == "<tea>"
    return [dict(box.attrib) for box in svg.findall("rect")[1:]]


def test_passes_on_time_leave_no_gap() -> None:
    found = recent(*range(1440, 0, -15))
    assert (found.gaps, found.missed) == ([], 0)
    boxes = drawn(found)
    assert len(boxes) == 96
    assert {box["class"] for box in boxes} == {"p-completed"}
    assert boxes[0]["x"] == "0.00%"


def test_missing_passes_are_hatched_from_when_they_were_due() -> None:
    found = recent(120, 105, 30, 15, first=120)
    assert found.gaps == [(NOON - 90 * MINUTE, NOON - 30 * MINUTE)]
    assert found.missed == 4
    [hatched] = [box for box in drawn(found) if box.get("fill") == "url(#missed)"]
    assert (hatched["x"], hatched["width"]) == ("93.75%", "4.17%")
    assert {box["width"] for box in drawn(found) if "class" in box} == {"0.89%"}, "a gap of 15 % follows each pass"
    assert 'fill="url(#missed)"' in sample("missed")


@pytest.mark.parametrize(("delay", "width"), [(23, "1.36%"), (24, "0.89%")])
def test_a_late_pass_prolongs_the_mark_before_it_unless_a_pass_is_missing(delay: int, width: str) -> None:
    found = recent(15 + delay, 15, first=15 + delay)
    assert [box["width"] for box in drawn(found) if "class" in box] == [width, "0.89%"]
    assert found.missed == (width == "0.89%")


def test_missing_passes_are_counted_from_the_first_one_up_to_now() -> None:
    assert recent(180, first=180).missed == 11
    assert recent(first=3000).missed == 96
    assert recent(60, 45, 30, 15, first=60).missed == 0
    assert recent(*(minutes + minutes % 7 / 2 for minutes in range(1440, 0, -15))).missed == 0, "jitter is no gap"
    never = RecentPasses(NOON - DAY, NOON, None, [], [], TICK)
    assert (never.gaps, never.missed) == ([], 0)


def test_an_outage_is_hatched_differently_and_one_that_has_just_begun_is_visible() -> None:
    began = NOON - 6 * HOUR
    found = recent(*range(1440, 0, -15), outages=(Outage(began, began + 3 * HOUR), Outage(NOON, None)))
    assert found.down == 3 * HOUR
    earlier = Outage(NOON - 2 * DAY, NOON - DAY + HOUR)  # only its part within the period counts
    assert recent(*range(1440, 0, -15), outages=(earlier,)).down == HOUR
    hatched = [box for box in drawn(found) if box.get("fill") == "url(#outage)"]
    assert [(box["x"], box["width"]) for box in hatched] == [("75.00%", "12.50%"), ("98.96%", "1.04%")]


@pytest.mark.parametrize("result", [*MARKS, None, "a newer result"])
def test_every_result_has_a_mark(result: str | None) -> None:
    boxes = drawn(recent(15, first=15, result=result))
    assert {box["class"] for box in boxes} == {f"p-{result or 'running'}"}
