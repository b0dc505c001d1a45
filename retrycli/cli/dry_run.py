"""``run-once --dry-run``: show what a pass would do."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict
from datetime import datetime
from itertools import islice

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain import suggested
from retrycli.domain.circuit_breaker import BreakerState
from retrycli.domain.listing import ListedMessage
from retrycli.views import formatting, terminal

FIELDS = ("id", "ticket_id", "message_type", "retry_count", "next_attempt_at", "recipient", "created_at")
ON_SCREEN = 50  # maximum number of messages on a terminal
WHY = {
    BreakerState.OPEN: "is down",
    BreakerState.RESTING: "asked retrycli to wait",
    BreakerState.UNREAD: "gives responses that the preset can't judge",
}


def show_preview(settings: Settings, limit: int | None, *, as_json: bool) -> None:
    """Show what a pass would do. Send and write nothing."""
    with operations.dry_run.preview(settings, limit=limit) as foreseen:
        found, messages = foreseen.totals, foreseen.messages
        if as_json:
            terminal.show_json(
                {
                    "would_send": (
                        {name: getattr(message, name) for name in FIELDS}
                        | {"destination": found.destination_of(message.message_type)}
                        for message in messages
                    ),
                    "count": lambda: found.number,
                    "oldest": lambda: found.oldest,
                    "destinations": lambda: found.destinations,
                    "escalated": foreseen.escalated.total(),
                    "paused": foreseen.pause and asdict(foreseen.pause),
                    "withheld": foreseen.withheld,
                    "unaccepted": foreseen.unaccepted,
                    "down": {to: breaker.probe_at for to, breaker in foreseen.down.items()},
                }
            )
            return
        if not terminal.on_terminal():
            terminal.show_table((), (_row(message, message.created_at, found) for message in messages))
            return
        now = operations.wiring.utc_now()
        rows = [
            _row(message, message.created_at and formatting.ago(message.created_at, now), found)
            for message in islice(messages, ON_SCREEN)
        ]
        deque(messages, maxlen=0)
    terminal.show_table(("ID", "Ticket", "Type", "Tries", "Recipient", "Created", "Destination"), rows, texts=1)
    if foreseen.number > ON_SCREEN:
        terminal.say(f"… and {foreseen.number - ON_SCREEN:,} more")
    _show_summary(settings, found, foreseen, now)
    terminal.say("Next: retrycli run-once")


def _row(message: ListedMessage, created: formatting.Cell, found: operations.dry_run.DryRunTotals) -> terminal.Row:
    return (
        message.id,
        str(message.ticket_id),
        message.message_type,
        message.retry_count,
        message.recipient,
        created,
        found.destination_of(message.message_type),
    )


def _show_summary(
    settings: Settings, found: operations.dry_run.DryRunTotals, foreseen: operations.dry_run.Preview, now: datetime
) -> None:
    would = "A pass would"
    if foreseen.unaccepted is not None:
        terminal.say(f"A pass would send nothing now: {suggested.quoted(foreseen.unaccepted)}.")
        would = "Once that is done, it would"
    if (pause := foreseen.pause) is not None:
        until = f"until {formatting.local_time(pause.until)}" if pause.until else "until `retrycli resume`"
        terminal.say(f"Deliveries are paused by {suggested.quoted(pause.by)} {until}: a pass would send nothing now.")
        would = "Without the pause, it would"
    sent = {to: 1 if to in foreseen.probed else count for to, count in found.destinations.items()}
    places = [to if len(sent) == 1 else f"{count:,} to {to}" for to, count in sent.items()]
    to = f"{' to' if len(places) == 1 else ':'} {', '.join(places)}" if places else ""
    if sent or not foreseen.blocked:
        terminal.say(f"{would} send {formatting.count(sum(sent.values()), 'message')}{to}.")
    _show_down(found, foreseen)
    if foreseen.withheld:
        terminal.say(
            f"{formatting.count(foreseen.withheld, 'due message')} would not be sent now, because of a hold or a "
            "closed delivery window: see `retrycli status`."
        )
    if foreseen.escalated:
        terminal.say(
            f"{formatting.count(foreseen.escalated.total(), 'message')} would be escalated, not sent: "
            f"{operations.words.tally(foreseen.escalated)}."
        )
    if found.number:
        terminal.say(*operations.words.NOT_FORESEEN)
    if not found.number and (later := foreseen.waiting - foreseen.withheld - foreseen.blocked.total()) > 0:
        terminal.say(f"{formatting.count(later, 'message')} {'is' if later == 1 else 'are'} not due yet.")
    if found.oldest is not None:
        _show_oldest(settings, found.oldest, now)
    terminal.say("Nothing was sent or written.")


def _show_down(found: operations.dry_run.DryRunTotals, foreseen: operations.dry_run.Preview) -> None:
    for to, count in (foreseen.blocked | found.destinations).items():
        waiting = f"{formatting.count(count, 'message')} {'is' if count == 1 else 'are'} waiting"
        if (breaker := foreseen.down.get(to)) is not None and breaker.probe_at is not None:
            until = formatting.local_time(breaker.probe_at)
            next_request = " until" if breaker.state is BreakerState.RESTING else "; next probe at"
            terminal.say(
                f"{to} {WHY[breaker.state]}{next_request} {until}. Before that, a pass would send nothing there; "
                f"{waiting}."
            )
        elif (breaker := foreseen.probed.get(to)) is not None:
            rest = f"; after its delivery, {count - 1:,} more would follow" if count > 1 else ""
            terminal.say(f"{to} {WHY[breaker.state]}: one message would be sent as a probe{rest}.")


def _show_oldest(settings: Settings, oldest: datetime, now: datetime) -> None:
    terminal.say(f"The oldest message dates from {formatting.local_time(oldest)}, {formatting.ago(oldest, now)}.")
    if now - oldest > operations.dry_run.LONG_AGO and any(
        policy.expires_after is None for policy in settings.policies.values()
    ):
        terminal.say(
            "If messages this old should not be sent, set schedule.expires_after_hours.",
            "Passes then escalate messages that exceed this limit.",
        )
