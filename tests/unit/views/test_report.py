"""The HTML report: its sentences, charts and timeline of passes, and the escaping of hostile text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pytest

from retrycli.domain.delivery_stats import DAY, HOUR, OUTCOMES, DeliveryStats, FailureCause, Outage, PassMark, Slice
from retrycli.domain.listing import EscalationGroup, ListedMessage
from retrycli.domain.message import State
from retrycli.views.report import charts, page
from retrycli.views.report.page import ReportData, render

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
TICK = 15 * MINUTE
HOSTILE = "<script>alert('tea')</script>\x1b[31m\u202e\"&amp;\n\t"
QUIET = {"waiting": 0, "due": 0, "sending": 0, "escalated": 0}


def figures(
    *slices: Slice,
    tries: Mapping[int, int] | None = None,
    troubles: Sequence[FailureCause] = (),
    outages: Sequence[Outage] = (),
) -> DeliveryStats:
    waits = {15 * number: messages for number, messages in (tries or {}).items()}
    return DeliveryStats(NOON - 7 * DAY, NOON, HOUR, slices, tries or {}, waits, troubles, outages)


EMPTY = ReportData(figures(), "never_run", QUIET, None, None, [], TICK, [])
EXAMPLE = ListedMessage(*(17, "T", "customer", State.ESCALATED, "permanent", 0, None), escalated_at=NOON - DAY)
CAUSE = EscalationGroup(
    *("abc123", "HTTP 422: no …", 12, 12, NOON - DAY, NOON, {"customer": 8, "supplier": 4}), example=EXAMPLE
)
PASSES = [PassMark(NOON - number * TICK, "completed", None) for number in range(300, 0, -1)]
BUSY = ReportData(
    figures(
        *(Slice(NOON - hours * HOUR, outcome, hours) for hours in range(1, 150) for outcome in OUTCOMES),
        tries={1: 90, 2: 7, 3: 1, 14: 2},
        troubles=[FailureCause("transient", 503, "HTTP 503", 7, NOON)],
        outages=[Outage(NOON - 60 * HOUR, NOON - 51 * HOUR)],
    ),
    "ok",
    QUIET | {"waiting": 3, "escalated": 12},
    PASSES[0].started_at,
    PASSES[-1].started_at,
    PASSES,
    TICK,
    [CAUSE],
)


LATE = replace(EMPTY, state="late", first_pass=NOON - 30 * DAY, last_pass=NOON - 30 * DAY)
SKIPPED = replace(EMPTY, state="late", first_pass=NOON - DAY, last_pass=NOON - TICK)


class Page(HTMLParser):
    """A page as a browser parses it: its elements, its text, and what it would fetch and run."""

    VOID = frozenset({"meta", "link", "br", "path"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self.text += " " if tag in {"td", "th"} else ""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


def page_of(report: ReportData) -> Page:
    return Page(render(report, zone=UTC))


@pytest.mark.parametrize("report", [EMPTY, BUSY], ids=["empty", "busy"])
def test_the_page_is_self_contained(report: ReportData) -> None:
    """The page has no script and nothing that a browser would fetch. Every element is closed.

    Every informative picture has a text. The others repeat the text beside them, and are hidden from screen readers.
    """
    page = page_of(report)
    assert page.open == []
    assert not page.tags & {"script", "img", "iframe", "object", "embed", "base", "form", "a", "use", "image", "video"}
    assert {value for name, value in page.attributes if name in {"href", "src"}} == {"data:,"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "url(" not in render(report)
    for drawn in re.findall(r"<svg.*?</svg>", render(report, zone=UTC), re.DOTALL):
        svg = ET.fromstring(drawn)
        if svg.get("role") == "img":
            assert [part.tag for part in svg[:2]] == ["title", "desc"]
            assert svg[0].text
        else:
            assert svg.get("aria-hidden") == "true"


def test_the_page_contains_every_fact() -> None:
    words_of_it = page_of(BUSY).words
    assert "12 messages need an operator; everything else is fine." in words_of_it
    assert "The ticketing API was down once, 9 h in total" in words_of_it
    assert "down from 2025-03-01 00:00+00:00 to 09:00 (9 h)" in words_of_it
    assert "12 HTTP 422: no … permanent · 8 customer, 4 supplier 2025-03-02 12:00+00:00" in words_of_it
    assert "retrycli show 17" in words_of_it
    assert "retrycli requeue --fingerprint abc123" in words_of_it
    assert "half within 15 min, 95% within 30 min, all within 3 h 30 min" in words_of_it
    assert "first 90 second 7 third 1 4th 0" in words_of_it
    assert "10th 0 later 2" in words_of_it
    assert "300 passes began, and none is missing" in words_of_it


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (EMPTY, "No pass has run yet"),
        (EMPTY, "There have been no attempts since 2025-02-24 12:00+00:00"),
        (EMPTY, "No message needs an operator"),
        (LATE, "No pass has begun since 2025-02-01 12:00+00:00: check the scheduler."),
        (LATE, "0 passes began; 671 are missing."),
        (SKIPPED, "All passes are skipped: `retrycli status` names the process with the lock."),
    ],
)
def test_a_page_without_passes_says_so(report: ReportData, said: str) -> None:
    """If no pass began within the page's period, all passes of the period are missing."""
    assert said in page_of(report).words
    assert report is not SKIPPED or "No pass has begun" not in page_of(report).words


