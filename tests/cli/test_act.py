"""The ``requeue``, ``reject`` and ``escalations ack|note`` commands, and ``retry`` with a filter."""

from __future__ import annotations

import json
import os
import pwd
import re
import signal
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from retrycli.domain.identity import BY_TICKET
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.command import end, wait_until
from tests.cli.test_hostile_text import COLOURS, EVIL, SHOWN
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli, Finished

pytestmark = on_both

USER = pwd.getpwuid(os.getuid()).pw_name


def escalate(application: Application, *ids: int, **columns: Any) -> None:  # noqa: ANN401  values of any type
    """Add messages that have used up their retries, and run a pass, which escalates them."""
    for message_id in ids:
        application.add(message_id, retry_count=10, **columns)
    retrycli.run_once(application.settings("http://127.0.0.1:9"))


def escalate_many(application: Application, number: int) -> None:
    """Insert escalated messages and their queue rows directly, because a real pass would take too long."""
    ids = range(1, number + 1)
    text = {"ticket_id": 4711, "message_type": "customer", "subject": "Re: Invoice", "body": "It is attached."}
    failed = {"status": "failed", "retry_count": 10, "last_error": "HTTP 503"}
    application.insert("pending_messages", [{"id": message_id, **text, **failed} for message_id in ids])
    since = {"first_failed_at": "2026-01-02 03:04:05.000000", "escalated_at": "2026-01-03 03:04:05.000000"}
    cause = {"state": "escalated", "unknown_count": 0, "escalation_reason": "exhausted", "fingerprint": "c0ffee"}
    whose = {"ticket": "4711", "birth": BY_TICKET + "4711"}
    rows = [{"message_id": each, "delivery_key": f"key-{each}", **whose, **since, **cause} for each in ids]
    application.insert("retrycli_queue", rows)


def acts(application: Application) -> list[tuple[object, object, object]]:
    """Return the message, operator and action of each recorded action."""
    return [
        (action["message_id"], action["by"], action["act"]) for action in application.rows("retrycli_acts").values()
    ]


def facts(done: Finished) -> dict[str, int]:
    """Return the tab-separated counts that a command printed."""
    return {name: int(value) for name, value in (line.split("\t") for line in done.stdout.splitlines())}


def due(application: Application, message_id: int) -> datetime:
    """Return the time of a message's next attempt."""
    [(at,)] = application.asked("SELECT next_attempt_at FROM retrycli_queue WHERE message_id = ?", message_id)
    return datetime.fromisoformat(str(at)).replace(tzinfo=UTC)


# -- requeue ---------------------------------------------------------------------------------------------------------


def test_a_requeued_message_is_sent_by_the_next_pass_with_its_key(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    escalate(application, 11)
    key = application.rows("retrycli_queue")[11]["delivery_key"]
    done = at_work("requeue", "11")
    assert (done.returncode, facts(done), done.stderr) == (0, {"requeued": 1, "refused": 0, "left": 0}, "")
    assert (application.state(11), application.row(11)["retry_count"]) == ("waiting", 0)
    assert acts(application) == [(11, USER, "requeued")]
    assert at_work.json("run-once")["sent"] == 1
    assert [request.key for request in sandbox.received] == [key]


def test_requeue_reports_each_id_it_cannot_requeue_and_requeues_the_others(
    at_work: Cli, application: Application
) -> None:
    application.add(1, status="sent")
    application.add(12, hours_ago=0)
    escalate(application, 11)
    done = at_work("requeue", "1", "11", "12", "99", "--by", "anna", "--json")
    told = json.loads(done.stdout)
    assert (done.returncode, told["matched"], told["done"], told["left"]) == (4, 4, 1, 0)
    assert [f"retrycli: {refusal['error']}" for refusal in told["refused"]] == done.stderr.splitlines()
    assert [refusal["id"] for refusal in told["refused"]] == [1, 12, 99]
    assert acts(application) == [(11, "anna", "requeued")]


@on_sqlite
@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("2h", lambda now: now + timedelta(hours=2)),
        ("2099-01-02 03:04", lambda _: datetime(2099, 1, 2, 3, 4, tzinfo=UTC)),
        ("2099-01-02T03:04:05+02:00", lambda _: datetime(2099, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2099-01-02T03:04:05Z", lambda _: datetime(2099, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("23:59:59", lambda now: now.replace(hour=23, minute=59, second=59, microsecond=0)),
        ("00:00+00", lambda now: now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)),
        ("00:00", lambda now: now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)),
        ("2099-01-02 03:04 in Etc/GMT-3", lambda _: datetime(2099, 1, 2, 0, 4, tzinfo=UTC)),
    ],
)
def test_requeue_accepts_a_time(at_work: Cli, application: Application, at: str, expected: object) -> None:
    """``--at`` accepts a duration, a date and time, or a time of day, which means tomorrow if it has passed. Without an
    offset it is local.
    """
    assert callable(expected)
    escalate(application, 11)
    before = datetime.now(UTC)
    time, _, zone = at.partition(" in ")
    assert at_work("requeue", "11", "--at", time, env={"TZ": zone or "UTC"}).returncode == 0
    assert expected(before) <= due(application, 11) <= expected(datetime.now(UTC))


