"""A pass announces messages that would expire during a pause or an outage, before they expire."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from retrycli.config.settings import DatabaseSettings, LoggingSettings, ScheduleSettings, Settings
from retrycli.domain.passes import PassResult, PassSummary, StopReason
from retrycli.operations.run_pass import report_pass
from retrycli.operations.wiring import utc_now
from retrycli.store import own_tables
from retrycli.store.database import Database
from retrycli.views.log_lines import configure, logger
from tests.cli.api import FORBIDS, Scripted
from tests.cli.command import COLUMNS
from tests.cli.test_bad_input import exclusively_locked
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from retrycli.operations.sandbox import Answer, Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = on_both

NOWHERE = "http://127.0.0.1:9"
"""No server listens on this port."""
TEXT = "    ana@example.com: Re: Invoice\n"
"""The last line of a message in a list."""
THROTTLES: Answer = (429, {})
EXPIRY = {"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "8"}
ANNOUNCED = r"WARNING 2 messages will expire by .* UTC \(the first at .* UTC\) unless deliveries resume\. Cause: "


@pytest.fixture(autouse=True)
def _the_logger_as_it_was() -> Iterator[None]:
    before = logger.handlers, logger.level, logger.propagate
    yield
    logger.handlers, logger.level, logger.propagate = before


def fill(application: Application) -> None:
    """Add one message that has expired, two that are about to, and one with a long time left."""
    application.add(1, hours_ago=9)
    application.add(2, hours_ago=7.5)
    application.add(3, hours_ago=3)
    application.add(4, hours_ago=-1)


def test_a_pause_announces_the_messages_that_would_expire(at_work: Cli, application: Application) -> None:
    fill(application)
    expiring = at_work.having(EXPIRY)
    assert expiring("pause", "--by", "anna", "--reason", "maintenance").returncode == 0
    first, second = expiring("run-once"), expiring("run-once")
    why = r"deliveries are paused by anna until resumed: maintenance\. Next: `retrycli resume`$"
    assert re.search(ANNOUNCED + why, first.stderr), first.stderr
    assert (first.returncode, second.stderr) == (0, "")
    assert expiring("resume").returncode == 0
    over = expiring("run-once").stderr
    assert "WARNING Messages are no longer about to expire\n" in over
    assert "expire" not in expiring("run-once").stderr


def test_the_pass_in_which_messages_expire_sends_no_all_clear(at_work: Cli, application: Application) -> None:
    fill(application)
    expiring = at_work.having(EXPIRY)
    assert expiring("pause", "--by", "anna").returncode == 0
    assert "unless deliveries resume" in expiring("run-once").stderr
    assert expiring("resume").returncode == 0
    earlier = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=3)
    application.execute("UPDATE retrycli_told SET told_at = ? WHERE target = 'log'", earlier.isoformat(" "))
    over = at_work("run-once", env={"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "5"}).stderr
    assert "Messages are no longer about to expire" not in over
    assert "WARNING Some of the messages that were about to expire have expired; see `retrycli escalations`\n" in over


def test_messages_that_expire_during_a_pause_end_no_warning(at_work: Cli, application: Application) -> None:
    application.add(1, hours_ago=7.5)
    assert at_work("pause", "--by", "anna").returncode == 0
    assert "1 message will expire at " in at_work("run-once", env=EXPIRY).stderr
    assert at_work("run-once", env={"RETRYCLI_SCHEDULE__EXPIRES_AFTER_HOURS": "7"}).stderr == ""


@pytest.mark.parametrize(("length", "number"), [("10m", 0), ("1h", 1), ("3d", 3)])
def test_a_pause_with_an_end_announces_messages_that_expire_before_it(
    at_work: Cli, application: Application, length: str, number: int
) -> None:
    """The messages expire in half an hour, five hours and nine hours, so a longer pause announces more of them."""
    fill(application)
    expiring = at_work.having(EXPIRY)
    assert expiring("pause", "--for", length, "--by", "anna").returncode == 0
    said = expiring("run-once").stderr
    found = re.search(r"WARNING (\d) messages? will expire .* Cause: deliveries are paused by anna until 20", said)
    assert int(found[1] if found else 0) == number, said


def test_an_outage_announces_messages_once_also_if_a_pass_has_nothing_to_send(
    cli: Cli, application: Application
) -> None:
    """Such a pass sends nothing, so it can't know whether the API is back."""
    fill(application)
    expiring = cli.having(application.variables(NOWHERE) | EXPIRY | {"RETRYCLI_BREAKER__FAILURES": "2"})
    why = rf"{NOWHERE} has been down since .* UTC\. Next: `retrycli list-failed --state waiting`$"
    said = expiring("run-once").stderr
    assert re.search(ANNOUNCED + why, said, re.MULTILINE), said
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2999-01-01' WHERE state = 'waiting'")
    assert expiring("run-once").stderr == ""
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE state = 'waiting'")
    assert "expire" not in expiring("run-once").stderr


