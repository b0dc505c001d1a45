"""``escalations``: list, acknowledge and annotate messages that need an operator."""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import MessageId
from retrycli.cli.list_failed import ON_SCREEN
from retrycli.cli.options import By, ConfigFile, Header, Json, load_settings, utf8
from retrycli.cli.selection import Chosen, takes_messages
from retrycli.config.settings import Settings
from retrycli.domain import suggested
from retrycli.domain.listing import EscalationGroup, Filter, ListedMessage
from retrycli.domain.message import EscalationReason, State
from retrycli.views import terminal

HINTS = 3  # maximum number of causes, largest first, that get a suggested command

escalations = typer.Typer(invoke_without_command=True, rich_markup_mode=None)


@escalations.callback()
def list_escalations(
    ctx: typer.Context, header: Header = False, as_json: Json = False, config: ConfigFile = None
) -> None:
    """List escalated messages, grouped by cause."""
    if ctx.invoked_subcommand is not None:
        return
    settings = load_settings(ctx, config)
    groups = operations.listing.escalations(settings)
    if terminal.on_terminal() and not as_json:
        _show(settings, groups)
        return
    with operations.listing.list_messages(settings, Filter(state=State.ESCALATED), sort="id") as found:
        if as_json:
            terminal.show_json(operations.bodies.escalations(found.messages, groups))
        else:
            _show_escalated(settings, found.messages, named=header)


def _show(settings: Settings, groups: Sequence[EscalationGroup]) -> None:
    """Show one line per shared cause, then up to `ON_SCREEN` of the other messages."""
    shared = [group for group in groups if group.count > 1 and group.fingerprint]
    _show_groups(shared)
    others = Filter(state=State.ESCALATED, other_than=[group.fingerprint for group in shared if group.fingerprint])
    with operations.listing.list_messages(settings, others, sort="id", limit=ON_SCREEN) as found:
        messages = list(found.messages)
        more = found.total() - found.number if found.number == ON_SCREEN else 0
    _show_escalated(settings, messages)
    if more:
        terminal.say(f"… and {more:,} more: retrycli list-failed --state escalated")
    for group in sorted(shared, key=lambda group: -group.count)[:HINTS]:
        terminal.say(_hint(settings, group))
    if len(shared) == 1 and not messages:
        terminal.say(f"Next: {suggested.line('list-failed', '--fingerprint', shared[0].fingerprint)}")
    elif shared:
        terminal.say("Next: retrycli list-failed --state escalated")
    elif messages and messages[0].in_doubt:
        looks_up = operations.wiring.looks_up(settings, messages[0].message_type)
        terminal.say(f"Next: {operations.words.check_arrival(messages[0].id, looks_up=looks_up)}")
    elif messages and messages[0].reason == EscalationReason.CHANGED:
        terminal.say(f"Next: {suggested.line('show', messages[0].id)}")
    elif messages:
        show, retry = (suggested.command(verb, messages[0].id) for verb in ("show", "retry"))
        terminal.say(f"Next: {show} or, when the cause is fixed, {retry}")
    else:
        terminal.say("Nothing is escalated. Next: retrycli status")


def _hint(settings: Settings, group: EscalationGroup) -> str:
    of_cause = "--fingerprint", group.fingerprint
    match group.example.reason:
        case _ if group.example.in_doubt:
            first = suggested.command("look-up", group.example.id)
            look_up = f"Look up each message, beginning with {first}: those that arrived are marked as sent. Or check"
            requeue = suggested.command("requeue", *of_cause, "--canary", 3)
            check = look_up if operations.wiring.looks_up(settings, group.example.message_type) else "Check"
            return (
                f"Messages with fingerprint {group.fingerprint} may have arrived. {check} the tickets: if all messages "
                f"arrived, {suggested.command('mark-sent', *of_cause)}; if none did, {requeue}"
            )
        case EscalationReason.CHANGED:
            mark_sent, requeue = (suggested.command(verb, *of_cause) for verb in ("mark-sent", "requeue"))
            return f"Check the tickets: {mark_sent} if they need nothing more; {requeue} sends all these messages again"
        case EscalationReason.EXPIRED:
            reject = suggested.line("reject", *of_cause, "--reason", "expired")
            return f"If the messages are no longer wanted: {reject}"
        case _:
            return f"When the cause is fixed: {suggested.line('requeue', *of_cause, '--canary', 3)}"


def _show_groups(groups: Sequence[EscalationGroup]) -> None:
    terminal.show_table(
        ("Count", "New", "Oldest", "Fingerprint", "Example", "Types", "Cause"),
        [
            (
                group.count,
                group.new,
                group.oldest,
                group.fingerprint,
                group.example.id,
                ", ".join(f"{number} {name}" for name, number in group.types.items()),
                group.cause,
            )
            for group in groups
        ],
        texts=2,
    )
    if groups:
        terminal.say("")


def _show_escalated(settings: Settings, messages: Iterable[ListedMessage], *, named: bool = False) -> None:
    headers = ("ID", "Ticket", "Type", "Reason", "Since", "Last error", "Next step", "Acknowledged / note")
    if not terminal.on_terminal():
        terminal.show_table(headers, map(partial(_escalated, settings), messages), named=named)
        return
    rows = [_escalated(settings, message) for message in messages]
    has_notes = any(row[-1] for row in rows)
    columns = len(headers) if has_notes else len(headers) - 1
    terminal.show_table(headers[:columns], [row[:columns] for row in rows], texts=3 if has_notes else 2)


def _escalated(settings: Settings, message: ListedMessage) -> terminal.Row:
    match message.reason:
        case _ if message.in_doubt:
            step = "look-up" if operations.wiring.looks_up(settings, message.message_type) else "show"
        case EscalationReason.EXHAUSTED:
            step = "retry"
        case _:
            step = "show"
    return (
        message.id,
        str(message.ticket_id),
        message.message_type,
        message.reason,
        message.escalated_at,
        message.last_error,
        suggested.own(suggested.line(step, message.id)),
        _acknowledgement(message),
    )


def _acknowledgement(message: ListedMessage) -> str | None:
    since = message.acknowledged_at
    seen = f"by {message.acknowledged_by}, {terminal.time_in_words(since)}" if since else None
    return ": ".join(filter(None, (seen, message.note))) or None


@escalations.command("ack")
@partial(takes_messages, without="state")
def acknowledge(chosen: Chosen) -> None:
    """Acknowledge escalated messages. They stay in the list but no longer count as new."""
    request = operations.bulk.BulkRequest(operations.bulk.BulkAction.ACKNOWLEDGE)
    chosen.perform(request, lambda _: "retrycli escalations")


@escalations.command("note")
def note(
    ctx: typer.Context,
    message_id: MessageId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The note. It replaces an earlier note.", parser=utf8)],
    by: By = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Add a note to an escalated message."""
    operations.message_actions.note(load_settings(ctx, config), message_id, text, by=by)
    terminal.answer(
        operations.bodies.noted(message_id, text),
        f"Added the note to message {message_id}.",
        "Next: retrycli escalations",
        as_json=as_json,
    )
