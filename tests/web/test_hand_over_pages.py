"""Messages that are handed over to the application's own sender, in the console and in the HTTP API."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.operations import acceptance

if TYPE_CHECKING:
    from tests.web.conftest import Desk

STATUS = {"failed": "failed", "sent": "sent", "rejected": "rejected", "queued": "queued"}


@pytest.fixture
def handed_over(desk: Desk) -> Desk:
    """Provide an installation whose only message is handed over."""
    database = desk.settings.database.model_copy(update={"status": STATUS})
    update = {"database": database, "gateway": RoutedGatewaySettings(kind="application")}
    desk.settings = desk.settings.model_copy(update=update)
    acceptance.accept(desk.settings, by="anna")
    desk.application.add(101)
    assert operations.run_pass.run_once(desk.settings).handed_over == 1
    return desk


def test_the_api_lists_and_takes_back_a_message(handed_over: Desk) -> None:
    listed = handed_over.operator.get("/api/messages", params={"state": "handed_over"}).json()["messages"]
    assert [(each["id"], each["state"]) for each in listed] == [(101, "handed_over")]
    assert handed_over.operator.get("/api/messages/scheduler/overview").json()["messages"]["handed_over"] == 1
    refused = handed_over.operator.post("/api/messages/101/retry")
    assert refused.status_code == 409
    assert "handed over to the application's sender" in refused.text
    taken_back = handed_over.operator.post("/api/messages/101/reject", json={"reason": "wrong customer"})
    assert taken_back.status_code == 200
    assert handed_over.application.row(101)["status"] == "rejected"


def test_the_api_hands_a_message_over(handed_over: Desk) -> None:
    handed_over.application.add(102)
    done = handed_over.operator.post("/api/messages/102/retry").json()
    assert done["results"] == [{"id": 102, "outcome": "handed_over", "status_code": None, "error": None}]


def test_the_console_shows_the_state_and_offers_only_to_reject(handed_over: Desk) -> None:
    browser = handed_over.browser("anna")
    overview = browser.open("/").answer.text
    assert "handed over" in overview
    page = browser.open("/id/101").answer.text
    assert "The application's sender has the message." in page.replace("&#39;", "'")
    assert "Reject" in page
    assert "Retry now" not in page
    assert "Requeue" not in page
