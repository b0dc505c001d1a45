"""``run-once``, ``passes``, ``pause``, ``resume``."""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import asdict, replace
from itertools import islice
from operator import itemgetter
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from retrycli.cli.shared import MAX_NUMBER, By, ConfigFile, Header, Json, length_of_time, load_settings, utf8
from retrycli.domain.pass_summary import StartedBy

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from retrycli.config.settings import Settings
    from retrycli.domain.listing import ListedMessage
    from retrycli.domain.pass_record import PassRecord, PauseRecord
    from retrycli.domain.pass_summary import PassSummary
    from retrycli.operations.dry_run import Preview, Sum
    from retrycli.views.terminal import Cell, Row

ON_SCREEN = 50
"""So many of the messages that would be sent a terminal is shown."""
COUNTS = ("sent", "rescheduled", "escalated", "unknown", "released")
UNFORESEEN = "Not checked: already delivered, unknown outcome too often, invalid row."
"""For what a pass may yet escalate a message: a dry run would have to load each one whole."""
PUT_BACK = "put back with no try counted"
"""What people read for ``released``: a message that was tried, or not even that, and waits with its tries as before."""


def register(app: typer.Typer) -> None:
    """Add these commands."""
    app.command("run-once")(run_once)
    app.command("passes")(passes)
    app.command("pause")(pause)
    app.command("resume")(resume)


class Signals:
    """SIGTERM, SIGINT and SIGHUP: the first asks the pass to end, a second one leaves at once.

    SIGHUP does not, for the kernel and the shell may both send it when a terminal is closed. Under nohup it is ignored,
    and stays so.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._on_signal)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            signal.signal(signal.SIGHUP, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None:
            self.received = number
        elif number != signal.SIGHUP:
            # Whatever is in flight stays claimed until its claim lapses; the next pass finds it.
            os._exit(128 + number)

    def stop_requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None


def run_once(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be sent; send and write nothing.")
    ] = False,
    limit: Annotated[int | None, typer.Option(min=1, max=MAX_NUMBER, help="Try so many messages at most.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Probe a ticketing API that is down now, not when the next probe is due.")
    ] = False,
    wait_lock: Annotated[
        float | None, typer.Option(min=0, help="Wait so many seconds for another pass to end.", show_default="2")
    ] = None,
    # `cron install` writes it. It is for no operator, so that help does not show it.
    starter: Annotated[StartedBy | None, typer.Option("--started-by", hidden=True)] = None,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Make one pass: deliver what is due. This is what cron calls."""
    from retrycli.operations import run_pass, wiring
    from retrycli.views import log_lines, terminal

    settings = load_settings(ctx, config)
    if dry_run:
        _preview(settings, limit, as_json=as_json)
        return
    signals = Signals()
    runtime = replace(wiring.DEFAULT_RUNTIME, stop_requested=signals.stop_requested)
    try:
        with terminal.progress() as follow:
            summary = run_pass.run_once(
                settings,
                limit=limit,
                probe=probe,
                wait_lock_seconds=wait_lock,
                listen=follow,
                runtime=runtime,
                started_by=starter or _starter(),
            )
    except Exception as error:
        log_lines.file_failure(error)
        raise
    if as_json:
        terminal.show_json(asdict(summary))
    else:
        _show(summary)
    raise typer.Exit(128 + signals.received if signals.received else summary.exit_status)


def _starter() -> StartedBy:
    from retrycli.system.starter import has_terminal, parents, started_by

    return started_by(os.environ, parents(), at_terminal=has_terminal())


def _show(summary: PassSummary) -> None:
    from retrycli.views import terminal

    why = why_it_ended(summary.reason, summary.detail)
    terminal.say(f"Pass {summary.result} after {summary.duration_seconds:.1f} s" + (f": {why}" if why else ""))
    terminal.say(
        f"  {summary.sent:,} sent, {summary.rescheduled:,} rescheduled, {summary.escalated:,} escalated, "
        f"{summary.released:,} {PUT_BACK}; {summary.unknown:,} of unknown outcome"
    )
    step = "retrycli escalations" if summary.escalated else "retrycli list-failed" if summary.rescheduled else None
    terminal.say(f"Next: {step or 'retrycli status'}")


def why_it_ended(reason: str | None, detail: str | None) -> str | None:
    """Return why a pass ended as it did. The details of two reasons say all of it."""
    from retrycli.domain import suggested

    if detail is not None:
        detail = suggested.quoted(detail)
    if reason is None or (detail and reason in {"lock_held", "paused"}):
        return detail
    return reason.replace("_", " ") + (f": {detail}" if detail else "")


