"""Attachments arrive byte for byte with each preset that supports them. Some systems drop or refuse an empty file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.presets.loader import known_presets, load_preset
from tests.gateway.deliveries import NOON, deliver, gateway_settings, queued
from tests.gateway.ticketing.fake import Answered, Asked, Fake
from tests.gateway.ticketing.freescout import Freescout
from tests.gateway.ticketing.freshdesk import Freshdesk
from tests.gateway.ticketing.helpdesk import Helpdesk
from tests.gateway.ticketing.redmine import Redmine
from tests.gateway.ticketing.request_tracker import RequestTracker
from tests.gateway.ticketing.zammad import Zammad
from tests.gateway.ticketing.zendesk import Zendesk
from tests.gateway.ticketing.znuny import Znuny

ACCOUNTS: dict[str, tuple[type[Fake], dict[str, object]]] = {
    "freescout": (Freescout, {"token": "secret", "username": "3"}),
    "freshdesk": (Freshdesk, {"token": "freshdesk-key"}),
    "helpdesk": (Helpdesk, {"token": "secret"}),
    "redmine": (Redmine, {"token": "secret"}),
    "request-tracker": (RequestTracker, {"token": "secret"}),
    "zammad": (Zammad, {"token": "zammad-token"}),
    "zendesk": (Zendesk, {"username": "agent@example.com", "token": "zendesk-token"}),
    "znuny": (Znuny, {"username": "agent", "password": "secret"}),
}
TICKETS = {"freescout": 7, "helpdesk": 7, "znuny": 7}
CASES = [
    (name, str(message_type))
    for name in known_presets()
    for message_type, rule in load_preset(name).messages.items()
    if "attachments" in rule.capabilities
]
LEFT_OUT = {"freescout"}
"""Systems that silently drop an empty file."""
REFUSED = {"helpdesk": "The submitted file is empty.", "request-tracker": "FileContent is a required field"}
"""Systems that refuse a message with an empty file, with their errors."""
NAME = "export.txt"


@dataclass
class Sender:
    """A message with one file, and the preset and the fake system for its delivery."""

    fake: Fake
    settings: dict[str, object]
    message: QueuedMessage
    file: Path

    def send(self, message: QueuedMessage | None = None) -> Outcome:
        return deliver(gateway_settings(self.fake.url, **self.settings), message or self.message)

    @property
    def arrived(self) -> list[tuple[bytes, ...]]:
        """Return the files of each message that arrived."""
        return [tuple(content for _, _, content in message.attachments) for message in self.fake.arrived]


@pytest.fixture(params=CASES, ids="-".join)
def sender(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sender]:
    preset, message_type = request.param
    kind, account = ACCOUNTS[preset]
    message = queued(
        ticket_id=TICKETS.get(preset, 1), message_type=message_type, cc_emails=None, attachments=json.dumps([NAME])
    )
    with ExitStack() as until_the_end:
        fake = until_the_end.enter_context(kind())
        settings = {"preset": preset, "attachments_dir": tmp_path, **account}
        yield Sender(fake, settings, message, tmp_path / NAME)


def growing(fake: Fake, grow: Callable[[], object]) -> None:
    """Run ``grow`` during the first request to the system."""
    answer, left = fake.answer, [grow]

    def answer_and_grow(asked: Asked) -> Answered:
        while left:
            left.pop()()
        return answer(asked)

    fake.answer = answer_and_grow  # type: ignore[method-assign]


def test_an_empty_file_is_never_padded(sender: Sender) -> None:
    sender.file.write_bytes(b"")
    outcome = sender.send()
    preset = str(sender.settings["preset"])
    if preset in REFUSED:
        assert (outcome.kind, sender.arrived) == (OutcomeKind.PERMANENT, [])
        assert REFUSED[preset] in (outcome.error or "")
    else:
        assert outcome.kind is OutcomeKind.DELIVERED
        assert sender.arrived == [() if preset in LEFT_OUT else (b"",)]


@pytest.mark.parametrize("size", [0, 200_000])
def test_a_file_that_grows_while_it_is_sent_is_never_delivered_in_part(sender: Sender, size: int) -> None:
    """The file grows during the look-up, before the delivery. Later deliveries send the new content, and find it."""
    sender.file.write_bytes(b"x" * size)
    growing(sender.fake, lambda: sender.file.write_bytes(b"x" * size + b"more"))
    lost = sender.message._replace(unsettled_since=NOON - timedelta(days=1))
    outcome = sender.send(lost)
    assert outcome.kind in {OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT}
    assert "an attachment became longer while it was being sent" in (outcome.error or "")
    assert sender.arrived == []
    assert sender.send(lost).kind is OutcomeKind.DELIVERED
    found = sender.send(lost)
    assert (found.kind, found.error) == (OutcomeKind.DELIVERED, "found by look-up")
    assert sender.arrived == [(b"x" * size + b"more",)]
