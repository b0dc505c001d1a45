"""Each condition of a filter that an operator gives reaches the filter, from the pages and from the HTTP API."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from retrycli.domain.listing import FILTER_FIELDS, TIMES, Filter
from retrycli.web.console.bulk_pages import BulkFields
from retrycli.web.console.forms import MessageFilter
from retrycli.web.inputs import Selection

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
FIXED = NOW - timedelta(hours=2)


def value(name: str) -> Any:  # noqa: ANN401  the types differ
    """Return a value of a condition in a form."""
    return "2h" if name in TIMES else next(iter(FILTER_FIELDS[name].choices), "x")


@pytest.mark.parametrize("name", FILTER_FIELDS)
def test_a_condition_in_a_form_reaches_the_filter(name: str) -> None:
    """Otherwise an action on everything that matches would reach messages that nobody chose."""
    given = {FILTER_FIELDS[name].name: value(name)}
    wanted: dict[str, Any] = {name: FIXED if name in TIMES else value(name)}
    expected = Filter(**wanted)
    assert MessageFilter.model_validate(given).wanted(NOW) == expected
    first = BulkFields.model_validate({**given, "action": "retry"})
    later = BulkFields.model_validate(first.fixed(NOW).hidden())
    assert first.request(NOW).wanted == expected
    assert later.request(NOW + timedelta(hours=1)).wanted == expected, "the time is that of the first page"


@pytest.mark.parametrize("name", FILTER_FIELDS)
def test_a_condition_in_a_request_reaches_the_filter(name: str) -> None:
    given = {name: "2026-01-02T11:00:00+01:00"} if name in TIMES else {FILTER_FIELDS[name].name: [value(name)]}
    wanted: dict[str, Any] = {name: FIXED if name in TIMES else [value(name)]}
    expected = Filter(**wanted)
    assert Selection.model_validate(given).filter == expected
