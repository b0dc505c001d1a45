"""The commands ``retry``, ``requeue``, ``reject``, ``look-up`` and ``mark-sent``, which act on chosen messages."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import MessageIds, moment
from retrycli.cli.options import NOT_OK, REFUSED, By, ConfigFile, Json, agrees, can_ask, load_settings, utf8
from retrycli.cli.selection import Chosen, run_interruptible, show_attempt, takes_messages
from retrycli.domain.duration import duration, in_words
from retrycli.domain.errors import MayHaveArrived
from retrycli.domain.outcome import Presence
from retrycli.domain.sanitize import printable
from retrycli.domain.suggested import command, line
from retrycli.views import formatting, terminal

DEFAULT_SHARE = "30%"


@takes_messages
def retry(chosen: Chosen) -> None:
    """Attempt messages now, even if they are waiting or escalated. This uses up no retry."""
    settings, ids, _ = chosen.select(operations.bulk.BulkAction.RETRY, plan=" now, one at a time")
    give_up_after = None if chosen.message_ids else settings.breaker.failures
    send_again = chosen.yes and bool(chosen.message_ids)  # with a filter, it confirms the number of messages
    done, received = run_interruptible(
        lambda here: operations.retry.retry_all(
            settings, ids, by=chosen.by, give_up_after=give_up_after, send_again=send_again, runtime=here
        )
    )
    tried = done.tried
    if chosen.as_json:
        terminal.show_json(operations.bodies.attempts(done))
    _show_attempts(done, as_json=chosen.as_json)
    doubtful = [attempt.message_id for attempt in tried if isinstance(attempt.error, MayHaveArrived)]
    question = f"Send {formatting.count(len(doubtful), 'message')} all the same?"
    if doubtful and received is None and not chosen.yes and can_ask(as_json=chosen.as_json) and agrees(question):
        again, received = run_interruptible(
            lambda here: operations.retry.retry_all(settings, doubtful, by=chosen.by, send_again=True, runtime=here)
        )
        _show_attempts(again, as_json=False)
        tried = [*(attempt for attempt in tried if attempt.message_id not in doubtful), *again.tried]
    # In the exit code, a failed attempt takes precedence over a message that could not be attempted.
    failed = any(attempt.outcome is not None and not attempt.delivered for attempt in tried)
    refused = any(attempt.error is not None for attempt in tried)
    raise typer.Exit(128 + received if received else NOT_OK if failed else REFUSED if refused else 0)


def _show_attempts(done: operations.retry.ActionResult, *, as_json: bool) -> None:
    for attempt in done.tried:
        outcome = attempt.outcome
        if outcome is None:  # the message could not be attempted
            terminal.complain(f"retrycli: {attempt.error}")
        elif as_json:
            continue
        elif terminal.on_terminal():
            show_attempt(attempt)
        else:
            terminal.show_table((), [(attempt.message_id, outcome.kind, outcome.status_code, outcome.error)])
    if as_json:
        return
    if done.left:
        terminal.complain(f"retrycli: {operations.words.left_unchanged(done)}")
    if failed := [attempt.message_id for attempt in done.tried if attempt.outcome and not attempt.delivered]:
        terminal.say(f"Next: {line('show', failed[0])}")


@partial(takes_messages, without="state")
def requeue(
    chosen: Chosen,
    at: Annotated[
        datetime | None,
        typer.Option(
            help="When the messages become due, such as 2h (from now), 08:00 or '2026-01-02 08:00'.",
            show_default="now",
            metavar="<time>",
            parser=moment,
        ),
    ] = None,
    spread: Annotated[
        timedelta | None,
        typer.Option(
            help="Spread the messages over this period, such as 2h.",
            show_default=False,
            metavar="<duration>",
            parser=duration,
        ),
    ] = None,
    canary: Annotated[
        int | None,
        typer.Option(min=1, help="Attempt N messages first, to test whether the cause is fixed.", show_default=False),
    ] = None,
    abort_over: Annotated[
        str | None,
        typer.Option(
            help="Requeue nothing if more than this share of the messages attempted first (the canaries) fail.",
            show_default=DEFAULT_SHARE,
        ),
    ] = None,
) -> None:
    """Return escalated messages to the queue. They regain all retries and are due now, unless --at or --spread is set.

    `requeue ID` also requeues a message that `reject` rejected.
    """
    canaries = _parse_canary(canary, abort_over)
    plan = (
        f" for {formatting.local_time(at)}" if at else "",
        f" over {in_words(spread)}" if spread else "",
        f", with {canary} of them as canaries" if canary else "",
    )
    request = operations.bulk.BulkRequest(
        operations.bulk.BulkAction.REQUEUE, due=at, spread=spread or timedelta(), canary=canaries
    )
    chosen.perform(request, _next_step, plan="".join(plan))


def _next_step(done: operations.retry.ActionResult) -> str:
    failed = next((canary.message_id for canary in done.tried if canary.failed), None)
    if failed is not None:
        return line("show", failed)
    return line("list-failed", "--state", "waiting") if done.done else line("escalations")


def _parse_canary(number: int | None, abort_over: str | None) -> operations.bulk.Canary | None:
    if number is None:
        if abort_over is not None:
            raise typer.BadParameter("works only with --canary; add it", param_hint="--abort-over")
        return None
    try:
        return operations.bulk.Canary(number, operations.sandbox.share(abort_over or DEFAULT_SHARE))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--abort-over") from None


@partial(takes_messages, without="reason")
def reject(
    chosen: Chosen,
    reason: Annotated[
        str, typer.Option("--reason", help="The reason; written to last_error and the history.", parser=utf8)
    ],
) -> None:
    """Give up on messages. Their status becomes rejected, and no pass sends them. `requeue ID` undoes a rejection."""
    if not reason.strip():
        raise typer.BadParameter("the reason is empty; give one", param_hint="--reason")
    request = operations.bulk.BulkRequest(operations.bulk.BulkAction.REJECT, reason=reason)
    chosen.perform(request, lambda _: "retrycli list-failed", asks=True)


def look_up(
    ctx: typer.Context, message_ids: MessageIds = None, by: By = None, as_json: Json = False, config: ConfigFile = None
) -> None:
    """Ask the ticketing system whether messages have arrived. No message is sent.

    Messages that have arrived are marked as sent.
    """
    if not message_ids:
        raise typer.BadParameter("give the ids of the messages", param_hint="ID…")
    settings = load_settings(ctx, config)
    asked, received = run_interruptible(
        lambda here: operations.retry.look_up_all(settings, message_ids, by=by, runtime=here)
    )
    for answer in asked:
        if answer.error is not None:
            terminal.complain(f"retrycli: {answer.error}")
    if as_json:
        terminal.show_json(operations.bodies.look_ups(asked))
    else:
        _show_lookups(asked)
    # In the exit code, an unknown result takes precedence over a look-up that was impossible.
    unknown = any(answer.found is not None and answer.found.result is Presence.UNKNOWN for answer in asked)
    refused = any(answer.error is not None for answer in asked)
    raise typer.Exit(128 + received if received else NOT_OK if unknown else REFUSED if refused else 0)


def _show_lookups(asked: Sequence[operations.retry.LookedUp]) -> None:
    if not terminal.on_terminal():
        terminal.show_table(
            (), [(answer.message_id, answer.found.result, answer.found.error) for answer in asked if answer.found]
        )
        return
    for answer in asked:
        if answer.found is not None:
            terminal.show_text(printable(operations.words.looked_up(answer.message_id, answer.found)))
            _suggest(answer.message_id, answer.found.result)


def _suggest(message_id: int, result: Presence) -> None:
    match result:
        case Presence.ARRIVED:
            pass
        case Presence.ABSENT:
            terminal.say(f"Next: {line('retry', message_id)}")
        case Presence.UNKNOWN:
            terminal.say(
                f"Next: {command('look-up', message_id)} again later, or check the ticket; if the message is there, "
                f"{command('mark-sent', message_id)}"
            )


@takes_messages
def mark_sent(
    chosen: Chosen,
    note: Annotated[
        str | None,
        typer.Option(
            help="How you know that the message arrived; kept in the history.", show_default=False, parser=utf8
        ),
    ] = None,
) -> None:
    """Mark messages that have arrived as sent. This can't be undone."""
    request = operations.bulk.BulkRequest(operations.bulk.BulkAction.MARK_SENT, reason=note)
    chosen.perform(request, lambda _: "retrycli escalations", plan=", without sending anything")
