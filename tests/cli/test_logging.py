"""Output on stderr: the log as text or JSON, tracebacks on request, and never a secret."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
from typing import TYPE_CHECKING

import pytest

from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.users import OURS, need_root

if TYPE_CHECKING:
    from pathlib import Path

    from retrycli.operations.sandbox import Answer, Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

API = "http://127.0.0.1:9"


def test_the_log_has_the_documented_lines(at_work: Cli, application: Application) -> None:
    application.fill()
    done = at_work("--log-level", "info", "run-once")
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ INFO ", line) for line in lines)
    assert [line.partition(" INFO ")[2] for line in lines[:2]] == [
        "Message retry pass started",
        "Found 3 failed messages to retry",
    ]
    assert [f"Message {message_id} sent successfully on retry" in done.stderr for message_id in (5, 6, 7, 8)] == [
        True
    ] * 3 + [False]


def test_the_json_log_has_one_object_per_line_with_the_events_fields(cli: Cli, application: Application) -> None:
    application.add_due(3)
    with Scripted(TAKES, REJECTS, BUSY) as api:
        env = application.variables(api.url) | {"RETRYCLI_LOGGING__FORMAT": "json", "RETRYCLI_LOGGING__LEVEL": "INFO"}
        done = cli("run-once", env=env)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(list(entry)[:3] == ["time", "level", "event"] and list(entry)[-1] == "message" for entry in lines)
    by_event = {entry["event"]: entry for entry in lines}
    assert by_event["PassStarted"]["due"] == 3
    assert by_event["MessageDelivered"]["message_id"] == 101
    assert by_event["MessageRescheduled"]["status_code"] == 503
    assert re.fullmatch(r"[-0-9]{10}T[0-9:]{8}Z", by_event["MessageRescheduled"]["next_attempt_at"])
    assert {entry["reason"] for entry in lines if entry["event"] == "MessageEscalated"} == {"permanent"}


LETTERS = "abcdefghijklmnopqrstuvwxyz"
METRIC = "METRIC: message_escalated "


def escalate_at_the_next_pass(application: Application, messages: int, causes: int) -> None:
    """Add messages whose retries are used up, with this number of different errors."""
    errors = [f"HTTP 503: {LETTERS[cause // 26]}{LETTERS[cause % 26]}" for cause in range(causes)]
    application.add_due(messages)
    for number, error in enumerate(errors):
        change = "UPDATE pending_messages SET retry_count = 10, last_error = ? WHERE id % ? = ?"
        application.execute(change, error, causes, number)


def counted(stderr: str) -> list[int]:
    """Return the message counts from the lines that summarise a cause."""
    counts = re.findall(r"WARNING (?:Messages with .*\(messages: )?([\d,]+)(?: messages with|, causes: )", stderr)
    return [int(count.replace(",", "")) for count in counts]


def test_cron_mails_three_messages_per_cause_and_their_count(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    escalate_at_the_next_pass(application, 400, causes=1)
    file = tmp_path / "retrycli.log"
    done = at_work("run-once", env={"RETRYCLI_LOGGING__FILE": str(file)})
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 7
    assert done.stderr.count(METRIC) == 3
    last = done.stderr.splitlines()[-1]
    found = re.search(r"400 messages with the same cause .* `retrycli (list-failed --fingerprint \w+)`$", last)
    assert found is not None, last
    assert len(at_work(*found[1].split()).stdout.splitlines()) == 400
    assert file.read_text().count(METRIC) == 400


def test_the_count_line_of_a_cause_has_the_status_and_not_the_answers_text(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    """The answer's text may name a customer."""
    application.add_due(6)
    file = tmp_path / "retrycli.log"
    with Scripted((422, {"messages": ["no such user Anna"]})) as api:
        done = cli("run-once", env=application.variables(api.url) | {"RETRYCLI_LOGGING__FILE": str(file)})
    assert "6 messages with the same cause need an operator (permanent: status 422); see `retrycli " in done.stderr
    assert "Anna" not in done.stderr + file.read_text()


def test_names_errors_in_rows_without_the_applications_texts(at_work: Cli, application: Application) -> None:
    application.add_due(10)
    application.execute("UPDATE pending_messages SET message_type = 'fax' WHERE id <= 105")
    application.execute("UPDATE pending_messages SET retry_count = 10, last_error = 'a customer''s' WHERE id > 105")
    said = at_work("run-once").stderr
    assert "5 messages with the same cause need an operator (invalid: " in said, said
    assert "5 messages with the same cause need an operator (exhausted); see" in said, said
    assert "a customer's" not in said


