"""The command line: one short function per command, and one funnel for errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_group

from retrycli.cli.shared import ConfigFile, Globals, LogFormat, LogLevel

READER_GONE = 128 + 13
"""Our output's reader has gone, as `head` does: what a shell says of a program that SIGPIPE has ended."""

HOMES = {
    "run-once": "passes",
    "passes": "passes",
    "pause": "passes",
    "resume": "passes",
    "status": "look",
    "list-failed": "look",
    "show": "look",
    "explain": "look",
    "escalations": "escalations",
    "retry": "act",
    "requeue": "act",
    "reject": "act",
    "look-up": "arrival",
    "mark-sent": "arrival",
    "edit": "edit",
    "notify": "notify",
    "metrics": "measure",
    "stats": "see",
    "report": "see",
    "doctor": "checkup",
    "init": "setup",
    "config": "setup",
    "table": "setup",
    "db": "setup",
    "presets": "presets",
    "deliver-test": "presets",
    "cron": "cron",
    "sandbox": "tryout",
    "demo": "tryout",
    "version": "setup",
}
"""Where each command is, in the order of the help."""


class Commands(TyperGroup):
    """The commands, each made when it is asked for: cron starts us every time, and needs one of them.

    To load and describe them all takes an eighth of a pass with nothing due (tests/benchmarks).
    """

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401  typer keeps click's types to itself
        """The names of all commands."""
        del ctx
        return list(HOMES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401  as above
        """A command; None where there is none of that name, and then all are made, so that one like it is suggested."""
        del ctx
        if cmd_name not in self.commands:
            for home in {HOMES[cmd_name]} if cmd_name in HOMES else {*HOMES.values()}:
                self.commands.update(_at(home))
        return self.commands.get(cmd_name)


def _at(home: str) -> dict[str, Any]:
    """The commands of a module."""
    group = typer.Typer(rich_markup_mode=None)
    import_module(f"{__name__}.{home}").register(group)
    return dict(get_group(group).commands)


app = typer.Typer(
    name="retrycli",
    cls=Commands,
    help="Delivers failed ticket messages after all: one safe pass per cron tick.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help in plain text comes up in half the time, and reads the same when it is piped
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    ctx: typer.Context,
    config: ConfigFile = None,
    log_level: Annotated[
        LogLevel | None, typer.Option(help="The least level to log.", case_sensitive=False, show_default=False)
    ] = None,
    log_format: Annotated[LogFormat | None, typer.Option(help="How to log.", show_default=False)] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take the options that come before the command."""
    del debug  # `_fail` looks for it among the arguments, for there is no context by then
    ctx.obj = Globals(config, log_level, log_format)


def run() -> None:
    """Run the command that the arguments name; every error ends here, in words and with its exit code."""
    from retrycli import suggested
    from retrycli.cli import streams
    from retrycli.errors import RetrycliError, cause_of

    streams.prepare()
    suggested.called_as(_program(sys.orig_argv, sys.argv[0], os.environ), HOMES)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except RetrycliError as error:
        _fail(error, str(error), error.exit_code)
    except BrokenPipeError:
        sys.exit(READER_GONE)
    except SystemExit as end:
        # typer has seen it first, and calls it 1.
        sys.exit(READER_GONE if isinstance(end.__context__, BrokenPipeError) else end.code)
    except Exception as error:  # noqa: BLE001  the funnel: whatever a command did not foresee
        _fail(error, f"{cause_of(error)}. Run it again with --debug before the command", 1)


def _program(started: Sequence[str], script: str, environ: Mapping[str, str]) -> list[str]:
    """Return the words before the command, so that a shell would find the same program again.

    Args:
        started: how Python was called.
        script: what it runs: the installed script, by the path that a shell or the kernel found it by, or a module.
        environ: the environment. sudo tells there what it was asked to run, and by whom.
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
    if Path(environ.get("SUDO_COMMAND", "").split(" ")[0]).name != Path(program[0]).name:
        return program
    return [*_sudo(), *program]


def _sudo() -> list[str]:
    """Return how to become the user that this process runs as."""
    import pwd

    user = os.geteuid()
    try:
        return ["sudo"] if user == 0 else ["sudo", "-u", pwd.getpwuid(user).pw_name]
    except KeyError:
        return ["sudo", "-u", f"#{user}"]


def _fail(error: BaseException, text: str, code: int) -> None:
    from retrycli import suggested
    from retrycli.escape import printable

    if "--debug" in sys.argv:
        import traceback

        traceback.print_exception(error)
    print(f"retrycli: {printable(suggested.quoted(text))}", file=sys.stderr)  # noqa: T201
    sys.exit(code)
