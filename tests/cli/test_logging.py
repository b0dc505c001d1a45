"""Output on stderr: the log as text or JSON, and tracebacks on request. `test_secrets.py` searches it for secrets."""

from __future__ import annotations

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

    from retrycli.operations.sandbox import Sandbox
    from tests.cli.application import Application
    from tests.cli.command import Cli

API = "http://127.0.0.1:9"


def test_the_json_log_has_one_object_per_line_with_the_events_fields(cli: Cli, application: Application) -> None:
    application.add_due(3)
    with Scripted(TAKES, REJECTS, BUSY) as api:
        env = application.variables(api.url) | {"RETRYCLI_LOGGING__FORMAT": "json", "RETRYCLI_LOGGING__LEVEL": "INFO"}
        done = cli("run-once", env=env)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all(list(entry)[:3] == ["time", "level", "event"] and list(entry)[-1] == "message" for entry in lines)
    by_event = {entry["event"]: entry for entry in lines}
    assert (by_event["PassStarted"]["due"], by_event["MessageDelivered"]["message_id"]) == (3, 101)
    assert by_event["MessageRescheduled"]["status_code"] == 503
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


def test_the_count_line_of_a_cause_has_no_text_of_an_answer_or_a_row(
    cli: Cli, application: Application, tmp_path: Path
) -> None:
    """These texts may name a customer."""
    application.add_due(16)
    application.execute("UPDATE pending_messages SET message_type = 'fax' WHERE id <= 105")
    exhausted = "retry_count = 10, last_error = 'a customer''s'"
    application.execute(f"UPDATE pending_messages SET {exhausted} WHERE id BETWEEN 106 AND 110")
    file = tmp_path / "retrycli.log"
    with Scripted((422, {"messages": ["no such user Anna"]})) as api:
        said = cli("run-once", env=application.variables(api.url) | {"RETRYCLI_LOGGING__FILE": str(file)}).stderr
    assert "5 messages with the same cause need an operator (invalid: " in said
    assert "5 messages with the same cause need an operator (exhausted); see" in said
    assert "6 messages with the same cause need an operator (permanent: status 422); see `retrycli " in said
    assert not re.search("Anna|a customer's", said + file.read_text())


@pytest.mark.parametrize(("messages", "causes"), [(600, 30), (400, 100)])
def test_cron_mails_at_most_130_lines_and_counts_all_messages(
    at_work: Cli, application: Application, messages: int, causes: int
) -> None:
    """Few causes have a line each, and many are summarised together."""
    escalate_at_the_next_pass(application, messages, causes)
    done = at_work("run-once")
    assert len(done.stderr.splitlines()) <= 130
    found = counted(done.stderr)
    assert (sum(found), len(found) < causes) == (messages, causes == 100)


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


def test_unwritable_output_is_not_an_internal_error(cli: Cli, application: Application) -> None:
    """A small output fails only when it is flushed, and a large one at a write."""
    application.add_due(100)
    env = application.variables(API)
    full = cli.under("/bin/sh", "-c", 'exec "$@" >/dev/full', "sh").having(env)
    for arguments in (["version"], ["status"], ["list-failed", "--json"]):
        done = full(*arguments)
        assert (done.returncode, done.stderr) == (1, "retrycli: can't write the output: No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "stderr", "code"),
    [("--config no.toml status", "/dev/full", 78), ("deliver", "/dev/full", 2), ("--config no.toml status", "&-", 78)],
)
def test_unreportable_errors_do_not_change_the_exit_code(cli: Cli, arguments: str, stderr: str, code: int) -> None:
    assert cli.under("/bin/sh", "-c", f'exec "$@" 2>{stderr}', "sh")(*arguments.split()).returncode == code


def test_writes_to_a_closed_stream_are_discarded(cli: Cli, application: Application, sandbox: Sandbox) -> None:
    """Otherwise the next file would open under the number of a closed stream, and receive its output."""
    application.add(101)
    closed = cli.under("/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh").having(application.variables(sandbox.url))
    assert closed("version").returncode == 0
    assert closed("--log-level", "info", "run-once", "--json").returncode == 0
    assert closed("report", "--html", "page.html").returncode == 0
    assert (cli.cwd / "page.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert len(sandbox.received) == 1


@pytest.mark.parametrize("arguments", ["db prune --older-than 90d", "edit 101 --body-file - --yes"])
def test_a_closed_stdin_reads_as_empty(cli: Cli, application: Application, arguments: str) -> None:
    application.add(101)
    env = application.variables(API)
    closed = cli.under("/bin/sh", "-c", 'exec "$@" <&-', "sh").having(env)(*arguments.split())
    empty = cli.having(env)(*arguments.split())
    assert (closed.returncode, closed.stdout, closed.stderr) == (empty.returncode, empty.stdout, empty.stderr)