def test_cron_mails_at_most_130_lines_and_a_count_per_cause(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    escalate_at_the_next_pass(application, 1200, causes=30)
    file = tmp_path / "retrycli.log"
    done = at_work("run-once", env={"RETRYCLI_LOGGING__FILE": str(file)})
    assert len(done.stderr.splitlines()) <= 130
    assert counted(done.stderr) == [40] * 30
    assert file.read_text().count(METRIC) == 1200


def test_many_causes_are_summarised_together(at_work: Cli, application: Application) -> None:
    escalate_at_the_next_pass(application, 400, causes=100)
    done = at_work("run-once")
    assert len(done.stderr.splitlines()) <= 130
    assert sum(counted(done.stderr)) == 400


def test_a_terminal_shows_each_escalation(at_work: Cli, application: Application) -> None:
    escalate_at_the_next_pass(application, 20, causes=1)
    assert at_work.on_terminal("run-once").text.count(METRIC) == 20


def test_the_log_file_has_every_line_of_each_pass(at_work: Cli, application: Application, tmp_path: Path) -> None:
    file = tmp_path / "retrycli.log"
    logging = at_work.having({"RETRYCLI_LOGGING__FILE": str(file)})
    assert logging("status").returncode == 0
    assert not file.exists(), "it has logged nothing"
    application.fill()
    first, second = logging("run-once"), logging("run-once")
    assert (first.stderr, second.stderr) == ("", "")
    lines = file.read_text().splitlines()
    assert sum("Message retry pass started" in line for line in lines) == 2
    assert sum("sent successfully" in line for line in lines) == 3
    assert stat.S_IMODE(file.stat().st_mode) & 0o137 == 0, "what is logged is not for everybody"


def test_a_log_file_created_by_root_belongs_to_its_directorys_owner(
    at_work: Cli, application: Application, tmp_path: Path
) -> None:
    need_root()
    folder = tmp_path / "logs"
    folder.mkdir()
    os.chown(folder, OURS, OURS)
    application.fill()
    assert at_work("run-once", env={"RETRYCLI_LOGGING__FILE": str(folder / "retrycli.log")}).returncode == 0
    found = (folder / "retrycli.log").stat()
    assert (found.st_uid, found.st_gid) == (OURS, OURS)


def test_refuses_a_log_file_that_another_user_may_have_linked(
    at_work: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    """In a shared folder another user could link the log to any file, and a pass run by root would append to it."""
    folder, target = tmp_path / "logs", tmp_path / "target"
    folder.mkdir()
    target.touch()
    (folder / "retrycli.log").hardlink_to(target)
    logging = at_work.having({"RETRYCLI_LOGGING__FILE": str(folder / "retrycli.log")})
    assert logging("run-once").stderr == ""
    assert (size := target.stat().st_size) > 0
    folder.chmod(0o777)
    application.fill()
    done = logging("run-once")
    why = "it has more than one hard link, and other users can create files in its folder. Fix the cause"
    assert f"The log file is not being written: {folder}/retrycli.log: {why}" in done.stderr
    assert (done.returncode, target.stat().st_size, len(sandbox.received)) == (0, size, 3)


def test_refuses_a_log_file_that_another_user_has_put_there(
    at_work: Cli, application: Application, sandbox: Sandbox, tmp_path: Path
) -> None:
    need_root()
    application.fill()
    folder = tmp_path / "logs"
    folder.mkdir()
    folder.chmod(0o1777)
    (folder / "retrycli.log").touch()
    os.chown(folder / "retrycli.log", OURS, OURS)
    done = at_work.having({"RETRYCLI_LOGGING__FILE": str(folder / "retrycli.log")})("run-once")
    assert f"{folder}/retrycli.log: it belongs to another user" in done.stderr
    assert (done.returncode, (folder / "retrycli.log").read_text(), len(sandbox.received)) == (0, "", 3)


UNWRITABLE = {
    "folder": "Is a directory",
    "link": "Too many levels of symbolic links",
    "fifo": "No such device or address",
    "missing/file": "No such file or directory",
    "/dev/null": "not a regular file",
    "a\0b": "embedded null byte",
}


@pytest.mark.parametrize(("name", "why"), UNWRITABLE.items())
def test_an_unwritable_log_file_is_a_warning_and_messages_are_sent(
    at_work: Cli, application: Application, sandbox: Sandbox, tmp_path: Path, name: str, why: str
) -> None:
    file, target = tmp_path / name, tmp_path / "target"
    if name == "folder":
        file.mkdir()
    elif name == "link":
        file.symlink_to(target)
    elif name == "fifo":
        os.mkfifo(file)
    (at_work.cwd / "retrycli.toml").write_text(f"[logging]\nfile = {json.dumps(str(file))}\n")
    application.fill()
    first, second = at_work("run-once"), at_work("run-once")
    assert (first.returncode, second.returncode, second.stderr) == (0, 0, "")
    [line] = first.stderr.splitlines()
    assert line.endswith(
        f" WARNING The log file is not being written: {file}: {why}. "
        "Fix the cause, or set logging.file to another file".replace("\0", r"\x00")
    )
    assert len(sandbox.received) == 3
    assert not target.exists()
    assert (
        "The log file is being written again" in at_work("run-once", env={"RETRYCLI_LOGGING__FILE": str(target)}).stderr
    )


def test_cron_mails_a_gap_between_passes(at_work: Cli, application: Application) -> None:
    by_cron = ("run-once", "--started-by", "cron")
    assert at_work(*by_cron).stderr == ""
    application.execute("UPDATE retrycli_passes SET started_at = '2025-01-01', heartbeat_at = '2025-01-01'")
    assert "WARNING No pass was recorded between 2025-01-01 00:00 UTC and " in at_work(*by_cron).stderr
    assert at_work(*by_cron).stderr == ""


def test_the_log_file_has_the_error_of_a_pass_that_could_not_begin(at_work: Cli, tmp_path: Path) -> None:
    file = tmp_path / "retrycli.log"
    missing = {"RETRYCLI_DATABASE__URL": f"sqlite:///{tmp_path}/none/x.db", "RETRYCLI_LOGGING__FILE": str(file)}
    done = at_work("run-once", env=missing)
    assert done.returncode == 69
    [line] = file.read_text().splitlines()
    assert line.partition(" ERROR Message retry pass failed: ")[2] == done.stderr.strip().removeprefix("retrycli: ")


def test_debug_shows_the_traceback_of_an_error_before_its_line(cli: Cli) -> None:
    commands = ["--config no.toml status", "--debug --config no.toml status"]
    plain, debug = cli.show_all(piped=commands).piped.values()
    assert (plain.returncode, debug.returncode) == (78, 78)
    assert "Traceback" not in plain.stderr
    assert debug.stderr.startswith("Traceback (most recent call last):\n")
    assert debug.stderr.endswith(plain.stderr)


def test_an_internal_error_is_one_line_without_quotations(cli: Cli, application: Application) -> None:
    """An invalid value in retrycli's own tables causes the error, and the line must not quote it."""
    application.execute("INSERT INTO retrycli_pause VALUES ('a private time', NULL, 'anna', NULL)")
    done = cli("status", env=application.variables(API))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "retrycli: internal error: ValueError. Run again with --debug before the command to show the traceback\n"
    )


def test_a_pass_with_closed_outputs_still_delivers(cli: Cli, application: Application, sandbox: Sandbox) -> None:
    """Crontabs may close stdout and stderr to avoid mail."""
    application.add(101)
    closed = cli.under("/bin/sh", "-c", 'exec "$@" >&- 2>&-', "sh").having(application.variables(sandbox.url))
    assert closed("run-once").returncode == 0
    assert len(sandbox.received) == 1


def test_unwritable_output_is_not_an_internal_error(cli: Cli, application: Application) -> None:
    """A small output fails only when it is flushed, and a large one at a write."""
    application.add_due(100)
    env = application.variables(API)
    full = cli.under("/bin/sh", "-c", 'exec "$@" >/dev/full', "sh").having(env)
    for arguments in (["version"], ["status"], ["list-failed", "--json"]):
        done = full(*arguments)
        assert (done.returncode, done.stderr) == (1, "retrycli: can't write the output: No space left on device\n")


@pytest.mark.long_except(
    "test_unreportable_errors_do_not_change_the_exit_code[/dev/full---config no.toml status-78]",
    "test_unreportable_errors_do_not_change_the_exit_code[/dev/full-deliver-2]",
    "test_unreportable_errors_do_not_change_the_exit_code[&---config no.toml status-78]",
)
@pytest.mark.parametrize(("arguments", "code"), [("--config no.toml status", 78), ("deliver", 2), ("version", 0)])
@pytest.mark.parametrize("stderr", ["/dev/full", "&-"])
def test_unreportable_errors_do_not_change_the_exit_code(cli: Cli, arguments: str, code: int, stderr: str) -> None:
    assert cli.under("/bin/sh", "-c", f'exec "$@" 2>{stderr}', "sh")(*arguments.split()).returncode == code


@pytest.mark.long_except("test_writes_to_a_closed_stream_are_discarded[<&- >&- 2>&-]")
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_writes_to_a_closed_stream_are_discarded(
    cli: Cli, application: Application, sandbox: Sandbox, closed: str
) -> None:
    """Otherwise the next file would open under the number of a closed stream, and receive its output."""
    application.add(101)
    into = cli.under("/bin/sh", "-c", f'exec "$@" {closed}', "sh").having(application.variables(sandbox.url))
    assert into("version").returncode == 0
    assert into("--log-level", "info", "run-once", "--json").returncode == 0
    assert into("report", "--html", "page.html").returncode == 0
    assert (cli.cwd / "page.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert len(sandbox.received) == 1


@pytest.mark.parametrize("arguments", ["version", "db prune --older-than 90d", "edit 101 --body-file - --yes"])
def test_a_closed_stdin_reads_as_empty(cli: Cli, application: Application, arguments: str) -> None:
    application.add(101)
    env = application.variables(API)
    closed = cli.under("/bin/sh", "-c", 'exec "$@" <&-', "sh").having(env)(*arguments.split())
    empty = cli.having(env)(*arguments.split())
    assert (closed.returncode, closed.stdout, closed.stderr) == (empty.returncode, empty.stdout, empty.stderr)


# -- secrets ---------------------------------------------------------------------------------------------------------

TOKEN, PASSWORD = "tok-hush-1", "pass-hush-2"
BASIC = base64.b64encode(f"anna:{PASSWORD}".encode()).decode()
BEARER = {"RETRYCLI_GATEWAY__AUTH": "bearer", "RETRYCLI_GATEWAY__TOKEN": TOKEN}
LOOKING = ("status", "list-failed", "show 101", "passes", "config show --json", "config check")


def echo(status: int, *secrets: str) -> Answer:
    """Return an answer that quotes these secrets, like an API that echoes its requests."""
    return status, {"messages": [f"you sent {' and '.join(secrets)}"]}


@pytest.mark.parametrize(
    ("auth", "answers"),
    [
        (BEARER, [echo(422, TOKEN)]),
        (
            {"RETRYCLI_GATEWAY__AUTH": "login", "RETRYCLI_GATEWAY__USERNAME": "anna"},
            [(200, {"access_token": TOKEN}), echo(503, TOKEN, PASSWORD)],
        ),
        ({"RETRYCLI_GATEWAY__AUTH": "basic", "RETRYCLI_GATEWAY__USERNAME": "anna"}, [echo(401, PASSWORD, BASIC)]),
    ],
    ids=["bearer", "login", "basic"],
)
def test_a_secret_echoed_by_the_server_is_neither_logged_nor_stored(
    cli: Cli, application: Application, auth: dict[str, str], answers: list[Answer]
) -> None:
    """Tracebacks and debug logging are the most likely to leak a secret."""
    application.add(101)
    (cli.cwd / "password").write_text(f"{PASSWORD}\n")
    password = {} if auth is BEARER else {"RETRYCLI_GATEWAY__PASSWORD_FILE": "password"}
    with Scripted(*answers) as api:
        talkative = cli.having(application.variables(api.url) | auth | password)
        done = talkative("--debug", "--log-level", "debug", "run-once", "--json")
    shown = done.stdout + done.stderr + "\n".join(application.dump())
    assert "you sent" in shown
    assert not any(secret in shown for secret in (TOKEN, PASSWORD, BASIC))


def test_no_command_shows_a_secret(cli: Cli, application: Application) -> None:
    application.add(101)
    with Scripted(echo(422, TOKEN)) as api:
        known = cli.having(application.variables(api.url) | BEARER)
        assert known("run-once").returncode == 0
    done = known.show_all(piped=LOOKING).piped.values()
    assert [result.returncode for result in done] == [0] * len(LOOKING)
    assert not any(TOKEN in result.stdout + result.stderr for result in done)


def test_an_error_about_a_setting_does_not_quote_the_secret_in_it(cli: Cli, application: Application) -> None:
    application.add(101)
    known = cli.having(application.variables(API))
    wrong = (
        {"RETRYCLI_DATABASE__URL": f"postgresql://anna:{PASSWORD}@127.0.0.1:9/desk"},
        {"RETRYCLI_DATABASE__URL": f"mysql://anna:{PASSWORD}@127.0.0.1:9/desk"},
        {"TICKETING_API_BASE_URL": f"https://anna:{PASSWORD}@127.0.0.1"},
        {"RETRYCLI_GATEWAY__AUTH": "bearer", "RETRYCLI_GATEWAY__TOKEN": f"{TOKEN} {PASSWORD}"},
    )
    for env in wrong:
        done = known("--debug", "run-once", env=env)
        assert done.returncode in {69, 78}
        assert done.stderr
        assert PASSWORD not in done.stdout + done.stderr
