"""What each command prints over the queue of `tests.recorded`: its help, on a terminal, piped and as JSON."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from textwrap import indent
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command

from retrycli.cli import app
from tests.cli.command import COLUMNS
from tests.cli.test_cron import OWN
from tests.recorded import Scenes, check, readable, recorded
from tests.users import need_own_program

if TYPE_CHECKING:
    from tests.recorded import Scene

DEAD = {"TICKETING_API_BASE_URL": "http://127.0.0.1:9"}
"""A ticketing API that refuses connections."""
TARGETS = {"RETRYCLI_NOTIFY__URLS": "json://127.0.0.1:9", "RETRYCLI_NOTIFY__PING_URL": "http://127.0.0.1:9/ping"}
USAGE = re.compile(r"^Usage: .*\nTry '.* -h' for help\.\n\n", re.MULTILINE)
"""The lines before an error about wrong usage, which repeat the help."""


@dataclass(frozen=True)
class Run:
    """One invocation. ``{5}`` stands for the id of message 5, which is another one in the mapped table."""

    line: str
    before: tuple[str, ...] = ()
    """Commands to run first in the same scene."""
    answers: tuple[str, ...] = ()
    """What an operator types at each question on a terminal."""
    env: Mapping[str, str] | None = None
    ways: str = "terminal piped json"
    columns: int = COLUMNS
    mapped: str = "terminal"
    """The ways in which it is also shown over the mapped table. Most values are the same in all ways."""


def wrong(*lines: str, **more: Any) -> list[Run]:  # noqa: ANN401  the fields of a `Run`
    """Return invocations that print an error, the same in all ways and for both tables."""
    return [Run(line, ways="piped", mapped="", **more) for line in lines]


def once(*lines: str, **more: Any) -> list[Run]:  # noqa: ANN401  the fields of a `Run`
    """Return invocations that do not depend on the table."""
    return [Run(line, mapped="", **more) for line in lines]


def seen(*lines: str, **more: Any) -> list[Run]:  # noqa: ANN401  the fields of a `Run`
    """Return invocations that have further words for an operator, and nothing else for a program."""
    return once(*lines, ways="terminal", **more)


def asked(line: str, *, mapped: str = "terminal", **more: Any) -> list[Run]:  # noqa: ANN401  the fields of a `Run`
    """Return a change: confirmed on a terminal, confirmed in advance, and refused without a terminal."""
    return [
        Run(line, ways="terminal", answers=("y",), mapped=mapped, **more),
        *once(f"{line} --yes", ways="piped json", **more),
        *wrong(line, **more),
    ]


SCENARIOS: dict[str, Sequence[Run]] = {
    "": [Run("--version", ways="piped", mapped=""), *wrong("deliver", "--log-level loud status")],
    "run-once": [
        Run("run-once"),
        *once("--log-level INFO run-once --limit 1", ways="piped"),
        Run("run-once --dry-run", mapped="terminal json"),
        *seen("run-once", "run-once --dry-run", before=("pause --for 2h --reason 'new certificate'",)),
        *once("--log-level INFO run-once", env=DEAD, ways="piped"),
        *wrong(
            "run-once --limit 0", "run-once --limit 2147483649", "run-once --wait-lock long", "run-once --wait-lock -1"
        ),
    ],
    "status": [
        Run("status"),
        *wrong("status --check --max-escalated 1"),
        *once("status", before=("pause --for 2h --reason 'new certificate'",)),
        *wrong("status --max-escalated 1", "status --fast"),
    ],
    "list-failed": [
        Run("list-failed", mapped="terminal json"),
        *seen("list-failed --state waiting --type customer --sort id --limit 1"),
        Run("list-failed --header --reason invalid", ways="piped", mapped=""),
        *seen("list-failed --error nothing"),
        *wrong("list-failed --sort size", "list-failed --ticket ''", "list-failed --failed-before 7"),
        *wrong("list-failed --after x", "list-failed --limit 2147483649"),
    ],
    "retry": [
        Run("retry {6}"),
        *seen("retry 7 8"),
        *asked("retry --type customer --state waiting", mapped=""),
        *wrong(
            "retry",
            "retry 99",
            "retry 2",
            "retry {11}",
            "retry 5 --by ' '",
            f"retry 5 --by {'x' * 256}",
            "retry --error nothing --yes",
        ),
    ],
    "escalations": [Run("escalations"), Run("escalations --header", ways="piped", mapped="")],
    "escalations ack": [
        *seen("escalations ack 16 7"),
        *asked("escalations ack --reason exhausted"),
        *wrong("escalations ack", "escalations ack 5"),
    ],
    "escalations note": [
        Run("escalations note {16} 'the customer has called'"),
        *wrong("escalations note 16", "escalations note 2 tea", "escalations note 5 tea", "escalations note 99 tea"),
    ],
    "show": [
        *once("show 5", before=("edit 5 --subject 'Re: Your return' --yes",)),
        Run("show {7}", ways="terminal"),
        *seen("show 2"),
        *wrong("show 99", "show one"),
    ],
    "explain": [
        Run("explain {6}"),
        *seen("explain 3", "explain 10", "explain 2"),
        *seen("explain 6", before=("pause --for 2h",)),
        *wrong("explain 99"),
    ],
    "edit": [
        *asked("edit {5} --subject 'Re: Your return' --recipient chloe@example.org"),
        *once("edit 5 --subject 'Re: „Rückgabe“ — how?' --yes"),
        *wrong("edit 99 --subject x --yes", "edit 2 --subject x --yes", "edit 5 --subject '' --yes"),
        *wrong("edit 5 --body-file gone.txt --yes", "edit 5 --subject x --digest y --yes"),
    ],
    "look-up": [*wrong("look-up 5", "look-up"), *once("look-up 5 6")],
    "mark-sent": [
        *asked("mark-sent {16} --note 'the customer has answered it'"),
        *seen("mark-sent --error recipient", answers=("y",)),
        *wrong("mark-sent 2 --yes", "mark-sent 99 --yes"),
    ],
    "requeue": [
        Run("requeue {16}"),
        *seen("requeue 16 --at 2h"),
        *asked("requeue --reason exhausted --at '2099-01-02 03:04' --spread 2h", mapped=""),
        *seen("requeue --reason exhausted", answers=("n",)),
        *seen("requeue --error recipient --canary 1 --abort-over 0% --yes"),
        *seen("requeue 5", before=("reject 5 --reason x",)),
        *wrong("requeue", "requeue 5", "requeue 11", "requeue 5 --type customer", "requeue 5 --at yesterday"),
        *wrong("requeue 5 --at 9999-12-31", "requeue 5 --canary 0"),
        *wrong("requeue 5 --at 2001-01-01", "requeue 5 --spread all", "requeue 5 --abort-over 30%"),
        *wrong("requeue 5 --canary 1 --abort-over most", "requeue --fingerprint ' ' --yes"),
    ],
    "reject": [
        Run("reject {5} --reason 'no longer needed'", ways="terminal", answers=("y",)),
        *once("reject 5 --reason 'no longer needed'", ways="piped json"),
        *asked("reject --type internal --reason 'no longer needed'", mapped=""),
        *wrong(
            "reject --error '' --reason x --yes",
            "reject 5",
            "reject 5 --reason ' '",
            "reject 2 --reason x",
            "reject 99 --reason x",
        ),
    ],
    "pause": [
        *once("pause --for 2h --reason 'new certificate'"),
        *once("pause", before=("pause --for 2h --reason 'new certificate'",)),
        Run("pause --ticket 'the tea' --type supplier --message {5} --reason 'wrong price'"),
        *wrong("pause --for soon", "pause --for 0m", "pause --message 99", "pause --destination x"),
    ],
    "resume": [
        *once("resume"),
        *once("resume", before=("pause",)),
        *once("resume --ticket 4713 --type internal"),
        *once("resume --ticket 4714"),
    ],
    "passes": [
        *once(
            "passes",
            before=(
                *("run-once --started-by cron",) * 2,
                f"pause --reason '{'a long reason ' * 5}'",
                "run-once --started-by cron",
            ),
        ),
        Run("passes --header", ways="piped", mapped=""),
        *seen("passes --limit 1", before=("pause --for 2h", "run-once --started-by cron")),
        *wrong("passes --limit 0", "passes --limit many", "passes --after x"),
    ],
    "stats": [
        *once("stats"),
        *seen("stats --by error"),
        *wrong("stats --by day", "stats --since -7d", "stats --since 99999999d", "stats --since 0s"),
    ],
    "report": [*once("report --html report.html"), *wrong("report", "report --html gone/report.html")],
    "metrics": [*once("metrics", ways="piped json")],
    "serve": [*wrong("serve --port 99999", "serve --host 0.0.0.0", "serve --uds gone/web.sock")],
    "serve token": [],
    "serve token add": [
        *once("serve token add anna --role operator"),
        *wrong("serve token add anna", "serve token add anna --role admin"),
        *wrong("serve token add anna --role viewer", before=("serve token add anna --role operator",)),
    ],
    "serve token list": [
        *once("serve token list"),
        *once("serve token list", before=("serve token add anna --role operator", "serve token add bo --role viewer")),
    ],
    "serve token remove": [
        *once("serve token remove anna", before=("serve token add anna --role operator",)),
        *wrong("serve token remove anna"),
    ],
    "doctor": [Run("doctor"), *seen("doctor", env=DEAD)],
    "init": [
        *once("--config new.toml init --base-url https://tickets.example.com"),
        *once("--config new.toml init"),
        *wrong("init", "--config new.toml init --database-url sqlite:///gone.db"),
    ],
    "config": [],
    "config show": [*once("config show", ways="terminal json", columns=120)],  # the path of the database on one line
    "config check": [Run("config check"), *wrong("config check", env={"RETRYCLI_SCHEDULE__JITTER": "2"})],
    "cron": [],
    "cron print": [*once(shlex.join(["cron", "print", *OWN]))],
    "cron install": [*asked(shlex.join(["cron", "install", *OWN]), mapped="")],
    "cron check": [  # not on a terminal, because the width of a column depends on the user's name
        *once("cron check", before=(shlex.join(["cron", "install", *OWN, "--yes"]),), ways="piped json")
    ],
    "cron remove": [
        *asked("cron remove --user", before=(shlex.join(["cron", "install", *OWN, "--yes"]),), mapped=""),
        *once("cron remove --user"),
    ],
    "notify": [],
    "notify test": [*once("notify test"), *once("notify test", env=TARGETS)],
    "presets": [*once("presets")],
    "presets show": [*wrong("presets show nothing")],
    "presets check": [*once("presets check zammad"), *wrong("presets check nothing")],
    "deliver-test": [
        *once("deliver-test --ticket 4711"),
        *seen("deliver-test --ticket 4724 --type customer --to ivo@example.com --yes"),
        *wrong("deliver-test", "deliver-test --ticket ' '", "deliver-test --ticket 4711 --type customer"),
    ],
    "table": [],
    "table describe": [
        *once("table describe"),
        *once("table describe pending_messages", ways="terminal json"),
        *wrong("table describe pending_message", "table describe --url sqlite:///gone.db"),
    ],
    "table check": [Run("table check")],
    "table accept": [
        Run("table accept --yes"),
        *asked("table accept", env={"RETRYCLI_DATABASE__WHERE": "ticket_id <> 4713"}, mapped=""),
    ],
    "db": [],
    "db upgrade": [*once("db upgrade")],
    "db prune": [*asked("db prune --older-than 1m", mapped=""), *wrong("db prune", "db prune --older-than 90 --yes")],
    "db erase": [
        *asked("db erase --ticket 4714", before=("edit 5 --subject x --yes",), mapped=""),
        *once("db erase --ticket 4714"),
    ],
    "db move-check": [
        Run("db move-check"),
        *once("db move-check", before=("pause --ticket 4711", "pause"), ways="piped"),
    ],
    "db index": [*asked("db index", mapped=""), *asked("db index --drop", before=("db index --yes",), mapped="")],
    "sandbox": [*wrong("sandbox --fail 130%", "sandbox --latency fast")],
    "demo": [*wrong("demo --serve --table", "demo --port 80")],
    "manual": [*seen("manual"), *wrong("manual setings", "manual redmine", "manual zz")],
    "version": [*once("version")],
}
"""The invocations of each command. Each runs in its own scene."""


@cache
def commands() -> dict[str, bool]:
    """Return the name of each command of the program, and whether it has the option ``--json``."""
    found: dict[str, bool] = {}

    def add(command: Any, name: str) -> None:  # noqa: ANN401  typer does not export click's types
        found[name] = any("--json" in parameter.opts for parameter in command.params)
        for each in command.list_commands(None) if hasattr(command, "list_commands") else ():
            add(command.get_command(None, each), f"{name} {each}".strip())

    add(get_command(app), "")
    return found


def file_of(name: str) -> str:
    return name.replace(" ", "-") or "retrycli"


@pytest.fixture(scope="module")
def scenes() -> Iterator[Scenes]:
    with Scenes() as made:
        yield made


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_command_prints_what_is_recorded(name: str, scenes: Scenes, pytestconfig: pytest.Config) -> None:
    if name == "doctor":
        need_own_program()  # it reports other users' rights to the program
    with scenes.open() as scene:
        helped = scene.cli(*shlex.split(name), "--help")
    lines = [f"$ retrycli {name} --help".replace("  ", " "), helped.stdout]
    for run in SCENARIOS[name]:
        lines += shown(run, scenes, has_json=commands()[name])
    check(pytestconfig, f"commands/{file_of(name)}", "\n".join(lines).rstrip() + "\n")


def test_each_command_has_scenarios_and_a_file() -> None:
    assert SCENARIOS.keys() == commands().keys()
    assert recorded("commands") == {file_of(name) for name in commands()}


def shown(run: Run, scenes: Scenes, *, has_json: bool) -> Iterator[str]:
    """Yield what a run prints, each output once, under the command lines, ways and tables that have it."""
    found: dict[str, dict[str, list[str]]] = {}
    for way in [way for way in run.ways.split() if way != "json" or has_json]:
        for is_mapped in (False, True) if way in run.mapped else (False,):
            with scenes.open(is_mapped=is_mapped) as scene:
                line, code, text = called(run, scene, way)
            how = [way, *(f"answered {each}" for each in run.answers if way == "terminal")]
            how += ["mapped table"] * is_mapped + [f"exit code {code}"] * bool(code)
            found.setdefault(text, {}).setdefault(line, []).append(", ".join(how))
    for text, lines in found.items():
        yield from (f"$ {line}  ({'; '.join(ways)})" for line, ways in lines.items())
        yield text


def called(run: Run, scene: Scene, way: str) -> tuple[str, int, str]:
    """Make a run in one way; return its command line, its exit code, and the constant form of its output."""
    ids = {str(number): scene.id_of(number) for number in range(1, 17)}
    lines = [shlex.split(re.sub(r"\{(\d+)\}", lambda at: ids[at[1]], line)) for line in (*run.before, run.line)]
    *earlier, args = lines
    args += ["--json"] * (way == "json")
    for each in earlier:
        done = scene.cli(*each)
        assert done.returncode == 0, done.stderr
    cli, variables = scene.cli.having(run.env), (f"{name}={value}" for name, value in (run.env or {}).items())
    line = "; ".join(shlex.join(["retrycli", *each]) for each in earlier) + "; " * bool(earlier)
    line = scene.plain(line + shlex.join([*variables, "retrycli", *args])).strip()
    if way == "terminal":
        screen = cli.on_terminal(*args, columns=run.columns, answers=run.answers)
        return line, screen.returncode, scene.plain(screen.text)
    done = cli(*args)
    out = readable(done.stdout) if way == "json" and done.stdout else done.stdout
    return line, done.returncode, scene.plain(out) + indent(scene.plain(USAGE.sub("", done.stderr)), "2> ")
