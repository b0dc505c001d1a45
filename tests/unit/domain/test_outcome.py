"""Outcomes: the table of HTTP statuses, Retry-After, and error texts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.outcome import (
    ALIVE,
    OUTAGE,
    RETRY_AFTER_CAP,
    OutcomeKind,
    kind_of_status,
    may_have_arrived,
    one_line,
    parse_retry_after,
)

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)

NAMED = {
    401: OutcomeKind.UNAUTHORIZED,
    407: OutcomeKind.UNAUTHORIZED,
    408: OutcomeKind.TRANSIENT,
    425: OutcomeKind.TRANSIENT,
    429: OutcomeKind.THROTTLED,
    501: OutcomeKind.PERMANENT,
    505: OutcomeKind.PERMANENT,
}
CLASSES = {
    2: OutcomeKind.DELIVERED,
    3: OutcomeKind.PERMANENT,  # a request with a message never follows a redirect
    4: OutcomeKind.PERMANENT,
    5: OutcomeKind.TRANSIENT,
}


def test_each_status_has_its_own_outcome_or_that_of_its_class() -> None:
    expected = {status: CLASSES[status // 100] for status in range(200, 600)} | NAMED
    assert {status: kind_of_status(status) for status in expected} == expected
    expected[413] = OutcomeKind.TRANSIENT  # the only one that Retry-After affects
    for wait in (timedelta(0), timedelta(minutes=5)):
        assert {status: kind_of_status(status, retry_after=wait) for status in expected} == expected


@pytest.mark.parametrize("status", [0, 101, 199])
def test_a_status_that_is_not_final_is_unknown(status: int) -> None:
    """The message may have arrived: for example, a server that switches to another protocol has read the request."""
    assert kind_of_status(status) is OutcomeKind.UNKNOWN


def test_each_outcome_shows_life_or_an_outage_or_neither() -> None:
    assert {"delivered", "refused", "permanent"} == ALIVE
    assert {"unknown", "transient", "unreachable"} == OUTAGE
    assert set(OutcomeKind) - ALIVE - OUTAGE == {"throttled", "unauthorized", "invalid"}


def test_a_server_may_have_stored_a_message_before_it_failed() -> None:
    may = [
        (kind, status) for kind in OutcomeKind for status in (None, *range(100, 600)) if may_have_arrived(kind, status)
    ]
    unknown = [(OutcomeKind.UNKNOWN, status) for status in (None, *range(100, 600))]
    assert sorted(may, key=str) == sorted(
        [*unknown, *((OutcomeKind.TRANSIENT, status) for status in range(500, 600) if status != 503)], key=str
    )


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("  120\t", timedelta(minutes=2)),
        ("9" * 100_000, timedelta(hours=6)),
        ("Fri, 31 Dec 9999 23:59:59 -2359", timedelta(hours=6)),
        ("Mon, 01 Jan 0001 00:00:00 +2359", timedelta(0)),
        ("  Mon, 03 Mar 2025 12:10:00 GMT  ", timedelta(minutes=10)),
        ("Mon, 03 Mar 2025 12:10:00 -0000", timedelta(minutes=10)),
        ("Mon, 03 Mar 2025 14:10:00 +0200", timedelta(minutes=10)),
        ("Monday, 03-Mar-25 12:10:00 GMT", timedelta(minutes=10)),  # the format of RFC 850
        ("Mon Mar  3 12:10:00 2025", timedelta(minutes=10)),  # the format of asctime()
        *((text, None) for text in (None, "", "soon", "-1", "+5", "1.5", "5, 6", "²", "٣", "Mon,", "\udcff")),
        ("2025-03-03T12:10:00Z", None),
        ("Mon, 31 Feb 2025 12:10:00 GMT", None),
        ("Mon, 03 Mar 20255 12:10:00 GMT", None),
        ("Mon, 99999999999999999999 Mar 2025 12:10:00 GMT", None),
        ("Mon, 03 Mar 2025 12:10:00 +999999999999", None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_is_a_wait_of_at_most_six_hours_or_ignored(header: str | None, wait: timedelta | None) -> None:
    """`tests/unit/test_fuzz.py` has the formula for seconds and for dates."""
    assert parse_retry_after(header, NOON) == wait


DATE_LIKE = st.from_regex(
    r"(Wed, )?\d{1,12} (Jan|Feb) \d{1,6} \d{1,3}:\d{1,3}(:\d{1,3})? ?(GMT|[+-]\d{1,6})?", fullmatch=True
)


@given(st.text(max_size=40) | st.text("0123456789 :,-+.JanFebGMT", max_size=40) | DATE_LIKE)
def test_any_retry_after_is_within_bounds_or_ignored(header: str) -> None:
    wait = parse_retry_after(header, NOON)
    assert wait is None or timedelta(0) <= wait <= RETRY_AFTER_CAP


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("  HTTP 503:\r\n\tdown \n for repairs\n", "HTTP 503: down for repairs"),
        ("one\u2028two\x0bthree", "one two three"),
        ("one\0two", "one two"),  # PostgreSQL can't store NUL
        ("caf\udce9", "caf?"),  # a lone surrogate is not valid UTF-8
        ("", ""),
        ("x" * 500, "x" * 500),
        ("x" * 501, "x" * 499 + "…"),
        ("a" + " " * 1000 + "b", "a b"),  # measured after the blanks are removed
    ],
)
def test_an_error_is_one_line_of_at_most_500_characters(text: str, line: str) -> None:
    assert one_line(text) == line