def test_an_outage_announces_only_messages_of_its_destination(
    cli: Cli, application: Application, sandbox: Sandbox
) -> None:
    fill(application)
    application.execute("UPDATE pending_messages SET message_type = 'internal' WHERE id = 2")
    env = application.variables(NOWHERE) | {"RETRYCLI_GATEWAY__INTERNAL__BASE_URL": NOWHERE}
    assert cli("run-once", env=env | {"RETRYCLI_BREAKER__FAILURES": "50"}).returncode == 0
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE message_id IN (3, 4)")
    elsewhere = {"RETRYCLI_GATEWAY__INTERNAL__BASE_URL": sandbox.url, "RETRYCLI_BREAKER__FAILURES": "2"}
    said = cli("run-once", env=env | EXPIRY | elsewhere).stderr
    assert "1 message will expire at " in said, said


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (FORBIDS, r"the credentials have been refused since 2026-01-02 03:04 UTC\."),
        (THROTTLES, r"the ticketing API asked retrycli to wait: "),
    ],
)
def test_a_refusal_that_lasts_announces_the_messages_that_would_expire(
    cli: Cli, application: Application, answer: Answer, why: str
) -> None:
    fill(application)
    with Scripted(*[answer] * 20) as api:
        at_work = cli.having(application.variables(api.url))
        at_work("run-once")
        application.execute("UPDATE retrycli_passes SET started_at = '2026-01-02 03:04:05'")
        application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE state = 'waiting'")
        said = at_work("run-once", env=EXPIRY).stderr
    assert re.search(ANNOUNCED + why, said), said


@pytest.mark.parametrize("env", [{}, {"RETRYCLI_SCHEDULE__TYPES__SUPPLIER__EXPIRES_AFTER_HOURS": "8"}])
def test_messages_that_do_not_expire_are_not_announced(
    at_work: Cli, application: Application, env: dict[str, str]
) -> None:
    fill(application)
    assert at_work("pause", env=env).returncode == 0
    assert at_work("run-once", env=env).stderr == ""


