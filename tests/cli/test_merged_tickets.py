"""After the application merges two tickets, their messages are sent in one common order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrycli.operations.sandbox import Sandbox
from tests.cli.api import BUSY, Scripted
from tests.conftest import on_both

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

IN_ORDER = {"RETRYCLI_RUN__PER_TICKET_ORDER": "true"}
LONG_AGO = "2026-01-02 03:04:05"


def test_a_message_of_a_merged_ticket_waits_for_earlier_ones(
    cli: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The earlier message has just been refused and is not due yet, so the later one must wait too."""
    earlier, later, elsewhere = application.add_due(3)
    with Scripted(BUSY) as api:
        cli.having(application.variables(api.url) | IN_ORDER)("run-once")
    assert {row["state"] for row in application.rows("retrycli_queue").values()} == {"waiting"}
    application.execute(f"UPDATE retrycli_queue SET next_attempt_at = '{LONG_AGO}' WHERE message_id <> {earlier}")
    application.execute(
        f"UPDATE pending_messages SET ticket_id = (SELECT ticket_id FROM pending_messages WHERE id = {earlier}) "
        f"WHERE id = {later}"
    )
    cli.having(application.variables(sandbox.url) | IN_ORDER)("run-once")
    sent = {message_id: row["status"] for message_id, row in application.rows().items()}
    assert sent == {earlier: "failed", later: "failed", elsewhere: "sent"}
    application.execute(f"UPDATE retrycli_queue SET next_attempt_at = '{LONG_AGO}'")
    assert cli.having(application.variables(sandbox.url) | IN_ORDER).json("run-once")["sent"] == 2
