"""Actions on many messages over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from tests.conftest import on_both
from tests.web.conftest import API

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


def test_all_messages_of_a_cause_are_requeued_after_a_canary(escalated: Desk) -> None:
    [group] = escalated.viewer.get(f"{API}/scheduler/escalations").json()["groups"]
    wanted = {"fingerprint": [group["fingerprint"]]}
    body = act(escalated, action="requeue", filter=wanted, expected=6, canary=2, spread="2h").json()
    assert [canary["outcome"] for canary in body["canaries"]] == ["delivered", "delivered"]
    assert (body["done"], body["left"]) == (4, 0)
    assert [operations.listing.show(escalated.settings, each).acts[-1].by for each in (3, 6)] == ["anna"] * 2


def test_the_status_shows_an_action_at_once(escalated: Desk) -> None:
    """The status is kept for a second or more, so that many clients do not count the queue again and again."""
    before = escalated.viewer.get(f"{API}/scheduler/overview").json()["messages"]["escalated"]
    act(escalated, action="requeue", ids=[1])
    assert escalated.viewer.get(f"{API}/scheduler/overview").json()["messages"]["escalated"] == before - 1


def test_a_reason_may_have_as_many_characters_as_the_document_says(escalated: Desk) -> None:
    schemas = escalated.viewer.get(f"{API}/openapi.json").json()["components"]["schemas"]
    reason = schemas["BulkBody"]["properties"]["reason"]
    [longest] = (each["maxLength"] for each in reason["anyOf"] if "maxLength" in each)
    refused = act(escalated, action="reject", ids=[1], reason="x" * (longest + 1))
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "reason"), refused.text
    assert act(escalated, action="reject", ids=[1], reason="x" * longest).json()["done"] == 1
    one = escalated.operator.post(f"{API}/2/reject", json={"reason": "x" * longest})
    assert one.status_code == 200, one.text
