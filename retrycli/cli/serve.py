"""``serve``: run the HTTP API and the console, and manage the tokens of their users."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError

from retrycli import operations
from retrycli.cli.options import ConfigFile, Header, Json, load_settings, operator_name
from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, DatabaseUnavailable
from retrycli.domain.user import Role
from retrycli.system.process import install
from retrycli.views import terminal

serve = typer.Typer(invoke_without_command=True, rich_markup_mode=None)
token = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Manage the tokens of the console's users.")
serve.add_typer(token, name="token")

UserName = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.", parser=operator_name)]


@serve.callback()
def run_server(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="The address on which to listen.", show_default="web.host")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The TCP port on which to listen.", show_default="web.port")
    ] = None,
    uds: Annotated[
        Path | None, typer.Option(help="The Unix socket on which to listen.", show_default="web.uds")
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(help="The path under which a reverse proxy serves the console.", show_default="web.root_path"),
    ] = None,
    read_only: Annotated[bool, typer.Option("--read-only", help="Let nobody change anything.")] = False,
    config: ConfigFile = None,
) -> None:
    """Serve the console and the HTTP API."""
    if ctx.invoked_subcommand is not None:
        return
    given = {"host": host, "port": port, "uds": uds, "root_path": root_path, "read_only": read_only or None}
    run_console(load_settings(ctx, config), given)


def run_console(settings: Settings, given: Mapping[str, object], *more: str) -> NoReturn:
    """Serve the console until a signal ends the process. Options given for the section ``web`` override the settings,
    unless they are None. Print ``more`` lines when the server listens.

    Raises:
        ConfigurationError: the extra ``web`` is not installed, or a setting can't be used.
        typer.BadParameter: an option is invalid.
        typer.Exit: always; the exit code is that of the signal.
    """
    try:
        from retrycli.web import server
    except ImportError as error:
        raise ConfigurationError(f"the console needs {error.name}, which is missing; run `{install('web')}`") from None
    values = settings.web.model_dump() | {name: value for name, value in given.items() if value is not None}
    if given.get("uds") is None and (given.get("host"), given.get("port")) != (None, None):
        values["uds"] = None  # an option overrides the setting
    try:
        web = type(settings.web).model_validate(values)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        name = "".join(f"--{part}".replace("_", "-") for part in problem["loc"][:1])
        raise typer.BadParameter(str(problem["msg"]), param_hint=name or "serve") from None

    def show(address: str) -> None:
        print(f"Serving the console at {address}", *more, sep="\n", flush=True)  # noqa: T201
        terminal.say("Stop it with Ctrl+C.")

    try:
        operations.status.status(settings)
    except DatabaseUnavailable as error:  # the pages say so, too, and recover
        terminal.complain(f"retrycli: {error}")
    received = server.serve(settings.model_copy(update={"web": web}), show)
    raise typer.Exit(0 if received is None else 128 + received)


@token.command("add")
def add_token(
    ctx: typer.Context,
    name: UserName,
    role: Annotated[Role, typer.Option(help="Viewers read; operators also act; Prometheus only gets metrics.")],
    config: ConfigFile = None,
) -> None:
    """Create a token for a user, and print it once."""
    made = operations.tokens.add(load_settings(ctx, config), name, role)
    print(made)  # noqa: T201
    terminal.say("This token is shown only now. The user signs in to the console with it.", "Next: retrycli serve")


@token.command("list")
def list_tokens(ctx: typer.Context, header: Header = False, as_json: Json = False, config: ConfigFile = None) -> None:
    """List the users who have a token."""
    found = operations.tokens.load(load_settings(ctx, config))
    if as_json:
        terminal.show_json(
            {"tokens": [{"name": user.name, "role": user.role, "created_at": user.created_at} for user in found]}
        )
        return
    terminal.show_table(
        ("Name", "Role", "Created"), [(user.name, user.role, user.created_at) for user in found], named=header
    )
    terminal.say("Next: retrycli serve token remove NAME")


@token.command("remove")
def remove_token(ctx: typer.Context, name: UserName, config: ConfigFile = None) -> None:
    """Remove a user's token, and end the user's sessions."""
    operations.tokens.remove(load_settings(ctx, config), name)
    terminal.say(f"Removed the token of {name}.", "Next: retrycli serve token list")
