"""Commands that retrycli suggests work when they are pasted."""

from __future__ import annotations

import ast
import json
import os
import pwd
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command

import retrycli
from retrycli.cli import HOMES, app
from tests.cli.api import REJECTS, Scripted
from tests.cli.command import SCRIPT, Cli, Finished
from tests.cli.schedulers import Crontab
from tests.cli.test_table_check import made_with
from tests.environment import BARE
from tests.users import OURS, need_root, wrapper

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.cli.application import Application
    from tests.store.conftest import Factory

ELSEWHERE = {"PATH": "/usr/bin:/bin"}
"""A search path without retrycli, like those of cron and sudo."""
SUGGESTED = re.compile(r"(?<![\w/.`-])retrycli (?:" + "|".join(HOMES) + r")\b")
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""The base class of all errors about wrong arguments."""
built = cache(get_command)
SUGGESTED_ANYWHERE = re.compile(SUGGESTED.pattern.replace("`", ""))


@pytest.fixture
def far(at_work: Cli, application: Application, tmp_path: Path) -> Cli:
    """Provide the command outside its settings' folder; the file's name contains a space, which a shell must quote."""
    there = tmp_path / "etc" / "the settings.toml"
    there.parent.mkdir()
    lines = [f'[database]\nurl = "{application.url}"', '[gateway]\nbase_url = "http://127.0.0.1:9"']
    there.write_text("\n".join(lines) + "\n")
    return Cli(tmp_path, {"FILE": str(there)})


def suggested(text: str, program: str) -> list[list[str]]:
    """Return the commands that a text suggests, each split into words as a shell would."""
    ends = re.findall(rf"(?:`|Next: )({re.escape(program)} [^`;,\n]*)", text)
    return [shlex.split(end) for end in ends]


def pasted(line: list[str], cli: Cli) -> Finished:
    """Run a suggested command in a shell with the command's folder and variables."""
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


def test_a_suggestion_names_the_given_configuration_file(far: Cli, application: Application) -> None:
    """Otherwise the pasted command would use other settings. The file's name contains a space."""
    application.fill()
    file = far.env["FILE"]
    for args in (["--config", file, "list-failed"], ["list-failed", "--config", file]):
        screen = far.on_terminal(*args)
        assert screen.returncode == 0, screen.text
        show, retry = suggested(screen.words, "retrycli")
        assert [command[:4] for command in (show, retry)] == [
            ["retrycli", "--config", file, "show"],
            ["retrycli", "--config", file, "retry"],
        ]
        assert pasted(show, far).returncode == 0


def test_a_suggestion_names_the_program_by_the_path_of_its_call(far: Cli, application: Application) -> None:
    """A shell may not find the program by its name, as under cron or sudo."""
    application.fill()
    file = far.env["FILE"]
    link = far.cwd / "bin" / "retry it"
    link.parent.mkdir()
    link.symlink_to(SCRIPT[0])
    for program in (str(link), "bin/retry it"):
        cli = replace(far.having(ELSEWHERE), program=(program,))
        screen = cli.on_terminal("status", "--config", file)
        line, *_ = suggested(screen.text.replace("\n", " "), shlex.quote(program))
        assert line[:3] == [program, "--config", file]
        assert pasted(line, cli).returncode == 0


def test_cron_mails_suggest_commands_that_work(far: Cli, application: Application) -> None:
    """The crontab line names the interpreter, so the suggestions in its mail must name it too."""
    application.add(101, message_type="carrier pigeon")
    start = [sys.executable, "-P", "-m", "retrycli"]
    cli = replace(far.having(ELSEWHERE), program=tuple(start))
    done = cli("--config", far.env["FILE"], "run-once")
    [line] = suggested(done.stderr, shlex.join(start))
    assert line == [*start, "--config", far.env["FILE"], "show", "101"]
    assert pasted(line, cli).returncode == 0


