"""Actions on many messages over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from tests.conftest import on_both
from tests.web.conftest import API
from tests.web.test_messages_api import problem

if TYPE_CHECKING:
    import httpx

    from tests.web.conftest import Desk

pytestmark = on_both

BULK = f"{API}/scheduler/bulk"


@pytest.fixture
def escalated(desk: Desk) -> Desk:
    """Provide a desk with six escalated messages, 1 to 6, and a waiting one, 7."""
    for message_id in range(1, 7):
        desk.application.add(message_id, retry_count=10, last_error="HTTP 500")
    desk.application.add(7, hours_ago=0)
    operations.run_pass.run_once(desk.settings)
    return desk


def act(desk: Desk, **body: object) -> httpx.Response:
    return desk.operator.post(BULK, json=body)


def states(desk: Desk) -> dict[int, str]:
    found = operations.listing.page(desk.settings, sort="id").messages
    return {message.id: message.state.value for message in found}


def test_named_messages_are_requeued_by_the_signed_in_user(escalated: Desk) -> None:
    body = act(escalated, action="requeue", ids=["1", 2], spread="2h").json()
    assert (body["act"], body["matched"], body["done"], body["left"], body["next"]) == ("requeued", 2, 2, 0, None)
    assert states(escalated) == {1: "waiting", 2: "waiting", **dict.fromkeys(range(3, 7), "escalated"), 7: "waiting"}
    assert operations.listing.show(escalated.settings, 2).acts[-1].by == "anna"


def test_all_messages_of_a_cause_are_requeued_after_a_canary(escalated: Desk) -> None:
    [group] = escalated.viewer.get(f"{API}/scheduler/escalations").json()["groups"]
    wanted = {"fingerprint": [group["fingerprint"]]}
    body = act(escalated, action="requeue", filter=wanted, expected=6, canary=2, spread="2h").json()
    assert [canary["outcome"] for canary in body["canaries"]] == ["delivered", "delivered"]
    assert (body["done"], body["left"]) == (4, 0)


def test_another_count_than_expected_changes_nothing(escalated: Desk) -> None:
    answer = act(escalated, action="reject", filter={"error": ["500"]}, expected=5, reason="no longer needed")
    problem(answer, 409, "count-changed")
    assert answer.json()["count"] == 6
    assert states(escalated)[1] == "escalated"


def test_a_retry_of_many_shows_its_attempts(escalated: Desk) -> None:
    body = act(escalated, action="retry", ids=["1", "2"]).json()
    assert [(attempt["id"], attempt["outcome"]) for attempt in body["results"]] == [(1, "delivered"), (2, "delivered")]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"action": "delete", "ids": ["1"]}, 422),
        ({"action": "requeue"}, 422),
        ({"action": "requeue", "ids": []}, 422),
        ({"action": "requeue", "ids": ["1"], "filter": {"error": ["500"]}, "expected": 6}, 422),
        ({"action": "requeue", "filter": {}, "expected": 7}, 422),
        ({"action": "requeue", "filter": {"error": ["500"]}}, 422),
        ({"action": "requeue", "filter": {"colour": ["red"]}, "expected": 1}, 422),
        ({"action": "requeue", "filter": {"state": ["lost"]}, "expected": 1}, 422),
        ({"action": "requeue", "ids": [1.5]}, 422),
        ({"action": "requeue", "ids": [None]}, 422),
        ({"action": "requeue", "ids": ["one"]}, 404),
        ({"action": "requeue", "ids": [2**70]}, 404),
        ({"action": "requeue", "ids": ["1"] * 10_001}, 422),
        ({"action": "requeue", "ids": ["1"], "canary": 0}, 422),
        ({"action": "requeue", "ids": ["1"], "canary": 10**9}, 422),
        ({"action": "requeue", "ids": ["1"], "spread": "-1h"}, 422),
        ({"action": "requeue", "ids": ["1"], "spread": "36501d"}, 422),
        ({"action": "requeue", "ids": ["1"], "after": "zzz"}, 422),
        ({"action": "reject", "ids": ["1"]}, 422),
        ({"action": "reject", "ids": ["1"], "reason": "a\0b"}, 422),
        ({"action": "acknowledge", "ids": ["1"], "canary": 1}, 422),
    ],
    ids=str,
)
def test_an_invalid_request_changes_nothing(escalated: Desk, body: object, status: int) -> None:
    before = states(escalated)
    answer = escalated.operator.post(BULK, json=body)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    assert len(answer.content) < 5000
    assert states(escalated) == before


def test_messages_that_refuse_the_action_are_named(escalated: Desk) -> None:
    body = act(escalated, action="requeue", ids=["1", "7", "99"]).json()
    assert (body["done"], [refused["id"] for refused in body["refused"]]) == (1, [7, 99])
