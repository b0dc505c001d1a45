"""``list-failed``, ``escalations`` and ``show``: their selection, order and format."""

from __future__ import annotations

import os
import re
import shlex
from typing import TYPE_CHECKING

import pytest

import retrycli
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.command import COLUMNS, Cli, end
from tests.conftest import on_both, on_sqlite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.application import Application
    from tests.cli.conftest import Prepared

pytestmark = on_both

LOCAL_TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d[+-]\d\d:\d\d"
LONG = "HTTP 503: " + " ".join(f"word{number}" for number in range(60))


FILTERS = {
    "--state waiting --ticket 4711 --error word7": [11],
    "--state escalated --failed-before 7h": [13],
    "--failed-after 90m --sort id": [11, 12, 14],
    "--type supplier --error '100% OF'": [12],
    "--error 100_": [],
    "--state waiting --state escalated --type customer --sort id": [11, 14, 15, 16],
    "--reason invalid --reason exhausted --sort id": [13, 14],
    "--sort tries --limit 2": [13, 12],
    "--sort age --limit 1": [13],
}


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory, prepared: Prepared) -> Iterator[Cli]:
    """Provide the command with messages of every kind, which no test here changes."""
    folder = tmp_path_factory.mktemp("lists")
    with prepared(folder) as application:
        application.add(1, status="sent", sent_at="2026-01-02 03:04:05")
        application.add(11, hours_ago=1, retry_count=4, ticket_id=4711, last_error=LONG)
        application.add(12, hours_ago=0.5, retry_count=5, message_type="supplier", last_error="HTTP 504 (100% of it)")
        application.add(13, hours_ago=8, retry_count=10, message_type="internal", last_error="ConnectError")
        application.add(14, hours_ago=9, body=None)
        application.add(15, hours_ago=3)
        application.add(16, hours_ago=2, retry_count=1)
        with Scripted(REJECTS, BUSY, TAKES) as api:
            retrycli.run_once(application.settings(api.url))
        yield Cli(folder, application.variables("http://127.0.0.1:9"))


# -- list-failed -----------------------------------------------------------------------------------------------------


def test_list_failed_filters_and_sorts(queue: Cli) -> None:
    """A message must meet all filters; a repeated filter accepts either value. Case is ignored; % and _ are literal."""
    found = {line: queue("list-failed", *shlex.split(line)).stdout.splitlines() for line in FILTERS}
    assert {line: [int(each.split("\t")[0]) for each in lines] for line, lines in found.items()} == FILTERS


def test_on_a_wide_terminal_a_message_is_one_line(queue: Cli) -> None:
    screen = queue.on_terminal("list-failed", "--type", "supplier", columns=140)
    texts = r"HTTP 504 \(100% of it\) +ana@example.com: Re: Invoice"
    assert re.search(rf"12 +4712 +supplier +waiting +5/10 +\d+ \w+ +{LOCAL_TIME} +{texts}", screen.text)


@on_sqlite
def test_on_a_narrow_terminal_an_empty_error_needs_no_line(at_work: Cli, application: Application) -> None:
    for message_id in (101, 102, 103):
        application.add(message_id, ticket_id="a-ticket-with-quite-a-long-id", last_error="")
    _, error, subject, *lines = at_work.on_terminal("list-failed").text.splitlines()
    assert (error.strip(), subject.strip()) == ("Last error", "Subject")
    assert [line.split()[0] for line in lines[:6:2]] == ["101", "102", "103"]


def test_a_page_names_the_command_for_the_next_one(queue: Cli) -> None:
    """The command keeps the filters, the order and the limit, and works when pasted."""
    options = ("--state", "waiting", "--state", "escalated", "--error", "H", "--sort", "id")
    screen = queue.on_terminal("list-failed", *options, "--limit", "2")
    *_, last = screen.text.replace("\n", " ").partition("Next page: retrycli ")
    assert shlex.split(last)[:-1] == ["list-failed", *options, "--limit", "2", "--after"]
    following = queue.on_terminal(*shlex.split(last))
    first, second = (re.findall(r"^(\d+) +47", each.text, re.MULTILINE) for each in (screen, following))
    assert (first, second) == (["11", "12"], ["15", "16"])
    assert "4 messages, 2 shown\n" in following.text
    assert "Next page" not in following.text


@pytest.mark.parametrize("command", ["list-failed", "passes"])
def test_a_cursor_of_another_list_is_wrong_usage(queue: Cli, command: str) -> None:
    cursor = queue.json("list-failed", "--sort", "tries", "--limit", "1")["next"]
    done = queue(command, "--after", cursor)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"retrycli: not a valid cursor for this list and its order: {cursor!r}." in done.stderr


