"""Choose the messages that a command changes, confirm them, and show the result."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import typer

from retrycli import operations
from retrycli.cli.arguments import MessageIds, takes_filters
from retrycli.cli.list_failed import show_messages
from retrycli.cli.options import (
    NOT_OK,
    REFUSED,
    By,
    ConfigFile,
    Json,
    Yes,
    can_ask,
    confirm,
    load_settings,
    require_confirmation,
)
from retrycli.cli.run_once import Signals
from retrycli.config.settings import Settings
from retrycli.domain.errors import Expired, InvalidMessage, NoSuchMessage
from retrycli.domain.listing import Filter
from retrycli.domain.sanitize import printable
from retrycli.domain.suggested import command
from retrycli.views import formatting, terminal

Result = TypeVar("Result")


class Chosen(NamedTuple):
    """The messages that the user chose for a command, by their ids or by a filter, and the command's common options."""

    ctx: typer.Context
    message_ids: list[str] | None
    wanted: Filter
    by: str | None
    yes: bool
    as_json: bool
    config: Path | None

    def select(
        self, action: operations.bulk.BulkAction, *, plan: str = "", asks: bool = False
    ) -> tuple[Settings, Sequence[int | str], datetime | None]:
        """Find the messages, ask for confirmation, and return the settings, the ids, and when the messages were shown,
        if they were.

        The question ends with ``plan``. For messages chosen by id, ask only if the change can't be undone, or if it
        ``asks`` and the user can be asked.

        Raises:
            NoSuchMessage: the filter matches no message.
            typer.BadParameter: both ids and a filter were given, or neither was; or the required ``--yes`` is missing.
            typer.Exit: the user does not agree.
        """
        ids, yes, as_json, entry = self.message_ids, self.yes, self.as_json, operations.bulk.ACTIONS[action]
        if bool(ids) == (self.wanted != Filter()):
            raise typer.BadParameter(
                "give either ids or filters, not both"
                if ids
                else "give the ids of the messages, or a filter such as --type or --error",
                param_hint="ID…",
            )
        settings = load_settings(self.ctx, self.config)
        why = "this can't be undone" if ids else "a filter may match many messages"
        if ids and (yes or not (entry.is_final or (asks and can_ask(as_json=as_json)))):
            return settings, list(dict.fromkeys(ids)), None
        require_confirmation(why, yes=yes, as_json=as_json)
        request = operations.bulk.BulkRequest(action, ids=ids or (), wanted=None if ids else self.wanted)
        found = operations.message_actions.preview(settings, request)
        if not found.ids:
            raise NoSuchMessage(
                "no message in a suitable state matches; nothing was changed. See `retrycli list-failed`"
            )
        if not yes and len(found.expired) < len(found.ids):
            _show_match(settings, found)
            number = formatting.count(len(found.ids) - len(found.expired), "message")
            confirm(f"{entry.plan.format(number)}{plan}?", why, yes=yes, as_json=as_json)
        return settings, found.ids, found.as_of

    def perform(
        self,
        request: operations.bulk.BulkRequest,
        following: Callable[[operations.retry.ActionResult], str],
        *,
        plan: str = "",
        asks: bool = False,
    ) -> NoReturn:
        """Find and change the messages, show the result and the next command, and exit. See `select` for the question.

        Raises:
            typer.Exit: always. The exit code shows whether a signal was received, too many canaries failed, or messages
                were refused: any of those chosen by id, or all of those chosen by a filter.
        """
        settings, ids, as_of = self.select(request.action, plan=plan, asks=asks)
        request = replace(request, as_of=as_of)
        done, received = run_interruptible(
            lambda here: operations.message_actions.act_on(settings, request, ids, by=self.by, runtime=here)
        )
        named = bool(self.message_ids)
        _show_result(done, operations.bulk.ACTIONS[request.action], named=named, as_json=self.as_json)
        if not self.as_json:
            terminal.say(f"Next: {following(done)}")
        if received is not None:
            raise typer.Exit(128 + received)
        if done.reason == "canary_failed":
            raise typer.Exit(NOT_OK)
        untouched = not done.done and not any(attempt.delivered for attempt in done.tried)
        raise typer.Exit(REFUSED if done.refused and (named or untouched) else 0)


