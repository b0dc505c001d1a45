"""Filters as options of a suggested command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from retrycli.cli.arguments import as_options
from retrycli.domain.listing import Filter
from retrycli.domain.message import EscalationReason, MessageType, State


@pytest.mark.parametrize(
    ("wanted", "options"),
    [
        (Filter(), []),
        (Filter(state=State.WAITING), ["--state", "waiting"]),
        (
            Filter(message_type=[MessageType.CUSTOMER, MessageType.INTERNAL], error=["a b", "$x"]),
            ["--type", "customer", "--type", "internal", "--error", "a b", "--error", "$x"],
        ),
        (
            Filter(ticket=["47"], reason=[EscalationReason.UNKNOWN], fingerprint=["d99c"]),
            ["--ticket", "47", "--reason", "unknown", "--fingerprint", "d99c"],
        ),
    ],
)
def test_a_filter_becomes_its_options(wanted: Filter, options: list[str]) -> None:
    assert as_options(wanted) == options


def test_an_age_becomes_seconds() -> None:
    then = datetime.now(UTC) - timedelta(hours=2)
    option, age = as_options(Filter(failed_before=then))
    assert (option, age[-1]) == ("--older-than", "s")
    assert 7200 <= int(age[:-1]) <= (datetime.now(UTC) - then).total_seconds() + 1
