"""The command line: one short function per command, and the handling of all errors."""

import os
import pwd
import re
import shutil
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup
from typer.main import get_group

import retrycli
from retrycli.cli.options import ConfigFile
from retrycli.domain import suggested
from retrycli.domain.errors import RetrycliError, cause_of
from retrycli.domain.sanitize import printable
from retrycli.system.process import prepare_streams

# Exit code if the program that reads the output, such as `head`, has ended. A shell reports the same code for a process
# that SIGPIPE kills.
SIGPIPE_EXIT = 128 + 13
# The module of each command, in the groups and the order of the help. The module contains a function or a command group
# with the command's name, which `_load_command` looks up.
GROUPS = {
    "Core commands": {
        "run-once": "run_once",
        "status": "status",
        "list-failed": "list_failed",
        "retry": "actions",
        "escalations": "escalations",
    },
    "Messages": {
        "show": "show",
        "explain": "show",
        "edit": "edit",
        "look-up": "actions",
        "mark-sent": "actions",
        "requeue": "actions",
        "reject": "actions",
    },
    "Passes": {
        "pause": "pause",
        "resume": "pause",
        "passes": "status",
        "stats": "stats",
        "report": "stats",
        "metrics": "stats",
        "serve": "serve",
    },
    "Setting up": {
        "init": "setup",
        "config": "setup",
        "doctor": "setup",
        "cron": "cron",
        "notify": "setup",
        "presets": "presets",
        "deliver-test": "presets",
        "table": "table",
        "db": "db",
    },
    "Trying out": {"sandbox": "demo", "demo": "demo", "manual": "manual", "version": "setup"},
}
HOMES = {name: home for group in GROUPS.values() for name, home in group.items()}
# The example at the end of each command's help, by the command's full name.
EXAMPLES = {
    "run-once": "retrycli run-once --dry-run",
    "status": "retrycli status --check --max-escalated 100",
    "list-failed": "retrycli list-failed --type supplier --error 503",
    "retry": "retrycli retry 17 18",
    "escalations": "retrycli escalations",
    "escalations ack": "retrycli escalations ack 17 --by anna",
    "escalations note": "retrycli escalations note 17 'asked the customer for another address'",
    "show": "retrycli show 17",
    "explain": "retrycli explain 17",
    "edit": "retrycli edit 17 --recipient max@example.org",
    "look-up": "retrycli look-up 17",
    "mark-sent": "retrycli mark-sent 17 --note 'the customer has answered it'",
    "requeue": "retrycli requeue --fingerprint d99c9ce87382 --canary 3 --spread 2h",
    "reject": "retrycli reject 17 --reason 'no longer needed'",
    "pause": "retrycli pause --ticket 4711 --for 2h --reason 'wrong price'",
    "resume": "retrycli resume --ticket 4711",
    "passes": "retrycli passes --limit 5",
    "stats": "retrycli stats --since 24h --by error",
    "report": "retrycli report --html report.html --since 30d",
    "metrics": "retrycli metrics",
    "serve": "retrycli serve --port 8003",
    "serve token": "retrycli serve token add anna --role operator",
    "serve token add": "retrycli serve token add anna --role operator",
    "serve token list": "retrycli serve token list",
    "serve token remove": "retrycli serve token remove anna",
    "doctor": "retrycli doctor --as-cron",
    "init": "retrycli init --base-url https://tickets.example.com",
    "config": "retrycli config show",
    "config show": "retrycli config show",
    "config check": "retrycli config check",
    "cron": "retrycli cron install",
    "cron print": "retrycli cron print --user",
    "cron install": "retrycli cron install",
    "cron check": "retrycli cron check",
    "cron remove": "retrycli cron remove",
    "notify": "retrycli notify test",
    "notify test": "retrycli notify test",
    "presets": "retrycli presets",
    "presets show": "retrycli presets show zammad",
    "presets check": "retrycli presets check ours.toml",
    "deliver-test": "retrycli deliver-test --ticket 4711",
    "table": "retrycli table describe",
    "table describe": "retrycli table describe outbox --url sqlite:////srv/desk/desk.db",
    "table check": "retrycli table check",
    "table accept": "retrycli table accept",
    "db": "retrycli db prune --older-than 90d",
    "db upgrade": "retrycli db upgrade",
    "db prune": "retrycli db prune --older-than 90d",
    "db erase": "retrycli db erase --ticket 4711",
    "db move-check": "retrycli db move-check",
    "db index": "retrycli db index",
    "sandbox": "retrycli sandbox --fail 30% --latency 200ms",
    "demo": "retrycli demo",
    "manual": "retrycli manual settings",
    "version": "retrycli version",
}


class _ProgramContext(typer.Context):
    @property
    def command_path(self) -> str:
        # Name the program in usage lines and errors as in suggested commands, for example with sudo.
        return suggested.program()


