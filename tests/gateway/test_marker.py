"""The line that identifies a message, its marker, is omitted only if a preflight proves it unnecessary."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.outcome import OutcomeKind
from retrycli.gateway.presets.template import fill_text
from tests.gateway.deliveries import KEY, deliver, deliver_in_turn, gateway_settings, preset_file, queued
from tests.gateway.hostile import Behaviour, Hostile, answer

if TYPE_CHECKING:
    from pathlib import Path

PRESET = """
[messages.customer]
path = "/tickets/{ticket_id}/notes"
ignores = ["cc_emails"]
marker = { text = " Ref. {delivery_key}", unless = "key" }
body = { text = "{body}{marker}" }

[preflight.key]
remedy = "make the field"

[[preflight.key.steps]]
path = "/tickets/{ticket_id}"
take = { queue = "queue.id" }

[[preflight.key.steps]]
path = "/found"
query = { queue = "{queue}" }
holds = { path = "count" }
"""
TICKET, FOUND, NOTES = "/tickets/12345", "/found?queue=7", "/tickets/12345/notes"
WITHOUT, WITH = "It is on its way.", f"It is on its way. Ref. {KEY}"
QUEUE, NOBODY = answer(200, b'{"queue": {"id": 7}}'), answer(404)


def said(count: int) -> Behaviour:
    return answer(200, json.dumps({"count": count}).encode())


@pytest.mark.parametrize(
    ("ticket", "found", "text"),
    [(QUEUE, said(1), WITHOUT), (QUEUE, said(0), WITH), (NOBODY, said(1), WITH), (QUEUE, NOBODY, WITH)],
)
def test_the_marker_is_omitted_only_if_a_preflight_proves_it_unnecessary(
    ticket: Behaviour, found: Behaviour, text: str, tmp_path: Path
) -> None:
    with Hostile(answer(200), at={TICKET: [ticket], FOUND: [found]}) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, PRESET)))
        assert outcome.kind is OutcomeKind.DELIVERED
        [note] = [request for request in server.requests if request.path == NOTES]
        assert json.loads(note.body)["text"] == text


def test_nothing_is_sent_while_the_preflight_is_undecided(tmp_path: Path) -> None:
    with Hostile(answer(200), at={TICKET: [QUEUE], FOUND: [answer(503)]}) as server:
        outcome = deliver(gateway_settings(server.url, preset=preset_file(tmp_path, PRESET)))
        assert outcome.kind is OutcomeKind.TRANSIENT
        assert server.paths == [TICKET, FOUND]


def test_each_queue_is_asked_once(tmp_path: Path) -> None:
    with Hostile(answer(200), at={TICKET: [QUEUE], "/tickets/2": [QUEUE], FOUND: [said(1)]}) as server:
        settings = gateway_settings(server.url, preset=preset_file(tmp_path, PRESET))
        deliver_in_turn(settings, queued(), queued(), queued(ticket_id=2))
        assert server.paths == [TICKET, FOUND, NOTES, NOTES, "/tickets/2", "/tickets/2/notes"]


def test_a_name_may_use_the_encoding_of_mail_headers() -> None:
    name = "=?a?= Rechnung 日本 ü, 100%.pdf"
    word = fill_text("{name|mime}", {"name": name})
    assert word == "=?utf-8?b?PT9hPz0gUmVjaG51bmcg5pel5pysIMO8LCAxMDAlLnBkZg==?="
