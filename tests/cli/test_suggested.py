"""Commands that retrycli suggests work when they are pasted."""

from __future__ import annotations

import ast
import os
import pwd
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import retrycli
from retrycli.cli import HOMES
from tests.cli.command import BARE, SCRIPT, Cli, Finished
from tests.cli.schedulers import Crontab
from tests.users import OURS, need_root, wrapper

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application

ELSEWHERE = {"PATH": "/usr/bin:/bin"}
"""A search path without retrycli, as cron's and sudo's are."""
PACKAGE = Path(retrycli.__file__).parent
SUGGESTED = re.compile(r"(?<![\w/.`-])retrycli (?:" + "|".join(HOMES) + r")\b")


@pytest.fixture
def far(at_work: Cli, application: Application, tmp_path: Path) -> Cli:
    """The command in a folder that has the settings in another, in a file whose name has a blank."""
    there = tmp_path / "etc" / "the settings.toml"
    there.parent.mkdir()
    lines = [f'[database]\nurl = "{application.url}"', '[gateway]\nbase_url = "http://127.0.0.1:9"']
    there.write_text("\n".join(lines) + "\n")
    return Cli(tmp_path, {"FILE": str(there)})


def suggested(text: str, program: str) -> list[list[str]]:
    """The commands that a text suggests, as a shell takes them apart."""
    ends = re.findall(rf"(?:`|Next: )({re.escape(program)} [^`;,\n]*)", text)
    return [shlex.split(each) for each in ends]


def pasted(line: list[str], cli: Cli) -> Finished:
    """Run a suggested command in the shell that it was shown in."""
    command = ["/bin/sh", "-c", shlex.join(line)]
    return subprocess.run(
        command,
        cwd=cli.cwd,
        env={**BARE, **cli.env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_suggestion_has_the_configuration_file_that_was_given(far: Cli, application: Application) -> None:
    """Wherever it was given, and though its name has a blank."""
    application.fill()
    file = far.env["FILE"]
    for args in (["--config", file, "list-failed"], ["list-failed", "--config", file]):
        screen = far.on_terminal(*args)
        assert screen.returncode == 0, screen.text
        show, retry = suggested(screen.words, "retrycli")
        assert [each[:4] for each in (show, retry)] == [
            ["retrycli", "--config", file, "show"],
            ["retrycli", "--config", file, "retry"],
        ]
        assert pasted(show, far).returncode == 0


def test_a_suggestion_names_the_program_by_the_path_that_it_was_called_by(far: Cli, application: Application) -> None:
    """If a shell would not find it by its name."""
    application.fill()
    file = far.env["FILE"]
    link = far.cwd / "bin" / "retry it"
    link.parent.mkdir()
    link.symlink_to(SCRIPT[0])
    for program in (SCRIPT[0], str(link), "bin/retry it"):
        cli = replace(far.having(ELSEWHERE), program=(program,))
        screen = cli.on_terminal("status", "--config", file)
        [line] = suggested(screen.text.replace("\n", " "), shlex.quote(program))
        assert line[:3] == [program, "--config", file]
        assert pasted(line, cli).returncode == 0


def test_a_suggestion_names_the_module_that_was_called(far: Cli, application: Application) -> None:
    application.fill()
    start = [sys.executable, "-P", "-m", "retrycli"]
    cli = replace(far.having(ELSEWHERE), program=tuple(start))
    screen = cli.on_terminal("status", "--config", far.env["FILE"], columns=300)
    [line] = suggested(screen.text, shlex.join(start))
    assert pasted(line, cli).returncode == 0


def test_an_error_suggests_a_command_that_works(far: Cli) -> None:
    file = far.env["FILE"]
    cli = far.having(ELSEWHERE)
    done = cli("show", "4711", "--config", file)
    [line] = suggested(done.stderr, SCRIPT[0])
    assert line == [SCRIPT[0], "--config", file, "list-failed"]
    assert pasted(line, cli).returncode == 0


def test_the_steps_of_escalations_work_too(far: Cli, application: Application) -> None:
    application.add(101, message_type="carrier pigeon")
    far("run-once", "--config", far.env["FILE"])
    done = far("escalations", "--config", far.env["FILE"])
    step = next(each for each in done.stdout.split("\t") if each.startswith("retrycli "))
    assert shlex.split(step)[:3] == ["retrycli", "--config", far.env["FILE"]]
    assert pasted(shlex.split(step), far).returncode != 2


def test_what_cron_is_mailed_suggests_commands_that_work(far: Cli, application: Application) -> None:
    """The line of crontab names the interpreter, and so do they."""
    application.add(101, message_type="carrier pigeon")
    start = [sys.executable, "-P", "-m", "retrycli"]
    cli = replace(far.having(ELSEWHERE), program=tuple(start))
    done = cli("--config", far.env["FILE"], "run-once")
    [line] = suggested(done.stderr, shlex.join(start))
    assert line == [*start, "--config", far.env["FILE"], "show", "101"]
    assert pasted(line, cli).returncode == 0


@pytest.mark.parametrize(("wrong", "command"), [("run-once --nonsense", "run-once"), ("show abc", "show"), ("non", "")])
def test_an_error_of_usage_suggests_a_command_that_works(far: Cli, wrong: str, command: str) -> None:
    link = far.cwd / "bin" / "retry-it"
    link.parent.mkdir()
    link.symlink_to(SCRIPT[0])
    for program in ((SCRIPT[0],), (str(link),), (sys.executable, "-P", "-m", "retrycli")):
        cli = replace(far.having(ELSEWHERE), program=program)
        done = cli(*wrong.split())
        assert done.returncode == 2
        [line] = re.findall("^Try '(.*)' for help.$", done.stderr, re.MULTILINE)
        assert shlex.split(line) == [*program, *command.split(), "-h"]
        helped = pasted(shlex.split(line), cli)
        assert (helped.returncode, helped.stdout.split()[0]) == (0, "Usage:")
    assert "Try 'retrycli run-once -h' for help." in far("run-once", "--nonsense").stderr


def test_the_remedies_of_doctor_work_too(far: Cli) -> None:
    cli = far.having(ELSEWHERE)
    found = cli("doctor", "--json", "--config", far.env["FILE"]).stdout
    assert f"`{SCRIPT[0]} --config '{far.env['FILE']}' cron install`" in found
    assert "`retrycli" not in found


def test_another_users_commands_are_suggested_with_sudo(far: Cli) -> None:
    """As they were called: without it they would run as somebody else."""
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} status"}
    name = pwd.getpwuid(os.geteuid()).pw_name
    sudo = "sudo" if os.geteuid() == 0 else f"sudo -u {name}"
    screen = far.on_terminal("status", "--config", far.env["FILE"], columns=300)
    assert "Next: retrycli --config" in screen.text
    screen = far.having(as_svc).on_terminal("status", "--config", far.env["FILE"], columns=300)
    assert f"Next: {sudo} retrycli --config" in screen.text
    in_a_shell = {**as_svc, "SUDO_COMMAND": "/bin/bash"}
    screen = far.having(in_a_shell).on_terminal("status", "--config", far.env["FILE"], columns=300)
    assert "Next: retrycli --config" in screen.text


def test_a_command_for_root_has_the_programs_path_and_the_settings_and_sudo_once(far: Cli, tmp_path: Path) -> None:
    """Root's search path and home are others, and sudo's own user is not the one to become."""
    need_root()
    crontab = Crontab(tmp_path)
    crontab.program.write_text("#!/bin/sh\necho 'you are not allowed' >&2; exit 1\n")
    cli = far.under(*wrapper(OURS)).having(crontab.variables)
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} cron check"}
    file = far.env["FILE"]
    by_name = {"PATH": f"{Path(SCRIPT[0]).parent}:{crontab.variables['PATH']}"}
    for env in ({}, as_svc, {"RETRYCLI_CONFIG": file}, by_name):
        given = [] if "RETRYCLI_CONFIG" in env else ["--config", file]
        done = cli.having(env)("cron", "check", "--user", *given)
        [line] = re.findall("`(sudo [^`]*)`", done.stderr)
        assert shlex.split(line) == ["sudo", SCRIPT[0], "--config", file, "cron", "check"], done.stderr


