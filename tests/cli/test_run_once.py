"""The ``run-once`` command: its requests, writes, output and exit codes."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from retrycli.operations import run_pass, status, wiring
from retrycli.operations.dry_run import preview
from retrycli.operations.sandbox import Behaviour, Sandbox
from tests.cli.api import BAD_GATEWAY, BUSY, TAKES, Meanwhile, Scripted, held_back
from tests.cli.application import DUE, OWN, Application, Row
from tests.cli.command import Cli, Finished, end
from tests.conftest import on_both, on_sqlite

pytestmark = on_both


def changes(before: dict[object, Row], after: dict[object, Row]) -> dict[object, dict[str, object]]:
    """Return the changed columns of each changed row, with their new values."""
    assert before.keys() == after.keys()
    found = {
        key: {name: value for name, value in row.items() if value != before[key][name]} for key, row in after.items()
    }
    return {key: columns for key, columns in found.items() if columns}


# -- one pass in which all goes well, told of nothing but database and API -------------------------------------------


def test_a_pass_delivers_due_messages_and_changes_nothing_else(
    cli: Cli, untouched: Application, sandbox: Sandbox
) -> None:
    """Two environment variables are enough. Off a terminal, a successful pass prints nothing."""

    def others() -> object:
        schema = [line for line in untouched.schema() if "retrycli_" not in line]
        mode = untouched.execute("PRAGMA journal_mode") if untouched.is_sqlite else ()
        return schema, untouched.rows("ticket_states"), mode

    before, others_before = untouched.fill().rows(), others()
    done = cli("run-once", env=untouched.variables(sandbox.url))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    received = {request.ticket_id: request for request in sandbox.received}
    assert {ticket: request.kind for ticket, request in received.items()} == {
        "4705": "message",
        "4706": "message",
        "4707": "note",
    }
    assert received["4705"].content == {
        "message_type": "customer",
        "recipient": "ana@example.com",
        "cc": ["lead@example.net"],
        "bcc": [],
        "subject": "Re: Invoice",
        "body": 'A {brace}, a "quote" and 日本.',
    }
    changed = changes(before, untouched.rows())
    assert changed.keys() == set(DUE)
    for columns in changed.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", str(columns.pop("sent_at")))
        assert columns == {"status": "sent", "last_error": None}
    assert untouched.state(8) == "waiting"
    assert others() == others_before
    assert {*OWN, "retrycli_version"} == {table for table in untouched.tables() if "retrycli" in table}


# -- how it is set up ------------------------------------------------------------------------------------------------


@on_sqlite
def test_a_configuration_file_of_two_lines_works_from_any_directory(
    cli: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    """Cron starts the command in another folder, so a relative path in the file is relative to the file."""
    application.fill()
    file = tmp_path / "retrycli.toml"
    file.write_text(f'database.url = "sqlite:///agent.db"\ngateway.base_url = "{sandbox.url}"\n')
    bare = cli.under("/usr/bin/env", "-i", "PATH=/usr/bin:/bin")
    done = bare("--config", file, "run-once", cwd=Path("/"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(sandbox.received) == len(DUE)


# -- what it says ----------------------------------------------------------------------------------------------------


def test_a_message_that_is_refused_waits_longer_with_one_retry_less(cli: Cli, application: Application) -> None:
    """A refused message does not make the pass fail, so the exit code is 0."""
    application.add(101, retry_count=2)
    before = application.rows()
    with Scripted(BUSY) as api:
        done = cli.having(application.variables(api.url))("run-once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert changes(before, application.rows()) == {101: {"retry_count": 3, "last_error": "HTTP 503: too busy"}}
    assert application.state(101) == "waiting"


def test_an_escalation_is_reported_on_stderr_with_its_metric(cli: Cli, application: Application) -> None:
    application.add(101, retry_count=9, message_type="supplier", hours_ago=5)
    with Scripted(BUSY) as api:
        done = cli.having(application.variables(api.url))("run-once")
    assert (done.returncode, done.stdout) == (0, "")
    first, metric = done.stderr.splitlines()
    assert first.endswith("WARNING Message 101 reached max retries")
    assert metric.endswith("METRIC: message_escalated ticket_id=4711 message_type=supplier retry_count=10")
    assert application.row(101)["last_error"] == (
        "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503: too busy"
    )


# -- --dry-run -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [False, True])
def test_a_dry_run_writes_nothing_and_lists_due_messages(
    cli: Cli, untouched: Application, sandbox: Sandbox, *, existing: bool
) -> None:
    """A dry run does not even create retrycli's missing tables."""
    if existing:
        assert cli("db", "upgrade", env=untouched.variables(sandbox.url)).returncode == 0
    untouched.fill()
    untouched.add(9, body=None)
    before = untouched.dump()
    done = cli("run-once", "--dry-run", env=untouched.variables(sandbox.url))
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[:4] for line in lines] == [
        ["5", "4705", "customer", "0"],
        ["6", "4706", "supplier", "0"],
        ["7", "4707", "internal", "1"],
    ]
    assert [line[4] for line in lines] == ["ana@example.com", "ana@example.com", ""]
    assert {line[6] for line in lines} == {sandbox.url}
    assert all(re.fullmatch(r"[-0-9]{10}T[0-9:]{8}Z", line[5]) for line in lines)
    assert untouched.dump() == before
    assert sandbox.received == ()


