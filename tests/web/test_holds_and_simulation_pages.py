"""Holding parts of the queue in the browser, and comparing schedules there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.config.settings import DatabaseSettings
from tests import history
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from pathlib import Path

    from tests.web.conftest import Desk

pytestmark = on_both


def test_a_message_is_held_and_released(desk: Desk) -> None:
    desk.application.add(9)
    browser = desk.browser("anna")
    held = browser.submit(browser.open("/id/9"), "/id/9/hold", reason="Ana calls back", **{"for": "2h"})
    assert "Held message 9 until" in held.words
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "failed"
    assert "held" in browser.open("/").words
    released = browser.submit(browser.open("/id/9"), "/id/9/release")
    assert "Released message 9." in released.words
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "sent"


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