def test_outside_values_are_plain_text() -> None:
    """The hostile text is in every value from outside, and the page also shows some of the values in tooltips."""
    example = replace(EXAMPLE, reason=HOSTILE)
    cause = replace(CAUSE, cause=HOSTILE, types={HOSTILE: 1}, fingerprint=HOSTILE, example=example)
    report = replace(BUSY, figures=figures(troubles=[FailureCause("unknown", None, HOSTILE, 1, NOON)]), causes=[cause])
    page = page_of(report)
    assert "script" not in page.tags
    assert page.text.count("<script>alert('tea')</script>") == 4
    assert r"requeue --fingerprint $'<script>alert(\047tea\047)</script>" in page.text
    assert len([value for _, value in page.attributes if value and "<script>" in value]) == 2
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", render(report))
    assert r"\x1b[31m\u202e" in page.text


def test_an_error_of_any_length_is_truncated() -> None:
    report = replace(BUSY, causes=[replace(CAUSE, cause="x" * 100_000)] * 500)
    page = render(report, zone=UTC)
    assert len(page) < 100_000
    assert max(map(len, re.findall("x+…?", page))) == 600
    assert "and 488 more causes: retrycli escalations" in Page(page).words


def test_each_cause_has_its_commands() -> None:
    alone = ["retrycli show 17", "retrycli retry 17"]
    for cause, commands in (
        (CAUSE, ["retrycli show 17", "retrycli requeue --fingerprint abc123"]),
        (replace(CAUSE, count=1), alone),
        (replace(CAUSE, fingerprint=None), alone),
    ):
        found = re.findall("<code>(.*?)</code>", render(replace(BUSY, causes=[cause]), zone=UTC))
        assert [match for match in found if "17" in match or "abc" in match] == commands


def test_a_day_with_a_clock_change_has_no_gap() -> None:
    """All times have the present offset, which the page names."""
    monday = datetime(2025, 3, 31, 10, tzinfo=UTC)
    passes = [PassMark(monday - number * TICK, "completed", None) for number in range(600, 0, -1)]
    told = replace(figures(), since=monday - 7 * DAY, until=monday)
    report = replace(BUSY, figures=told, passes=passes, first_pass=passes[0].started_at)
    page = render(report, zone=ZoneInfo("Europe/Berlin"))
    assert "created 2025-03-31 12:00+02:00" in Page(page).words
    [sunday] = re.findall(r"<title>Sunday 30 March</title>.*?</svg>", page)
    assert "<desc>96 completed</desc>" in sunday
    assert [left for left, *_ in boxes(sunday, "p-completed")] == [cell + 0.07 for cell in range(96)]


