"""The help of all commands, and errors about wrong usage."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from retrycli.cli import EXAMPLES, app
from tests.cli.command import COLUMNS, Cli

COMMANDS = ("", *EXAMPLES)
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


def test_the_help_of_each_command_fits_a_terminal(tmp_path: Path) -> None:
    helps = Cli(tmp_path).show_all(piped=[f"{command} -h" for command in COMMANDS]).piped
    assert {line: done.returncode for line, done in helps.items() if done.returncode or done.stderr} == {}
    widths = {line: max(map(len, done.stdout.splitlines())) for line, done in helps.items()}
    assert {line: width for line, width in widths.items() if width > COLUMNS} == {}


def test_the_help_of_no_command_loads_database_or_network(tmp_path: Path) -> None:
    """All commands run in one process, so an import by one command appears in the lines of all later commands."""
    done = replace(Cli(tmp_path), program=(sys.executable, "-c"))(IMPORTED, *COMMANDS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str([command]) for command in COMMANDS]


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


WRONG = {
    "": "Core commands:",
    "pause --reason caf\udce9": "Invalid value for '--reason': the value is not valid UTF-8",
    "init --database-url sqlite:///caf\udce9": "Invalid value for '--database-url': the value is not valid UTF-8",
    "deliver-test --ticket 1 --cc a@b.example --cc caf\udce9": "Invalid value for '--cc': the value is not valid UTF-8",
}
"""Errors that `test_golden.py` can't record, and errors of commands that it leaves out."""


def test_wrong_usage_ends_with_2_and_names_the_error(tmp_path: Path) -> None:
    done = Cli(tmp_path).show_all(piped=WRONG).piped
    assert {line: each.returncode for line, each in done.items() if each.returncode != 2 or each.stdout} == {}
    assert {line: done[line].stderr for line, said in WRONG.items() if said not in done[line].stderr} == {}
