"""A function of the application as the sender, and as the schedule: passes, checks and every other command."""

from __future__ import annotations

import json
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from tests.cli.command import LONGEST, wait_until
from tests.cli.desk import SEND, Desk
from tests.conftest import on_both

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

NAME = "desk.messages:send"
PLACE = f"python:{NAME}"


@pytest.fixture
def desk(application: Application, tmp_path: Path) -> Desk:
    made = Desk(tmp_path, application)
    made.write()
    return made


# -- passes --------------------------------------------------------------------------------------------------------


@on_both
@pytest.mark.parametrize("start", ["", "async "], ids=["sync", "async"])
def test_a_pass_delivers_by_the_function(cli: Cli, desk: Desk, start: str) -> None:
    desk.write(f"{start}{SEND}    return f'desk-{{message.id}}'")
    desk.application.fill()
    done = cli("run-once")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert sorted(each["id"] for each in desk.sent) == [5, 6, 7]
    assert {desk.application.row(number)["status"] for number in (5, 6, 7)} == {"sent"}
    attempts = desk.application.rows("retrycli_attempts").values()
    assert {(each["outcome"], each["destination"]) for each in attempts} == {("delivered", PLACE)}
    assert {each["external_id"] for each in attempts} == {"desk-5", "desk-6", "desk-7"}
    assert len({each["key"] for each in desk.sent}) == 3


def test_the_environment_of_cron_is_enough(cli: Cli, desk: Desk, tmp_path: Path) -> None:
    """Cron starts passes in another folder, and sets no PYTHONPATH. The modules may be in a named folder."""
    desk.write(gateway='modules_dir = "app"')
    (tmp_path / "app").mkdir()
    (tmp_path / "desk").rename(tmp_path / "app" / "desk")
    desk.application.add(101)
    elsewhere = tmp_path / "home"
    elsewhere.mkdir()
    assert cli.real()("run-once", "--config", tmp_path / "retrycli.toml", cwd=elsewhere).returncode == 0
    assert desk.application.row(101)["status"] == "sent"


def test_one_type_may_have_a_function_and_the_others_an_api(cli: Cli, desk: Desk) -> None:
    """The commands accept the function, and name its destination by it."""
    desk.write(more='[gateway.supplier]\nkind = "http"\nbase_url = "http://127.0.0.1:9"')
    desk.application.add_due(2)
    desk.application.add(103, message_type="supplier")
    assert cli("pause", "--destination", PLACE, "--reason", "the desk moves").returncode == 0
    assert cli.json("run-once")["sent"] == 0
    assert cli("retry", "101").returncode == 0
    assert cli("resume", "--destination", PLACE).returncode == 0
    assert cli.json("run-once")["sent"] == 1
    assert cli("look-up", "101").returncode == 4
    assert cli("deliver-test", "--ticket", "4711", "--yes").returncode == 0
    assert [each["id"] for each in desk.sent] == [101, 102, 0]
    shown = cli.json("config", "check")
    assert [shown[name] for name in ("call", "api", "api supplier")] == [NAME, PLACE, "http://127.0.0.1:9"]
    [finding] = [each for each in cli.json("doctor", code=3)["findings"] if each["name"] == "function"]
    assert (finding["level"], finding["found"]) == ("ok", f"gateway.call: {NAME} can be called")


MARKS = """
import sqlite3
def change(message, statement):
    note(message)
    with sqlite3.connect({path!r}) as database:
        database.execute(f"{{statement}} WHERE id = ?", (message.id,))
def send(message):
"""