def test_a_dry_run_reports_the_age_of_the_oldest_message_and_a_next_step(
    at_work: Cli, application: Application
) -> None:
    """The oldest message counts even if the list, of at most 50 messages on a terminal, is too short to show it."""
    for message_id in range(101, 161):
        application.add(message_id, created_at="2026-01-02 03:04:05", updated_at=None)
    application.add(160 + 1, hours_ago=0, created_at="2023-05-06 07:08:09", updated_at="2026-01-03 03:04:05")
    screen = at_work.on_terminal("run-once", "--dry-run")
    assert re.search(r"\n… and 11 more\nA pass would send 61 messages to \S+\.", screen.text)
    assert len(at_work("run-once", "--dry-run").stdout.splitlines()) == 61
    assert re.search(r"The oldest message dates from 2023-05-06 07:08\+00:00, [\d,]+ days ago\.", screen.text)
    assert "If messages this old should not be sent, set schedule.expires_after_hours" in screen.words
    limited = at_work.having({"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "100000"})
    assert "schedule.expires_after_hours" not in limited.on_terminal("run-once", "--dry-run").words


def test_status_dry_run_and_pass_agree_on_due_messages(application: Application, sandbox: Sandbox) -> None:
    """The application may have changed anything since the last pass: new rows, reused ids, or new texts."""
    settings = application.settings(sandbox.url)
    earlier = replace(wiring.DEFAULT_RUNTIME, stop_requested=lambda: True)  # enrols messages, but sends none
    for message_id in (1, 2, 3):
        application.add(message_id, hours_ago=0)
    for message_id in (4, 5):
        application.add(message_id, hours_ago=3)
    for message_id in (6, 7, 8):
        application.add(message_id, hours_ago=3, retry_count=10)
    run_pass.run_once(settings, runtime=earlier)
    assert [application.state(message_id) for message_id in (1, 4, 6)] == ["waiting", "waiting", "escalated"]
    now = datetime.now(UTC).replace(tzinfo=None)
    change = "UPDATE pending_messages SET created_at = ?, updated_at = ? WHERE id = ?"
    for message_id, hours in ((1, 5), (4, 0), (6, 6)):
        application.execute(change, *[str(now - timedelta(hours=hours))] * 2, message_id)
    application.execute(
        "UPDATE pending_messages SET retry_count = 2, updated_at = ? WHERE id = 7", str(now - timedelta(hours=4))
    )
    application.execute("UPDATE pending_messages SET status = 'sent' WHERE id = 5")
    application.execute("UPDATE pending_messages SET subject = 'Now another', retry_count = 0 WHERE id = 6")
    application.add(9, hours_ago=2)
    application.add(10, hours_ago=0)
    application.add(11, hours_ago=3, body=None)
    due = status.status(settings).messages["due"]
    with preview(settings) as found:
        foreseen, number = [message.id for message in found.messages], found.number
    with preview(settings, limit=3) as limited:
        assert (limited.number, [message.id for message in limited.messages]) == (3, foreseen[:3])
    assert application.state(9) is None, "a dry run enrols nothing"
    run_pass.run_once(settings)
    tried = application.asked("SELECT message_id FROM retrycli_attempts ORDER BY id")
    assert [(message_id,) for message_id in foreseen] == tried
    assert (due, number, {*foreseen}) == (4, 4, {1, 6, 7, 9})


def test_a_dry_run_says_that_nothing_is_due_and_counts_an_escalated_message_once(
    at_work: Cli, application: Application
) -> None:
    application.add(1, retry_count=3, hours_ago=0)
    words = at_work.on_terminal("run-once", "--dry-run").words
    assert "A pass would send 0 messages. 1 message is not due yet." in words
    assert at_work("run-once").returncode == 0
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2026-01-02 03:04:05'")
    words = at_work.having({"RETRYCLI_SCHEDULE__MAX_RETRIES": "3"}).on_terminal("run-once", "--dry-run").words
    assert "1 message would be escalated, not sent" in words
    assert "not due yet" not in words


def test_dry_run_and_status_omit_messages_that_a_pass_would_escalate_unsent(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    """The next pass escalates expired, exhausted and invalid messages, which confirms the prediction."""
    for message_id, columns in {
        1: {"hours_ago": 5},
        2: {"hours_ago": 5, "retry_count": 3},
        3: {"hours_ago": 90},
        8: {"hours_ago": 0, "retry_count": 2},
    }.items():
        application.add(message_id, **columns)
    runtime = replace(wiring.DEFAULT_RUNTIME, stop_requested=lambda: True)  # enrols messages, but sends none
    run_pass.run_once(application.settings(sandbox.url), runtime=runtime)
    limits = {"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "72", "RETRYCLI_SCHEDULE__MAX_RETRIES": "3"}
    cli = at_work.having(limits)
    application.add(4, hours_ago=5)
    application.add(5, hours_ago=90)
    application.add(6, hours_ago=5, retry_count=3)
    application.add(7, hours_ago=5, body=None, recipient_email=None)
    shown = cli.json("run-once", "--dry-run")
    assert {message["id"] for message in shown["would_send"]} == {1, 4}
    assert (shown["count"], shown["escalated"]) == (2, 5)
    assert cli.json("status")["messages"]["due"] == 2
    words = cli.on_terminal("run-once", "--dry-run").words
    assert "A pass would send 2 messages to " in words
    told = "5 messages would be escalated, not sent: exhausted ×2, expired ×2, invalid (body is missing) ×1."
    assert told in words
    done = cli.json("run-once")
    assert (done["sent"], done["escalated"]) == (2, 5)


def test_a_dry_run_lists_only_a_probe_for_a_destination_that_is_down(cli: Cli, application: Application) -> None:
    application.add_due(8)
    with Scripted(BAD_GATEWAY) as api:
        at_work = cli.having(application.variables(api.url))
        assert at_work("run-once").returncode == 69
        screen = at_work.on_terminal("run-once", "--dry-run")
        assert re.search(
            rf"{api.url} is down; next probe at [-0-9]{{10}} [0-9:+]+\. "
            r"Before that, a pass would send nothing there; 3 messages are waiting\.",
            screen.words,
        )
        assert "A pass would send" not in screen.words
        assert "5 messages are not due yet." in screen.words
        found = at_work.json("run-once", "--dry-run")
        assert (found["would_send"], list(found["down"])) == ([], [api.url])
        application.execute("UPDATE retrycli_breakers SET probe_at = opened_at")
        screen = at_work.on_terminal("run-once", "--dry-run")
        assert f"A pass would send 1 message to {api.url}." in screen.words
        told = f"{api.url} is down: one message would be sent as a probe; after its delivery, 2 more would follow."
        assert told in screen.words
        assert at_work("run-once").returncode == 69
        application.execute("UPDATE retrycli_breakers SET probe_at = opened_at")
        application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE state = 'waiting'")
        for number, more in (2, "; after its delivery, 1 more would follow"), (1, ""):
            newest = f"SELECT id FROM pending_messages ORDER BY id DESC LIMIT {number}"
            application.execute(f"DELETE FROM pending_messages WHERE id NOT IN ({newest})")
            screen = at_work.on_terminal("run-once", "--dry-run")
            assert f"{api.url} is down: one message would be sent as a probe{more}. " in screen.words
    assert len(application.rows("retrycli_attempts")) == 6


def test_a_dry_run_with_a_limit_lists_what_a_pass_attempts_if_one_destination_is_down(
    cli: Cli, application: Application
) -> None:
    """Each pass begins with another destination. One that is down leaves its share to those that follow."""
    for message_id in range(101, 109):
        application.add(message_id, message_type="supplier", hours_ago=9)
    with Scripted(BAD_GATEWAY) as down, Scripted(TAKES) as api:
        of_suppliers = {"RETRYCLI_GATEWAY__SUPPLIER__BASE_URL": down.url}
        at_work = cli.having(application.variables(api.url) | of_suppliers)
        assert at_work("run-once").returncode == 69
        application.add_due(12, first=111)
        assert at_work("pause", "--message", "106", "--message", "112").returncode == 0
        for number in (2, 4, 4):
            before = application.rows("retrycli_attempts").keys()
            foreseen = at_work.json("run-once", "--dry-run", "--limit", "4")
            screen = at_work.on_terminal("run-once", "--dry-run", "--limit", "4")
            at_work("run-once", "--limit", "4")
            attempts = application.rows("retrycli_attempts").items()
            tried = [attempt["message_id"] for key, attempt in attempts if key not in before]
            assert [message["id"] for message in foreseen["would_send"]] == tried
            assert (len(tried), foreseen["count"], foreseen["destinations"]) == (number, number, {api.url: number})
            assert (foreseen["withheld"], list(foreseen["down"])) == (2, [down.url])
            assert f"A pass would send {number} messages to {api.url}. {down.url} is down;" in screen.words
            assert "a pass would send nothing there; 2 messages are waiting." in screen.words


def test_a_dry_run_blocks_no_writer(application: Application, sandbox: Sandbox) -> None:
    """The program that reads the output may be slow, so a dry run keeps no lock while it prints."""
    application.fill()
    with preview(application.settings(sandbox.url)) as found:
        messages = found.messages
        assert next(messages).id == 5
        application.execute("UPDATE pending_messages SET status = 'sent' WHERE id IN (5, 6)")
        assert [message.id for message in messages] == [6, 7], "what is on the same page was read before"


# -- trouble on the other side ---------------------------------------------------------------------------------------


def test_an_unavailable_api_ends_the_pass_with_69_and_costs_five_messages_one_retry(
    cli: Cli, application: Application
) -> None:
    application.add_due(8)
    with Sandbox(Behaviour(down=True), rng=Random(0)) as sandbox:
        done = cli.having(application.variables(sandbox.url))("run-once")
    assert done.returncode == 69
    assert f"The ticketing API is down ({sandbox.url}, next probe at " in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert (
        "Each failure that revealed the outage used up one retry. From the third probe of the same message on, a "
        "failed probe that got a response also uses up a retry. " in done.stderr
    )
    assert [row["retry_count"] for row in application.rows().values()] == [1] * 5 + [0] * 3
    assert {queued["state"] for queued in application.rows("retrycli_queue").values()} == {"waiting"}


QUICK = {"RETRYCLI_BREAKER__FAILURES": "2", "RETRYCLI_BREAKER__PROBE_MINUTES": "0.0001"}
"""Settings under which each pass makes a probe."""


def test_an_incident_is_reported_when_it_begins_and_ends_and_not_each_time(cli: Cli, application: Application) -> None:
    """Passes in between report the incident only by their exit code. Cron mails what a manual pass has reported."""
    application.add_due(6)
    with Sandbox(Behaviour(down=True), rng=Random(0)) as sandbox:
        at_work = cli.having(application.variables(sandbox.url) | QUICK)
        by_hand, by_cron = ("run-once", "--started-by", "person"), ("run-once", "--started-by", "cron")
        began, mailed, lasts = at_work(*by_hand), at_work(*by_cron), at_work(*by_cron)
        sandbox.behaviour = Behaviour()
        ended, mailed_end, usual = at_work(*by_hand, "--limit", "2"), at_work(*by_cron), at_work(*by_cron)
    assert [done.returncode for done in (began, mailed, lasts, ended, mailed_end, usual)] == [69, 69, 69, 0, 0, 0]
    for done in (began, mailed):
        assert "The ticketing API is down (" in done.stderr
    for done in (ended, mailed_end):
        assert re.search(
            r"The ticketing API accepts messages again \(it was down (at|from .* UTC to) .* UTC\)$", done.stderr
        )
    assert lasts.stderr == usual.stderr == ""


def test_an_incident_is_repeated_as_often_as_notify_remind_hours_says(cli: Cli, application: Application) -> None:
    application.add_due(6)
    at_work = cli.having(application.variables("http://127.0.0.1:9") | QUICK)
    assert "The ticketing API is down (" in at_work("run-once").stderr
    earlier = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=2)
    application.execute("UPDATE retrycli_passes SET started_at = ?", earlier.isoformat(" "))
    assert "is down (" in at_work("run-once", env={"RETRYCLI_NOTIFY__REMIND_HOURS": "1"}).stderr
    assert "is down (" not in at_work("run-once").stderr


def test_an_incident_is_reported_though_another_pass_was_skipped_meanwhile(cli: Cli, application: Application) -> None:
    application.add_due(6)
    skipped: list[Finished] = []

    def by_hand() -> None:
        skipped.append(at_work("run-once", "--wait-lock", "0"))

    patient = {"RETRYCLI_GATEWAY__REQUEST_TIMEOUT_SECONDS": "60"}  # for a machine on which the other pass takes long
    with Meanwhile(by_hand, BAD_GATEWAY) as api:
        at_work = cli.having({**application.variables(api.url), **patient})
        done = at_work("run-once")
    assert [result.returncode for result in skipped] == [75]
    assert (done.returncode, len(done.stderr.splitlines())) == (69, 1)
    assert "The ticketing API is down (" in done.stderr


def test_recovered_time_is_reported_though_many_passes_were_skipped_meanwhile(
    at_work: Cli, application: Application
) -> None:
    """The pass that reports the recovery has nothing to send, so it can't run out of time."""
    application.add_due(1)
    late = at_work.having({"RETRYCLI_RUN__DEADLINE_MINUTES": "0.000001"})("run-once")
    with application.held():
        assert [at_work("run-once", "--wait-lock", "0").returncode for _ in range(3)] == [75] * 3
    application.execute("UPDATE pending_messages SET status = 'sent'")
    done = at_work("run-once")
    assert "The pass ran out of time" in late.stderr
    assert "Message retry passes have enough time again (they ran out of time at " in done.stderr


def test_a_missing_base_url_ends_with_78_and_names_the_setting(cli: Cli, application: Application) -> None:
    before = application.dump()
    done = cli("run-once", env={"RETRYCLI_DATABASE__URL": application.url})
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr == (
        "retrycli: a gateway has no base_url, the URL of the API or mail server; set gateway.base_url (or "
        "TICKETING_API_BASE_URL). A separate gateway, such as [gateway.supplier], needs its own base_url\n"
    )
    assert application.dump() == before


# -- two at once -----------------------------------------------------------------------------------------------------


def test_a_second_pass_ends_with_75_names_the_first_and_is_recorded(cli: Cli, application: Application) -> None:
    application.add(101)
    with held_back() as (sandbox, gate):
        at_work = cli.having(application.variables(sandbox.url))
        first = at_work.start("run-once")
        assert gate.reached.wait(60)
        second = at_work("run-once", "--wait-lock", "0", "--json")
        gate.opened.set()
        assert end(first).returncode == 0
    holder = f"pid {first.pid} on {socket.gethostname()}, for "
    assert second.returncode == 75
    assert holder in second.stderr
    assert json.loads(second.stdout)["result"] == "skipped"
    listed = at_work("passes").stdout.splitlines()
    assert sorted(line.split("\t")[2] for line in listed) == ["completed", "skipped"]
    assert any(holder in line for line in listed)


CHANGED = """
from aiohttp import BaseConnector

_get = BaseConnector._get


async def changed(self, key, traces, more=None):
    return await _get(self, key, traces)


BaseConnector._get = changed
"""
"""A patch that changes the signature of aiohttp's method for getting a connection."""


def test_with_an_aiohttp_that_was_not_tried_messages_are_delivered_over_single_connections(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    application.add_due(3)
    (at_work.cwd / "changed").mkdir()
    (at_work.cwd / "changed" / "sitecustomize.py").write_text(CHANGED)
    changed = {"PYTHONPATH": str(at_work.cwd / "changed")}
    doctor = at_work("doctor", "--json", env=changed)
    [finding] = [each for each in json.loads(doctor.stdout)["findings"] if "not tried" in each["found"]]
    assert finding["level"] == "warning"
    assert "aiohttp==3.14.*" in finding["remedy"]
    done = at_work("run-once", "--json", env=changed)
    assert (done.returncode, json.loads(done.stdout)["sent"], done.stderr) == (0, 3, "")
    assert len(sandbox.received) == 3


@on_sqlite
def test_messages_put_back_after_a_request_are_not_reported_as_unattempted(cli: Cli, application: Application) -> None:
    """A throttled message was attempted, although the attempt used up no retry."""
    application.add_due(1)
    with Scripted((429, {})) as api:
        at_work = cli.having(application.variables(api.url))
        screen, passes = at_work.on_terminal("run-once"), at_work.on_terminal("passes")
        assert len(api.paths) == 1
    assert "0 escalated, 1 returned to the queue without using up a retry; 0 with unknown outcome" in screen.words
    assert "1 returned to the queue without using up a retry; throttled" in passes.words
    assert "released" not in screen.text + passes.text
    assert at_work.json("passes")["passes"][0]["released"] == 1
