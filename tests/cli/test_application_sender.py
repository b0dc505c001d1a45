"""Messages that are handed over to the application's own sender, which is a process of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.cli.command import wait_until
from tests.cli.sender import mails, working
from tests.conftest import on_both

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

SETTINGS = """
[database]
url = "{url}"
[database.status]
failed = "failed"
sent = "sent"
rejected = "rejected"
queued = "queued"
[run]
lock_file = "pass.lock"
[gateway]
kind = "application"
"""


@pytest.fixture(autouse=True)
def settings(cli: Cli, application: Application, tmp_path: Path) -> Path:
    file = tmp_path / "retrycli.toml"
    file.write_text(SETTINGS.format(url=application.url))
    assert cli("table", "accept", "--yes").returncode == 0
    return file


def answered(application: Application, *ids: int) -> bool:
    return all(application.row(message_id)["status"] in {"sent", "failed"} for message_id in ids)


def age(application: Application, by: timedelta) -> None:
    """Let some time pass since all messages were handed over."""
    then = str((datetime.now(UTC) - by).replace(tzinfo=None))
    application.execute("UPDATE retrycli_queue SET handed_over_at = ? WHERE state = 'handed_over'", then)
    application.execute("UPDATE retrycli_attempts SET started_at = ? WHERE finished_at IS NULL", then)


@on_both
def test_a_sender_of_the_application_gets_each_message_once_and_its_answers_are_recorded(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add(101)
    application.add(102, body="bounce", retry_count=4, hours_ago=9)
    before = application.schema(but="retrycli_")
    assert cli.json("run-once")["handed_over"] == 2
    assert [application.row(number)["status"] for number in (101, 102)] == ["queued", "queued"]
    with working(application, tmp_path):
        wait_until(lambda: answered(application, 101, 102))
    done = cli.json("run-once")
    assert (done["sent"], done["rescheduled"]) == (1, 1)
    assert mails(tmp_path) == [101]
    row = application.row(102)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("failed", 5, "550 no such user")
    outcomes = {each["message_id"]: each["outcome"] for each in application.rows("retrycli_attempts").values()}
    assert outcomes == {101: "delivered", 102: "refused"}
    assert application.state(101) is None
    assert application.state(102) == "waiting"
    assert application.schema(but="retrycli_") == before


def test_every_command_knows_a_message_that_is_handed_over(cli: Cli, application: Application) -> None:
    application.add(101)
    cli("run-once")
    [listed] = cli.json("list-failed")["messages"]
    assert (listed["id"], listed["state"], listed["next_attempt_at"]) == (101, "handed_over", None)
    assert [each["id"] for each in cli.json("list-failed", "--state", "handed_over")["messages"]] == [101]
    assert cli.json("status")["messages"]["handed_over"] == 1
    assert "Handed over\t1" in cli("status").stdout
    explained = cli.json("explain", "101")
    [gate, *_] = explained["gates"]
    assert (gate["name"], gate["open"], explained["next_attempt_at"]) == ("handed_over", False, None)
    assert "the application's sender has the message" in cli.on_terminal("explain", "101", columns=200).words
    assert "handed over" in cli("show", "101").stdout
    assert 'retrycli_messages{state="handed_over",type="customer"} 1.0' in cli("metrics").stdout
    assert cli.json("stats")["attempts"] == 1
    assert cli("escalations").stdout == ""


def test_retry_hands_a_message_over_and_says_so(cli: Cli, application: Application) -> None:
    application.add(101)
    application.add(102)
    done = cli("retry", "101")
    assert (done.returncode, done.stdout) == (0, "101\thanded over\t\t\n")
    assert cli.json("retry", "102")["results"] == [
        {"id": 102, "outcome": "handed_over", "status_code": None, "error": None}
    ]
    again = cli("retry", "101")
    assert again.returncode == 4
    assert again.stderr == (
        "retrycli: message 101 is handed over to the application's sender; "
        "`retrycli reject 101 --reason withdrawn` takes it back\n"
    )


def test_retry_on_a_terminal(cli: Cli, application: Application) -> None:
    application.add(101)
    shown = cli.on_terminal("retry", "101")
    assert "Message 101 handed over to the application's sender." in shown.words
    assert shown.returncode == 0


def test_reject_takes_a_message_back_unless_the_sender_has_it(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add(101)
    application.add(102)
    cli("run-once")
    assert cli("reject", "101", "--reason", "wrong customer", "--yes").returncode == 0
    row = application.row(101)
    assert (row["status"], application.state(101)) == ("rejected", None)
    with working(application, tmp_path):
        wait_until(lambda: answered(application, 102))
    refused = cli("reject", "102", "--reason", "wrong customer", "--yes")
    assert refused.returncode == 4
    assert "handed over to the application's sender; `retrycli run-once` records its result" in refused.stderr
    assert mails(tmp_path) == [102]
    assert cli("requeue", "101", "--yes").returncode == 0
    assert application.row(101)["status"] == "failed"


def test_a_sender_that_is_down_is_reported_once_and_gets_nothing_more(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add(101)
    cli("run-once")
    age(application, timedelta(hours=2))
    application.add(102)
    first, second = cli("run-once"), cli("run-once")
    assert (first.returncode, second.returncode) == (69, 69)
    assert "the application's sender has delivered nothing since" in first.stderr
    assert "nothing more is handed over. Start the sender." in first.stderr
    assert second.stderr == ""
    assert application.row(102)["status"] == "failed"
    shown = cli.json("status")
    assert (shown["state"], shown["messages"]["handed_over"], shown["messages"]["escalated"]) == ("down", 1, 0)
    assert "the application's sender has delivered nothing since" in cli("status").stdout
    assert "the application's sender has delivered nothing since" in cli("doctor").stdout
    assert "the application's sender delivers nothing since" in cli("explain", "102").stdout
    with working(application, tmp_path):
        wait_until(lambda: answered(application, 101))
    third = cli("run-once")
    assert (third.returncode, application.row(102)["status"]) == (0, "queued")
    assert "The application's sender works again" in third.stderr


def test_a_dry_run_says_what_would_be_handed_over(cli: Cli, application: Application) -> None:
    application.add(101)
    shown = cli.on_terminal("run-once", "--dry-run")
    assert "A pass would hand over 1 message to the application's sender, if the sender works." in shown.words
    assert "would send" not in shown.words
    cli("run-once")
    age(application, timedelta(hours=2))
    application.add(102)
    cli("run-once")
    shown = cli.on_terminal("run-once", "--dry-run")
    assert "Down: the application's sender has delivered nothing since" in shown.words
    assert "Unless it has answered since, a pass would hand over nothing; 1 message is waiting." in shown.words
    assert "probe" not in shown.words
    assert cli.json("run-once", "--dry-run")["down"] == {"application": None}


# -- settings --------------------------------------------------------------------------------------------------------


def test_the_settings_are_checked(cli: Cli, settings: Path) -> None:
    good = settings.read_text()
    assert cli.json("config", "check")["api"] == "application"
    for text, error in (
        (good.replace('queued = "queued"\n', ""), "gateway.kind = 'application' needs database.status.queued"),
        (good.replace('queued = "queued"', 'queued = "failed"'), "have the same value"),
        (
            good + 'base_url = "http://127.0.0.1:9"\n',
            "gateway.base_url has no effect with gateway.kind = 'application'",
        ),
        (good + "answer_minutes = 0\n", "gateway.answer_minutes"),
    ):
        settings.write_text(text)
        refused = cli("config", "check")
        assert refused.returncode == 78
        assert error in refused.stderr


def test_the_applications_own_variable_is_ignored(cli: Cli, application: Application) -> None:
    application.add(101)
    other = cli.having({"TICKETING_API_BASE_URL": "http://127.0.0.1:9"})
    assert other.json("run-once")["handed_over"] == 1


def test_a_test_delivery_is_refused(cli: Cli) -> None:
    refused = cli("deliver-test", "--ticket", "4701", "--yes")
    assert refused.returncode == 78
    assert "the application's own sender delivers the messages" in refused.stderr


def test_one_type_may_go_to_the_application_and_the_others_to_an_api(
    cli: Cli, application: Application, settings: Path
) -> None:
    settings.write_text(
        settings.read_text().replace("[gateway]", '[gateway]\nbase_url = "http://127.0.0.1:9"\n[gateway.supplier]')
    )
    application.add(101, message_type="supplier")
    application.add(102)
    done = cli.json("run-once")
    assert (done["handed_over"], done["rescheduled"]) == (1, 1)
    assert application.row(101)["status"] == "queued"


def test_after_a_downgrade_and_an_upgrade_the_sender_still_gets_no_message_twice(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    application.add(101)
    cli("run-once")
    assert application.state(101) == "handed_over"
    assert cli("db", "downgrade", "--yes").returncode == 0
    assert application.state(101) == "waiting"
    assert cli("db", "upgrade").returncode == cli("table", "accept", "--yes").returncode == 0
    with working(application, tmp_path):
        wait_until(lambda: answered(application, 101))
    assert cli("run-once").returncode == 0
    assert application.state(101) is None
    assert mails(tmp_path) == [101]