def test_passes_are_shown_page_by_page(at_work: Cli) -> None:
    for _ in range(5):
        at_work("run-once")
    whole = at_work.json("passes")
    assert (len(whole["passes"]), whole["next"]) == (5, None)
    first = at_work.json("passes", "--limit", "3")
    rest = at_work.json("passes", "--limit", "3", "--after", first["next"])
    assert first["passes"] + rest["passes"] == whole["passes"]
    assert rest["next"] is None
    assert at_work.on_terminal("passes", "--limit", "3").text.endswith(
        f"Next page: retrycli passes --limit 3 --after {first['next']}\n"
    )
    assert "Next page" not in at_work.on_terminal("passes").text


# -- escalations -----------------------------------------------------------------------------------------------------


def test_escalations_says_so_if_nothing_is_escalated(at_work: Cli) -> None:
    screen = at_work.on_terminal("escalations")
    assert screen.text.endswith("Nothing is escalated. Next: retrycli status\n")


@pytest.fixture
def alike(at_work: Cli, application: Application) -> Cli:
    """Add seven escalated messages: three of one cause, two of another, and two each with its own cause."""
    for number, error in enumerate(("no recipient 17", "no recipient 18", "no recipient 19", "no room", "no room")):
        application.add(20 + number, hours_ago=9, retry_count=10, last_error=f"HTTP 422: {error}")
    application.add(30, hours_ago=9, retry_count=10, message_type="supplier", last_error="HTTP 500")
    application.add(31, hours_ago=9, body=None)
    at_work("run-once")
    return at_work


def test_escalations_groups_those_of_one_cause_in_one_line_on_top(alike: Cli) -> None:
    screen = alike.on_terminal("escalations")
    assert max(map(len, screen.text.splitlines())) <= COLUMNS
    groups, singles = screen.text.split("\n\n")
    assert re.search(rf"^3      3    {LOCAL_TIME}  [0-9a-f]{{12}}  20$", groups, re.MULTILINE)
    assert re.search(rf"^2      2    {LOCAL_TIME}  [0-9a-f]{{12}}  23$", groups, re.MULTILINE)
    assert "3 customer" in groups
    assert "HTTP 422: no recipient …" in groups
    assert re.findall(r"^(\d+) ", singles, re.MULTILINE) == ["30", "31"]
    suggested = re.findall(r"retrycli requeue (--fingerprint [0-9a-f]{12}) --canary 3", screen.text)
    listed = [alike("list-failed", *command.split()).stdout.splitlines() for command in suggested]
    assert [[line.split("\t")[0] for line in lines] for lines in listed] == [["20", "21", "22"], ["23", "24"]]
    assert screen.text.splitlines()[-1] == "Next: retrycli list-failed --state escalated"


def test_a_terminal_shows_at_most_fifty_ungrouped_escalations(alike: Cli, application: Application) -> None:
    """An operator sees a short list and the number of the others; a script gets all."""
    for number in range(52):
        letters = "".join(chr(ord("a") + int(digit)) for digit in str(number))
        application.add(100 + number, hours_ago=9, retry_count=10, last_error=f"HTTP 422: {letters}")
    alike("run-once")
    screen = alike.on_terminal("escalations")
    _, singles = screen.text.split("\n\n")
    assert len(re.findall(r"^(\d+) +47", singles, re.MULTILINE)) == 50
    assert "… and 4 more: retrycli list-failed --state escalated\n" in screen.text
    assert len(alike("escalations").stdout.splitlines()) == 59
    assert len(alike.json("escalations")["escalations"]) == 59


# -- show ------------------------------------------------------------------------------------------------------------


def test_show_names_the_step_before_a_retry_for_an_invalid_message(queue: Cli) -> None:
    step = "Next: `retrycli edit 14`, or fix the row; then run `retrycli retry 14`\n"
    assert queue.on_terminal("show", "14").text.endswith(step)


@pytest.mark.parametrize("arguments", ["list-failed", "--help"])
def test_a_closed_pipe_ends_the_command_silently(queue: Cli, arguments: str) -> None:
    """A reader such as ``head`` may close the pipe early. The exit code is the one that a shell gives for SIGPIPE."""
    reader, writer = os.pipe()
    os.close(reader)
    process = queue.start(*arguments.split(), stdout=writer)
    os.close(writer)
    done = end(process)
    assert (done.returncode, done.stderr) == (141, "")