@on_sqlite
def test_times_are_utc_in_a_time_zone_unknown_to_python(at_work: Cli, application: Application) -> None:
    escalate(application, 11)
    abroad = at_work.having({"TZ": "UTC-99"})
    assert abroad("requeue", "11", "--at", "2099-01-02 03:04").returncode == 0
    assert due(application, 11) == datetime(2099, 1, 2, 3, 4, tzinfo=UTC)
    for command in ("passes", "status", "list-failed"):
        screen = abroad.on_terminal(command)
        assert screen.returncode == 0, screen.text
        assert "+00:00" in screen.text
    assert abroad("report", "--html", "page.html").returncode == 0
    assert re.search(r"created \S+ \d\d:\d\d\+00:00", (abroad.cwd / "page.html").read_text(encoding="utf-8"))


@on_sqlite
@pytest.mark.parametrize("command", ["requeue", "reject --reason double", "retry", "escalations ack"])
def test_nothing_changes_if_nothing_matches_or_the_operator_declines(
    at_work: Cli, application: Application, command: str
) -> None:
    """An operator who declines, or ends the input, causes no error, so the exit code is 0."""
    escalate(application, *range(11, 18))
    before = application.dump()
    done = at_work(*command.split(), "--error", "no such error", "--yes")
    assert (done.returncode, done.stdout) == (4, "")
    for answers in (["n"], [""], ["yesterday"], []):
        screen = at_work.on_terminal(*command.split(), "--type", "customer", answers=answers)
        assert screen.returncode == 0
        assert re.findall(r"^(\d\d)  47", screen.text, re.MULTILINE) == ["11", "12", "13", "14", "15"]
        assert "… and 2 more\n" in screen.text
        assert screen.text.endswith("Nothing was changed.\n")
    assert application.dump() == before


# -- canaries --------------------------------------------------------------------------------------------------------


def test_failing_canaries_leave_the_rest_unchanged(cli: Cli, application: Application) -> None:
    escalate_many(application, 100)
    before = application.rows(), application.rows("retrycli_queue")
    requeue = ("requeue", "--error", "503", "--canary", "3", "--abort-over", "30%", "--by", "anna")
    with Scripted(REJECTS) as api:
        at_work = cli.having(application.variables(api.url))
        done = at_work(*requeue, "--yes")
        assert len(api.paths) == 3
        screen = at_work.on_terminal(*requeue, answers=["y"])
    assert (application.rows(), application.rows("retrycli_queue")) == before
    assert (done.returncode, facts(done)) == (3, {"tried": 3, "delivered": 0, "requeued": 0, "refused": 0, "left": 97})
    attempts = application.rows("retrycli_attempts").values()
    assert [(attempt["message_id"], attempt["made_by"], attempt["outcome"]) for attempt in attempts] == [
        (message_id, "anna", "permanent") for message_id in (1, 2, 3) * 2
    ]
    assert acts(application) == []
    assert screen.returncode == 3
    assert "Requeue 100 messages, with 3 of them as canaries? [y/N] y\n" in screen.text
    assert "Canary: message 2 not sent: permanent, HTTP 422: no such recipient. Its state is unchanged." in screen.words
    assert screen.text.endswith("97 messages were left unchanged: 3 of 3 canaries failed.\nNext: retrycli show 1\n")


