"""What an answer says of a message that has arrived, and questions whose answer comes in pages."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from retrycli.outcome import Outcome, OutcomeKind
from tests.gateway.deliveries import KEY, NOON, deliver, gateway_settings, preset_file, queued
from tests.gateway.ticketing.fake import Answered, Asked, Fake

PRESET = """
[messages.customer]
path = "/notes"
ignores = ["cc_emails"]
confirmed = { path = "internal", equals = true }

[look_up]
path = "/notes"
query = { page = "{page}" }
holds = { path = "*.key", contains = "{delivery_key}" }
more = { path = "1" }
"""


class Notes(Fake):
    """Takes what it is sent, and gives it out in pages of two."""

    def __init__(self, answer: object = b"", keys: list[str] | None = None) -> None:
        super().__init__()
        self._answer = answer
        self._keys = keys or []
        self.posted = 0

    def answer(self, asked: Asked) -> Answered:
        if asked.method == "POST":
            self.posted += 1
            return Answered(201, self._answer)
        start = 2 * int(asked.query["page"]) - 2
        return Answered(200, [{"key": each} for each in self._keys[start : start + 2]])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"internal": True}, OutcomeKind.DELIVERED),
        ({"internal": False}, OutcomeKind.PERMANENT),
        ({}, OutcomeKind.PERMANENT),
        (b"", OutcomeKind.PERMANENT),
        (b"<html>", OutcomeKind.UNKNOWN),
    ],
)
def test_what_the_answer_does_not_confirm_goes_to_a_person(answer: object, kind: OutcomeKind, tmp_path: Path) -> None:
    with Notes(answer) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset_file(tmp_path, PRESET)))
        assert (outcome.kind, outcome.status_code, notes.posted) == (kind, 201, 1)


@pytest.mark.parametrize(("others", "pages"), [(0, 1), (1, 1), (2, 2), (7, 4)])
@pytest.mark.parametrize("there", [True, False])
def test_a_look_up_goes_through_all_pages(others: int, pages: int, there: bool, tmp_path: Path) -> None:  # noqa: FBT001
    message = replace(queued(), unsettled_since=NOON - timedelta(days=1))
    keys = [f"other-{number}" for number in range(others)] + ([KEY] if there else [])
    with Notes({"internal": True}, keys) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset_file(tmp_path, PRESET)), message)
        assert (outcome.kind, notes.posted) == (OutcomeKind.DELIVERED, not there)
        assert len([each for each in notes.asked if each.method == "GET"]) == pages


def test_what_has_pages_without_end_proves_nothing(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, PRESET.replace("{page}", "1"))
    message = replace(queued(), unsettled_since=NOON - timedelta(days=1))
    with Notes({"internal": True}, ["other-1", "other-2"]) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset), message)
        assert outcome == Outcome(OutcomeKind.REFUSED, error="look-up: there is more after 100 pages")
        assert not notes.posted
