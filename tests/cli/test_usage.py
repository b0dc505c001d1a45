"""The help of all commands, and errors about wrong usage."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from typer.main import get_command

from retrycli.cli import EXAMPLES, app
from tests.cli.command import COLUMNS, Cli

if TYPE_CHECKING:
    from tests.cli.command import Finished

COMMANDS = (
    "",
    "run-once",
    "passes",
    "pause",
    "resume",
    "status",
    "list-failed",
    "escalations",
    "show",
    "explain",
    "stats",
    "simulate",
    "report",
    "retry",
    "requeue",
    "reject",
    "look-up",
    "mark-sent",
    "edit",
    "escalations ack",
    "escalations note",
    "notify",
    "notify test",
    "init",
    "version",
    "config",
    "config show",
    "config check",
    "table",
    "table discover",
    "table accept",
    "db",
    "db upgrade",
    "db downgrade",
    "db prune",
    "db erase",
    "db copy",
    "db index",
    "doctor",
    "cron",
    "cron print",
    "cron install",
    "cron check",
    "cron remove",
    "metrics",
    "presets",
    "presets show",
    "presets check",
    "deliver-test",
    "serve",
    "serve token",
    "serve token add",
    "serve token list",
    "serve token remove",
    "sandbox",
    "demo",
    "manual",
)
GROUPS = ("db", "table", "cron", "notify", "presets", "config", "escalations", "serve", "serve token")
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of all errors about wrong arguments."""
HEAVY = {"sqlalchemy", "alembic", "sqlite3", "httpx", "aiohttp", "tenacity", "rich.table"}
IMPORTED = f"""
import io, sys
from contextlib import redirect_stdout
from retrycli.cli import app
for command in sys.argv[1:]:
    with redirect_stdout(io.StringIO()):
        try:
            app([*command.split(), "-h"])
        except SystemExit as end:
            assert end.code == 0
    print([command, *sorted({HEAVY} & sys.modules.keys())])
"""


@pytest.fixture(scope="module")
def helps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Finished]:
    """Return the help of each command, run once for all tests."""
    shown = Cli(tmp_path_factory.mktemp("help")).show_all(piped=[f"{command} -h" for command in COMMANDS])
    return {command: shown.piped[f"{command} -h"] for command in COMMANDS}


def test_the_help_of_each_command_fits_a_terminal(helps: dict[str, Finished]) -> None:
    assert {command: done.returncode for command, done in helps.items() if done.returncode or done.stderr} == {}
    starts = {command: f"Usage: retrycli {command} ".replace("  ", " ") for command in COMMANDS}
    assert [command for command, done in helps.items() if not done.stdout.startswith(starts[command])] == []
    widths = {command: max(map(len, done.stdout.splitlines())) for command, done in helps.items()}
    assert {command: width for command, width in widths.items() if width > COLUMNS} == {}


def test_the_help_of_no_command_loads_database_or_network(tmp_path: Path) -> None:
    """All commands run in one process, so an import by one command appears in the lines of all later commands."""
    done = replace(Cli(tmp_path), program=(sys.executable, "-c"))(IMPORTED, *COMMANDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([command]) for command in COMMANDS]


def test_the_help_lists_every_command_with_a_whole_sentence(helps: dict[str, Finished]) -> None:
    told = dict(re.findall(r"^  ([a-z-]+)  +(\S.+)$", helps[""].stdout.partition("Core commands:")[2], re.MULTILINE))
    assert told.keys() == {command.split()[0] for command in COMMANDS if command}
    assert all(text.endswith(".") and not text.endswith("...") for text in told.values())


def test_the_help_of_a_group_truncates_no_sentence(helps: dict[str, Finished]) -> None:
    listed = {group: helps[group].stdout.partition("Commands:")[2] for group in GROUPS}
    assert [group for group, text in listed.items() if not text or "..." in text] == []


def test_the_help_of_presets_describes_its_default(helps: dict[str, Finished]) -> None:
    assert "Without a command, list the presets." in " ".join(helps["presets"].stdout.split())


def test_the_help_groups_the_commands(helps: dict[str, Finished]) -> None:
    titles = re.findall(r"^([A-Z][a-z ]+):$", helps[""].stdout, re.MULTILINE)
    assert titles == ["Options", "Core commands", "Messages", "Passes", "Setting up", "Trying out"]


def test_the_help_of_each_command_has_an_example(helps: dict[str, Finished]) -> None:
    example = re.compile(r"^  Example:\n    (retrycli .+)$", re.MULTILINE)
    found = {command: example.findall(helps[command].stdout) for command in COMMANDS if command}
    assert {command: lines for command, lines in found.items() if len(lines) != 1} == {}
    assert [command for command, [line] in found.items() if not line.startswith(f"retrycli {command}")] == []