def test_delivered_canaries_let_the_rest_follow(cli: Cli, application: Application) -> None:
    """One failed canary of four does not exceed 25%, so the other messages are requeued."""
    escalate(application, *range(11, 19))
    with Scripted(REJECTS, TAKES) as api:
        at_work = cli.having(application.variables(api.url))
        told = at_work.json("requeue", "--type", "customer", "--canary", "4", "--abort-over", "25%", "--yes")
    assert [canary["outcome"] for canary in told["canaries"]] == ["permanent", "delivered", "delivered", "delivered"]
    assert (told["matched"], told["done"], told["left"], told["reason"]) == (8, 4, 0, None)
    states = [application.state(message_id) for message_id in range(11, 19)]
    assert states == ["escalated", *[None] * 3, *["waiting"] * 4]


# -- many ------------------------------------------------------------------------------------------------------------

STUCK_AT = 5250
ENDLESS = f"""
CREATE TRIGGER gate BEFORE UPDATE ON retrycli_queue WHEN NEW.message_id = {STUCK_AT}
BEGIN
    SELECT count(*) FROM (
        WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n LIMIT 1 << 40
    );
END
"""
"""A trigger that keeps SQLite busy with one message, in the middle of a batch."""


@contextmanager
def stuck(application: Application) -> Iterator[None]:
    """Make a command block when it updates one message, in the middle of a batch."""
    if not application.is_sqlite:
        with application.in_transaction(f"SELECT 1 FROM retrycli_queue WHERE message_id = {STUCK_AT} FOR UPDATE"):
            yield
        return
    application.execute("PRAGMA journal_mode = WAL")  # lets the test read during the write
    application.execute(ENDLESS)
    yield
    application.execute("DROP TRIGGER gate")


def requeued(application: Application) -> int:
    (row,) = application.execute("SELECT count(*) AS n FROM retrycli_queue WHERE state = 'waiting'")
    return int(str(row["n"]))


def test_a_killed_command_can_be_repeated_and_changes_no_message_twice(cli: Cli, application: Application) -> None:
    """A kill in the middle of a batch rolls back that batch; earlier batches stay committed."""
    escalate_many(application, 10_000)
    at_work = cli.having(application.variables("http://127.0.0.1:9"))
    command = ("requeue", "--fingerprint", "c0ffee", "--yes", "--by", "anna", "--at", "2h")
    with stuck(application):
        process = at_work.start(*command)
        wait_until(lambda: requeued(application) == 5_000, process)
        process.send_signal(signal.SIGKILL)
        assert end(process).returncode == -signal.SIGKILL
    assert requeued(application) == 5_000
    first = {
        message_id: row for message_id, row in application.rows("retrycli_queue").items() if row["state"] == "waiting"
    }
    assert len(acts(application)) == 5_000

    done = at_work(*command)
    assert (done.returncode, facts(done)) == (0, {"requeued": 5_000, "refused": 0, "left": 0})
    after = application.rows("retrycli_queue")
    assert {entry["state"] for entry in after.values()} == {"waiting"}
    assert {message_id: after[message_id] for message_id in first} == first
    assert sorted(acts(application)) == [(message_id, "anna", "requeued") for message_id in range(1, 10_001)]
    assert {each["retry_count"] for each in application.rows().values()} == {0}
    assert {entry["delivery_key"] for entry in after.values()} == {
        f"key-{message_id}" for message_id in range(1, 10_001)
    }