def test_the_page_stays_small_for_any_period() -> None:
    slices = [Slice(NOON - days * DAY, outcome, 10**6) for days in range(365) for outcome in OUTCOMES]
    year = replace(figures(*slices), since=NOON - 365 * DAY, unit=DAY)
    many = [PassMark(NOON - number * MINUTE, "failed", None) for number in range(20_000, 0, -1)]
    report = replace(BUSY, figures=year, passes=many, interval=MINUTE, first_pass=NOON - 365 * DAY)
    assert len(render(report).encode()) < 200 * 1024


BACK = Outage(NOON - 12 * HOUR, NOON - 3 * HOUR)
LASTS = Outage(NOON - 2 * HOUR, None)
OLD = Outage(NOON - 40 * HOUR, NOON - 24 * HOUR - MINUTE)


@pytest.mark.parametrize(
    ("state", "told", "counts", "expected", "tone"),
    [
        ("ok", figures(tries={1: 5}), {}, "All well: 5 messages delivered on retry in the last 7 days, and", "good"),
        ("ok", figures(tries={1: 1}), {}, "All well: 1 message delivered", "good"),
        ("ok", figures(outages=[OLD]), {}, "All quiet: no message is waiting or needs an operator.", "good"),
        ("ok", figures(), {"waiting": 1}, "1 message waits for its next attempt; no message was delivered", "warning"),
        ("ok", figures(), {"escalated": 1}, "1 message needs an operator; everything else is fine.", "warning"),
        ("ok", figures(outages=[BACK]), {}, "was down from 2025-03-03 00:00+00:00 to 09:00 but is back.", "good"),
        ("ok", figures(outages=[BACK]), {"escalated": 3}, "but is back; 3 messages need an operator.", "warning"),
        ("down", figures(outages=[LASTS]), {"waiting": 9}, "down since 2025-03-03 10:00+00:00, and 9 me", "bad"),
        ("down", figures(outages=[LASTS]), {"escalated": 3}, "10:00+00:00; 3 messages need an operator.", "bad"),
        ("down", figures(), {}, "Nothing can be delivered now: run `retrycli doctor`.", "bad"),
        ("late", figures(outages=[LASTS]), {}, "since 2025-03-03 11:00+00:00: check the scheduler.", "bad"),
        ("paused", figures(tries={1: 5}), {}, "An operator has paused deliveries.", "warning"),
        ("never_run", figures(), {"waiting": 5}, "No pass has run yet", "warning"),
    ],
)
def test_the_headline_describes_the_state(
    state: str, told: DeliveryStats, counts: dict[str, int], expected: str, tone: str
) -> None:
    sentence, found = page._headline(state, told, QUIET | counts, NOON - HOUR, UTC)
    assert expected in sentence
    assert found == tone


def test_the_headline_explains_why_nothing_is_accepted() -> None:
    for reason, expected in (
        ("breaker_open", "The ticketing API is down."),
        ("credentials_refused", "The ticketing API refuses the credentials."),
        ("throttled", "The ticketing API asked retrycli to wait."),
        ("fault", "The last pass failed: run `retrycli doctor`."),
    ):
        assert page._headline("down", figures(), QUIET, NOON, UTC, reason=reason) == (expected, "bad")


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (10, 10), (11, 12), (13, 15), (99, 100), (101, 120), (1_000_001, 1_200_000)]
)
def test_the_scale_ends_at_a_round_number(highest: int, top: int) -> None:
    assert charts.scale({NOON: {"delivered": highest}}) == top


def boxes(drawn: str, name: str) -> list[tuple[float, ...]]:
    """Return left, top, width and height of each box of one kind."""
    path = re.search(rf'<path class="{name}" d="([^"]*)"', drawn)
    number = r"(-?[\d.]+)"
    found = re.findall(rf"M{number} {number}h{number}v{number}h-\3z", path[1]) if path else []
    return [tuple(map(float, box)) for box in found]


