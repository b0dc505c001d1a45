"""A customer's words in the columns that logs, notifications and links use to identify a message."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from retrycli.operations.trial import SHOWN
from tests.channels import webhook
from tests.conftest import on_sqlite
from tests.gateway.hostile import Hostile, answer

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_sqlite

WORDS = "my card is 4111"


def test_an_unknown_type_and_a_long_ticket_reach_no_log_or_notification(at_work: Cli, application: Application) -> None:
    application.add(101, message_type=WORDS)
    application.add(102, ticket_id="x" * 100_000)
    with webhook() as channel:
        env = {"RETRYCLI_LOGGING__FORMAT": "json", "RETRYCLI_NOTIFY__URLS": channel.slack_shaped}
        done = at_work("run-once", env=env)
        told = channel.texts
    assert "invalid" in {json.loads(line).get("message_type") for line in done.stderr.splitlines()}
    assert told
    assert not [text for text in (done.stderr, *told) if WORDS in text or "x" * 300 in text]


def test_a_secret_is_masked_before_a_long_answer_is_cut(at_work: Cli) -> None:
    secret = "geheim-17-geheim"  # its end is beyond the part that is shown
    said = "x" * (SHOWN - len("HTTP 200\n") - 10) + secret
    with Hostile(answer(200, said.encode())) as server:
        done = at_work(
            *("deliver-test", "--ticket", "4711"),
            env={"TICKETING_API_BASE_URL": server.url, "RETRYCLI_GATEWAY__TOKEN": secret},
        )
    assert "xxx" in done.stdout
    assert secret[:6] not in done.stdout