def test_ctrl_c_ends_the_command_between_two_batches_and_reports_progress(cli: Cli, application: Application) -> None:
    escalate_many(application, 2_000)
    at_work = cli.having(application.variables("http://127.0.0.1:9"))
    with application.in_transaction(
        "BEGIN IMMEDIATE" if application.is_sqlite else "LOCK TABLE retrycli_queue IN EXCLUSIVE MODE"
    ):
        process = at_work.start("requeue", "--fingerprint", "c0ffee", "--yes")
        wait_until(lambda: catches_stop(process.pid), process)
        process.send_signal(signal.SIGINT)
        wait_until(lambda: not pending(process.pid, signal.SIGINT), process)
    done = end(process)
    assert done.returncode == 130
    told = facts(done)
    assert told["requeued"] + told["left"] == 2_000
    assert told["left"] > 0
    assert requeued(application) == told["requeued"]


def catches_stop(pid: int) -> bool:
    """Return True if a command has installed its handlers for SIGINT and SIGTERM.

    Python catches SIGINT from the start, and the command installs its handler for SIGTERM after that for SIGINT.
    """
    return _bit(pid, "SigCgt", signal.SIGTERM)


def pending(pid: int, number: int) -> bool:
    """Return True if a signal is pending for a process; False if the process has ended."""
    try:
        return _bit(pid, "ShdPnd", number)
    except FileNotFoundError:
        return False


