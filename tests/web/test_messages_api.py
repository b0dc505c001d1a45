"""The endpoints of messages: list them, show one, and act on it."""

from __future__ import annotations

from html import unescape
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.web.server import application as served_application
from tests.conftest import on_both, on_sqlite
from tests.web.conftest import API, PAGES, Client

if TYPE_CHECKING:
    import httpx

    from retrycli.operations.sandbox import Sandbox
    from tests.web.conftest import Desk

pytestmark = on_both


@pytest.fixture
def escalated(desk: Desk) -> Desk:
    """Provide a desk with two waiting messages, 5 and 6, and one escalated message, 17."""
    desk.application.add(5, hours_ago=0)
    desk.application.add(6, hours_ago=0, message_type="supplier")
    desk.application.add(17, retry_count=10, last_error="HTTP 500")
    operations.run_pass.run_once(desk.settings)
    return desk


def problem(answer: httpx.Response, status: int, name: str) -> str:
    """Check a problem document, and return its detail."""
    body = answer.json()
    assert (answer.status_code, body["status"], body["type"]) == (status, status, f"urn:retrycli:problem:{name}"), body
    assert answer.headers["Content-Type"] == "application/problem+json"
    return str(body["detail"])


def test_the_list_is_given_page_by_page(desk: Desk) -> None:
    for message_id in range(1, 8):
        desk.application.add(message_id)
    seen, after = [], ""
    while True:
        body = desk.viewer.get(f"{API}?sort=id&limit=3{after}").json()
        seen.append([message["id"] for message in body["messages"]])
        if body["next"] is None:
            break
        after = f"&after={body['next']}"
    assert seen == [[1, 2, 3], [4, 5, 6], [7]]


@pytest.mark.parametrize(
    "message_id",
    ["18", "-1", "abc", "1e3", "017", "+17", " 17", "17%00", "%F0%9F%98%80", "9" * 30, "a%2Fb", "..%2F17", "１７"],
)
def test_an_id_that_no_message_has_is_404(escalated: Desk, message_id: str) -> None:
    for path in ("", "/explain"):
        assert problem(escalated.viewer.get(f"{API}/{message_id}{path}"), 404, "no-such-message")
    for action, body in ACTIONS.items():
        assert problem(escalated.operator.post(f"{API}/{message_id}/{action}", json=body), 404, "no-such-message")


def test_an_id_that_is_not_utf8_is_404(desk: Desk) -> None:
    assert desk.viewer.get(f"{API}/%FF").status_code == 404


ACTIONS: dict[str, object] = {
    "retry": None,
    "requeue": None,
    "reject": {"reason": "no longer needed"},
    "mark-sent": {"note": "the customer has answered it"},
    "acknowledge": None,
    "note": {"note": "asked the customer"},
    "look-up": None,
}


def test_a_retry_delivers_and_answers_with_the_outcome(escalated: Desk, sandbox: Sandbox) -> None:
    body = escalated.operator.post(f"{API}/17/retry").json()
    assert [result["outcome"] for result in body["results"]] == ["delivered"]
    assert len(sandbox.received) == 1
    shown = escalated.viewer.get(f"{API}/17").json()
    assert shown["message"]["status"] == "sent"
    assert shown["attempts"][-1]["made_by"] == "anna"


def test_a_message_that_was_just_sent_is_409(escalated: Desk) -> None:
    escalated.operator.post(f"{API}/17/retry")
    for action, body in ACTIONS.items():
        detail = problem(escalated.operator.post(f"{API}/17/{action}", json=body), 409, "not-actionable")
        assert "17" in detail


def test_a_text_that_would_fill_the_memory_is_409(escalated: Desk) -> None:
    """Clients that ask for it and do not read the answers would otherwise stop the server for lack of memory."""
    update = "UPDATE pending_messages SET body = ? WHERE id = 17"
    escalated.application.execute(update, "é" * (1 << 20))
    assert escalated.viewer.get(f"{API}/17").status_code == 200
    escalated.application.execute(update, "é" * ((1 << 20) + 1))
    assert problem(escalated.viewer.get(f"{API}/17"), 409, "not-actionable") == (
        "the body of message 17 has 1,048,577 characters, and the API returns at most 1,048,576. "
        "Read it with `retrycli show 17`"
    )


