"""The ``retry`` command: immediate attempts at an operator's request."""

from __future__ import annotations

import json
import os
import pwd
from typing import TYPE_CHECKING

import retrycli
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.story import LOST, OK
from tests.conftest import on_both

if TYPE_CHECKING:
    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli
    from tests.cli.story import Begin

pytestmark = on_both

USER = pwd.getpwuid(os.getuid()).pw_name


def test_a_waiting_message_is_sent_at_once_and_the_history_names_the_operator(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The message need not be due, or known to a pass. ``--by`` defaults to the login name."""
    message = application.add(8, hours_ago=0, retry_count=3)
    done = at_work("retry", str(message))
    assert (done.returncode, done.stdout, done.stderr) == (0, "8\tdelivered\t200\t\n", "")
    assert len(sandbox.received) == 1
    assert (application.row(8)["status"], application.row(8)["retry_count"]) == ("sent", 3)
    [attempt] = application.rows("retrycli_attempts").values()
    assert (attempt["made_by"], attempt["pass_id"], attempt["outcome"]) == (USER, None, "delivered")


def test_a_message_that_is_refused_keeps_its_state_and_retries(cli: Cli, application: Application) -> None:
    """The history records the attempt. In the queue, only the text's digest and key are new.

    Several messages are attempted separately, and the worst result decides.
    """
    application.add(8, hours_ago=0, retry_count=9)
    application.add(1, status="sent")
    with Scripted(BUSY, TAKES, BUSY) as api:
        settings = application.settings(api.url)
        retrycli.run_once(settings)
        rows, [queued] = application.rows(), application.rows("retrycli_queue").values()
        application.add(6)
        done = cli.having(application.variables(api.url))("retry", "8", "1", "6", "--by", "anna", "--json")
        assert done.returncode == 3
        refused, other, sent = json.loads(done.stdout)["results"]
        assert refused == {"id": 8, "outcome": "transient", "status_code": 503, "error": "HTTP 503: too busy"}
        assert [(other["id"], other["outcome"]), (sent["id"], sent["outcome"])] == [(1, None), (6, "delivered")]
        assert done.stderr == "retrycli: message 1 is sent, not failed: there is nothing to retry\n"
        attempt, _ = application.rows("retrycli_attempts").values()
        assert (attempt["made_by"], attempt["error"]) == ("anna", "HTTP 503: too busy")
        read = {name: attempt[name] for name in ("digest", "delivery_key")}
        assert None not in read.values()
        rows[6] = application.row(6)
        assert (application.rows(), application.rows("retrycli_queue")) == (rows, {8: queued | read})
        application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
        assert retrycli.run_once(settings).escalated == 1, "the pass's attempt is still the tenth"
    assert application.row(8)["retry_count"] == 10


def test_a_message_that_may_have_arrived_is_not_sent_again_without_a_question(begin: Begin) -> None:
    """Three retries sent it three times. The default preset has no look-up, so none is proposed."""
    with begin(LOST, OK) as story:
        story.insert()
        story.ticks(1)
        assert story.queued()["state"] == "waiting"
        command = story.command
        assert command.json("list-failed", "--state", "may_have_arrived")["messages"][0]["may_have_arrived"]
        assert " may have arrived " in command.on_terminal("list-failed").text
        step = (
            "check the ticket, then `retrycli mark-sent 1` if the message arrived, or `retrycli retry 1` if it did not"
        )
        for name in ("show", "explain"):
            assert f"Next: {step}" in command.on_terminal(name, "1").words
        assert command("pause", "--message", "1").returncode == 0
        assert f"Next: {step}" in command.on_terminal("explain", "1").words, "also while it is held"
        assert command("resume", "--message", "1").returncode == 0
        done = command("retry", "1")
        assert (done.returncode, done.stdout) == (4, "")
        assert "message 1 may have arrived, and would then be sent twice. Check ticket 4711: run" in done.stderr
        done = command("retry", "--type", "customer", "--yes")  # which confirms only the number of messages
        assert (done.returncode, "message 1 may have arrived" in done.stderr) == (4, True)
        asked_by = command.on_terminal("retry", "--type", "customer", "--yes")
        assert (asked_by.returncode, "all the same" in asked_by.words) == (4, False)
        attempts = story.application.rows("retrycli_attempts")
        asked = command.on_terminal("retry", "1", answers=["n"])
        assert asked.words.endswith("Send 1 message all the same? [y/N] n")
        assert asked.returncode == 4
        assert len(story.api.requests) == 1
        assert (story.queued()["state"], story.application.rows("retrycli_attempts")) == ("waiting", attempts)
        assert "Message 1 sent." in command.on_terminal("retry", "1", answers=["y"]).words
        assert len(story.api.requests) == 2


def test_an_escalated_message_stays_escalated_until_it_is_accepted(cli: Cli, application: Application) -> None:
    application.add(9, retry_count=10)
    with Scripted(REJECTS, TAKES) as api:
        retrycli.run_once(application.settings(api.url))
        at_work = cli.having(application.variables(api.url))
        refused = at_work.on_terminal("retry", "9")
        assert refused.returncode == 3
        assert "Message 9 not sent: permanent, HTTP 422: no such recipient. Its state is unchanged." in refused.words
        assert refused.text.endswith("Next: retrycli show 9\n")
        assert application.state(9) == "escalated"
        sent = at_work.on_terminal("retry", "9")
    assert (sent.returncode, application.row(9)["status"], application.state(9)) == (0, "sent", None)
    assert "Message 9 sent.\n" in sent.text


def test_many_attempts_use_one_login(cli: Cli, application: Application) -> None:
    """A ticketing system may lock an account that logs in hundreds of times in a minute."""
    for message_id in (101, 102, 103):
        application.add(message_id)
    account = {"AUTH": "login", "USERNAME": "anna", "PASSWORD": "correct horse"}
    log_in = {f"RETRYCLI_GATEWAY__{name}": value for name, value in account.items()}
    with Scripted((200, {"succeeded": True, "access_token": "t0k3n"})) as api:
        variables = application.variables(api.url) | log_in
        assert cli("retry", "--type", "customer", "--yes", env=variables).returncode == 0
    assert len(api.paths) == 4
    assert api.paths[0] == "/auth/login"


def test_refuses_a_message_with_unusable_data_and_says_what_to_fix(at_work: Cli, application: Application) -> None:
    application.add(9, body=None)
    done = at_work("retry", "9")
    assert done.returncode == 4
    assert "message 9 can't be sent: body is missing" in done.stderr
    assert application.state(9) == "escalated"
    application.execute("UPDATE pending_messages SET body = 'It is attached.' WHERE id = 9")
    assert at_work("retry", "9").returncode == 0
