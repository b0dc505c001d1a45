"""Cursors: their text, and the rejection of every text that is not one."""

from __future__ import annotations

import base64
import json
import shlex
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.cursor import PASSES, SORTS, Cursor, Sort, message_cursor, pass_cursor
from retrycli.domain.errors import InvalidArgument

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
IDS = st.integers(-(2**63), 2**63 - 1)
TIMES = st.datetimes(timezones=st.just(UTC))
VALUES: dict[Sort, st.SearchStrategy[int | datetime | None]] = {
    "next": TIMES | st.none(),
    "age": TIMES | st.none(),
    "tries": IDS,
    "id": st.none(),
}


@given(st.data(), st.sampled_from(SORTS), IDS)
def test_a_cursor_survives_its_text(data: st.DataObject, sort: Sort, message_id: int) -> None:
    cursor = Cursor(sort, data.draw(VALUES[sort]), message_id)
    text = str(cursor)
    assert message_cursor(text, sort) == cursor
    assert text == shlex.quote(text)
    assert not text.startswith("-")


@given(TIMES, st.uuids())
def test_a_cursor_of_passes_survives_its_text(began: datetime, pass_id: object) -> None:
    cursor = Cursor(PASSES, began, str(pass_id))
    assert pass_cursor(str(cursor)) == cursor


def packed(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


BAD = [
    *("", "x", "W10", "-" * 10_000, "[" * 150, "\0", "\ud800"),
    packed(None),
    packed(["next", None]),
    packed(["next", None, 17, 18]),
    packed(["next", "noon", 17]),
    packed(["next", "0001-01-01T00:00:00+23:59", 17]),
    packed(["next", "2025-03-03T12:00:00", 17]),
    packed(["next", 5, 17]),
    packed(["next", None, "17"]),
    packed(["next", None, True]),
    packed(["next", None, 2**63]),
    packed(["next", None, -(2**63) - 1]),
    f"{Cursor('next', None, 17)}\n",
]


@pytest.mark.parametrize("text", BAD)
def test_other_text_is_not_a_cursor(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^not a valid cursor .*previous page$") as raised:
        message_cursor(text, "next")
    assert len(str(raised.value)) < 1200


@pytest.mark.parametrize("sort", SORTS)
def test_a_cursor_is_only_valid_for_its_own_list(sort: Sort) -> None:
    values: dict[Sort, int | datetime | None] = {"next": NOON, "age": NOON, "tries": 5, "id": None}
    text = str(Cursor(sort, values[sort], 17))
    for other in {*SORTS} - {sort}:
        with pytest.raises(InvalidArgument):
            message_cursor(text, other)
    with pytest.raises(InvalidArgument):
        pass_cursor(text)


def test_a_time_is_the_same_in_every_zone() -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5)))
    assert str(Cursor("next", elsewhere, 1)) == str(Cursor("next", NOON, 1))


@pytest.mark.parametrize("key", [17, "a\0", "é"])
def test_the_id_of_a_pass_is_printable_ascii(key: object) -> None:
    with pytest.raises(InvalidArgument):
        pass_cursor(packed([PASSES, NOON.isoformat(), key]))
