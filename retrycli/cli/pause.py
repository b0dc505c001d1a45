"""The commands ``pause`` and ``resume``: stop and restart deliveries, or hold a part of the queue."""

from collections.abc import Collection
from datetime import timedelta
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import not_blank
from retrycli.cli.options import By, ConfigFile, load_settings, utf8
from retrycli.config.settings import Settings
from retrycli.domain.duration import duration
from retrycli.domain.listing import FILTER_FIELDS
from retrycli.domain.message import MessageType
from retrycli.domain.passes import HoldKind, HoldTarget
from retrycli.views import formatting, terminal

Messages = Annotated[
    list[str] | None,
    typer.Option(
        "--message", help="Only the message with this id.", show_default=False, metavar="ID", parser=not_blank
    ),
]
Destinations = Annotated[
    list[str] | None,
    typer.Option(
        "--destination",
        help="Only messages that go to this base URL.",
        show_default=False,
        metavar="URL",
        parser=not_blank,
    ),
]

Tickets = Annotated[
    list[str] | None, typer.Option("--ticket", help=FILTER_FIELDS["ticket"].help, show_default=False, parser=not_blank)
]
Types = Annotated[
    list[MessageType] | None, typer.Option("--type", help=FILTER_FIELDS["message_type"].help, show_default=False)
]


def pause(
    ctx: typer.Context,
    messages: Messages = None,
    tickets: Tickets = None,
    types: Types = None,
    destinations: Destinations = None,
    length: Annotated[
        timedelta | None,
        typer.Option(
            "--for",
            help="Resume automatically after this long, such as 30m, 2h or 1d.",
            show_default=False,
            metavar="<duration>",
            parser=duration,
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="The reason, shown by `status` and `passes`.", show_default=False, parser=utf8)
    ] = None,
    by: By = None,
    config: ConfigFile = None,
) -> None:
    """Stop passes from sending, until `resume` or for a set time. With options, hold only these messages.

    Each of --message, --ticket, --type and --destination can be repeated.
    """
    if length is not None and not length:
        raise typer.BadParameter(
            "the pause would end immediately; omit --for to pause until `retrycli resume`", param_hint="--for"
        )
    settings = load_settings(ctx, config)
    if targets := _targets(messages, tickets, types, destinations):
        _hold(settings, targets, length, reason, by)
        return
    begun, replaced = operations.pause.pause(settings, length=length, reason=reason, by=by)
    if replaced is not None:
        terminal.complain(f"retrycli: this replaces {terminal.told(replaced.in_words)}")
    until = f"until {formatting.local_time(begun.until)}" if begun.until else "until `retrycli resume`"
    terminal.say(
        f"Paused {until}. Passes still run and are recorded, but send nothing.",
        "Next: `retrycli resume`, to end the pause",
    )


def _hold(
    settings: Settings, targets: Collection[HoldTarget], length: timedelta | None, reason: str | None, by: str | None
) -> None:
    begun, replaced = operations.pause.pause(settings, target=targets, length=length, reason=reason, by=by)
    for hold in replaced:
        terminal.complain(f"retrycli: this replaces {terminal.told(hold.in_words)}")
    for active in begun:
        until = f" until {formatting.local_time(active.hold.until)}" if active.hold.until else ""
        terminal.say(f"Held{until}: {active.hold.part}, {formatting.count(active.messages, 'waiting message')}.")
    command = " ".join(["retrycli resume", *(active.hold.part.option for active in begun)])
    terminal.say(
        "Passes send all other messages.", f"Next: `{command}`, to end the hold{'s' if len(begun) > 1 else ''}"
    )


def _targets(
    messages: list[str] | None,
    tickets: list[str] | None,
    types: list[MessageType] | None,
    destinations: list[str] | None,
) -> list[HoldTarget]:
    return [
        *(HoldTarget(HoldKind.MESSAGE, text) for text in messages or ()),
        *(HoldTarget(HoldKind.TICKET, text) for text in tickets or ()),
        *(HoldTarget(HoldKind.TYPE, kind.value) for kind in types or ()),
        *(HoldTarget(HoldKind.DESTINATION, text) for text in destinations or ()),
    ]


def resume(
    ctx: typer.Context,
    messages: Messages = None,
    tickets: Tickets = None,
    types: Types = None,
    destinations: Destinations = None,
    by: By = None,
    config: ConfigFile = None,
) -> None:
    """End a pause. With options, end the holds of these messages."""
    settings = load_settings(ctx, config)
    if targets := _targets(messages, tickets, types, destinations):
        ended = operations.pause.resume(settings, target=targets, by=by)
        for hold in ended:
            terminal.say(f"Resumed: {hold.part}.")
        if not ended:
            terminal.say("Nothing was held by these options; `retrycli status` lists the holds.")
        terminal.say("Next: retrycli status")
        return
    was_paused = operations.pause.resume(settings, by=by)
    remaining = len(operations.pause.holds(settings))
    terminal.say("Resumed; passes will send messages again." if was_paused else "Nothing was paused.")
    if remaining:
        terminal.say(f"{formatting.count(remaining, 'hold')} {'remains' if remaining == 1 else 'remain'} active.")
    terminal.say("Next: retrycli status")