class _Commands(TyperGroup):
    """All commands, loaded on demand, because cron starts the program for every pass and a pass needs only one command.

    Loading all commands takes an eighth of the time of a pass with nothing due (tests/benchmarks).
    """

    context_class = _ProgramContext

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  typer does not export click's types
        return list(HOMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  typer does not export click's types
        if cmd_name not in self.commands:
            # For an unknown command, load all commands, so that typer can suggest a similar name.
            names = [cmd_name] if cmd_name in HOMES else HOMES
            self.commands.update({name: _load_command(name) for name in names})
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  typer does not export click's types
        for title, names in GROUPS.items():
            width = formatter.width - LONGEST_COMMAND - 6
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name:<{LONGEST_COMMAND}}", self.get_command(ctx, name).get_short_help_str(width))
                        for name in names
                    ]
                )

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  typer does not export click's types
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            for pattern, wording in WORDING.items():
                error.message = re.sub(pattern, wording, error.message)
            raise


LONGEST_COMMAND = max(map(len, HOMES))
# Replacements for pydantic's wording in errors about invalid arguments, by pattern.
WORDING = {
    r"^Input should be a valid integer.*": "must be an integer",
    r"^Input should be a valid number.*": "must be a number",
    r"^Input should be less than or equal to ": "must be at most ",
    r"^Input should be greater than or equal to ": "must be at least ",
    r"^Input should be ": "must be ",
    r"^Value error, ": "",
}


def _load_command(name: str) -> Any:  # noqa: ANN401  typer does not export click's types
    found = getattr(import_module(f"{__name__}.{HOMES[name]}"), name.replace("-", "_"))
    group = typer.Typer(add_completion=False, rich_markup_mode=None)
    if isinstance(found, typer.Typer):
        group.add_typer(found, name=name)
    else:
        group.command(name)(found)
    command = get_group(group).commands[name]
    _add_examples(command, name)
    return command


def _add_examples(command: Any, *names: str) -> None:  # noqa: ANN401  typer does not export click's types
    # \b keeps click from re-wrapping the lines.
    command.epilog = f"\b\nExample:\n  {suggested.own(EXAMPLES[' '.join(names)])}"
    for name, subcommand in getattr(command, "commands", {}).items():
        _add_examples(subcommand, *names, name)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"retrycli {retrycli.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="retrycli",
    cls=_Commands,
    help="Deliver failed ticket messages, in passes that cron or a timer starts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help starts twice as fast, and reads the same when piped
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def declare_options(
    config: ConfigFile = None,
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR"] | None,
        typer.Option(help="The lowest level to log on stderr.", case_sensitive=False, show_default=False),
    ] = None,
    log_format: Annotated[
        Literal["text", "json"] | None, typer.Option(help="The format of log lines.", show_default=False)
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show retrycli's version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Declare the options that precede the command. `options.load` and, for ``--debug``, `_fail` read them."""


def run() -> None:
    """Run the command line, and exit with its code. Report an error in one line, unless an earlier pass reported it."""
    prepare_streams()
    program = _program(sys.orig_argv, sys.argv[0], os.environ)
    full = [str(Path(sys.argv[0]).absolute())] if len(program) == 1 else [sys.executable, *program[1:]]
    by_sudo = Path(os.environ.get("SUDO_COMMAND", "").split(" ")[0]).name == Path(program[0]).name
    suggested.called_as([*(_sudo_prefix() if by_sudo else []), *program], HOMES, full=full, arguments=sys.argv[1:])
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except RetrycliError as error:
        if error.is_known and not sys.stderr.isatty() and "--debug" not in sys.argv:
            sys.exit(error.exit_code)
        _fail(error, str(error), error.exit_code)
    except BrokenPipeError:
        sys.exit(SIGPIPE_EXIT)
    except SystemExit as end:
        # typer catches BrokenPipeError first, and exits with 1.
        sys.exit(SIGPIPE_EXIT if isinstance(end.__context__, BrokenPipeError) else end.code)
    except Exception as error:  # noqa: BLE001  a bug is also reported in one line
        _fail(error, f"{cause_of(error)}. Run again with --debug before the command to show the traceback", 1)


def _program(started: Sequence[str], script: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words with which a shell can start this program again, without the command and its options.
    ``started`` is the command line of Python, and ``script`` the installed script or the module's ``__main__.py``.
    """
    if "-m" in started[1:-1] and Path(script).name == "__main__.py":
        return [*started[: started.index("-m") + 2]]
    with suppress(OSError):
        found = shutil.which(Path(script).name, path=environ.get("PATH"))
        if found is not None and Path(found).samefile(script):
            return [Path(script).name]
    return [script]


def _sudo_prefix() -> list[str]:
    user = os.geteuid()
    try:
        return ["sudo"] if user == 0 else ["sudo", "-u", pwd.getpwuid(user).pw_name]
    except KeyError:
        return ["sudo", "-u", f"#{user}"]


def _fail(error: BaseException, text: str, code: int) -> None:
    if "--debug" in sys.argv:
        traceback.print_exception(error)
    print(f"retrycli: {printable(suggested.quoted(text))}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