@pytest.mark.parametrize(("wrong", "command"), [("show", "show"), ("non", "")])
def test_a_usage_error_suggests_a_command_that_works(far: Cli, wrong: str, command: str) -> None:
    for program in (SCRIPT, (sys.executable, "-P", "-m", "retrycli")):
        cli = replace(far.having(ELSEWHERE), program=program)
        done = cli(*wrong.split())
        assert done.returncode == 2
        [line] = re.findall("^Try '(.*)' for help.$", done.stderr, re.MULTILINE)
        assert shlex.split(line) == [*program, *command.split(), "-h"]
        helped = pasted(shlex.split(line), cli)
        assert (helped.returncode, helped.stdout.split()[0]) == (0, "Usage:")
    assert "Try 'retrycli run-once -h' for help." in far("run-once", "--nonsense").stderr


def test_commands_of_another_user_are_suggested_with_sudo(far: Cli) -> None:
    """Without sudo a pasted command would run as another user."""
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} status"}
    name = pwd.getpwuid(os.geteuid()).pw_name
    sudo = "sudo" if os.geteuid() == 0 else f"sudo -u {name}"
    for env, start in ((as_svc, f"{sudo} retrycli"), ({**as_svc, "SUDO_COMMAND": "/bin/bash"}, "retrycli")):
        screen = far.having(env).on_terminal("status", "--config", far.env["FILE"], columns=300)
        assert f"Next: `{start} --config" in screen.text


def test_a_command_for_root_has_the_programs_path_the_settings_and_one_sudo(far: Cli, tmp_path: Path) -> None:
    """Root has another search path and home. The usual prefix, `sudo -u USER`, would not run the command as root."""
    need_root()
    crontab = Crontab(tmp_path)
    cli = far.under(*wrapper(OURS)).having(crontab.variables)
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} cron check"}
    file = far.env["FILE"]
    by_name = {"PATH": f"{Path(SCRIPT[0]).parent}:{crontab.variables['PATH']}"}
    for env in ({}, as_svc, {"RETRYCLI_CONFIG": file}, by_name):
        given = [] if "RETRYCLI_CONFIG" in env else ["--config", file]
        done = cli.having(env)("cron", "check", *given)
        [line] = re.findall("`(sudo [^`]*)`", done.stderr)
        assert shlex.split(line) == ["sudo", SCRIPT[0], "--config", file, "cron", "install"], done.stderr


def test_a_service_user_under_sudo_is_told_to_install_as_root(far: Cli, tmp_path: Path) -> None:
    """A service user under sudo can install only the system's schedule. Other users can also install their own."""
    need_root()
    cli = far.under(*wrapper(OURS)).having(Crontab(tmp_path).variables)
    as_svc = {"SUDO_USER": "anna", "SUDO_UID": "4711", "SUDO_COMMAND": f"{SCRIPT[0]} cron check"}
    file = far.env["FILE"]
    by_root = ["sudo", SCRIPT[0], "--config", file, "cron", "install"]
    own = ["retrycli", "--config", file, "cron", "install", "--user"]
    for env, expected in ((as_svc, [by_root]), ({}, [by_root, own])):
        command = cli.having(env)
        for text in (
            command("cron", "check", "--config", file).stderr,
            command("doctor", "--config", file).stdout,
            command.on_terminal("status", "--config", file, columns=400).text.rpartition(", and then ")[2],
        ):
            assert [shlex.split(each) for each in re.findall("`([^`]*cron install[^`]*)`", text)] == expected


def test_texts_from_outside_are_left_unchanged(far: Cli, application: Application) -> None:
    """An error from the API may quote a command, and retrycli must not rewrite the quotation."""
    application.add(101, last_error="Next: retrycli status")
    shown = far.having(ELSEWHERE)("list-failed", "--config", far.env["FILE"]).stdout
    assert "Next: retrycli status" in shown


TOLD_ELSEWHERE = {"cron_line.py", "systemd.py"}
"""Modules whose texts must stay unchanged, because they recognise an installed schedule by its text."""
FILES = [file for file in sorted(Path(retrycli.__file__).parent.rglob("*.py")) if file.name not in TOLD_ELSEWHERE]


def texts(tree: ast.AST) -> Iterator[tuple[ast.Constant | ast.JoinedStr, str]]:
    """Yield the texts of a module except docstrings, with a 1 for each inserted value."""
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node, "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (alone | parts):
            yield node, node.value