def _preview(settings: Settings, limit: int | None, *, as_json: bool) -> None:
    from retrycli.operations.dry_run import preview, sum_of
    from retrycli.operations.wiring import utc_now
    from retrycli.views import formatting, terminal

    found = sum_of(settings)
    with preview(settings, limit=limit) as foreseen:
        messages = found.count(foreseen.messages)
        if as_json:
            fields = ("id", "ticket_id", "message_type", "retry_count", "next_attempt_at", "recipient", "created_at")
            terminal.show_json(
                {
                    "would_send": (
                        {name: getattr(each, name) for name in fields}
                        | {"destination": found.destination_of(each.message_type)}
                        for each in messages
                    ),
                    "count": lambda: found.number,
                    "oldest": lambda: found.oldest,
                    "destinations": lambda: found.destinations,
                    "escalated": foreseen.escalated,
                    "paused": foreseen.pause and asdict(foreseen.pause),
                    "down": {to: each.probe_at for to, each in foreseen.down.items()},
                }
            )
            return
        if not terminal.on_terminal():
            terminal.show_table((), (_would_send(each, each.created_at, found) for each in messages))
            return
        now = utc_now()
        rows = [
            _would_send(each, each.created_at and formatting.ago(each.created_at, now), found)
            for each in islice(messages, ON_SCREEN)
        ]
        deque(messages, maxlen=0)
    terminal.show_table(("ID", "Ticket", "Type", "Tries", "Recipient", "Made", "To"), rows, texts=1)
    if foreseen.number > ON_SCREEN:
        terminal.say(f"… and {foreseen.number - ON_SCREEN:,} more")
    _sum_up(settings, found, foreseen, now)
    terminal.say("Next: retrycli run-once")


def _would_send(message: ListedMessage, made: Cell, found: Sum) -> Row:
    to = found.destination_of(message.message_type)
    return (
        *(message.id, str(message.ticket_id), message.message_type, message.retry_count),
        *(message.recipient, made, to),
    )


def _sum_up(settings: Settings, found: Sum, foreseen: Preview, now: datetime) -> None:
    """Say how many messages would go where, and how old the oldest is: it may be nobody's wish any more."""
    from retrycli.domain import suggested
    from retrycli.operations.dry_run import count_waiting
    from retrycli.views import formatting, terminal

    would = "A pass would"
    if (pause := foreseen.pause) is not None:
        until = f"until {formatting.local_time(pause.until)}" if pause.until else "until `retrycli resume`"
        terminal.say(f"Passes are paused by {suggested.quoted(pause.by)} {until}: a pass would send nothing now.")
        would = "If they were not, it would"
    sent = {
        to: 1 if to in foreseen.probed else count for to, count in found.destinations.items() if to not in foreseen.down
    }
    places = [to if len(sent) == 1 else f"{count:,} to {to}" for to, count in sent.items()]
    to = f"{' to' if len(places) == 1 else ':'} {', '.join(places)}" if places else ""
    if sent or not found.destinations:
        terminal.say(f"{would} send {formatting.count(sum(sent.values()), 'message')}{to}.")
    _say_what_is_down(found, foreseen)
    if foreseen.escalated:
        number = formatting.count(foreseen.escalated, "message")
        terminal.say(f"{number} would be escalated instead: expired, no tries left, or not valid.")
    if found.number:
        terminal.say(UNFORESEEN)
    if not found.number and (later := count_waiting(settings)):
        terminal.say(f"{formatting.count(later, 'message')} {'waits' if later == 1 else 'wait'} until later.")
    if found.oldest is not None:
        _say_how_old(settings, found.oldest, now)
    terminal.say("Nothing was sent or written.")


def _say_what_is_down(found: Sum, foreseen: Preview) -> None:
    """Say how many messages a pass would not send, because their destination is down or asked for a rest."""
    from retrycli.domain.circuit_breaker import BreakerState
    from retrycli.views import formatting, terminal

    for to, count in found.destinations.items():
        if (breaker := foreseen.down.get(to)) is not None:
            until = "" if breaker.probe_at is None else f" {formatting.local_time(breaker.probe_at)}"
            why = "is down until its probe at" if breaker.state is BreakerState.OPEN else "asked for a rest until"
            waiting = f"{formatting.count(count, 'message')} {'waits' if count == 1 else 'wait'} for it"
            terminal.say(f"{to} {why}{until}: a pass would send nothing there before; {waiting}.")
        elif to in foreseen.probed:
            rest = f"; if it is delivered, {count - 1:,} more follow" if count > 1 else ""
            terminal.say(f"{to} is down: that message is its probe{rest}.")