def _bit(pid: int, field: str, number: int) -> bool:
    found = re.search(rf"^{field}:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return bool(int(found[1], 16) >> (number - 1) & 1)


def test_a_message_sent_before_the_answer_is_left_alone_and_counted(at_work: Cli, application: Application) -> None:
    escalate(application, 11, 12, 13)

    def answers() -> Iterator[str]:
        application.execute("UPDATE pending_messages SET status = 'sent' WHERE id = 13")
        yield "y"

    screen = at_work.on_terminal("requeue", "--type", "customer", answers=answers())
    assert "Requeued 2 messages" in screen.text
    assert (
        "1 message was not changed: another process was changing or sending it, or the database rejected the change."
        in screen.text
    )
    assert application.row(13)["status"] == "sent"
    assert {message_id for message_id, *_ in acts(application)} == {11, 12}


# -- reject ----------------------------------------------------------------------------------------------------------


def test_a_rejected_messages_row_says_who_rejected_it_and_why(at_work: Cli, application: Application) -> None:
    """Waiting, escalated and due messages can all be rejected, and the next pass sends none of them."""
    application.add(12, hours_ago=0)
    escalate(application, 11)
    application.add(13)
    done = at_work("reject", "11", "12", "13", "--reason", "a double of ticket 4", "--by", "anna")
    assert (done.returncode, facts(done)["rejected"], done.stderr) == (0, 3, "")
    for message_id in (11, 12, 13):
        row = application.row(message_id)
        assert (row["status"], row["last_error"]) == ("rejected", "Rejected by anna: a double of ticket 4")
        assert application.state(message_id) is None
    assert at_work.json("run-once")["sent"] == 0
    assert acts(application) == [(message_id, "anna", "rejected") for message_id in (11, 12, 13)]


# -- what was rejected is requeued -----------------------------------------------------------------------------------


def test_requeue_accepts_messages_that_retrycli_rejected(
    at_work: Cli, application: Application, sandbox: Sandbox
) -> None:
    escalate(application, 11)
    application.add(12)
    assert at_work("reject", "11", "12", "--reason", "double", "--by", "anna").returncode == 0
    done = at_work("requeue", "11", "12", "--by", "bob")
    assert (done.returncode, facts(done), done.stderr) == (0, {"requeued": 2, "refused": 0, "left": 0}, "")
    for message_id in (11, 12):
        row = application.row(message_id)
        assert (row["status"], row["retry_count"]) == ("failed", 0)
        assert row["last_error"] == "Requeued by bob after: Rejected by anna: double"
        assert due(application, message_id) <= datetime.now(UTC)
    assert [(who, act) for number, who, act in acts(application) if number == 12] == [
        ("anna", "rejected"),
        ("bob", "requeued"),
    ]
    assert retrycli.run_once(application.settings(sandbox.url)).sent == 2


def test_requeue_leaves_messages_that_the_application_rejected_alone(at_work: Cli, application: Application) -> None:
    """If the application changes or replaces a row that retrycli rejected, the rejection is the application's."""
    application.add(11, status="rejected", last_error="spam")
    application.add(12)
    application.add(13)
    assert at_work("reject", "12", "13", "--reason", "double").returncode == 0
    application.execute("UPDATE pending_messages SET last_error = 'spam' WHERE id = 12")
    application.execute("DELETE FROM pending_messages WHERE id = 13")
    application.add(13, status="rejected", last_error="spam")
    done = at_work("requeue", "11", "12", "13")
    assert (done.returncode, facts(done)["refused"]) == (4, 3)
    for line in done.stderr.splitlines():
        assert line.endswith("Try again, or set its status to failed in the application")
    assert {row["status"] for row in application.rows().values()} == {"rejected"}
    assert application.rows("retrycli_queue") == {}


@pytest.mark.parametrize(
    ("column", "wrong", "right"), [("body", "NULL", "'here it is'"), ("attachments", "'[\"none.pdf\"]'", "NULL")]
)
def test_requeue_refuses_messages_from_which_no_request_can_be_built(
    at_work: Cli, application: Application, column: str, wrong: str, right: str
) -> None:
    """The next attempt would escalate them again. With a filter, `requeue` counts them and requeues the others."""
    for message_id in (11, 12, 13):
        application.add(message_id, retry_count=10)
    change = f"UPDATE pending_messages SET {column} = {{}} WHERE id IN (11, 12)"
    application.execute(change.format(wrong))
    retrycli.run_once(application.settings("http://127.0.0.1:9"))
    refused = at_work("requeue", "11")
    assert (refused.returncode, facts(refused)) == (4, {"requeued": 0, "refused": 1, "left": 0})
    assert refused.stderr.startswith(f"retrycli: message 11 can't be sent: {'' if right == 'NULL' else column}")
    assert application.state(11) == "escalated"
    screen = at_work.on_terminal("requeue", "--type", "customer", "--yes")
    words = "Requeued 1 message.\n2 messages can't be sent in their present form and were left unchanged.\n"
    assert words in screen.text
    application.execute(change.format(right))
    assert at_work("requeue", "11", "12").returncode == 0


def test_requeue_refuses_a_message_from_which_no_mail_can_be_built(cli: Cli, application: Application) -> None:
    """The mail server's port is closed, so an attempt to send would end with another error."""
    smtp = {"RETRYCLI_GATEWAY__KIND": "smtp", "RETRYCLI_GATEWAY__SENDER": "desk@example.com"}
    escalate(application, 11, recipient_email="anna", message_type="supplier")
    mailing = cli.having(application.variables("smtp://127.0.0.1:9") | smtp)
    refused = mailing("requeue", "11")
    assert refused.returncode == 4
    assert refused.stderr.startswith("retrycli: message 11 can't be sent: "), refused.stderr


def test_requeue_ignores_an_unusable_gateway(at_work: Cli, application: Application) -> None:
    """The fault is in the settings and not in the message, and the next pass reports it."""
    escalate(application, 11)
    assert at_work("requeue", "11", env={"RETRYCLI_GATEWAY__PRESET": "none-of-that-name"}).returncode == 0


# -- retry by a filter -----------------------------------------------------------------------------------------------


def test_retry_by_a_filter_stops_when_the_api_is_down(cli: Cli, application: Application) -> None:
    """A filter may match many messages, so `retry` stops when the breaker would open. Named ids are all attempted."""
    escalate(application, *range(11, 18))
    with Scripted(BUSY) as api:
        at_work = cli.having(application.variables(api.url))
        done = at_work("retry", "--type", "customer", "--yes")
        assert (done.returncode, len(api.paths)) == (3, 5)
        assert done.stderr.startswith("retrycli: 2 messages were left unchanged: ")
        assert at_work("retry", *map(str, range(11, 18))).returncode == 3
        assert len(api.paths) == 12


# -- escalations ack, note -------------------------------------------------------------------------------------------


def test_an_acknowledged_escalation_stays_listed_and_is_not_acknowledged_again(
    at_work: Cli, application: Application
) -> None:
    application.add(30, hours_ago=0)
    escalate(application, 11)
    escalate(application, 12, last_error="HTTP 504")
    assert facts(at_work("escalations", "ack", "11", "--by", "anna")) == {"acknowledged": 1, "refused": 0, "left": 0}
    assert at_work("escalations", "note", "11", "phoned them").returncode == 0
    told = at_work.json("escalations")
    seen = {escalation["id"]: (escalation["acknowledged_by"], escalation["note"]) for escalation in told["escalations"]}
    assert seen == {11: ("anna", "phoned them"), 12: (None, None)}
    assert sorted(group["new"] for group in told["groups"]) == [0, 1]
    screen = at_work.on_terminal("escalations")
    assert re.search(r"by anna, \d{4}-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d: phoned them", screen.words)
    told = at_work.json("escalations", "ack", "--type", "customer", "--yes", "--by", "bert")
    assert (told["matched"], told["done"]) == (1, 1)
    assert at_work("escalations", "ack", "11").returncode == 4
    assert [act for act in acts(application) if act[2] != "noted"] == [
        (11, "anna", "acknowledged"),
        (12, "bert", "acknowledged"),
    ]


# -- hostile text ----------------------------------------------------------------------------------------------------


@on_sqlite
def test_output_escapes_hostile_texts(at_work: Cli, application: Application) -> None:
    escalate(application, 11, 12, subject=EVIL, ticket_id=EVIL, last_error=EVIL)
    screens = [
        at_work.on_terminal("escalations", "note", "11", EVIL.replace("\0", "")),
        at_work.on_terminal("escalations", "ack", "11"),
        at_work.on_terminal("escalations", "ack", "11"),
        at_work.on_terminal("escalations"),
        at_work.on_terminal("reject", "--error", EVIL, "--reason", EVIL, answers=["y"]),
        at_work.on_terminal("show", "11"),
    ]
    for screen in screens:
        assert all(char.isprintable() or char in "\r\n" for char in COLOURS.sub("", screen.raw)), screen.text
    assert application.row(11)["last_error"] == f"Rejected by {USER}: {EVIL}"
    piped = at_work("show", "11").stdout
    assert all(char.isprintable() or char in "\t\n" for char in piped)
    assert f"\tnoted\t\t\t{SHOWN}\n" in piped


@on_sqlite
@pytest.mark.parametrize("option", ["--by", "--reason", "--error", "--ticket", "--fingerprint"])
def test_an_option_that_is_not_valid_utf8_is_wrong_usage(at_work: Cli, application: Application, option: str) -> None:
    escalate(application, 11)
    before = application.dump()
    arguments = ["reject", "--type", "customer", "--yes", *(["--reason", "x"] if option != "--reason" else [])]
    done = at_work(*arguments, option, "caf\udce9")
    assert done.returncode == 2
    assert "the value is not valid UTF-8" in done.stderr
    assert application.dump() == before


# -- expired messages ------------------------------------------------------------------------------------------------


OLD = {"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "48"}


def test_requeue_skips_messages_that_would_expire_also_as_canaries(cli: Cli, application: Application) -> None:
    escalate(application, 11, hours_ago=72)
    escalate(application, 12, hours_ago=71)
    escalate(application, 13, hours_ago=1)
    again = "2 messages have expired and would expire again if requeued: "
    with Scripted(TAKES) as api:
        at_work = cli.having(application.variables(api.url) | OLD)
        named = at_work("requeue", "11", "--canary", "1")
        asked = at_work.on_terminal("requeue", "--type", "customer", answers=["n"])
        done = at_work.on_terminal("requeue", "--type", "customer", "--canary", "3", "--yes")
        left = at_work.on_terminal("requeue", "--type", "customer")
    assert len(api.paths) == 1
    assert (named.returncode, application.state(11), application.state(12)) == (4, "escalated", "escalated")
    assert "message 11 has expired, so a pass would escalate it" in named.stderr
    assert "send it with `retrycli retry 11`" in named.stderr
    assert f"{again}they will be left unchanged. Requeue 1 message? [y/N]" in asked.words
    assert "Expires" not in asked.text, "an escalated message does not expire"
    assert re.findall(r"^(1\d)  ", asked.text, re.MULTILINE) == ["13"]
    assert f"{again}raise schedule.expires_after_hours, or send one with `retrycli retry 11`" in done.words
    assert (left.returncode, "[y/N]" in left.text, again in left.words) == (4, False, True)
    assert at_work("requeue", "11", env={"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "96"}).returncode == 0
    assert application.state(11) == "waiting"


@on_sqlite
def test_escalations_suggests_rejecting_expired_messages(at_work: Cli, application: Application) -> None:
    application.add(11, hours_ago=72)
    application.add(12, hours_ago=71)
    old = at_work.having(OLD)
    assert old("run-once").returncode == 0
    screen = old.on_terminal("escalations")
    assert "requeue" not in screen.text
    step = re.search(
        r"If the messages are no longer wanted: retrycli (reject --fingerprint \w+ --reason expired)\n", screen.text
    )
    assert step, screen.text
    assert "Next: retrycli list-failed --fingerprint " in screen.text
    assert old(*step[1].split(), "--yes").returncode == 0
    assert application.row(11)["status"] == "rejected"


def test_requeue_skips_a_rejected_message_that_would_expire(at_work: Cli, application: Application) -> None:
    escalate(application, 11, hours_ago=72)
    assert at_work("reject", "11", "--reason", "too late", "--yes").returncode == 0
    named = at_work("requeue", "11", env=OLD)
    assert named.returncode == 4
    assert "message 11 has expired, so a pass would escalate it" in named.stderr
    assert "retrycli retry" not in named.stderr, "it takes no rejected message"
    assert (application.row(11)["status"], application.state(11)) == ("rejected", None)
    assert at_work("requeue", "11").returncode == 0
    assert application.state(11) == "waiting"


def test_requeue_skips_a_message_that_expired_without_an_attempt_or_a_creation_time(
    at_work: Cli, application: Application
) -> None:
    application.add(11, hours_ago=72, created_at=None)
    at_work("run-once", env=OLD)
    assert application.state(11) == "escalated"
    named = at_work("requeue", "11", env=OLD)
    assert (named.returncode, application.state(11)) == (4, "escalated")
    assert "message 11 has expired, so a pass would escalate it" in named.stderr


def test_a_requeued_rejected_message_keeps_the_time_of_its_first_failure(cli: Cli, application: Application) -> None:
    """A message's age counts from its first failure, and so does its expiry if the table has no creation time."""
    application.add(11, hours_ago=5)
    with Scripted(REJECTS) as api:
        at_work = cli.having(application.variables(api.url))
        assert at_work("run-once").returncode == 0
        before = at_work.json("show", "11")["queue"]["first_failed_at"]
        assert at_work("reject", "11", "--reason", "by mistake", "--yes").returncode == 0
        assert at_work("requeue", "11").returncode == 0
        after = at_work.json("show", "11")["queue"]["first_failed_at"]
        listed = at_work.json("list-failed", "--failed-before", "4h")["messages"]
    assert abs(datetime.fromisoformat(after) - datetime.fromisoformat(before)) <= timedelta(seconds=1)
    assert [message["id"] for message in listed] == [11]