def test_each_example_is_a_valid_command() -> None:
    wrong = {}
    for name, example in EXAMPLES.items():
        command: Any = get_command(app)  # typer does not export click's types
        words = shlex.split(example)[1:]
        while words and words[0] in getattr(command, "list_commands", lambda _: ())(None):
            command = command.get_command(None, words.pop(0))
        try:
            command.make_context(name, words)
        except USAGE_ERROR as error:
            wrong[name] = error
    assert wrong == {}


def test_an_option_prints_the_version_too(tmp_path: Path) -> None:
    cli = Cli(tmp_path)
    assert cli("--version").stdout == cli("version").stdout


WRONG = {
    "": "Core commands:",
    "deliver": "No such command 'deliver'",
    "status --fast": "No such option: --fast",
    "retry": "Invalid value for ID…: give the ids of the messages, or a filter such as --type",
    "requeue": "Invalid value for ID…: give the ids of the messages, or a filter such as --type",
    "requeue 5 --type customer": "Invalid value for ID…: give either ids or filters, not both",
    "reject 5": "Missing option '--reason'",
    "reject 5 --reason ' '": "Invalid value for --reason: the reason is empty",
    "reject --error '' --reason x --yes": "Invalid value for '--error': the value is empty; give a value",
    "requeue --fingerprint ' ' --yes": "Invalid value for '--fingerprint': the value is empty",
    "list-failed --ticket ''": "Invalid value for '--ticket': the value is empty",
    "escalations ack": "Invalid value for ID…: give the ids of the messages",
    f"retry 5 --by {'x' * 256}": "Invalid value for '--by': the name must have 1 to 255 printable characters",
    "retry 5 --by ' '": "Invalid value for '--by': the name must have 1 to 255 printable characters",
    "escalations note 5": "Missing argument 'TEXT'",
    "requeue 5 --at yesterday": "Invalid value for '--at': 'yesterday' is not a valid time",
    "requeue 5 --at 2001-01-01": "Invalid value for '--at': '2001-01-01' is in the past; give a later time",
    "requeue 5 --at 9999-12-31": "Invalid value for '--at': '9999-12-31' is too far in the future; give an earlier",
    "requeue 5 --spread all": "Invalid value for '--spread': 'all' is not a valid duration",
    "requeue 5 --canary 0": "Invalid value for '--canary'",
    "requeue 5 --abort-over 30%": "Invalid value for --abort-over: works only with --canary; add it",
    "requeue 5 --canary 1 --abort-over most": "Invalid value for --abort-over: 'most' is not a valid share",
    "passes --limit many": "Invalid value for '--limit': must be an integer\n",
    "run-once --wait-lock long": "Invalid value for '--wait-lock': must be a number\n",
    "passes --limit 0": "Invalid value for '--limit': must be at least 1\n",
    "list-failed --sort size": "'size' is not one of 'next', 'id', 'tries', 'age'",
    "deliver-test --ticket ' '": "Invalid value for --ticket: the ticket is empty",
    "run-once --limit 0": "Invalid value for '--limit'",
    "passes --limit 2147483649": "must be at most 2147483648",
    "list-failed --limit 2147483649": "must be at most 2147483648",
    "run-once --limit 2147483649": "must be at most 2147483648",
    "run-once --wait-lock -1": "Invalid value for '--wait-lock'",
    "list-failed --older-than 7": "Invalid value for '--older-than': '7' is not a valid duration",
    "db prune --older-than 90 --yes": "Invalid value for '--older-than': '90' is not a valid duration",
    "pause --for soon": "Invalid value for '--for': 'soon' is not a valid duration; write a number and a unit",
    "pause --for 0m": "Invalid value for --for: the pause would end immediately",
    "pause --reason caf\udce9": "Invalid value for '--reason': the value is not valid UTF-8",
    "init --database-url sqlite:///caf\udce9": "Invalid value for '--database-url': the value is not valid UTF-8",
    "init --base-url https://caf\udce9": "Invalid value for '--base-url': the value is not valid UTF-8",
    "deliver-test --ticket 1 --cc a@b.example --cc caf\udce9": "Invalid value for '--cc': the value is not valid UTF-8",
    "db copy --to sqlite:///caf\udce9": "Invalid value for '--to': the value is not valid UTF-8",
    "simulate --max-retries many": "Invalid value for '--max-retries': must be an integer\n",
    "simulate --since 0s": "Invalid value for '--since': the period is too short; give a longer one",
    "sandbox --fail 130%": "Invalid value for --fail: '130%' is not a valid share; write 0% to 100%",
    "sandbox --latency fast": "Invalid value for '--latency': 'fast' is not a valid duration",
    "--log-level loud status": "'loud' is not one of",
}


def test_wrong_usage_ends_with_2_and_names_the_error(tmp_path: Path) -> None:
    done = Cli(tmp_path).show_all(piped=WRONG).piped
    assert {line: each.returncode for line, each in done.items() if each.returncode != 2 or each.stdout} == {}
    assert {line: done[line].stderr for line, said in WRONG.items() if said not in done[line].stderr} == {}