def test_a_service_user_by_sudo_is_told_to_install_as_root_as_the_readme_says(far: Cli, tmp_path: Path) -> None:
    """The system's schedule is then removed as root too. Who came without sudo may have none."""
    need_root()
    cli = far.under(*wrapper(OURS)).having(Crontab(tmp_path).variables)
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} cron check"}
    file = far.env["FILE"]
    by_root = ["sudo", SCRIPT[0], "--config", file, "cron", "install"]
    for env, expected in ((as_svc, by_root), ({}, ["retrycli", "--config", file, "cron", "install"])):
        command = cli.having(env)
        [line] = re.findall("`([^`]*cron install)`", command("cron", "check", "--config", file).stderr)
        assert shlex.split(line) == expected
        [line] = re.findall("`([^`]*cron install)`", command("doctor", "--config", file).stdout)
        assert shlex.split(line) == expected
        line = command.on_terminal("status", "--config", file, columns=400).text.rpartition(", and then ")[2]
        assert shlex.split(line) == expected


def test_somebody_elses_words_are_left_as_they_are(far: Cli, application: Application) -> None:
    """An error that an API gave quotes a command of ours: it stays a quotation."""
    application.add(101, last_error="Next: retrycli status")
    shown = far.having(ELSEWHERE)("list-failed", "--config", far.env["FILE"]).stdout
    assert "Next: retrycli status" in shown


def strings(tree: ast.AST) -> Iterator[tuple[ast.Constant, str]]:
    """The texts of a module that are no docstrings."""
    alone = {id(each.value) for each in ast.walk(tree) if isinstance(each, ast.Expr)}
    for each in ast.walk(tree):
        if isinstance(each, ast.Constant) and isinstance(each.value, str) and id(each) not in alone:
            yield each, each.value


TOLD_ELSEWHERE = {"cronline.py", "units.py"}
"""What they write is the same whoever writes it: they know it again by that."""


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda each: str(each.relative_to(PACKAGE)))
def test_every_suggestion_is_one_that_is_rewritten(file: Path) -> None:
    """It stands in backticks, or where only our own words are: in `console.say`, or `suggested.own`."""
    tree = ast.parse(file.read_text())
    said = {
        id(text)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and getattr(call.func, "attr", getattr(call.func, "id", "")) in {"say", "own", "_next"}
        for text in ast.walk(call)
    }
    if file.parent.name == "cli" or file.name in TOLD_ELSEWHERE:
        return
    loose = [
        f"line {each.lineno}: {text}" for each, text in strings(tree) if id(each) not in said and SUGGESTED.search(text)
    ]
    assert not loose