def test_every_suggestion_is_rewritten() -> None:
    """The program rewrites commands only in backticks, and in texts for `console.say` and `suggested.own`."""
    loose = []
    for file in FILES:
        if file.parent.name == "cli":
            continue
        tree = ast.parse(file.read_text())
        said = {
            id(text)
            for call in ast.walk(tree)
            if isinstance(call, ast.Call)
            and getattr(call.func, "attr", getattr(call.func, "id", "")) in {"say", "own", "_next"}
            for text in ast.walk(call)
        }
        found = [(node, text) for node, text in texts(tree) if id(node) not in said]
        loose += [f"{file}:{node.lineno}: {text}" for node, text in found if SUGGESTED.search(text)]
    assert not loose


def is_command(words: Sequence[str]) -> bool:
    """Return True if the program accepts these words as a command with its arguments."""
    command = built(app)
    context = command.make_context("retrycli", [], resilient_parsing=True)
    rest = list(words)
    while rest and isinstance(command, TyperGroup) and (found := command.get_command(context, rest[0])) is not None:
        command, rest = found, rest[1:]
        if isinstance(command, TyperGroup) and (not rest or rest[0] not in command.commands):
            break
    if isinstance(command, TyperGroup) and rest and not (command.invoke_without_command and rest[0].startswith("-")):
        return False
    try:
        command.make_context("retrycli", rest, resilient_parsing=isinstance(command, TyperGroup))
    except USAGE_ERROR:
        return False
    return True


def test_every_suggestion_is_exactly_one_command() -> None:
    """A suggestion ends at its backtick or at the end of the text, so that an operator can copy all of it."""
    wrong = []
    for file in FILES:
        for node, text in texts(ast.parse(file.read_text())):
            for found in re.finditer(rf"(`?){SUGGESTED_ANYWHERE.pattern}", text):
                end = text.find("`", found.end()) if found[1] else len(text)
                command = text[found.start() : end].lstrip("`").replace("{id}", "1").replace("%s", "1")
                command = command.replace("{option}", "--ticket 1")
                if not is_command(shlex.split(command)[1:]):
                    wrong.append(f"{file}:{node.lineno}: {command}")
    assert not wrong


SHELL = ("/bin/sh", "-c")
UNUSABLE = {2, 78, 126, 127}
"""Exit codes of the shell or the program for a command that can't be run as written."""


def commands_in(text: str, start: str) -> list[str]:
    """Return all commands that a screen suggests: in backticks, or from the program's name to the line's end."""
    found = []
    for line in text.splitlines():
        found += [command for command in re.findall("`([^`]+)`", line) if command.startswith((start, "sudo "))]
        if "`" not in line and (at := re.search(rf"(?:^|: ){re.escape(start)} (.*)$", line)) is not None:
            found.append(f"{start} {at[1]}")
    return found


SITUATIONS: dict[str, tuple[list[str], str, int]] = {
    "nothing yet": ([], "status", 2),
    "late": (["late"], "status", 2),
    "paused": (["pause"], "status", 1),
    "failed ones": (["fill"], "list-failed", 2),
    "no such message": ([], "show 4711", 1),
    "invalid": (["invalid"], "show 1", 1),
    "explained": (["fill"], "explain 1", 1),
    "a pass that escalates": (["none"], "run-once", 1),
    "edited": (["fill"], "edit 1 --subject Hello --yes", 1),
    "checked": ([], "doctor", 1),
    "not notified": (["hook"], "notify test", 1),
    "presets": ([], "presets", 1),
    "a preset": ([], "presets check zammad", 0),
}
"""By name: the steps for `prepare`, the command under test, and the minimum number of commands that it suggests."""


