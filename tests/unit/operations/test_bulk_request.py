"""The checks of a request for an action on many messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.errors import InvalidArgument
from retrycli.domain.listing import Filter
from retrycli.domain.message import State
from retrycli.operations.bulk import BulkAction, BulkRequest, Canary
from retrycli.operations.message_actions import act, preview

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("requeue", {}, "give either ids or a filter"),
    ("requeue", {"ids": [1], "wanted": Filter(error="x")}, "give either ids or a filter"),
    ("retry", {"wanted": Filter()}, "the filter has no condition"),
    ("retry", {"wanted": Filter(error="a\0b")}, "the filter error contains an invalid character"),
    ("reject", {"ids": [1], "reason": "x\0"}, "the reason contains an invalid character"),
    ("reject", {"ids": [1], "reason": "\ud800"}, "the reason contains an invalid character"),
    ("mark_sent", {"ids": [1], "reason": "x" * 2_001}, "the reason is longer than 2,000 characters"),
    ("retry", {"ids": [1], "reason": "x"}, "retry takes no reason"),
    ("reject", {"ids": [1], "reason": "x", "spread": timedelta(1)}, "reject takes no due, spread or canary"),
    ("retry", {"ids": [1], "canary": Canary()}, "retry takes no due, spread or canary"),
    ("requeue", {"ids": [1], "due": datetime(2026, 1, 2)}, "due must have an offset"),  # noqa: DTZ001  the fault
    ("requeue", {"ids": [1], "spread": timedelta(-1)}, "spread must be from 0 to 36500 days"),
    ("requeue", {"ids": [1], "canary": Canary(0)}, "canary must be from 1 to 1,000: 0"),
    ("requeue", {"ids": [1], "canary": Canary(1_001)}, "canary must be from 1 to 1,000: 1001"),
    ("requeue", {"ids": [1], "canary": Canary(1, -0.1)}, "abort_over must be from 0 to 1"),
    ("requeue", {"ids": [1], "canary": Canary(1, float("nan"))}, "abort_over must be from 0 to 1"),
]


@pytest.mark.parametrize(("action", "values", "why"), BAD)
def test_an_invalid_request_is_refused_before_the_database_is_opened(
    tmp_path: Path, action: str, values: dict[str, Any], why: str
) -> None:
    nowhere = Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/gone.db"))
    request = BulkRequest(BulkAction(action), **values)
    for call in (preview, act):
        with pytest.raises(InvalidArgument, match=why):
            call(nowhere, request)


@pytest.mark.parametrize("reason", [None, "", " \n"])
def test_a_rejection_needs_a_reason_and_its_preview_does_not(tmp_path: Path, reason: str | None) -> None:
    nowhere = Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/gone.db"))
    request = BulkRequest(BulkAction.REJECT, ids=[1], reason=reason)
    request.check(to_act=False)
    with pytest.raises(InvalidArgument, match="the reason is empty"):
        act(nowhere, request)


def retry(ids: Sequence[int] = (), wanted: Filter | None = None, expected: int | None = None) -> str:
    return BulkRequest(BulkAction.RETRY, ids=ids, wanted=wanted, expected=expected).digest


def test_equal_requests_have_equal_digests() -> None:
    """Other processes must find the same digest, so the order of a set does not count."""
    wanted = Filter(error={"a", "b", "c"}, state=State.WAITING)
    assert retry(wanted=wanted, expected=3) == retry(wanted=replace(wanted, error=["c", "b", "a"]), expected=4)
    assert retry(wanted=wanted) != retry(wanted=replace(wanted, error=["c", "b"]))
    assert retry([1, 2]) == retry((1, 2))
    assert len({retry(ids) for ids in ([1, 2], [2, 1], [12], [1, 2, 2])}) == 4


@pytest.mark.parametrize("ids", [[2**63], [-(2**63) - 1], [1.5], [None]])
def test_ids_are_integers_or_text(tmp_path: Path, ids: list[Any]) -> None:
    settings = Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/gone.db"))
    with pytest.raises(InvalidArgument, match="an id must be text, or an integer of 64 bits"):
        act(settings, BulkRequest(BulkAction.RETRY, ids=ids))
