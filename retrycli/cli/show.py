"""The commands ``show``, which shows a message and its attempts, and ``explain``, which shows what delays a message."""

import re
from collections.abc import Sequence
from datetime import datetime
from operator import itemgetter

import typer

from retrycli import operations
from retrycli.cli.arguments import MessageId
from retrycli.cli.options import ConfigFile, Json, load, load_settings
from retrycli.cli.status import complete_commands, report_silent_programs
from retrycli.config.settings import Settings
from retrycli.domain.listing import ActionRecord, MessageDetails, is_in_doubt
from retrycli.domain.message import EscalationReason, MessageStatus
from retrycli.domain.sanitize import printable
from retrycli.domain.suggested import command, line
from retrycli.domain.transition import OF_HOLDS, ActionKind
from retrycli.system.host import Asker, Host
from retrycli.views import terminal

# Columns of the queue that repeat columns of the message's row, or with which retrycli recognizes a change of the row.
LEFT_OUT = re.compile("message_id|ticket|seen_|birth|rebirths|digest")


def show(ctx: typer.Context, message_id: MessageId, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show one message and its attempts."""
    settings = load_settings(ctx, config)
    found = operations.listing.show(settings, message_id, edits=None)
    if as_json:
        terminal.show_json(operations.bodies.details(found))
        return
    row = {name: operations.bodies.column(name, value) for name, value in found.row.items() if name != "body"}
    facts = {name: value if isinstance(value, datetime | None) else str(value) for name, value in row.items()}
    queue = {f"queue.{name}": value for name, value in (found.queue or {}).items() if not LEFT_OUT.match(name)}
    if found.queue is not None:
        queue["queue.delivered_to"] = ", ".join(found.queue["delivered_to"]) or None
        queue["queue.next_attempt_at"] = found.attempt_from
    terminal.show_facts(facts | {name: value for name, value in queue.items() if value is not None})
    terminal.say("")
    terminal.show_text("" if found.row["body"] is None else str(found.row["body"]))
    terminal.say("")
    _show_edits(found.acts)
    _show_history(found)
    if not found.attempts:
        terminal.say("No attempt is recorded.")
    terminal.say(f"Next: {_next_step(settings, found, found.row['id'])}")


def _show_edits(acts: Sequence[ActionRecord]) -> None:
    for act in acts:
        if act.before is not None and act.after is not None:
            title = f"Edited by {printable(act.by)}, {terminal.time_in_words(act.at)}:"
            terminal.show_text("\n".join([title, *operations.edit_message.edit_in_lines(act.before, act.after)]))
            print()  # noqa: T201


def _next_step(settings: Settings, found: MessageDetails, message_id: int) -> str:
    last_act = next((act.act for act in reversed(found.acts) if act.act not in OF_HOLDS), None)
    if found.row["status"] == MessageStatus.REJECTED and last_act == ActionKind.REJECTED:
        may_expire = any(policy.expires_after for policy in settings.policies.values())
        unless = ", unless it has expired" if may_expire else ""
        return f"{command('requeue', message_id)} returns the message to the queue{unless}"
    if found.row["status"] != MessageStatus.FAILED:
        return "retrycli list-failed"
    retry = command("retry", message_id)
    looks_up = operations.wiring.looks_up(settings, str(found.row["message_type"]))
    match None if found.queue is None else found.queue["escalation_reason"]:
        case reason if is_in_doubt(reason, may_have_arrived=found.may_have_arrived):
            return operations.words.check_arrival(message_id, looks_up=looks_up)
        case _ if found.is_repaired:
            return f"{retry} sends the edited message"
        case EscalationReason.INVALID if operations.edit_message.concerns_editable_field(found.row["last_error"]):
            return f"{command('edit', message_id)}, or fix the row; then run {retry}"
        case EscalationReason.INVALID:
            return f"fix the row in the application, then run {retry}"
        case EscalationReason.CHANGED:
            mark_sent, requeue = (command(verb, message_id) for verb in ("mark-sent", "requeue"))
            return f"{mark_sent} if the message was delivered; {requeue} sends it again"
        case _:
            return line("retry", message_id)


def _show_history(found: MessageDetails) -> None:
    headers = ("No.", "By", "Started", "Outcome", "Code", "ms", "Error")
    attempts = [
        (
            attempt.number,
            attempt.made_by,
            attempt.started_at,
            attempt.outcome or ("not recorded" if attempt.pass_id in found.ended else "under way"),
            attempt.status_code,
            attempt.duration_ms,
            attempt.error,
            attempt.external_id,
        )
        for attempt in found.attempts
    ]
    told = [act.detail and terminal.told(act.detail) for act in found.acts]
    acts = [
        (None, act.by, act.at, act.act, None, None, detail, None) for act, detail in zip(found.acts, told, strict=True)
    ]
    rows = sorted([*attempts, *acts], key=itemgetter(headers.index("Started")))
    if any(attempt.external_id for attempt in found.attempts):
        terminal.show_table((*headers, "External ID"), rows, texts=2)
    else:
        terminal.show_table(headers, [row[: len(headers)] for row in rows], texts=1)


def explain(ctx: typer.Context, message_id: MessageId, as_json: Json = False, config: ConfigFile = None) -> None:
    """Show the next attempt of a message, and what delays it."""
    loaded = load(ctx, config)
    found = operations.explain.explain(loaded.settings, message_id, host=Host(run=(asker := Asker())))
    report_silent_programs(asker)
    if as_json:
        terminal.show_json(operations.bodies.explanation(found))
        return
    closed = [
        # Only the cron gate suggests commands. The `figure` of another gate may quote an error or an operator.
        (
            gate.name.replace("_", "-"),
            complete_commands(loaded, terminal.told(gate.figure)) if gate.name == "cron" else gate.figure,
            gate.time,
        )
        for gate in found.gates
        if not gate.open
    ]
    if closed:
        terminal.show_table(("Closed gate", "Details", "Time"), closed)
    else:
        terminal.say("Nothing delays it.")
    at = operations.words.next_attempt(found)
    terminal.show_facts({"Next attempt": terminal.told(at) if isinstance(at, str) else at})
    terminal.say(f"Next: {_unquoted(operations.words.remedy(found))}")


def _unquoted(text: str) -> str:
    """Remove the backticks from a text that is only one command."""
    is_command = text.startswith("`") and text.find("`", 1) == len(text) - 1
    return text[1:-1] if is_command else text
