"""Completion of ids in a shell: what the command offers, and that errors never disturb the user."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import pytest

from tests.cli.application import Application
from tests.cli.command import SCRIPT, Cli, Finished
from tests.environment import BARE

HOSTILE = "HTTP 503: \"'`touch hit` $(touch hit) \\$(touch hit) [/red] \x1b[2J\n:smile: é"


def bash(cli: Cli, line: str) -> Finished:
    """Return the output for bash when Tab is pressed at the end of a line."""
    words = line.split(" ")
    variables = {"_RETRYCLI_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    return cli.forked()(env=variables)


def offered(cli: Cli, line: str) -> list[str]:
    """Return the ids that bash is offered, and check that nothing else is printed."""
    done = bash(cli, line)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def zsh(cli: Cli, line: str) -> Finished:
    """Return the output for zsh when Tab is pressed at the end of a line."""
    return cli.forked()(env={"_RETRYCLI_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line})


@pytest.fixture
def known(cli: Cli, application: Application) -> Cli:
    """Provide the command with some messages: 5, 6, 7 and 8 are failed."""
    application.fill()
    return cli.having({"RETRYCLI_DATABASE__URL": application.url})


@pytest.mark.long_except("test_completion_offers_ids_of_failed_messages_newest_first[retry]")
@pytest.mark.parametrize("command", ["show", "explain", "retry"])
def test_completion_offers_ids_of_failed_messages_newest_first(known: Cli, command: str) -> None:
    assert offered(known, f"retrycli {command} ") == ["8", "7", "6", "5"]
    assert offered(known, f"retrycli {command} 7") == ["7"]
    for nothing in ("9", "x", "7%", "٧"):
        assert offered(known, f"retrycli {command} {nothing}") == []


def test_completes_every_id_of_several(known: Cli) -> None:
    assert offered(known, "retrycli retry 5 6") == ["6"]


def test_completion_uses_the_settings_already_typed(cli: Cli, application: Application) -> None:
    application.add(41)
    file = cli.cwd / "desk.toml"
    file.write_text(f'[database]\nurl = "{application.url}"\n')
    for line in (
        f"retrycli --config {file} show ",
        f"retrycli show --config {file} ",
        f"retrycli show --config={file} ",
    ):
        assert offered(cli, line) == ["41"]
    assert offered(cli, "retrycli show ") == []


def test_completion_offers_at_most_fifty_ids(cli: Cli, application: Application) -> None:
    application.add_due(120, first=1001)
    found = offered(cli.having({"RETRYCLI_DATABASE__URL": application.url}), "retrycli show 10")
    assert [int(name) for name in found] == list(range(1099, 1049, -1))


def test_completion_prints_and_writes_nothing_on_errors(cli: Cli, untouched: Application) -> None:
    """An error text would garble the line that the user types. Completion works without retrycli's tables."""
    untouched.add(5)
    before = untouched.dump()
    assert offered(cli.having({"RETRYCLI_DATABASE__URL": untouched.url}), "retrycli show ") == ["5"]
    assert untouched.dump() == before
    (cli.cwd / "broken.toml").write_text("[database\n")
    for more in (
        {},
        {"RETRYCLI_DATABSE": "x"},
        {"RETRYCLI_CONFIG": "no/such.toml"},
        {"RETRYCLI_CONFIG": "broken.toml"},
        {"RETRYCLI_DATABASE__URL": f"sqlite:///{cli.cwd}/none.db"},
        {"RETRYCLI_DATABASE__URL": untouched.url, "RETRYCLI_DATABASE__TABLE": "none"},
        {"RETRYCLI_DATABASE__URL": "postgresql://127.0.0.1:9/desk"},
    ):
        assert offered(cli.having(more), "retrycli show ") == []
    assert not (cli.cwd / "none.db").exists()


def test_completion_does_not_wait_for_a_locked_database(known: Cli, application: Application) -> None:
    """The user waits at the prompt, so completion gives up at once; a pass would wait for half a minute."""
    with closing(sqlite3.connect(application.path)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert offered(known, "retrycli show ") == []


def test_zsh_shows_ticket_and_error_beside_each_id(known: Cli, application: Application) -> None:
    application.execute("UPDATE pending_messages SET last_error = NULL WHERE id = 7")
    lines = zsh(known, "retrycli show ").stdout.splitlines()
    assert lines[0] == """_arguments '*: :(("8":"ticket 4708, HTTP 503\""""
    assert lines[1] == '"7":"ticket 4707, no error"'


def test_an_error_text_is_plain_text_to_the_shell(known: Cli, application: Application) -> None:
    """Zsh evaluates the output as code. The test uses bash, which expands double-quoted strings as zsh does."""
    application.execute("UPDATE pending_messages SET last_error = ?, ticket_id = ?", HOSTILE, "$(touch hit)")
    done = zsh(known, "retrycli show 5")
    assert (done.returncode, done.stderr) == (0, "")
    found = re.fullmatch(r"""_arguments '\*: :\(\((.*)\)\)'\n""", done.stdout, re.DOTALL)
    assert found is not None
    assert "'" not in found[1]
    script = f"offered=( {found[1]} ); printf '%s\\n' \"${{offered[@]}}\""
    told = subprocess.run(
        ["bash", "-c", script], cwd=known.cwd, env=BARE, capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.startswith("5:ticket ＄(touch hit), HTTP 503∶ ”’ˋtouch hitˋ ＄(touch hit)")
    assert told.stderr == ""
    assert not (known.cwd / "hit").exists()


def test_bash_completes_an_id_with_the_generated_script(known: Cli) -> None:
    # The script that --show-completion prints for bash.
    script = known.forked()(env={"_RETRYCLI_COMPLETE": "source_bash"}).stdout
    assert "_retrycli_completion" in script
    script += (
        'COMP_WORDS=(retrycli show 7); COMP_CWORD=2; _retrycli_completion retrycli; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    folder = str(Path(SCRIPT[0]).parent)
    told = subprocess.run(
        ["bash", "-c", script],
        env={**BARE, **known.env, "PATH": f"{folder}:/usr/bin:/bin"},
        cwd=known.cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (told.stdout, told.stderr) == ("7\n", "")
