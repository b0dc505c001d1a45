"""Holding parts of the queue in the browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from retrycli import operations
from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_both


def test_a_message_is_held_and_released(desk: Desk) -> None:
    desk.application.add(9)
    browser = desk.browser("anna")
    held = browser.submit(browser.open("/id/9"), "/id/9/hold", reason="Ana calls back", **{"for": "2h"})
    assert "Held message 9 until" in held.words
    history = browser.open("/id/9")
    for page in (held, history, browser.open("/passes")):
        assert re.search(r"until \d{4}-\d\d-\d\d \d\d:\d\d\+00:00", page.words)
        assert not re.search(r"\d{4}-\d\d-\d\dT", page.words)
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "failed"
    listed = browser.open("/").words
    assert re.search(r"customer held 0/10 \d{4}-\d\d-\d\d \d\d:\d\d\+00:00 (?!due)", listed)
    released = browser.submit(browser.open("/id/9"), "/id/9/release")
    assert "Released message 9." in released.words
    operations.run_pass.run_once(desk.settings)
    assert desk.application.row(9)["status"] == "sent"


def test_the_list_can_show_only_held_messages_and_an_action_touches_only_those(desk: Desk) -> None:
    for number in (9, 10):
        desk.application.add(number)
    browser = desk.browser("anna")
    browser.submit(browser.open("/id/9"), "/id/9/hold")
    found = browser.submit(browser.open("/"), "/", state="held")
    assert "customer held 0/10" in found.words
    assert "customer waiting" not in found.words
    preview = browser.submit(found, "/bulk", press="Continue with everything that matches", action="reject")
    assert "Reject 1 message?" in preview.words
    assert "customer held 0/10" in preview.words
    browser.submit(preview, "/bulk", because="too late")
    assert {number: desk.application.row(number)["status"] for number in (9, 10)} == {9: "rejected", 10: "failed"}
    assert [each["id"] for each in desk.operator.get("/api/messages?state=held").json()["messages"]] == []
