"""The scheduler's endpoints, as the original specification describes them."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.domain.duration import utc_text
from retrycli.domain.passes import PassResult, PassSummary, StartedBy
from retrycli.store.passes import Ledger
from tests.conftest import on_both
from tests.web.conftest import API

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_both


def test_a_pause_by_api_shows_in_the_status_and_on_the_pages_and_ends_with_resume(desk: Desk) -> None:
    """API and pages share the status that they keep for a moment."""
    body = desk.viewer.get(f"{API}/scheduler/status").json()
    assert (body["running"], body["next_run"]) == (False, None)
    operations.run_pass.run_once(desk.settings)
    assert "Paused" not in desk.operator.get("/messages/").text
    begun = desk.operator.post(f"{API}/scheduler/pause", json={"for": "2h", "reason": "API migration"})
    assert begun.status_code == 200
    assert begun.json()["paused"]["by"] == "anna"
    assert desk.operator.get(f"{API}/scheduler/status").json()["running"] is False
    assert "Paused" in desk.operator.get("/messages/").text
    found = operations.status.status(desk.settings)
    assert (found.state, found.pause and found.pause.reason) == ("paused", "API migration")
    assert desk.operator.post(f"{API}/scheduler/resume").json()["paused"] is None
    assert desk.operator.get(f"{API}/scheduler/status").json()["running"] is True
    pauses = operations.status.passes(desk.settings, limit=5).pauses
    assert [(pause.act, pause.by) for pause in pauses] == [("resumed", "anna"), ("paused", "anna")]


def test_without_a_token_the_answer_is_401_with_a_challenge(desk: Desk) -> None:
    for client in (
        desk.stranger,
        desk.client(Authorization="Bearer rcli_wrong"),
        desk.client(Authorization="Basic YQ=="),
    ):
        answer = client.get(f"{API}/scheduler/status")
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["status"] == 401


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 422),
        (b'{"reason": "\xff"}', "application/json", 400),
        (b'{"reason": "\\ud800"}', "application/json", 422),
        (b"[" * 100_000, "application/json", 400),
        (b'{"reason": "x"}', "text/plain", 415),
        (b'{"reason": "x"}', "", 415),
        (b"reason=x", "application/x-www-form-urlencoded", 415),
        (b" " * ((4 << 20) + 1), "application/json", 413),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_body_that_is_not_json_is_a_problem(desk: Desk, content: bytes, kind: str, status: int) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = desk.operator.post(f"{API}/scheduler/pause", content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert operations.status.status(desk.settings).pause is None


def test_a_pass_that_has_not_begun_is_noticed_alike_everywhere(desk: Desk) -> None:
    """The passes came from another host, whose cron was stopped 21 minutes ago."""
    desk.application.add(5)
    newest = operations.wiring.utc_now().replace(microsecond=0) - timedelta(minutes=21)
    with operations.wiring.open_database(desk.settings) as database:
        for number in reversed(range(5)):
            began = newest - number * timedelta(minutes=15)
            Ledger(database).start_pass(f"p{number}", host="barn", pid=1, now=began, started_by=StartedBy.CRON)
            Ledger(database).finish_pass(PassSummary(f"p{number}", PassResult.COMPLETED), began)
    words = f"passes came every 15 minutes; none since {utc_text(newest)}"
    assert desk.viewer.get(f"{API}/scheduler/status").json() == {
        "running": True,
        "retry_interval_minutes": 15,
        "max_retries": 10,
        "next_run": None,
    }
    overview = desk.viewer.get(f"{API}/scheduler/overview").json()
    assert (overview["state"], overview["next_run"], overview["reason"]) == ("ok", None, words)
    explained = desk.viewer.get(f"{API}/5/explain").json()
    assert explained["next_attempt_at"] is None
    [gate] = [each for each in explained["gates"] if each["name"] == "cron"]
    assert (gate["open"], gate["figure"]) == (False, f"{words}; run `retrycli doctor`")
    page = html.unescape(re.sub("<[^>]*>", "", desk.viewer.get("/messages/").text))
    assert re.search(r"State\s*passes came every 15 minutes; none since ", page)
    assert re.search(r"Next run\s*none; run retrycli doctor", page)


def test_a_part_of_the_queue_is_held_and_resumed(desk: Desk) -> None:
    for message_id in (5, 6):
        desk.application.add(message_id, message_type="customer" if message_id == 5 else "supplier")
    held = desk.operator.post(f"{API}/scheduler/pause", json={"type": ["supplier"], "message": ["5"], "reason": "typo"})
    assert held.json()["paused"] is None
    assert {(hold["kind"], hold["target"], hold["by"]) for hold in held.json()["holds"]} == {
        ("type", "supplier", "anna"),
        ("message", "5", "anna"),
    }
    assert operations.run_pass.run_once(desk.settings).sent == 0
    resumed = desk.operator.post(f"{API}/scheduler/resume", json={"message": [5]})
    assert ([hold["kind"] for hold in resumed.json()["holds"]], resumed.json()["ended"]) == (["type"], 1)
    assert desk.operator.post(f"{API}/scheduler/resume", json={"message": [5]}).json()["ended"] == 0
    assert operations.run_pass.run_once(desk.settings).sent == 1


def test_a_thousand_parts_are_held_and_resumed_at_once(desk: Desk) -> None:
    tickets = [str(number) for number in range(1_000)]
    held = desk.operator.post(f"{API}/scheduler/pause", json={"ticket": tickets})
    assert (held.status_code, len(held.json()["holds"])) == (200, 1_000)
    assert desk.operator.post(f"{API}/scheduler/resume", json={"ticket": tickets}).json()["ended"] == 1_000


def test_a_body_with_a_million_fields_gets_a_short_answer(desk: Desk) -> None:
    answer = desk.operator.post(f"{API}/scheduler/pause", json=dict.fromkeys(map(str, range(10_000)), 1))
    assert (answer.status_code, answer.json()["detail"]) == (422, "must have at most 100 fields")
    answer = desk.operator.post(f"{API}/scheduler/pause", json=dict.fromkeys(map(str, range(100)), 1))
    assert (answer.status_code, len(answer.json()["errors"])) == (422, 10)


@pytest.mark.parametrize(("field", "most"), [("state", 100), ("type", 100), ("ticket", 100), ("error", 10)])
def test_a_filter_with_many_invalid_values_gets_a_short_answer(desk: Desk, field: str, most: int) -> None:
    """An error for each of a million values would stop the server."""
    body = {"action": "retry", "expected": 1, "filter": {field: [{}] * 10_000}}
    answers = desk.operator.post(f"{API}/scheduler/bulk", json=body), desk.viewer.get(f"{API}?{f'{field}=%00&' * 101}")
    for answer, where in zip(answers, (f"filter.{field}", field), strict=True):
        [error] = answer.json()["errors"]
        assert (answer.status_code, error["field"]) == (422, where)
        assert f"at most {most} items" in error["message"]


def test_a_filter_with_a_million_fields_gets_a_short_answer(desk: Desk) -> None:
    fields = dict.fromkeys(map(str, range(101)), "1")
    body = {"action": "retry", "expected": 1, "filter": fields}
    answers = desk.operator.post(f"{API}/scheduler/bulk", json=body), desk.viewer.get(API, params=fields)
    for answer in answers:
        assert (answer.status_code, len(answer.json()["errors"])) == (422, 1)
        assert "must have at most 100 fields" in answer.json()["detail"]


def test_a_number_names_a_ticket(desk: Desk) -> None:
    desk.application.add(5, ticket_id=4705)
    held = desk.operator.post(f"{API}/scheduler/pause", json={"ticket": [4705]})
    assert [(hold["target"], hold["messages"]) for hold in held.json()["holds"]] == [("4705", 1)]
    assert desk.viewer.get(f"{API}?ticket=4705").json()["messages"][0]["held"] is True


def test_what_nobody_would_read_is_refused(desk: Desk) -> None:
    desk.application.add(5)
    for answer in (
        desk.viewer.get(f"{API}/scheduler/overview?colour=red"),
        desk.viewer.get(f"{API}/5?colour=red"),
        desk.operator.post(f"{API}/5/retry", json={"colour": "red"}),
        desk.operator.post(f"{API}/5/retry", json=[1]),
        desk.operator.post(f"{API}/5/retry", content=b"garbage", headers={"Content-Type": "application/json"}),
    ):
        assert answer.status_code == 422, answer.text
    assert operations.listing.show(desk.settings, 5).attempts == []
    assert desk.operator.post(f"{API}/5/retry", json={}).status_code == 200