def takes_messages(command: Callable[..., None], *, without: str | None = None) -> Callable[..., None]:
    """Give a command the options that choose messages. Replace its first parameter, which gets them as one `Chosen`.
    Leave out the filter that the command does not support.
    """

    def run(
        ctx: typer.Context,
        filters: Filter,
        message_ids: MessageIds = None,
        by: By = None,
        yes: Yes = False,
        as_json: Json = False,
        config: ConfigFile = None,
        **own: Any,  # noqa: ANN401  the command's signature defines the types
    ) -> None:
        command(Chosen(ctx, message_ids, filters, by, yes, as_json, config), **own)

    ctx, filters, ids, *others, _ = inspect.signature(run, eval_str=True).parameters.values()
    _, *own = inspect.signature(command, eval_str=True).parameters.values()
    # A signature lists parameters without a default first.
    required = [parameter for parameter in own if parameter.default is parameter.empty]
    optional = [parameter for parameter in own if parameter.default is not parameter.empty]
    wraps(command)(run).__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [ctx, *required, filters, ids, *optional, *others]
    )
    return takes_filters(run, without=without)


def _show_match(settings: Settings, found: operations.message_actions.Match) -> None:
    first = [message for message in found.first if message.id not in found.expired]
    show_messages(settings, first)
    if (more := len(found.ids) - len(found.expired) - len(first)) and first:
        terminal.say(f"… and {more:,} more")
    if expired := len(found.expired):
        terminal.say(f"{_describe_expired(expired)}: {'it' if expired == 1 else 'they'} will be left unchanged.")


def _describe_expired(number: int) -> str:
    have = "has" if number == 1 else "have"
    return f"{formatting.count(number, 'message')} {have} expired and would expire again if requeued"


def run_interruptible(act: Callable[[operations.wiring.Runtime], Result]) -> tuple[Result, int | None]:
    """Run an action that a signal stops after the request in flight. Return its result, and the signal, if any."""
    signals = Signals()
    done = act(replace(operations.wiring.DEFAULT_RUNTIME, stop_requested=signals.stop_requested))
    return done, signals.received


def _show_result(
    done: operations.retry.ActionResult, entry: operations.bulk.ActionEntry, *, named: bool, as_json: bool
) -> None:
    if as_json:
        terminal.show_json(operations.bodies.action(entry.result, done))
    elif terminal.on_terminal():
        _show_in_words(done, entry, named=named)
    else:
        canaries = {"tried": len(done.tried), "delivered": sum(attempt.delivered for attempt in done.tried)}
        terminal.show_facts(
            {
                **(canaries if done.tried else {}),
                entry.result: done.done,
                "refused": len(done.refused),
                "left": done.left,
            }
        )
    if named:
        for error in done.refused.values():
            terminal.complain(f"retrycli: {error}")


def _show_in_words(done: operations.retry.ActionResult, entry: operations.bulk.ActionEntry, *, named: bool) -> None:
    for attempt in done.tried:
        show_attempt(attempt, "Canary: message")
    if done.done or not (named or done.left):
        terminal.say(entry.done.format(formatting.count(done.done, "message")))
    if not named:
        _show_refused(done)
    if done.left:
        terminal.say(operations.words.left_unchanged(done))


def _show_refused(done: operations.retry.ActionResult) -> None:
    unfit = sum(isinstance(error, InvalidMessage) for error in done.refused.values())
    if unfit:
        their, were = ("its", "was") if unfit == 1 else ("their", "were")
        terminal.say(
            f"{formatting.count(unfit, 'message')} can't be sent in {their} present form and {were} left unchanged."
        )
    if expired := [message_id for message_id, error in done.refused.items() if isinstance(error, Expired)]:
        sends = f"send {'it' if len(expired) == 1 else 'one'} with {command('retry', expired[0])}"
        terminal.say(f"{_describe_expired(len(expired))}: raise schedule.expires_after_hours, or {sends}.")
    if lost := len(done.refused) - unfit - len(expired):
        them, were = ("it", "was") if lost == 1 else ("them", "were")
        terminal.say(
            f"{formatting.count(lost, 'message')} {were} not changed: another process was changing or sending {them}, "
            "or the database rejected the change. To see the reasons, run this again with --json."
        )


def show_attempt(tried: operations.retry.ManualAttempt, start: str = "Message") -> None:
    """Print whether a manual attempt delivered its message."""
    if tried.outcome is None:
        terminal.complain(f"retrycli: {tried.error}")
    else:
        terminal.show_text(printable(f"{start} {tried.message_id} {operations.words.attempted(tried.outcome)}"))