def _say_how_old(settings: Settings, oldest: datetime, now: datetime) -> None:
    from retrycli.operations.dry_run import LONG_AGO
    from retrycli.views import formatting, terminal

    terminal.say(f"The oldest is of {formatting.local_time(oldest)}, {formatting.ago(oldest, now)}.")
    if now - oldest > LONG_AGO and any(each.expires_after is None for each in settings.policies.values()):
        terminal.say("Too old? Set schedule.expires_after_hours, and older ones are escalated.")


def passes(
    ctx: typer.Context,
    limit: Annotated[int, typer.Option(min=1, max=MAX_NUMBER, help="Show so many, newest first.")] = 20,
    header: Header = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Show the last passes, skipped ones too."""
    from retrycli.operations import status
    from retrycli.views import terminal

    found, pauses, lost = status.last_passes(load_settings(ctx, config), limit=limit)
    if as_json:
        terminal.show_json({"passes": [asdict(each) for each in found], "pauses": [asdict(each) for each in pauses]})
        return
    if terminal.on_terminal():
        rows: list[tuple[datetime, str | None, str, str | None]]
        rows = [(each.started_at, each.started_by, each.result_in_words(lost), _came_of(each)) for each in found]
        since = min((at for at, *_ in rows), default=None)
        rows += [(each.at, each.by, each.act, each.detail) for each in _shown(pauses, since)]
        rows.sort(key=itemgetter(0), reverse=True)
        terminal.show_table(("Started", "By", "Result", "What came of it"), rows)
        terminal.say("Next: retrycli status")
        return
    terminal.show_table(
        ("Started", "Finished", "Result", *map(str.capitalize, COUNTS), "Reason", "Started by"),
        [
            (
                each.started_at,
                each.finished_at,
                each.result_in_words(lost),
                # The counts are written when a pass ends.
                *(None if each.result is None else getattr(each, name) for name in COUNTS),
                why_it_ended(each.reason, each.detail),
                each.started_by,
            )
            for each in found
        ],
        named=header,
    )


def _shown(pauses: Sequence[PauseRecord], since: datetime | None) -> Iterator[PauseRecord]:
    """Give the pauses that stand between passes: since the oldest that is shown, and the one that was in force then."""
    for each in pauses:
        yield each
        if since is not None and each.at < since:
            return


def _came_of(found: PassRecord) -> str | None:
    """The counts that are not zero, and why the pass ended as it did, as far as there is anything to tell."""
    words = {"unknown": "of unknown outcome", "released": PUT_BACK}
    counts = [f"{number:,} {words.get(name, name)}" for name in COUNTS if (number := getattr(found, name))]
    why = why_it_ended(found.reason, found.detail)
    quiet = "nothing was due" if found.result == "completed" else None
    return "; ".join(filter(None, (", ".join(counts), why))) or quiet


def pause(
    ctx: typer.Context,
    length: Annotated[
        str | None, typer.Option("--for", help="End it by itself after that time: 30m, 2h, 1d.", show_default=False)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="Why, for whoever looks next.", show_default=False, callback=utf8)
    ] = None,
    by: By = None,
    config: ConfigFile = None,
) -> None:
    """Hold deliveries back until `resume`, or for a time."""
    from retrycli.operations import pause as operation
    from retrycli.views import formatting, terminal

    span = None if length is None else length_of_time(length, "--for")
    if span is not None and not span:
        raise typer.BadParameter(
            "it would be over at once; leave --for out to pause until `retrycli resume`", param_hint="--for"
        )
    begun, replaced = operation.pause(load_settings(ctx, config), length=span, reason=reason, by=by)
    if replaced is not None:
        terminal.complain(f"retrycli: this replaces {replaced.in_words}")
    until = f"until {formatting.local_time(begun.until)}" if begun.until else "until `retrycli resume`"
    terminal.say(f"Paused {until}. Passes record themselves and send nothing.")
    terminal.say("Next: `retrycli resume`, when deliveries may go on")


def resume(ctx: typer.Context, by: By = None, config: ConfigFile = None) -> None:
    """End a pause."""
    from retrycli.operations import pause as operation
    from retrycli.views import terminal

    ended = operation.resume(load_settings(ctx, config), by=by)
    terminal.say("Resumed; passes deliver again." if ended else "Nothing was paused.")
    terminal.say("Next: retrycli status")