def test_a_row_that_the_function_marks_as_sent_is_the_result(cli: Cli, desk: Desk) -> None:
    desk.application.add_due(4)
    mark = "UPDATE pending_messages SET status = 'sent', sent_at = '2026-01-02 03:04:05'"
    desk.write(MARKS.format(path=str(desk.application.path)) + f'    change(message, "{mark}")')
    done = cli("run-once", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert (told["sent"], told["escalated"]) == (4, 0)
    assert {row["sent_at"] for row in desk.application.rows().values()} == {"2026-01-02 03:04:05"}
    assert desk.application.rows("retrycli_queue") == {}


@pytest.mark.parametrize(("then", "sent", "lines"), [("", 4, 0), ("; raise retrycli.Transient('busy')", 0, 4)])
def test_a_row_that_the_function_deletes_is_sent_if_the_function_succeeds(
    cli: Cli, desk: Desk, then: str, sent: int, lines: int
) -> None:
    desk.application.add_due(4)
    code = MARKS.format(path=str(desk.application.path))
    desk.write(f"{code}    change(message, 'DELETE FROM pending_messages'){then}")
    done = cli("run-once", "--json")
    assert (json.loads(done.stdout)["sent"], len(done.stderr.splitlines())) == (sent, lines)
    assert (desk.application.rows("pending_messages"), desk.application.rows("retrycli_queue")) == ({}, {})


def test_a_count_that_the_function_changes_in_its_row_stands(cli: Cli, desk: Desk) -> None:
    desk.application.add_due(2)
    code = MARKS.format(path=str(desk.application.path))
    count = "UPDATE pending_messages SET retry_count = retry_count + 1"
    desk.write(f"{code}    change(message, '{count}')\n    raise retrycli.Transient('busy')")
    assert cli("run-once").returncode == 0
    rows = desk.application.rows().values()
    found = {(row["status"], row["retry_count"], "busy" in str(row["last_error"])) for row in rows}
    assert found == {("failed", 1, True)}


@pytest.mark.parametrize("when", ["at the import", "in the first call"])
def test_the_logging_of_the_application_silences_no_escalation(cli: Cli, desk: Desk, when: str) -> None:
    """`django.setup` configures logging, which by default disables the loggers of all others."""
    configure = "import logging.config; logging.config.dictConfig({'version': 1})"
    start, inside = (f"{configure}\n", "") if when == "at the import" else ("", f"    {configure}\n")
    desk.write(f"{start}{SEND}{inside}    raise retrycli.Permanent('closed')")
    desk.application.add(101)
    done = cli("run-once")
    assert done.returncode == 0
    assert "Message 101 needs an operator" in done.stderr


def test_an_exception_without_a_usable_outcome_ends_one_attempt(cli: Cli, desk: Desk) -> None:
    """Its text may quote the message, so nothing may print it."""
    odd = """
class Busy(retrycli.RetryAfter):
    def __init__(self, text):
        self.args = (text,)
class Odd(retrycli.Transient):
    outcome = property(lambda self: 1 / 0)
"""
    desk.write(f"{odd}{SEND}    raise (Busy if message.id == 101 else Odd)('Dear Anna')")
    desk.application.add(101)
    desk.application.add(102)
    assert cli("run-once").stderr == ""
    outcomes = {row["message_id"]: row["outcome"] for row in desk.application.rows("retrycli_attempts").values()}
    assert outcomes[101] == "throttled"
    done = cli("run-once")
    assert "Dear Anna" not in done.stderr
    rows = desk.application.rows("retrycli_attempts").values()
    assert {row["error"] for row in rows if row["message_id"] == 102} == {f"{NAME} raised ZeroDivisionError"}


def test_unauthorized_stops_the_pass_and_its_text_is_not_logged(cli: Cli, desk: Desk) -> None:
    desk.write(SEND + "    raise retrycli.Unauthorized('token hush-hush')")
    desk.application.add_due(3)
    done = cli("run-once")
    assert done.returncode == 77
    assert f"refuses the credentials ({PLACE}: the function raised Unauthorized)" in done.stderr
    assert "hush-hush" not in done.stderr
    assert len(desk.sent) == 1
    assert desk.application.row(101)["retry_count"] == 0
    assert [refusal["destination"] for refusal in cli.json("status")["refusals"]] == [PLACE]


def test_failures_of_several_tickets_open_the_breaker_and_a_delivery_closes_it(cli: Cli, desk: Desk) -> None:
    desk.write(SEND + "    raise retrycli.Transient('the desk is down')")
    desk.application.add_due(9)
    assert cli.json("run-once", code=69)["reason"] == "breaker_open"
    assert len(desk.sent) == 5
    assert PLACE in cli("status").stdout
    assert f"no delivery to {PLACE} has succeeded since" in cli("doctor").stdout
    assert "failed 5 times in a row" in cli("explain", "109").stdout
    desk.write()
    assert cli.json("run-once", "--probe")["sent"] == 4


# -- time, signals and the end of the process -------------------------------------------------------------------------

BLOCKED = {
    "a blocked loop": "async def send(message):\n    note(message)\n    threading.Event().wait()",
    "a thread pool": "async def send(message):\n    note(message)\n    await asyncio.to_thread(threading.Event().wait)",
    "a thread that is no daemon": "def send(message):\n    note(message)\n"
    "    thread = threading.Thread(target=threading.Event().wait)\n    thread.start()\n    thread.join()",
}


@pytest.mark.parametrize("code", BLOCKED.values(), ids=BLOCKED)
def test_a_function_that_never_returns_holds_up_neither_the_pass_nor_its_process(
    cli: Cli, desk: Desk, code: str
) -> None:
    desk.write(code, gateway="request_timeout_seconds = 0.3")
    desk.application.add(101)
    done = cli.real()("run-once")
    assert (done.returncode, done.stderr) == (0, "")
    [attempt] = desk.application.rows("retrycli_attempts").values()
    assert (attempt["outcome"], attempt["error"]) == ("unknown", f"{NAME} did not return within 0.3 s")


@on_both
def test_a_success_after_the_time_limit_is_recorded_and_the_message_is_not_sent_again(cli: Cli, desk: Desk) -> None:
    recorded = (
        "from sqlalchemy import create_engine, text\n"
        f"database = create_engine({desk.application.url!r})\n"
        "def recorded():\n"
        "    with database.connect() as connection:\n"
        "        return connection.scalar(text('SELECT outcome FROM retrycli_attempts')) == 'unknown'\n"
    )
    desk.write(
        recorded + SEND + "    while not recorded(): time.sleep(0.01)\n    return 'late'",
        gateway="request_timeout_seconds = 1\nunknown_limit = 0",
    )
    desk.application.add(101)
    done = cli.real()("run-once", "--json")
    assert (done.returncode, json.loads(done.stdout)["sent"]) == (0, 1), done.stderr
    assert cli.json("run-once")["sent"] == 0
    attempts = desk.application.rows("retrycli_attempts").values()
    assert [(each["outcome"], each["external_id"]) for each in attempts] == [("unknown", None), ("delivered", "late")]
    assert (len(desk.sent), desk.application.row(101)["status"], desk.application.rows("retrycli_queue")) == (
        1,
        "sent",
        {},
    )


def test_sigterm_waits_for_the_function_and_records_its_message(cli: Cli, desk: Desk) -> None:
    desk.write("def send(message):\n    hold(message)")
    desk.application.add_due(2)
    with cli.start("run-once") as process:
        wait_until(lambda: bool(desk.sent), process)
        process.send_signal(signal.SIGTERM)
        desk.open()
        process.communicate(timeout=LONGEST)
    assert process.returncode == 143
    assert [desk.application.row(number)["status"] for number in (101, 102)] == ["sent", "failed"]
    assert len(desk.sent) == 1


def test_a_second_signal_ends_a_pass_whose_function_is_blocked(cli: Cli, desk: Desk) -> None:
    desk.write("def send(message):\n    note(message)\n    threading.Event().wait()")
    desk.application.add(101)
    with cli.start("run-once") as process:
        wait_until(lambda: bool(desk.sent), process)
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 143


# -- checks --------------------------------------------------------------------------------------------------------

WRONG = {
    "import sys; sys.exit(3)": "gateway.call: importing desk.messages raised SystemExit",
    "import desk_client": "gateway.call: importing desk.messages raised ModuleNotFoundError (no module desk_client)",
    "def send(): pass": f"gateway.call: {NAME} has the wrong signature; let it take message, by position",
}
"""Code, and the error about it. `tests/unit/system/test_python_call.py` has the other errors."""


@pytest.mark.parametrize(("code", "said"), WRONG.items())
def test_a_function_that_can_not_be_called_is_one_clear_line(cli: Cli, desk: Desk, code: str, said: str) -> None:
    desk.write(code)
    desk.application.add(101)
    for command in (("config", "check"), ("run-once",), ("retry", "101")):
        done = cli(*command)
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert done.stderr.startswith(f"retrycli: {said}")
    finding = next(each for each in cli.json("doctor", code=3)["findings"] if each["name"] == "function")
    assert (finding["level"], finding["found"].startswith(said.partition(";")[0])) == ("failure", True)
    assert desk.application.state(101) == "waiting"


def test_an_idle_pass_does_not_import_the_application(cli: Cli, desk: Desk) -> None:
    desk.write("(HERE / 'imported').touch()\n" + SEND)
    assert cli("run-once").returncode == cli("status").returncode == cli("list-failed").returncode == 0
    assert not (desk.folder / "imported").exists()


@pytest.mark.parametrize("name", ["desk/messages.py", "desk", "."])
def test_code_that_others_can_change_is_reported_and_not_imported(cli: Cli, desk: Desk, name: str) -> None:
    desk.application.add(101)
    desk.write("(HERE / 'imported').touch()\n" + SEND)
    place = desk.folder / name
    place.chmod(0o777)
    found = cli.json("doctor", "--config", desk.folder / "retrycli.toml", code=3)["findings"]
    shown = {(each["name"], each["level"]) for each in found if str(place.resolve()) in each["found"]}
    expected = {("settings", "failure")} if name == "." else {("files", "failure"), ("function", "failure")}
    assert expected <= shown
    passed = cli("run-once", "--config", desk.folder / "retrycli.toml")
    assert (passed.returncode, str(place.resolve()) in passed.stderr) == (78, True)
    assert not (desk.folder / "imported").exists()


# -- a function as the schedule ---------------------------------------------------------------------------------------

FAILING = "def send(message):\n    raise retrycli.Transient('busy')\n"
OWN_WAITS = 'backoff = "python"\ncall = "desk.messages:wait"'


@on_both
def test_a_function_decides_the_waits_of_a_type(cli: Cli, desk: Desk) -> None:
    desk.write(
        FAILING + "def wait(attempt, outcome):\n"
        "    assert outcome.kind == 'transient' and outcome.error == 'busy'\n"
        "    return timedelta(days=attempt)",
        more=f"[schedule.types.supplier]\n{OWN_WAITS}",
    )
    desk.application.add(101, message_type="supplier", retry_count=2)
    desk.application.add(102)
    assert cli.json("run-once")["rescheduled"] == 2
    waits = {each["id"]: each["next_attempt_at"] for each in cli.json("list-failed")["messages"]}
    assert waits[101] > waits[102]
    [days] = desk.application.asked("SELECT retry_count FROM pending_messages WHERE id = 101")
    assert days == (3,)


def test_none_escalates_and_says_who_decided(cli: Cli, desk: Desk) -> None:
    desk.write(FAILING + "def wait(attempt, outcome):\n    return None", schedule=OWN_WAITS)
    desk.application.add(101)
    done = cli("run-once")
    assert "Message 101 needs an operator (exhausted: desk.messages:wait ended the retries)" in done.stderr
    assert "METRIC: message_escalated ticket_id=4711 message_type=customer retry_count=1" in done.stderr
    [escalated] = cli.json("escalations")["escalations"]
    assert (escalated["reason"], escalated["last_error"]) == (
        "exhausted",
        "Retries ended by desk.messages:wait. Manual intervention required. Last error: busy",
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [("raise KeyError('hush-hush')", "raised KeyError"), ("return timedelta(-1)", "returned a negative wait")],
)
def test_a_schedule_that_fails_escalates_as_invalid_and_says_so_once(
    cli: Cli, desk: Desk, body: str, said: str
) -> None:
    """A schedule that can't be imported is found before anything is sent."""
    desk.write(schedule=OWN_WAITS)
    desk.application.add_due(2)
    for command in ("config check", "run-once"):
        done = cli(*command.split())
        assert done.returncode == 78
        assert done.stderr == "retrycli: schedule.call: desk.messages has no wait; write MODULE:FUNCTION\n"
    assert desk.sent == []
    desk.write(FAILING + f"def wait(attempt, outcome):\n    {body}", schedule=OWN_WAITS)
    done = cli.real()("run-once")
    assert done.returncode == 0
    assert done.stderr.count(f"schedule.call: desk.messages:wait {said}; messages whose waits it decides") == 1
    assert "hush" not in done.stderr
    assert [each["reason"] for each in cli.json("escalations")["escalations"]] == ["invalid"] * 2