@pytest.mark.parametrize(
    ("action", "name", "state"),
    [
        ("requeue", "requeued", "waiting"),
        ("acknowledge", "acknowledged", "escalated"),
        ("reject", "rejected", None),
        ("mark-sent", "marked_sent", None),
    ],
)
def test_each_action_is_done_by_the_signed_in_user(escalated: Desk, action: str, name: str, state: str | None) -> None:
    answer = escalated.operator.post(f"{API}/17/{action}", json=ACTIONS[action])
    assert (answer.status_code, answer.json()["act"], answer.json()["done"]) == (200, name, 1)
    shown = escalated.viewer.get(f"{API}/17").json()
    assert (shown["queue"] and shown["queue"]["state"]) == state
    assert [(act["act"], act["by"]) for act in shown["acts"]] == [(name, "anna")]


@on_sqlite
def test_a_database_that_is_away_is_503_and_comes_back(escalated: Desk) -> None:
    file = escalated.application.path
    away = file.with_name("away.db")
    file.rename(away)
    answer = escalated.viewer.get(f"{API}/17")
    problem(answer, 503, "database-unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert escalated.stranger.get("/readyz").status_code == 503
    away.rename(file)
    assert escalated.viewer.get(f"{API}/17").status_code == 200
    assert escalated.stranger.get("/readyz").status_code == 503, "it is kept for two seconds"
    assert Client(served_application(escalated.settings), {}).get("/readyz").status_code == 200
    escalated.application.execute("UPDATE retrycli_version SET version_num = 'another'")
    assert Client(served_application(escalated.settings), {}).get("/readyz").status_code == 503


@on_sqlite
@pytest.mark.parametrize("tables", [True, False])
def test_readiness_writes_nothing(desk: Desk, *, tables: bool) -> None:
    if tables:
        operations.run_pass.run_once(desk.settings)
    before = desk.application.path.read_bytes()
    assert desk.stranger.get("/readyz").status_code == 200
    assert desk.application.path.read_bytes() == before


@on_sqlite
def test_an_error_of_the_installation_is_500_and_logged(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.application.add(5)
    desk.application.execute("ALTER TABLE pending_messages RENAME COLUMN body TO content")
    detail = problem(desk.operator.get(f"{API}/5"), 500, "configuration-error")
    assert (detail in caplog.messages, desk.application.path.name in detail) == (True, True)
    for answer in (desk.viewer.get(f"{API}/5"), desk.viewer.get(f"{PAGES}/id/5")):
        assert (answer.status_code, "the server's log has the reason" in unescape(answer.text)) == (500, True)
        assert str(desk.application.path.parent) not in answer.text
    assert caplog.messages == [detail] * 3


def edit(desk: Desk, body: object, tag: str | None, message_id: int = 17) -> httpx.Response:
    headers = {} if tag is None else {"If-Match": tag}
    return desk.operator("PATCH", f"{API}/{message_id}", json=body, headers=headers)


def test_an_edit_is_written_once(escalated: Desk) -> None:
    tag = escalated.viewer.get(f"{API}/17").headers["ETag"]
    first = edit(escalated, {"recipient": "bo@example.com", "body": "Line one\r\nline two\n"}, tag)
    assert (first.status_code, first.json()["changed"]) == (200, ["body", "recipient_email"])
    problem(edit(escalated, {"subject": "Re: another"}, tag), 412, "stale-edit")
    shown = escalated.viewer.get(f"{API}/17")
    assert shown.headers["ETag"] == first.headers["ETag"] != tag
    message = shown.json()["message"]
    assert (message["subject"], message["body"]) == ("Re: Invoice", "Line one\r\nline two\n")
    assert shown.json()["acts"][-1]["by"] == "anna"
    same = edit(escalated, {"subject": "Re: Invoice"}, shown.headers["ETag"])
    assert (same.status_code, same.json()["changed"], same.headers["ETag"]) == (200, [], shown.headers["ETag"])
    assert edit(escalated, {"subject": "Re: another"}, "*").status_code == 200


def test_the_newest_edits_are_shown_up_to_a_total_size(escalated: Desk) -> None:
    """Otherwise each edit of a long text would make every answer longer."""
    for number in range(10):
        assert edit(escalated, {"body": f"{number}" * 900_000}, "*").status_code == 200
    answer = escalated.viewer.get(f"{API}/17")
    shown = [act["after"] and act["after"]["body"][0] for act in answer.json()["acts"]]
    assert shown == [None] * 8 + ["8", "9"]
    assert len(answer.content) < 6_000_000
    assert len(escalated.viewer.get(f"{PAGES}/id/17").content) < 6_000_000
    texts = operations.listing.show(escalated.settings, 17, edits=None).acts
    assert [act.after and act.after["body"][0] for act in texts] == list("0123456789")