def prepare(step: str, cli: Cli, application: Application, file: Path) -> None:
    match step:
        case "pause":
            assert cli("pause").returncode == 0
        case "fill":
            application.add(1)
        case "late":
            application.add(1)
            assert cli("run-once").returncode in {0, 69}
            application.execute("UPDATE retrycli_passes SET started_at = '2026-01-01 00:00:00'")
        case "invalid":
            application.add(1, message_type="carrier pigeon")
            application.add(2, message_type="carrier pigeon")
            assert cli("run-once").returncode == 0
        case "none":
            application.add(1, message_type="carrier pigeon")
        case _:
            file.write_text(file.read_text() + '[notify]\nping_url = "http://127.0.0.1:9/x"\n')


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_suggestion_can_be_pasted(far: Cli, application: Application, situation: str) -> None:
    """The shell can't find retrycli by its name, and runs outside the settings' folder."""
    before, command, least = SITUATIONS[situation]
    file = Path(far.env["FILE"])
    cli = replace(far.having(ELSEWHERE), program=(*SCRIPT, "--config", str(file)))
    for each in before:
        prepare(each, cli, application, file)
    screen = cli.on_terminal(*shlex.split(command), columns=1000)
    start = SCRIPT[0]
    found = commands_in(screen.text, start)
    assert len(found) >= least, screen.text
    shell = replace(cli, program=SHELL).having({"EDITOR": "/bin/true"})
    for line in found:
        if line.startswith(start):
            program, *words = shlex.split(line)
            if line == shlex.join([program, *words]):  # no shell syntax, so no shell is needed
                pasted = replace(shell, program=(program,)).on_terminal(*words, columns=1000, answers=["n"])
            else:
                pasted = shell.on_terminal(line, columns=1000, answers=["n"])
            is_ours = "name a user who can write to the database" in pasted.text
            assert pasted.returncode not in UNUSABLE or is_ours, (line, pasted.text)
            assert f" --config '{file}' " in line or " presets " in line
        elif not line.startswith("sudo"):
            assert shell.on_terminal(line).returncode not in UNUSABLE, line
    assert not re.search(r"(?<![\w/.-])retrycli (?:" + "|".join(HOMES) + r")\b", screen.text), "without its path"


def test_escalations_suggests_a_command_for_each_of_the_biggest_causes(far: Cli, application: Application) -> None:
    """At most three causes get a separate command, and one more command lists all messages."""
    file = far.env["FILE"]
    for cause, (kind, number) in enumerate({"pigeon": 2, "raven": 4, "bottle": 3, "smoke": 5}.items()):
        for each in range(number):
            application.add(100 * cause + each + 1, message_type=kind)
    assert far("run-once", "--config", file).returncode == 0
    groups = sorted(far.json("escalations", "--config", file)["groups"], key=lambda each: -each["count"])
    assert [each["count"] for each in groups] == [5, 4, 3, 2]
    *hints, last = far.on_terminal("escalations", "--config", file, columns=1000).text.splitlines()[-4:]
    start = shlex.join(["retrycli", "--config", file])
    for hint, group in zip(hints, groups, strict=False):
        assert hint.endswith(f": {start} requeue --fingerprint {group['fingerprint']} --canary 3")
    assert last == f"Next: {start} list-failed --state escalated"


def test_the_id_of_a_row_that_is_gone_names_no_other_message(cli: Cli, engine: Factory, tmp_path: Path) -> None:
    """It may be the beginning of another id, as `order-7712-1` is of `order-7712-10`. Only a UUID has prefixes."""
    with engine(tmp_path, None) as url, Scripted(REJECTS) as api:
        made = made_with(url, {"id": "VARCHAR(60)"})
        made.add(101, hours_ago=9)
        made.execute("UPDATE pending_messages SET id = ?", "order-7712-10")
        desk = cli.having(made.variables(api.url))
        assert desk("run-once").returncode == 0
        done = desk("mark-sent", "order-7712-1", "--yes")
        assert (done.returncode, "no message order-7712-1" in done.stderr) == (4, True), done
        made.lock.unlink(missing_ok=True)


def test_every_value_in_a_command_is_quoted() -> None:
    """`suggested.command` and `suggested.line` quote it. In an f-string, nothing does."""
    before_a_value = re.compile(SUGGESTED_ANYWHERE.pattern + r"( -{0,2}\w[\w-]*)* $")
    loose = [
        f"{file}: {ast.unparse(value.value)}"
        for file in FILES
        for text in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(text, ast.JoinedStr)
        for before, value in pairwise(text.values)
        if isinstance(before, ast.Constant) and isinstance(value, ast.FormattedValue)
        if before_a_value.search(str(before.value))
    ]
    assert not loose