def test_columns_are_stacked_and_outages_shaded_behind_them() -> None:
    bars = {NOON: {"delivered": 60, "transient": 20}, NOON + HOUR: {}, NOON + 2 * HOUR: {"transient": 100}}
    down = [Outage(NOON + HOUR, NOON + 90 * MINUTE), Outage(NOON + 150 * MINUTE, None)]
    drawn = charts.outcomes(bars, down, HOUR, until=NOON + 3 * HOUR, tooltips=["<1>", "2", "3"])
    assert boxes(drawn, "o-delivered") == [(0.07, 40, 0.86, 60)]
    assert boxes(drawn, "o-transient") == [(0.07, 20, 0.86, 20), (2.07, 0, 0.86, 100)]
    assert [(left, width) for left, _, width, _ in boxes(drawn, "down")] == [(1, 0.5), (2.5, 0.5)]
    svg = ET.fromstring(drawn)
    assert [path[0].text for path in svg.iter("path") if len(path)] == ["<1>", "2", "3"]


def test_a_tiny_share_is_still_visible() -> None:
    assert boxes(charts.share(1, 10**6), "share")[0][2] > 0
    assert boxes(charts.share(0, 10**6), "share") == []
    full = charts.share(5, 5)
    assert boxes(full, "share") == boxes(full, "room") == [(0, 0, 100, 1)]
    assert 'viewBox="0 0 100 1"' in full


def test_passes_of_different_results_differ_in_shape() -> None:
    assert len({tuple(shape) for shape in charts.MARKS.values()}) == len(charts.MARKS)


def style(name: str) -> dict[str, str]:
    """Return the colours of a scheme, by their purpose."""
    light, dark = re.findall(r":root \{(.*?)\}", render(EMPTY), re.DOTALL)
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", {"light": light, "dark": dark}[name]))


def luminance(colour: str) -> float:
    """Return the luminance as WCAG 2.2 defines it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_and_pictures_have_sufficient_contrast(scheme: str) -> None:
    """WCAG 2.2 requires 4.5 to 1 for text (1.4.3), and 3 to 1 for pictures (1.4.11)."""
    colours = style(scheme)
    for name in ("ink", "soft", "good", "warning", "bad"):
        assert min(contrast(colours[name], colours[ground]) for ground in ("page", "card", "room")) >= 4.5, name
    for name in ("calm", "share", "down-edge", *(outcome.replace(" ", "-") for outcome in OUTCOMES)):
        assert contrast(colours[name], colours["card"]) >= 3, name


DEUTERANOPIA = ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881))
PROTANOPIA = ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998))
"""Matrices that simulate colour blindness in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""


