"""The ``presets`` commands, and ``deliver-test``, which sends a test message with a preset."""

from __future__ import annotations

from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.options import NOT_OK, ConfigFile, Json, Yes, confirm, load_settings, operator_name, utf8
from retrycli.domain.message import MessageType
from retrycli.domain.suggested import command
from retrycli.system.process import login_name
from retrycli.views import terminal

PLACES = {"cc_emails": "cc", "bcc_emails": "bcc", "attachments": "attachments"}

NO_RULE = "no [success]: a response that is neither empty nor JSON stops passes, because it may be any page"

presets = typer.Typer(rich_markup_mode=None)


@presets.callback(invoke_without_command=True)
def list_presets(ctx: typer.Context, as_json: Json = False) -> None:
    """Show and check presets, which describe ticketing systems. Without a command, list the presets."""
    if ctx.invoked_subcommand is not None:
        return
    found = operations.presets.bundled()
    if as_json:
        terminal.show_json({"presets": [_preset_fields(name, preset) for name, preset in found.items()]})
    else:
        rows = [(name, _title(preset), _summary(preset)) for name, preset in found.items()]
        terminal.show_table(("Name", "System", "Features"), rows, texts=1)
        terminal.say(f"Next: {command('presets', 'show', rows[0][0])}, or set gateway.preset")


@presets.command("show")
def show(
    preset: Annotated[
        str, typer.Argument(metavar="NAME", help="The name of a bundled preset, or a file.", parser=utf8)
    ],
) -> None:
    """Print a preset as TOML, as a template for your own."""
    terminal.show_text(operations.presets.preset_text(preset))


@presets.command("check")
def check(
    ctx: typer.Context,
    preset: Annotated[
        str, typer.Argument(metavar="FILE", help="A file, or the name of a bundled preset.", parser=utf8)
    ],
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Check a preset and show its features. Nothing is sent."""
    found, compared = operations.presets.check(load_settings(ctx, config), preset)
    if as_json:
        warning = None if found.has_success_rule else NO_RULE
        terminal.show_json({"ok": True, **_preset_fields(preset, found), "table": compared, "warning": warning})
    else:
        terminal.show_facts(
            {
                "Preset": f"{preset}: {_title(found)}",
                "Credentials": ", ".join(f"gateway.{key}" for key in _credentials(found)) or "depend on gateway.auth",
                **{
                    str(message_type).capitalize(): ", ".join(
                        [f"{sent.method} {sent.path}", *_capabilities(found, message_type)]
                    )
                    for message_type, sent in found.messages.items()
                },
                **({} if found.has_success_rule else {"Warning": NO_RULE}),
                "Looks up": "yes"
                if found.look_up
                else "no: a message that may have arrived is sent again at most gateway.unknown_limit times",
                "Table": compared,
            }
        )
        terminal.say(
            "Next: set gateway.preset, then `retrycli deliver-test --ticket ID`, which posts a note to that ticket"
        )


def deliver_test(
    ctx: typer.Context,
    ticket: Annotated[str, typer.Option(help="The ticket to post to; choose a test ticket.", parser=utf8)],
    message_type: Annotated[MessageType, typer.Option("--type", help="The message type.")] = MessageType.INTERNAL,
    recipient: Annotated[
        str | None, typer.Option("--to", help="The recipient, if the system accepts one.", parser=utf8)
    ] = None,
    cc: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A Cc address. Repeat for more.", parser=utf8)
    ] = None,
    bcc: Annotated[
        list[str] | None, typer.Option(metavar="ADDRESS", help="A Bcc address. Repeat for more.", parser=utf8)
    ] = None,
    attach: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="A file in gateway.attachments_dir. Repeat for more.", parser=utf8),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(help="The operator named in the message.", show_default="login name", parser=operator_name),
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Send one marked test message. Show the request and the response.

    The message bypasses the queue. Secrets are masked.
    """
    if not ticket.strip():
        raise typer.BadParameter("the ticket is empty; give a test ticket", param_hint="--ticket")
    settings = load_settings(ctx, config)
    if message_type is not MessageType.INTERNAL:
        confirm(
            f"Send a test message to the {message_type} of ticket {ticket}?",
            f"a message to a {message_type} leaves your organization",
            yes=yes,
            as_json=as_json,
        )
    tried = operations.trial.deliver_test(
        settings,
        ticket=ticket,
        message_type=message_type,
        recipient=recipient,
        lists={"cc_emails": cc or (), "bcc_emails": bcc or (), "attachments": attach or ()},
        by=by or login_name(),
    )
    _show(tried, as_json=as_json)
    raise typer.Exit(0 if tried.delivered else NOT_OK)


def _show(tried: operations.trial.Trial, *, as_json: bool) -> None:
    outcome = tried.outcome
    if as_json:
        terminal.show_json(
            {
                "outcome": outcome.kind,
                "status_code": outcome.status_code,
                "error": outcome.error,
                "found_again": tried.found_again,
                "exchanges": [{"request": request, "answer": answer} for request, answer in tried.exchanges],
            }
        )
        return
    for request, answer in tried.exchanges:
        terminal.show_text("\n".join(f"> {line}" for line in request.splitlines()))
        terminal.show_text("\n".join(f"< {line}" for line in answer.splitlines()))
    found = {
        True: "yes",
        False: "no: a message that may have arrived would be sent again. "
        "Fix look_up in the preset, unless the ticketing system shows new messages with a delay",
        None: "not known",
    }
    terminal.show_facts(
        {
            "Outcome": outcome.kind.value,
            **({} if outcome.error is None else {"Error": outcome.error}),
            "Found again by a look-up": found[tried.found_again],
        }
    )
    terminal.say(f"Next: {'retrycli run-once --dry-run' if tried.delivered else 'retrycli doctor'}")


def _title(preset: operations.presets.Preset) -> str:
    return "" if preset.about is None else preset.about.title


def _credentials(preset: operations.presets.Preset) -> tuple[str, ...]:
    return () if preset.auth is None else preset.auth.needs


def _capabilities(preset: operations.presets.Preset, message_type: MessageType) -> list[str]:
    return [PLACES[column] for column in preset.messages[message_type].capabilities]


def _summary(preset: operations.presets.Preset) -> str:
    replies = _capabilities(preset, MessageType.CUSTOMER) if MessageType.CUSTOMER in preset.messages else []
    notes = ["internal notes"] if MessageType.INTERNAL in preset.messages else []
    return ", ".join([*replies, *notes, *(["look-up"] if preset.look_up else [])])


def _preset_fields(name: str, preset: operations.presets.Preset) -> dict[str, object]:
    return {
        "name": name,
        "title": _title(preset),
        "checked": None if preset.about is None else preset.about.checked,
        "credentials": _credentials(preset),
        "looks_up": bool(preset.look_up),
        "messages": {
            str(message_type): {
                "method": sent.method,
                "path": sent.path,
                "format": sent.format,
                "capabilities": _capabilities(preset, message_type),
            }
            for message_type, sent in preset.messages.items()
        },
    }