HIDDEN_IDS = (
    "\x1b[2J\x1b]0;owned\x07a\u202eb\nretrycli: forged\u2028\xe9\x9b7",
    "m1$(touch owned)'s `a`\\\t1",
    "a\x00b",
)
"""Ids that clear the screen, reverse the text and forge a line, that a shell would run, and that hide their end."""


@pytest.mark.parametrize("evil", HIDDEN_IDS)
def test_an_id_that_can_not_be_shown_is_escaped_and_can_be_pasted(
    cli: Cli, engine: Factory, tmp_path: Path, evil: str
) -> None:
    """The ids of a table may be Message-IDs of mails, which anybody can choose."""
    with engine(tmp_path, None) as url, Scripted(REJECTS) as api:
        made = made_with(url, {"id": "VARCHAR(60)"})
        if "\0" in evil and not made.is_sqlite:
            pytest.skip("PostgreSQL stores no NUL")
        made.add(101, hours_ago=9)
        made.execute("UPDATE pending_messages SET id = ?", evil)
        desk = cli.having(made.variables(api.url))
        everywhere = [["list-failed"], ["escalations"], ["doctor"]]
        with_id = ["retry", "show", "explain", "look-up", "requeue --canary 1", "edit --subject tea", "mark-sent"]
        named = [[*shlex.split(each), "--", evil] for each in with_id] if "\0" not in evil else []
        for number, arguments in enumerate([*everywhere, *named, *everywhere]):
            if number == len(everywhere):
                assert desk("run-once").returncode == 0
            screen = desk.on_terminal(*arguments, columns=1000, answers=["n"])
            shown = re.sub(r"\x1b\[[0-9;]*m", "", screen.raw)
            assert all(char.isprintable() or char in "\r\n" for char in shown), (arguments, screen.raw)
            assert "\nretrycli: forged" not in screen.text
            assert not re.search(r"retrycli [a-z-]+ m1\$", screen.text)
        text = desk.on_terminal("list-failed", columns=1000).text
        [show] = re.findall(r"`(retrycli show [^`]*)`", text)
        made_by = ["bash", "-c", f"{show.replace('retrycli', SCRIPT[0], 1)} --json"]
        pasted = subprocess.run(made_by, cwd=desk.cwd, env={**BARE, **desk.env}, capture_output=True, check=False)
        if "\0" in evil:  # no argument can contain it
            assert pasted.returncode == 4, pasted
        else:
            assert json.loads(pasted.stdout)["message"]["id"] == evil
            page = unescape(desk("report", "--html", "-").stdout)
            assert f"<code>{show}</code>" in page
        assert not (desk.cwd / "owned").exists()
        made.lock.unlink(missing_ok=True)


@pytest.mark.parametrize("evil", ["--state=waiting", "-5"])
def test_an_id_that_begins_with_a_hyphen_is_no_option(cli: Cli, engine: Factory, tmp_path: Path, evil: str) -> None:
    """`retrycli retry --state=waiting` would send every waiting message."""
    with engine(tmp_path, None) as url, Scripted(REJECTS) as api:
        made = made_with(url, {} if evil == "-5" else {"id": "VARCHAR(60)"})
        made.add(101, hours_ago=9)
        made.execute("UPDATE pending_messages SET id = ?", int(evil) if evil == "-5" else evil)
        desk = cli.having(made.variables(api.url))
        looking = [["list-failed"], ["show", "--", evil], ["explain", "--", evil], ["look-up", "--", evil]]
        acting = [["edit", "--subject", "tea", "--yes", "--", evil], ["retry", "--", evil], ["escalations"]]
        found: set[str] = set()
        for arguments in [*looking, *acting, ["requeue", "--canary", "1", "--", evil], *looking]:
            screen = desk.on_terminal(*arguments, columns=1000, answers=["n"])
            found |= {each for each in commands_in(screen.text, "retrycli") if evil in each}
        assert len(found) >= 3, found
        for each in sorted(found):
            words = shlex.split(each)
            assert words[-2:] == ["--", evil], each
            assert desk.on_terminal(*words[1:], columns=1000, answers=["n"]).returncode not in UNUSABLE, each
        made.lock.unlink(missing_ok=True)
