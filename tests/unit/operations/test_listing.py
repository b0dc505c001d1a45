"""Arguments of lists: ids as text, limits, orders and filters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.errors import InvalidArgument, NoSuchMessage
from retrycli.domain.listing import Filter
from retrycli.operations import ids, listing, status
from retrycli.operations.message_actions import find


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    """Return settings of a database that does not exist, to show that arguments are checked first."""
    return Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/gone.db"))


@given(st.integers(-(2**63), 2**63 - 1))
def test_an_id_has_one_text(number: int) -> None:
    assert ids.as_integer(str(number)) == number


@pytest.mark.parametrize(
    "text",
    [
        *("", "17 ", "+17", "017", "-0", "1_7", "1.0", "17\n", "١٧", "²", "abc", "\0", "\ud800"),
        *(str(2**63), str(-(2**63) - 1), "9" * 100_000),
    ],
)
def test_other_text_is_no_message(text: str) -> None:
    with pytest.raises(NoSuchMessage, match=r"^no message ") as raised:
        ids.as_integer(text)
    assert len(str(raised.value)) < 100


def test_a_list_has_a_limit_and_a_known_order(nowhere: Settings) -> None:
    for limit in (0, 1001):
        with pytest.raises(InvalidArgument, match=f"limit must be from 1 to 1,000: {limit}"):
            listing.page(nowhere, limit=limit)
    with pytest.raises(InvalidArgument, match="limit must be at least 1: 0"):
        status.passes(nowhere, limit=0)
    sort: Any = "body"
    with pytest.raises(InvalidArgument, match="sort must be one of next, id, tries, age: 'body'"):
        listing.page(nowhere, sort=sort)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a\0b", "contains an invalid character"),
        ("\ud800", "contains an invalid character"),
        ("a" * 1_001, "is longer than 1,000 characters; shorten it"),
    ],
)
@pytest.mark.parametrize("field", ["ticket", "error", "fingerprint"])
def test_a_filter_must_be_text_that_a_database_can_compare(
    nowhere: Settings, field: str, text: str, fault: str
) -> None:
    values: list[dict[str, Any]] = [{field: text}, {field: ["fine", text]}]
    for wanted in [Filter(**value) for value in values]:
        for call in (listing.page, find):
            with pytest.raises(InvalidArgument, match=f"the filter {field} {fault}"):
                call(nowhere, wanted)


@pytest.mark.parametrize("field", ["state", "message_type", "ticket", "error", "reason", "fingerprint"])
def test_a_condition_has_a_limited_number_of_values(nowhere: Settings, field: str) -> None:
    most = 10 if field == "error" else 100
    wanted: Any = {field: ["unknown"] * (most + 1)}
    with pytest.raises(InvalidArgument, match=f"the filter {field} has {most + 1} values; give at most {most}"):
        listing.page(nowhere, Filter(**wanted))
