"""The commands for setting up: ``init``, ``config``, ``doctor``, ``notify test`` and ``version``."""

import uuid
from pathlib import Path
from typing import Annotated

import typer

import retrycli
from retrycli import operations
from retrycli.cli.findings import show_findings
from retrycli.cli.options import NOT_OK, ConfigFile, Json, config_file, load, load_settings, utf8
from retrycli.config import template
from retrycli.domain import suggested
from retrycli.domain.errors import RetrycliError, Untrusted
from retrycli.views import terminal

notify = typer.Typer(help="Test notifications.", no_args_is_help=True, rich_markup_mode=None)
config = typer.Typer(help="Show and check the settings.", no_args_is_help=True, rich_markup_mode=None)


def init(
    ctx: typer.Context,
    database_url: Annotated[
        str, typer.Option(help="The URL of the database that contains the application's table.", parser=utf8)
    ] = "sqlite:///ticketing_agent.db",
    base_url: Annotated[
        str | None, typer.Option(help="The URL of the ticketing API.", show_default=False, parser=utf8)
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Copy the example database to the URL's file, to try retrycli on it.")
    ] = False,
    config: ConfigFile = None,
) -> None:
    """Write retrycli.toml and create retrycli's own tables."""
    file = config or ctx.find_root().params["config"] or Path("retrycli.toml")
    operations.setup.write_config(file, database_url=database_url, base_url=base_url)
    try:
        settings = load_settings(ctx, file)
        if example:
            operations.setup.write_example(settings)
        try:
            done = f"retrycli's tables are in {operations.setup.make_tables(settings)}."
            step = "retrycli run-once --dry-run"
        except Untrusted as error:
            if error.owner is None:
                raise
            done = f"Root does not open a database of {error.owner}. The next command creates retrycli's tables."
            step = suggested.as_user(error.owner, "config check", str(file.absolute())).strip("`")
    except RetrycliError:
        file.unlink()  # otherwise the corrected command would fail because the file exists
        raise
    terminal.say(f"Wrote {file}.", done)
    if not settings.gateway.base_url:
        step = f"set gateway.base_url in {file}, then `{step}`"
    terminal.say(f"Next: {step}")


@config.command("show")
def config_show(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show every setting and its source. Secrets are masked."""
    values = template.shown(load(ctx, config))
    if as_json:
        terminal.show_json(
            {"settings": [{"key": key, "value": value, "source": source} for key, value, source in values]}
        )
    else:
        terminal.show_table(("Setting", "Value", "From"), values)
        terminal.say("Next: retrycli config check")


@config.command("check")
def config_check(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Check the settings, the preset, the database and its tables. Nothing is sent."""
    facts = operations.setup.check(load_settings(ctx, config))
    if as_json:
        terminal.show_json({"ok": True} | {name.lower(): value for name, value in facts.items()})
    else:
        terminal.show_facts(facts)
        terminal.say("Next: retrycli run-once --dry-run")


def doctor(
    ctx: typer.Context,
    as_cron: Annotated[bool, typer.Option("--as-cron", help="Run the checks in cron's environment.")] = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Check the installation and report problems. Exit with 3 if a check fails.

    No message is sent, and nothing is written.
    """
    file = config_file(ctx, config)
    findings = operations.doctor.examine_as_cron(file) if as_cron else operations.doctor.examine(file)
    bad = operations.doctor.context.failed(findings)
    again = "retrycli doctor" + (" --as-cron" if as_cron else "")
    show_findings(findings, again=again, following="retrycli status", bad=bad, as_json=as_json)
    raise typer.Exit(NOT_OK if bad else 0)


@notify.command("test")
def send_test(ctx: typer.Context, as_json: Json = False, config: ConfigFile = None) -> None:
    """Send a test notification to every target. Exit with 3 if a target does not accept it."""
    tried = operations.notifications.send_test(load_settings(ctx, config), str(uuid.uuid4()))
    failed = {
        "notify.ping_url" if result.target == operations.notifications.PING else "notify.urls"
        for result in tried
        if result.failure
    }
    if as_json:
        terminal.show_json(
            {
                "targets": [
                    {
                        "target": result.target,
                        "scheme": result.scheme,
                        "accepted": result.failure is None,
                        "error": result.failure,
                    }
                    for result in tried
                ]
            }
        )
    else:
        terminal.show_table(
            ("Target", "Scheme", "Result"),
            [(result.target, result.scheme, result.failure or "accepted") for result in tried],
            texts=1,
        )
        broken = " and ".join(sorted(failed, reverse=True))
        terminal.say("Next: " + (f"fix {broken}, then `retrycli notify test`" if failed else "retrycli status"))
    raise typer.Exit(NOT_OK if failed else 0)


def version(as_json: Json = False) -> None:
    """Show retrycli's version."""
    if as_json:
        terminal.show_json({"version": retrycli.__version__})
    else:
        typer.echo(f"retrycli {retrycli.__version__}")
