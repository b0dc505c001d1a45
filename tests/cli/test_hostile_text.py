"""Texts from outside are data in every form of output: they move no cursor and forge no line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

import retrycli
from tests.cli.api import Scripted
from tests.cli.command import Cli

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Shown
    from tests.cli.conftest import Prepared

EVIL = "\x1b[2J\x1b]0;title\x07[red]\tforged\r\n99\t4711\tcustomer \x9b31m \u202e \x7f [/nosuch] :smile: \u2028 end"
"""A text that clears the screen, renames the window, opens markup, adds columns and a row, and reverses the text."""
SHOWN = r"\x1b[2J\x1b]0;title\x07[red]\tforged\r\n99\t4711\tcustomer \x9b31m \u202e \x7f [/nosuch] :smile: \u2028 end"
ANSWERED = "\x1b[2J\x07no [red]\r\n99\t4711\tsuch \x9b31m\u202e customer\x7f [/nosuch] or\u2028 :smile:"
"""An equally hostile answer that does not quote the message, because retrycli removes quotations."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""The only escape sequences that rich prints for a table."""
COMMANDS = ("list-failed", "escalations", "show 1", "explain 1", "passes", "status", "stats --by ticket")
AS_JSON = ("list-failed --json", "show 1 --json", "stats --json")


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Shown:
    """Return the commands' output for three hostile messages, one of which got a hostile answer."""
    folder = tmp_path_factory.mktemp("evil")
    with prepared(folder) as application:
        texts: dict[str, Any] = {"subject": EVIL, "recipient_email": EVIL, "body": EVIL, "last_error": EVIL}
        application.add(1, ticket_id=EVIL, **texts)
        application.add(2, retry_count=10, **texts)
        application.add(3, message_type=EVIL, **texts)
        with Scripted((422, {"messages": [ANSWERED]})) as api:
            retrycli.retry(application.settings(api.url), 1, by=EVIL)
            retrycli.run_once(application.settings(api.url))
            application.execute(
                "INSERT INTO retrycli_pause VALUES ('2026-01-01 00:00:00.000000', NULL, 'anna', ?)", EVIL
            )
            retrycli.run_once(application.settings(api.url))
        cli = Cli(folder, application.variables("http://127.0.0.1:9"))
        return cli.show_all(piped=[*COMMANDS, *AS_JSON], on_terminal=COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_output_has_only_our_own_tabs_line_ends_and_colours(evil: Shown, command: str) -> None:
    done = evil.piped[command]
    assert done.returncode == 0, done.stderr
    assert all(char.isprintable() or char in "\t\n" for char in done.stdout)
    assert "forged" in done.stdout
    assert not any(line.startswith("99\t") for line in done.stdout.splitlines())
    screen = evil.screens[command]
    assert screen.returncode == 0, screen.text
    assert all(char.isprintable() or char in "\r\n" for char in COLOURS.sub("", screen.raw))
    for shown in ("[red]", "[/nosuch]", ":smile:"):
        assert shown in screen.words


@pytest.mark.parametrize("command", AS_JSON)
def test_json_escapes_hostile_characters(evil: Shown, command: str) -> None:
    done = evil.piped[command]
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert done.stdout.count("\n") == 1
    assert all(char >= " " for char in done.stdout.rstrip("\n"))
    assert command != "show 1 --json" or evil.json(command)["message"]["subject"] == EVIL


def test_piped_a_message_is_one_line_of_eleven_columns(evil: Shown) -> None:
    lines = evil.piped["list-failed"].stdout.splitlines()
    assert [len(line.split("\t")) for line in lines] == [11, 11, 11]
    assert lines[0].split("\t")[1] == SHOWN


def test_a_body_is_shown_line_by_line_and_escaped(evil: Shown) -> None:
    """Facts and attempts are lines with tabs. A body's tabs are escaped, so no line of a body can imitate them."""
    shown = evil.piped["show 1"].stdout
    assert "\n" + r"\x1b[2J\x1b]0;title\x07[red]\tforged" + "\n" in shown
    assert "\n" + r"99\t4711\tcustomer \x9b31m \u202e \x7f [/nosuch] :smile: " in shown
    assert f"subject\t{SHOWN}\n" in shown


@pytest.mark.parametrize("style", ["text", "json"])
def test_the_log_has_one_escaped_line_per_event(cli: Cli, application: Application, style: str) -> None:
    """The log quotes a message's ticket and type, which may be hostile too."""
    application.add(1, ticket_id=EVIL, message_type=EVIL)
    env = application.variables("http://127.0.0.1:9")
    done = cli("--log-format", style, "run-once", env=env)
    assert done.returncode == 0
    assert len(done.stderr.splitlines()) == 2
    assert all(char.isprintable() or char == "\n" for char in done.stderr)


def test_errors_escape_arguments_and_paths(cli: Cli) -> None:
    done = cli("--config", "no\x1b[2Jsuch\nfile", "status")
    assert done.returncode == 78
    assert done.stderr.startswith(r"retrycli: no configuration file no\x1b[2Jsuch\nfile (--config)")


def test_an_ascii_terminal_shows_other_characters_escaped(cli: Cli, application: Application) -> None:
    application.add(1, subject="日本", last_error="naïve")
    ascii_only = cli.having({**application.variables("http://127.0.0.1:9"), "PYTHONIOENCODING": "ascii"})
    shown = ascii_only.show_all(piped=["show 1"], on_terminal=["list-failed"])
    done = shown.piped["show 1"]
    assert (done.returncode, done.stderr) == (0, "")
    assert "subject\t" + r"\u65e5\u672c" + "\n" in done.stdout
    assert r"na\xefve" in shown.screens["list-failed"].text


def test_shows_text_that_is_not_valid_utf8_in_every_form(cli: Cli, application: Application) -> None:
    application.add(1)
    application.execute(
        "UPDATE pending_messages SET subject = CAST(x'ff41' AS TEXT), last_error = CAST(x'fe42' AS TEXT)"
    )
    strict = cli.having({**application.variables("http://127.0.0.1:9"), "PYTHONIOENCODING": "utf-8:strict"})
    shown = strict.show_all(piped=["show 1", "list-failed --json"], on_terminal=["list-failed"])
    assert r"\udcffA" in shown.piped["show 1"].stdout
    assert shown.json("list-failed --json")["messages"][0]["last_error"] == "\udcfeB"
    assert r"\udcfeB" in shown.screens["list-failed"].text
