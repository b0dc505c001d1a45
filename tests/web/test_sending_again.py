"""What may have arrived is sent again only if somebody says so, and old pages do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli import operations
from retrycli.domain.errors import MayHaveArrived
from retrycli.operations.bulk import BulkAction, BulkRequest, Canary
from retrycli.operations.wiring import utc_now
from tests.cli.story import LOST, OK, Api
from tests.conftest import on_sqlite
from tests.web.conftest import API
from tests.web.test_message_pages import use
from tests.web.test_messages_api import problem

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_sqlite


@pytest.fixture
def refused(desk: Desk, api: Api) -> Desk:
    """Provide an installation with message 9, which the ticketing API has refused once."""
    use(desk, api)
    desk.application.add(9)
    operations.run_pass.run_once(desk.settings)
    assert desk.application.state(9) == "escalated"
    return desk


@pytest.fixture
def doubtful(refused: Desk, api: Api) -> Desk:
    """Provide the same after an attempt by hand that may have arrived."""
    api.answers = [LOST]
    retrycli.retry(refused.settings, 9)
    api.answers = [OK]
    assert len(api.requests) == 2
    return refused


@pytest.mark.parametrize(
    ("act", "meanwhile"),
    [
        *(("retry", each) for each in ("attempt", "edit", "move")),
        *(("requeue", "attempt"), ("mark-sent", "edit"), ("reject", "move")),
    ],
)
def test_a_form_of_an_old_page_does_nothing(refused: Desk, api: Api, act: str, meanwhile: str) -> None:
    browser, fields = refused.browser("anna"), {"reason": "tea"} if act == "reject" else {}
    old = browser.open("/id/9")
    if meanwhile == "attempt":
        retrycli.retry(refused.settings, 9, by="vera")
    elif meanwhile == "move":
        refused.application.execute("UPDATE pending_messages SET ticket_id = 9801 WHERE id = 9")
    else:
        operations.edit_message.edit(refused.settings, 9, body="Another text.", by="vera")
    number, before = len(api.requests), refused.application.dump()
    page = browser.submit(old, f"/id/9/{act}", **fields)
    assert page.status == 409
    assert "was changed or attempted after its page was shown, and is now escalated. Nothing was done" in page.words
    assert (len(api.requests), refused.application.dump()) == (number, before)
    assert browser.submit(browser.open("/id/9"), f"/id/9/{act}", **fields).status == 200


def test_a_page_asks_before_it_sends_again(doubtful: Desk, api: Api) -> None:
    browser = doubtful.browser("anna")
    question = browser.submit(browser.open("/id/9"), "/id/9/retry")
    ticket = doubtful.application.row(9)["ticket_id"]
    assert (question.status, len(api.requests)) == (409, 2)
    assert f"Check ticket {ticket}. If the message is there, go back and mark it as sent." in question.words
    page = browser.submit(question, "/id/9/retry", press="Send it all the same")
    assert (page.status, len(api.requests), doubtful.application.row(9)["status"]) == (200, 3, "sent")


def test_an_action_on_many_messages_sends_again_only_if_it_is_ticked(doubtful: Desk, api: Api) -> None:
    browser = doubtful.browser("anna")
    preview = browser.open("/bulk?action=retry&id=9")
    done = browser.submit(preview, "/bulk")
    assert "Sent 0 messages. 1 message was not changed, for example: message 9 may have arrived" in done.words
    assert len(api.requests) == 2
    done = browser.submit(preview, "/bulk", send_again="yes")
    assert "Sent 1 message." in done.words
    assert len(api.requests) == 3


def test_the_api_and_the_library_send_again_only_if_they_are_told(doubtful: Desk, api: Api) -> None:
    post, many = doubtful.operator.post, {"action": "retry", "ids": [9]}
    assert "message 9 may have arrived" in problem(post(f"{API}/9/retry"), 409, "may-have-arrived")
    [refused] = post(f"{API}/scheduler/bulk", json=many).json()["refused"]
    assert "message 9 may have arrived" in refused["error"]
    with pytest.raises(MayHaveArrived, match="message 9 may have arrived"):
        retrycli.retry(doubtful.settings, 9)
    wrong = post(f"{API}/scheduler/bulk", json={**many, "action": "requeue", "send_again": True})
    assert "requeue takes no send_again" in wrong.text
    assert len(api.requests) == 2
    api.answers = [LOST]
    assert post(f"{API}/9/retry", json={"send_again": True}).json()["results"][0]["outcome"] == "unknown"
    assert retrycli.retry(doubtful.settings, 9, send_again=True).kind == "unknown"
    api.answers = [OK]
    assert post(f"{API}/scheduler/bulk", json={**many, "send_again": True}).json()["done"] == 1
    assert len(api.requests) == 5


def test_a_canary_is_sent_as_a_pass_would_send_it(doubtful: Desk, api: Api) -> None:
    """A requeue is the decision to send it again."""
    request = BulkRequest(BulkAction.REQUEUE, ids=[9], canary=Canary(1))
    made = operations.message_actions.act(doubtful.settings, request)
    assert ([each.delivered for each in made.result.tried], len(api.requests)) == ([True], 3)


@pytest.mark.parametrize(
    ("action", "which", "meanwhile"),
    [
        *((action, "ticked", "attempt") for action in ("retry", "requeue", "reject", "mark_sent", "acknowledge")),
        *(("retry", "matching", each) for each in ("attempt", "edit", "another message", "a spent message")),
        *(("reject", "ticked", each) for each in ("edit", "the application", "another message", "a spent message")),
        ("requeue", "matching", "the application"),
    ],
)
def test_an_old_preview_leaves_what_has_changed_unchanged(
    refused: Desk, api: Api, action: str, which: str, meanwhile: str
) -> None:
    refused.application.add(10, body="A second text.")
    operations.run_pass.run_once(refused.settings)
    browser, number = refused.browser("anna"), len(api.requests)
    preview = browser.open(f"/bulk?action={action}&{'state=escalated' if which == 'matching' else 'id=9&id=10'}")
    if meanwhile == "attempt":
        retrycli.retry(refused.settings, 9, by="vera")
    elif meanwhile == "edit":
        operations.edit_message.edit(refused.settings, 9, body="Another text.", by="vera")
    elif meanwhile == "the application":
        now = str(utc_now().replace(tzinfo=None))
        refused.application.execute("UPDATE pending_messages SET body = 'x', updated_at = ? WHERE id = 9", now)
    else:
        refused.application.execute("DELETE FROM pending_messages WHERE id = 9")
        spent = 10 if meanwhile == "a spent message" else 0
        refused.application.add(9, body="A third text.", created_at="2026-11-01 10:00:00", retry_count=spent)
        operations.run_pass.run_once(refused.settings)
    seen = number + (meanwhile in {"attempt", "another message"})
    assert len(api.requests) == seen
    before = refused.application.row(9), refused.application.rows("retrycli_queue")[9]
    done = browser.submit(preview, "/bulk", **({"because": "tea"} if action in {"reject", "mark_sent"} else {}))
    assert "message 9 was attempted or changed, or failed anew, after it was shown" in done.words
    assert (refused.application.row(9), refused.application.rows("retrycli_queue")[9]) == before
    assert refused.application.rows("retrycli_queue").get(10, {}).get("state") == {
        "retry": "escalated",
        "requeue": "waiting",
        "acknowledge": "escalated",
    }.get(action)
    assert len(api.requests) == seen + (action == "retry")