@on_sqlite
def test_a_database_locked_after_the_pass_does_not_fail_it(
    application: Application, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """The pass is recorded by then, so a failed check after it is only a warning."""
    fill(application)
    settings = Settings(
        database=DatabaseSettings(url=f"{application.url}?timeout=0.1"),
        schedule=ScheduleSettings(expires_after_hours=8),
        logging=LoggingSettings(file=tmp_path / "none" / "retrycli.log"),
    )
    summary = PassSummary("the pass", PassResult.PAUSED, reason=StopReason.PAUSED)
    with closing(Database(settings.database.url, "pending_messages")) as database:
        own_tables.ensure_tables(database, upgrade=True)
        configure("WARNING", "text", settings.logging.file)
        logger.addHandler(caplog.handler)
        logger.warning("a line that can't be written")
        with exclusively_locked(application):
            report_pass(settings, database, summary, utc_now())
    warned = [record.getMessage() for record in caplog.records if "locked" in record.getMessage()]
    assert any(record.startswith("The state of the log file could not be recorded: ") for record in warned)
    assert any(record.startswith("The check for messages that are about to expire failed: ") for record in warned)


def test_announces_nothing_while_messages_are_delivered(at_work: Cli, application: Application) -> None:
    fill(application)
    assert "expire" not in at_work("run-once", env=EXPIRY).stderr.replace("(expired", "")


# -- what expires, and what has expired, as an operator sees it ------------------------------------------------------


def enrol(application: Application, at_work: Cli) -> None:
    """Enrol the messages with a pass that delivers nothing."""
    assert at_work("run-once", env={"TICKETING_API_BASE_URL": NOWHERE}).returncode in {0, 69}
    application.execute("DELETE FROM retrycli_breakers")


def fill_to_be_listed(application: Application, at_work: Cli) -> None:
    """Add an expired message that is due, one that must wait, three that expire later, and an escalated one."""
    application.add(1, hours_ago=9, ticket_id=4701, last_error="HTTP 503: overloaded")
    application.add(2, hours_ago=9, ticket_id=4702)
    application.add(3, hours_ago=5.5, ticket_id=4703)
    application.add(4, hours_ago=-30, ticket_id=4704)
    application.add(5, hours_ago=-30, ticket_id=4705)
    application.add(6, hours_ago=9, ticket_id=4706)
    enrol(application, at_work)
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE message_id = 1")
    later = str(datetime.now(UTC).replace(tzinfo=None) + timedelta(days=2))
    application.execute("UPDATE retrycli_queue SET next_attempt_at = ? WHERE message_id IN (2, 5)", later)
    application.execute("UPDATE retrycli_queue SET next_attempt_at = '2020-01-01' WHERE message_id IN (3, 4)")
    escalated = (
        "state = 'escalated', escalation_reason = 'expired', escalated_at = '2026-01-01', next_attempt_at = NULL"
    )
    application.execute(f"UPDATE retrycli_queue SET {escalated} WHERE message_id = 6")


def test_lists_show_expiring_and_expired_messages(at_work: Cli, application: Application) -> None:
    expiring = at_work.having(EXPIRY)
    fill_to_be_listed(application, at_work)
    listed = expiring.json("list-failed", "--sort", "id")["messages"]
    assert all(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", message["expires_at"]) for message in listed)
    header, *lines = expiring("list-failed", "--sort", "id", "--header").stdout.splitlines()
    assert header.endswith("\tLast error\tExpires\tCreated\tTo\tSubject")
    assert [line.split("\t")[-4] for line in lines] == [message["expires_at"] for message in listed]
    text = re.sub(" +\n", "\n", expiring.on_terminal("list-failed", "--sort", "id").text)
    under = {line.split()[0]: rest for line, rest in re.findall(r"^(\d .*)\n((?:    .*\n)+)", text, re.MULTILINE)}
    assert under["1"].endswith(f"    expired; a pass will escalate it\n{TEXT}")
    assert under["2"].endswith(f"    expired; a pass will escalate it\n{TEXT}")
    assert under["3"].endswith(f"    expires in 2 hours\n{TEXT}")
    assert "expire" not in under["4"] + under["6"]
    assert re.search(rf"    expires in 1 day, before its next attempt\n{TEXT}$", under["5"]), under["5"]
    assert all(len(each) <= COLUMNS for each in text.splitlines())
    numbers = expiring.json("status")["messages"]
    assert [numbers[name] for name in ("waiting", "due", "escalated", "expired", "expired_due")] == [5, 2, 1, 2, 1]
    words = "2 of the waiting messages; a pass will escalate each of them when due"
    assert f"Expired\t{words}\n" in expiring("status").stdout
    assert f"Expired {words}" in expiring.on_terminal("status").words
    for number, expires in (("1", True), ("2", True), ("6", False)):
        assert ("a pass will escalate it" in expiring("explain", number).stdout) is expires


def test_status_announces_that_the_next_pass_escalates_expired_messages(at_work: Cli, application: Application) -> None:
    """The count includes messages that no pass has seen yet."""
    application.add(1, hours_ago=9)
    application.add(2, hours_ago=9)
    application.add(3, hours_ago=1)
    expiring = at_work.having(EXPIRY)
    assert expiring("run-once").returncode == 0
    assert application.state(1) == "escalated"
    application.add(4, hours_ago=9)
    application.add(5, hours_ago=9)
    said = expiring("status").stdout
    assert "Expired\t2 of the waiting messages; the next pass will escalate them\n" in said
    assert "Expired" not in at_work("status").stdout


@on_sqlite
def test_explain_reports_a_message_that_expires_before_its_next_attempt(at_work: Cli, application: Application) -> None:
    expiring = at_work.having(EXPIRY)
    application.add(1, hours_ago=7.5)
    enrol(application, at_work)
    tomorrow = datetime.now(UTC).replace(tzinfo=None) + timedelta(days=1)
    application.execute("UPDATE retrycli_queue SET next_attempt_at = ?", str(tomorrow))
    words = expiring.on_terminal("explain", "1").words
    assert "Next attempt none: the message expires before a pass would attempt it" in words, words