def seen(colour: str, eye: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return a colour in CIE L*a*b* as an eye perceives it."""
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    r, g, b = (min(max(sum(k * v for k, v in zip(row, linear, strict=True)), 0), 1) for row in eye)
    x = (0.4124 * r + 0.3576 * g + 0.1805 * b) / 0.9505
    y = 0.2126 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9505 * b) / 1.089
    fx, fy, fz = (value ** (1 / 3) if value > 0.008856 else 7.787 * value + 16 / 116 for value in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("eye", [DEUTERANOPIA, PROTANOPIA], ids=["deuteranopia", "protanopia"])
def test_outcomes_are_distinguishable_for_the_colour_blind(scheme: str, eye: Sequence[Sequence[float]]) -> None:
    """A difference of 2.3 in L*a*b* is just noticeable. Every pair of outcomes must differ by much more."""
    colours = style(scheme)
    looks = {outcome: seen(colours[outcome.replace(" ", "-")], eye) for outcome in OUTCOMES}
    distance = {
        (one, other): sum((a - b) ** 2 for a, b in zip(looks[one], looks[other], strict=True)) ** 0.5
        for one in looks
        for other in looks
        if one < other
    }
    closest = min(distance, key=lambda pair: distance[pair])
    assert distance[closest] > 12, (closest, distance[closest])


MIDNIGHT = NOON.replace(hour=0)


def marks(*minutes: float, result: str | None = "completed") -> list[PassMark]:
    return [PassMark(MIDNIGHT + minute * MINUTE, result, None) for minute in minutes]


def set_out(
    passes: list[PassMark], *, until: datetime, since: datetime = MIDNIGHT, minutes: float = 15
) -> charts.Strip:
    return charts.strip(passes, since, until, interval=minutes * MINUTE, zone=UTC)


@pytest.mark.parametrize(
    ("begun", "minutes", "cells", "missed", "expected"),
    [
        ([0, 15, 60, 75], 80, [0, 1, 4, 5], 2, (0, 6)),
        ([0, 14.9, 30.1, 45], 50, [0, 1, 2, 3], 0, (0, 4)),  # by jitter, one cell has two passes, and the next none
        ([0], 180, [0], 11, (0, 13)),
        ([60], 60, [4], 3, (0, 5)),
        ([], 60, [], 3, (0, 5)),
        ([0], 20, [0], 0, (0, 2)),
    ],
)
def test_a_missing_pass_is_a_gap(
    begun: list[float], minutes: int, cells: list[int], missed: int, expected: tuple[int, int]
) -> None:
    found = set_out(marks(*begun), until=MIDNIGHT + minutes * MINUTE)
    assert sorted(found.rows[0].marks) == cells
    assert (found.missed, found.rows[0].expected, found.cells) == (missed, expected, 96)
    assert sum(found.results.values()) == len(begun)


def test_missing_passes_count_for_the_day_on_which_they_should_have_begun() -> None:
    last, next_day = 23.5 * 60, 24.5 * 60
    found = set_out(marks(*range(0, int(last) + 1, 15), next_day), until=MIDNIGHT + next_day * MINUTE)
    assert [row.missed for row in found.rows] == [1, 2]


@pytest.mark.parametrize(
    ("days", "labels"),
    [
        (2, ["00:00", "06:00", "12:00", "18:00", "00:00", "06:00", "12:00", "18:00"]),
        (3, ["Mon 03", "Tue 04", "Wed 05"]),
        (28, ["03 Mar", "07 Mar", "11 Mar", "15 Mar", "19 Mar", "23 Mar", "27 Mar"]),
    ],
)
def test_the_labels_of_an_axis_suit_its_length(days: int, labels: list[str]) -> None:
    found = page.ticks(MIDNIGHT, MIDNIGHT + days * 24 * HOUR, UTC)
    assert [label for label, _ in found] == labels


def test_of_two_passes_in_one_cell_the_worse_is_shown_and_both_are_counted() -> None:
    transaction = [*marks(1), *marks(2, result="skipped"), *marks(3, result=None)]
    found = set_out(transaction, until=MIDNIGHT + 5 * MINUTE)
    assert found.rows[0].marks == {0: "skipped"}
    assert found.results == {"completed": 1, "running": 1, "skipped": 1}


@pytest.mark.parametrize(("minutes", "cells"), [(1, 96), (15, 96), (16, 72), (2000, 1)])
def test_a_day_is_a_whole_number_of_cells_for_any_interval(minutes: float, cells: int) -> None:
    passes = marks(*(number * minutes for number in range(int(3 * 1440 / minutes) + 1)))
    found = set_out(passes, until=passes[-1].started_at + MINUTE, minutes=minutes)
    assert found.cells == cells
    assert found.missed == 0
    assert set(found.rows[0].marks) == set(range(cells))


def test_days_follow_the_zone_and_each_has_a_row() -> None:
    tokyo = timezone(9 * HOUR)
    found = charts.strip(marks(0, 20 * 60), MIDNIGHT, MIDNIGHT + 21 * HOUR, interval=20 * HOUR, zone=tokyo)
    assert [f"{row.day:%d}" for row in found.rows] == ["03", "04"]
    assert [row.results for row in found.rows] == [{"completed": 1}, {"completed": 1}]


def test_a_pass_with_a_clock_ahead_does_no_harm() -> None:
    found = set_out(marks(-20, 0, 30 * 60), until=MIDNIGHT + 5 * MINUTE)
    assert (found.results, found.missed) == ({"completed": 1}, 0)
