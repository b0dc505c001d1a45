"""Holding parts of the queue in the browser, and comparing schedules there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.config.settings import DatabaseSettings
from tests import history
from tests.conftest import on_both, on_sqlite
from tests.web.conftest import PAGES

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web.conftest import Desk

pytestmark = on_both


def test_a_message_is_held_and_released(desk: Desk) -> None:
    desk.application.add(9)
    browser = desk.browser("anna")
    held = browser.submit(browser.open("/id/9"), "/id/9/hold", reason="Ana calls back", **{"for": "2h"})
    assert held.url == f"{PAGES}/id/9"
    assert "Held message 9 until" in held.words
    assert "hold closed: message 9 by anna (Ana calls back), until" in held.words
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "failed"
    assert "held" in browser.open("/").words
    released = browser.submit(browser.open("/id/9"), "/id/9/release")
    assert "Released message 9." in released.words
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "sent"


@on_sqlite
@pytest.mark.parametrize(
    ("kind", "target", "words"),
    [
        ("ticket", "4709", "Held ticket 4709 until"),
        ("type", "customer", "Held type customer until"),
        ("message", "9", "Held message 9 until"),
    ],
)
def test_a_part_of_the_queue_is_held_and_released(desk: Desk, kind: str, target: str, words: str) -> None:
    desk.application.add(9)
    desk.application.add(10, message_type="supplier")
    browser = desk.browser("anna")
    held = browser.submit(browser.open("/passes"), "/hold", kind=kind, target=target, reason="tea")
    assert held.url == f"{PAGES}/passes"
    assert words in held.words
    assert "Held parts of the queue" in held.words
    assert f"{kind} {target} by anna until" in browser.open("/").words
    operations.run_pass.run_once(desk.settings)
    assert [desk.application.row(number)["status"] for number in (9, 10)] == ["failed", "sent"]
    assert f"Released {kind} {target}." in browser.submit(browser.open("/passes"), "/release").words
    assert f"There is no hold of {kind} {target}." in browser.post("/release", kind=kind, target=target).words


@on_sqlite
@pytest.mark.parametrize(
    ("values", "status", "words"),
    [
        ({"kind": "queue", "target": "9"}, 422, "kind: Input should be"),
        ({"kind": "type", "target": "fax"}, 409, "no messages have the type fax"),
        ({"kind": "message", "target": "999"}, 404, "no message 999"),
        ({"kind": "message", "target": "x"}, 404, "no message x"),
        ({"kind": "destination", "target": "http://evil.example"}, 409, "no messages go to"),
        ({"kind": "ticket", "target": ""}, 422, "target: a value is required"),
        ({"kind": "ticket", "target": " "}, 409, "must have printable characters"),
    ],
)
def test_a_hold_that_is_not_possible_says_why(desk: Desk, values: dict[str, str], status: int, words: str) -> None:
    page = desk.browser("anna").post("/hold", **values)
    assert (page.status, words in page.words) == (status, True), page.words
    assert operations.pause.holds(desk.settings) == []


@pytest.fixture
def recorded(desk: Desk, tmp_path: Path) -> Desk:
    """Provide an installation with a week of recorded deliveries."""
    file = tmp_path / "history.db"
    history.make(file, attempts=400, now=datetime.now(UTC))
    database = DatabaseSettings(url=f"sqlite:///{file}")
    desk.settings = desk.settings.model_copy(update={"database": database})
    return desk


@on_sqlite
def test_two_schedules_are_compared_with_their_assumptions(recorded: Desk) -> None:
    browser = recorded.browser("anna")
    form = browser.open("/simulate")
    assert "Delivered within 4 h" not in form.words
    found = browser.submit(form, "/simulate", backoff="fixed", base_minutes="30", since="7d")
    assert found.within("th").split()[:3] == ["Today", "Proposed", "Difference"]
    assert "fixed 30 min, 10 retries" in found.words
    assert "Delivered within 4 h" in found.words
    assert 'backoff = "fixed"' in found.words
    assert "In an outage the replays deliver nothing." in found.words
    fields = dict(found.form("/simulate").fields)
    assert fields["base_minutes"] == "30"
    alone = browser.submit(form, "/simulate", since="7d")
    assert "Proposed" not in alone.words


@on_sqlite
@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ("since=7d&backoff=list", 422, "waits_minutes"),
        ("since=7d&waits_minutes=soon&backoff=list", 422, "waits_minutes"),
        ("since=7d&base_minutes=nan", 422, "base_minutes"),
        ("since=7d&base_minutes=-1", 422, "base_minutes"),
        ("since=7d&max_retries=1.5", 422, "max_retries"),
        ("since=forever", 422, "since: Input should be"),
        ("since=7d&call=os.system", 422, "call: the field is unknown"),
    ],
)
def test_a_schedule_that_is_not_valid_says_why(recorded: Desk, query: str, status: int, words: str) -> None:
    page = recorded.browser("anna").open(f"/simulate?{query}")
    assert (page.status, words in page.words) == (status, True), page.words


@on_sqlite
def test_too_little_history_says_so(desk: Desk) -> None:
    page = desk.browser("anna").open("/simulate?since=7d")
    assert (page.status, "too little history" in page.words) == (200, True)
