"""Confirmations in the answer to a message, and look-ups of one or more pages."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.http.response import LOOK_UP_LIMIT
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
    """A fake system that counts POSTs, and returns given keys in pages of two."""

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
        return Answered(200, [{"key": key} for key in self._keys[start : start + 2]])


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
def test_an_unconfirmed_answer_escalates_the_message(answer: object, kind: OutcomeKind, tmp_path: Path) -> None:
    with Notes(answer) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset_file(tmp_path, PRESET)))
        assert (outcome.kind, outcome.status_code, notes.posted) == (kind, 201, 1)


@pytest.mark.parametrize(("others", "pages"), [(0, 1), (1, 1), (2, 2), (7, 4)])
@pytest.mark.parametrize("there", [True, False])
def test_a_look_up_reads_all_pages(others: int, pages: int, there: bool, tmp_path: Path) -> None:  # noqa: FBT001
    message = queued()._replace(unsettled_since=NOON - timedelta(days=1))
    keys = [f"other-{number}" for number in range(others)] + ([KEY] if there else [])
    with Notes({"internal": True}, keys) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset_file(tmp_path, PRESET)), message)
        assert (outcome.kind, notes.posted) == (OutcomeKind.DELIVERED, not there)
        assert len([request for request in notes.asked if request.method == "GET"]) == pages


def test_an_answer_too_large_to_parse_during_a_pass_proves_nothing(tmp_path: Path) -> None:
    message = queued()._replace(unsettled_since=NOON - timedelta(days=1))
    with Notes({"internal": True}, ["x" * LOOK_UP_LIMIT, KEY]) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset_file(tmp_path, PRESET)), message)
        assert (outcome.kind, notes.posted) == (OutcomeKind.REFUSED, 0)
        assert "the response is too long" in str(outcome.error)
    assert LOOK_UP_LIMIT <= 2 * 1024 * 1024


def test_endless_pages_prove_nothing(tmp_path: Path) -> None:
    preset = preset_file(tmp_path, PRESET.replace("{page}", "1"))
    message = queued()._replace(unsettled_since=NOON - timedelta(days=1))
    with Notes({"internal": True}, ["other-1", "other-2"]) as notes:
        outcome = deliver(gateway_settings(notes.url, preset=preset), message)
        assert outcome == Outcome(OutcomeKind.REFUSED, error="look-up: more than 100 pages of results")
        assert not notes.posted


LOOKED_FOR = """
[messages.customer]
path = "/notes"
ignores = ["cc_emails"]

[look_up]
path = "/notes"
"""
BY_TEXT = 'holds = { path = "notes.*.text", contains = "{delivery_key}" }\n'
BY_KEY = 'holds = { path = "notes.[meta.ours.key={delivery_key}].id" }\n'
BY_POSITION = 'holds = { path = "0.notes.*.text", contains = "{delivery_key}" }\n'
MORE = 'more = { path = "next" }\n'


class Says(Fake):
    """A fake system that gives every look-up the same answer, and accepts messages."""

    def __init__(self, said: object, status: int = 200) -> None:
        super().__init__()
        self._said, self._status = said, status
        self.posted = 0

    def answer(self, asked: Asked) -> Answered:
        self.posted += asked.method == "POST"
        return Answered(201, {}) if asked.method == "POST" else Answered(self._status, self._said)


def has_lookup(folder: Path, rule: str, said: object, status: int = 200) -> tuple[Outcome, int]:
    """Deliver a message that may have arrived; return the outcome, and how often the message is sent again."""
    message = queued()._replace(unsettled_since=NOON - timedelta(days=1))
    with Says(said, status) as system:
        settings = gateway_settings(system.url, preset=preset_file(folder, LOOKED_FOR + rule))
        return deliver(settings, message), system.posted


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (BY_TEXT, {"notes": []}),
        (BY_TEXT, {"notes": [{"text": "other"}, {"text": None}]}),
        (BY_TEXT + MORE, {"notes": [], "next": None}),
        (BY_KEY, {"notes": []}),
        (BY_KEY, {"notes": [{"id": 1, "meta": {"ours": {"key": "other"}}}, {"id": 2, "meta": {"ours": {}}}]}),
        (BY_POSITION, [{"notes": []}]),
        ('holds = { path = "[text*={delivery_key}].id" }\nmore = { path = "99" }\n', [{"id": 1}, {"id": 2}]),
    ],
)
def test_an_answer_with_all_the_paths_proves_absence(rule: str, said: object, tmp_path: Path) -> None:
    outcome, posted = has_lookup(tmp_path, rule, said)
    assert (outcome.kind, posted) == (OutcomeKind.DELIVERED, 1)


@pytest.mark.parametrize(
    ("rule", "said", "missing"),
    [
        (BY_TEXT, b"", "notes"),
        (BY_TEXT, {}, "notes"),
        (BY_TEXT, [], "notes"),
        (BY_TEXT, "notes", "notes"),
        (BY_TEXT, {"notes": None}, "*"),
        (BY_TEXT, {"notes": {"1": {"text": KEY}}}, "*"),
        (BY_TEXT, {"notes": [{"text": "other"}, {"title": "other"}]}, "text"),
        (BY_TEXT, {"notes": [{"text": "other"}, "other"]}, "text"),
        (BY_TEXT + MORE, {"notes": []}, "next"),
        (BY_KEY, {"notes": [{"id": 1, "meta": {"ours": {}}}, {"id": 2}]}, "meta"),
        (BY_KEY, {"notes": [{"id": 2, "meta": {}}]}, "ours"),
        (BY_KEY, {"notes": ["other"]}, "meta"),
        (BY_POSITION, [], "0"),
        ('holds = { path = "[ref={delivery_key}].sent", equals = true }\n', [{"ref": KEY, "sent": None}], "sent"),
    ],
)
def test_an_answer_that_lacks_a_path_does_not_prove_absence(
    rule: str, said: object, missing: str, tmp_path: Path
) -> None:
    """The message may exist although the answer does not show it, so it is not sent again."""
    outcome, posted = has_lookup(tmp_path, rule, said)
    said_so = f"look-up: HTTP 200, but the response has no {missing!r}, so it proves nothing"
    assert (outcome, posted) == (Outcome(OutcomeKind.REFUSED, 200, said_so, in_doubt=True), 0)


def test_a_part_of_a_list_proves_absence_only_if_there_are_pages_and_a_changed_list_never(tmp_path: Path) -> None:
    for rule, status in ((BY_TEXT, 206), (BY_TEXT, 203), (BY_TEXT + MORE, 203)):
        outcome, posted = has_lookup(tmp_path, rule, {"notes": [], "next": None}, status=status)
        assert (outcome.kind, outcome.in_doubt, posted) == (OutcomeKind.REFUSED, True, 0)
    assert has_lookup(tmp_path, BY_TEXT + MORE, {"notes": [], "next": None}, status=206)[1] == 1
    assert has_lookup(tmp_path, BY_TEXT, {"notes": [{"text": KEY}]}, status=206)[0].found


@pytest.mark.parametrize("others", [[{"title": "other"}], ["other"], []])
def test_a_found_message_counts_whatever_the_answer_lacks(others: list[object], tmp_path: Path) -> None:
    outcome, posted = has_lookup(tmp_path, BY_TEXT + MORE, {"notes": [*others, {"text": f"Ref. {KEY}"}]})
    assert (outcome, posted) == (Outcome(OutcomeKind.DELIVERED, error="found by look-up", found=True), 0)
