"""After a pass was killed, operators can act on its messages at once, and nothing is sent meanwhile."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import held_back
from tests.cli.command import LONGEST, end
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both


def test_what_a_killed_pass_had_claimed_can_be_rejected_and_edited(cli: Cli, application: Application) -> None:
    for message_id in range(1, 6):
        application.add(message_id)
    with held_back() as (api, gate):
        command = cli.having(application.variables(api.url) | {"RETRYCLI_RUN__CONCURRENCY": "1"})
        killed = command.start("run-once")
        assert gate.reached.wait(LONGEST)
        killed.kill()
        end(killed)
        application.execute("UPDATE retrycli_queue SET claim_expires_at = '2026-01-02 03:04:05.000000'")
        rejected = command("reject", "3", "--reason", "wrong price", "--yes")
        assert (rejected.returncode, "Recovered" in rejected.stderr) == (0, True)
        assert command("edit", "4", "--subject", "right price", "--yes").returncode == 0
        assert {application.state(number) for number in (2, 4, 5)} == {"waiting"}
        assert application.row(3)["status"] == "rejected"
        [attempt] = application.rows("retrycli_attempts").values()
        assert attempt["outcome"] == "unknown"
        assert len(api.received) <= 1
        asked = command("retry", str(attempt["message_id"]))
        assert (asked.returncode, "may have arrived" in asked.stderr) == (4, True)


ACTIONS = (
    "reject 1 --reason no --yes", "edit 1 --subject new --yes", "mark-sent 1 --yes", "retry 1 --yes", "requeue 1",
    "escalations ack 1", "escalations note 1 tea", "reject --ticket 4701 --reason no --yes",
)  # fmt: skip


@on_sqlite
@pytest.mark.parametrize("action", ACTIONS)
def test_each_action_records_what_a_dead_pass_left(at_work: Cli, application: Application, action: str) -> None:
    application.add(1, hours_ago=0)
    application.add(2)
    assert at_work("run-once").returncode == 0
    dead = "UPDATE retrycli_queue SET state = 'sending', claimed_by = 'dead', claim_expires_at = '2026-01-02 03:04:05'"
    application.execute(dead)
    done = at_work(*action.split())
    assert "Recovered 1 message" in done.stderr
    assert "has not renewed" not in done.stderr


def test_what_a_suspended_pass_has_claimed_is_left_to_it(cli: Cli, application: Application) -> None:
    application.add(1)
    with held_back() as (api, gate):
        command = cli.having(application.variables(api.url))
        suspended = command.start("run-once")
        assert gate.reached.wait(LONGEST)
        suspended.send_signal(signal.SIGSTOP)
        try:
            application.execute("UPDATE retrycli_queue SET claim_expires_at = '2026-01-02 03:04:05.000000'")
            refused = command("reject", "1", "--reason", "no", "--yes")
        finally:
            gate.opened.set()
            suspended.send_signal(signal.SIGCONT)
            end(suspended)
        assert (refused.returncode, "or is suspended" in refused.stderr) == (4, True)
    assert application.row(1)["status"] == "sent"


@pytest.mark.parametrize("env", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["usual", "unbuffered"])
def test_the_reason_comes_before_the_question(cli: Cli, application: Application, env: dict[str, str]) -> None:
    application.add(1)
    with held_back() as (api, gate):
        command = cli.having(application.variables(api.url) | env).real()
        killed = command.start("run-once")
        assert gate.reached.wait(LONGEST)
        killed.kill()
        end(killed)
        application.execute("UPDATE retrycli_queue SET claim_expires_at = '2026-01-02 03:04:05.000000'")
        screen = command.on_terminal("retry", "1", answers=["n"])
    assert 0 < screen.words.index("may have arrived") < screen.words.index("Send 1 message all the same?")
