"""Filters as options of a suggested command."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

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
        (
            Filter(failed_after=datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=1)))),
            ["--failed-after", "2026-01-02T02:04:05Z"],
        ),
    ],
)
def test_a_filter_becomes_its_options(wanted: Filter, options: list[str]) -> None:
    assert as_options(wanted) == options
