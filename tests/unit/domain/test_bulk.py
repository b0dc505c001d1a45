"""The progress of an action in slices: its text, its checks, and the due times of a spread."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from retrycli.domain.cursor import LONGEST, pack
from retrycli.domain.errors import InvalidArgument
from retrycli.operations.bulk import MOST, Progress

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
NAME = "0123456789abcdef"


@st.composite
def progresses(draw: st.DrawFn) -> Progress:
    total = draw(st.integers(0, MOST))
    handled = draw(st.integers(0, total))
    delivered = draw(st.integers(0, handled))
    return Progress(
        total,
        draw(st.datetimes(timezones=st.just(UTC))),
        handled,
        draw(st.integers(-(2**63), 2**63 - 1)) if handled else None,
        delivered,
        draw(st.integers(0, handled - delivered)),
        draw(st.none() | st.integers(0, handled)),
        draw(st.integers(0, handled)),
    )


@given(progresses())
def test_progress_survives_its_text(progress: Progress) -> None:
    text = progress.text(NAME)
    assert Progress.parse(text, NAME) == progress
    assert text == shlex.quote(text)
    assert len(text) <= LONGEST


START: list[object] = [NAME, 10, NOON.isoformat(), 0, None, 0, 0, None, 0]
GOING: list[object] = [NAME, 10, NOON.isoformat(), 5, 5, 1, 1, 2, 3]
BAD: list[list[object]] = [
    START[:-1],
    [*START, 0],
    ["fedcba9876543210", *GOING[1:]],
    [NAME, -1, *START[2:]],
    [NAME, MOST + 1, *START[2:]],
    [NAME, "10", *START[2:]],
    [NAME, True, *START[2:]],
    [NAME, 10, "noon", *START[3:]],
    [NAME, 10, "2025-03-03T12:00:00", *START[3:]],
    [NAME, 10, None, *START[3:]],
    [*GOING[:3], 11, *GOING[4:]],
    [*GOING[:4], None, *GOING[5:]],
    [*START[:4], 5, *START[5:]],
    [*GOING[:4], 2**63, *GOING[5:]],
    [*GOING[:5], -1, *GOING[6:]],
    [*GOING[:5], 5, *GOING[6:]],
    [*GOING[:7], 6, *GOING[8:]],
    [*GOING[:8], 6],
    [*GOING[:8], None],
]


@pytest.mark.parametrize("text", ["", "x", *map(pack, BAD)])
def test_other_text_is_not_progress(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^not the progress of this request: begin the action again$"):
        Progress.parse(text, NAME)


@given(st.integers(1, 10_000), st.integers(0, 50), st.timedeltas(timedelta(0), timedelta(days=30)))
def test_a_spread_is_even_and_ends_before_its_period(total: int, canaries: int, spread: timedelta) -> None:
    assume(canaries < total)
    progress = Progress(total, NOON, spread_from=canaries)
    times = [progress.due(position, spread) for position in (canaries, (canaries + total) // 2, total - 1)]
    assert times[0] == NOON
    assert times == sorted(times)
    assert times[-1] <= NOON + spread
    middle = spread * ((canaries + total) // 2 - canaries) / (total - canaries)
    assert times[1] == NOON + middle


def test_a_spread_over_no_message_is_harmless() -> None:
    assert Progress(3, NOON, spread_from=3).due(3, timedelta(hours=1)) == NOON
