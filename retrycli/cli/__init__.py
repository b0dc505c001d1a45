"""The command line: one short function per command, and one funnel for errors."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from retrycli.cli.options import ConfigFile, Globals, LogFormat, LogLevel

SIGPIPE_EXIT = 128 + 13
"""Exit code if the reader of our output is gone, as with `head`: a shell reports a death by SIGPIPE so."""

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
        "explain": "explain",
        "edit": "edit",
        "look-up": "arrival",
        "mark-sent": "arrival",
        "requeue": "actions",
        "reject": "actions",
    },
    "Passes": {
        "pause": "pause",
        "resume": "pause",
        "passes": "passes",
        "stats": "stats",
        "report": "report",
        "metrics": "metrics",
    },
    "Setting up": {
        "init": "init",
        "config": "config",
        "doctor": "doctor",
        "cron": "cron",
        "notify": "notify",
        "presets": "presets",
        "deliver-test": "presets",
        "table": "table",
        "db": "db",
    },
    "Trying out": {"sandbox": "demo", "demo": "demo", "manual": "manual", "version": "version"},
}
"""The module of each command, by group, in the order of the help."""
HOMES = {name: home for group in GROUPS.values() for name, home in group.items()}
"""The module of each command."""


class ProgramContext(typer.Context):
    """The root context. It names the program in usage lines and errors as suggested commands do."""

    @property
    def command_path(self) -> str:
        """The words before a command."""
        from retrycli.domain import suggested

        return suggested.program()


class Commands(TyperGroup):
    """All commands, loaded on demand: cron starts the program for every pass, and needs one command.

    Loading all of them takes an eighth of a pass with nothing due (tests/benchmarks).
    """

    context_class = ProgramContext

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  typer does not export click's types
        """Return the names of all commands."""
        del ctx
        return list(HOMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  as above
        """Return a command; None if unknown, with all commands loaded so that a similar one is suggested."""
        del ctx
        if cmd_name not in self.commands:
            for home in {HOMES[cmd_name]} if cmd_name in HOMES else {*HOMES.values()}:
                self.commands.update(_load_commands(home))
        return self.commands.get(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401  as above
        """Write the commands by group."""
        for title, names in GROUPS.items():
            commands = {name: self.get_command(ctx, name) for name in names}
            room = formatter.width - LONGEST_COMMAND - 6
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name:<{LONGEST_COMMAND}}", command.get_short_help_str(room))
                        for name, command in commands.items()
                    ]
                )

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401  as above
        """Run a command. Reword the type checker's errors about its arguments."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = _reword(error.message)
            raise


LONGEST_COMMAND = max(map(len, HOMES))
WORDING = {
    r"^Input should be a valid integer.*": "it must be an integer",
    r"^Input should be a valid number.*": "it must be a number",
    r"^Input should be less than or equal to ": "it must be at most ",
    r"^Input should be greater than or equal to ": "it must be at least ",
    r"^Input should be ": "it must be ",
}
"""Patterns of the argument checker's errors, with our wording."""


def _reword(text: str) -> str:
    return next(
        (re.sub(pattern, wording, text) for pattern, wording in WORDING.items() if re.match(pattern, text)), text
    )


def _load_commands(home: str) -> dict[str, Any]:
    """Load the commands of a module. Add an example to the help of every command."""
    group = typer.Typer(rich_markup_mode=None)
    import_module(f"{__name__}.{home}").register(group)
    commands = dict(get_group(group).commands)
    for name, command in commands.items():
        _add_examples(command, name)
    return commands


def _add_examples(command: Any, *names: str) -> None:  # noqa: ANN401  as above
    from retrycli.cli.examples import EXAMPLES
    from retrycli.domain import suggested

    # \b keeps click from re-wrapping the lines.
    command.epilog = f"\b\nExample:\n  {suggested.own(EXAMPLES[' '.join(names)])}"
    for name, subcommand in getattr(command, "commands", {}).items():
        _add_examples(subcommand, *names, name)


def _show_version(wanted: bool) -> None:
    if wanted:
        import retrycli

        typer.echo(f"retrycli {retrycli.__version__}")
        raise typer.Exit


app = typer.Typer(
    name="retrycli",
    cls=Commands,
    help="Deliver failed ticket messages: one safe pass per run of cron.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help in plain text comes up in half the time, and reads the same when it is piped
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def store_options(
    ctx: typer.Context,
    config: ConfigFile = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="The minimum level to log.", case_sensitive=False, show_default=False)
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="The format of log lines.", show_default=False)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show retrycli's version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Store the options before the command."""
    del version
    del debug  # `_fail` reads it from the arguments, because it has no context
    ctx.obj = Globals(config, log_level, log_format)


def run() -> None:
    """Run the command line. Report every error as one line and with its exit code."""
    from retrycli.cli import streams
    from retrycli.domain import suggested
    from retrycli.domain.errors import RetrycliError, cause_of

    streams.prepare()
    program = _program(sys.orig_argv, sys.argv[0], os.environ)
    full = [str(Path(sys.argv[0]).absolute())] if len(program) == 1 else [sys.executable, *program[1:]]
    by_sudo = Path(os.environ.get("SUDO_COMMAND", "").split(" ")[0]).name == Path(program[0]).name
    suggested.called_as([*(_sudo_prefix() if by_sudo else []), *program], HOMES, full=full, machine=_daemon_commands)
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
    except Exception as error:  # noqa: BLE001  the funnel for unexpected errors
        _fail(error, f"{cause_of(error)}. Run it again with --debug before the command", 1)


def _program(started: Sequence[str], script: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words before the command with which a shell finds this program again.

    Args:
        started: Python's command line.
        script: the path of the installed script, or of the module's ``__main__.py``.
        environ: the environment, for its search path.
    """
    import shutil
    from contextlib import suppress

    if "-m" in started[1:-1] and Path(script).name == "__main__.py":
        program = [*started[: started.index("-m") + 2]]
    else:
        program = [script]
        with suppress(OSError):
            found = shutil.which(Path(script).name, path=environ.get("PATH"))
            if found is not None and Path(found).samefile(script):
                program = [Path(script).name]
    return program


def _daemon_commands() -> Mapping[str, str]:
    from retrycli.system.crontab import daemon_commands
    from retrycli.system.host import Host

    return daemon_commands(Host())


def _sudo_prefix() -> list[str]:
    """Return the command prefix that makes sudo run as this process's user."""
    import pwd

    user = os.geteuid()
    try:
        return ["sudo"] if user == 0 else ["sudo", "-u", pwd.getpwuid(user).pw_name]
    except KeyError:
        return ["sudo", "-u", f"#{user}"]


def _fail(error: BaseException, text: str, code: int) -> None:
    from retrycli.domain import suggested
    from retrycli.domain.sanitize import printable

    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    print(f"retrycli: {printable(suggested.quoted(text))}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
