"""Attempt messages by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from retrycli.config.settings import Settings
from retrycli.domain.errors import (
    InvalidMessage,
    NoSuchMessage,
    NotActionable,
)
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.engine import manual_attempt
from retrycli.engine.rules import Dependencies, PassRules
from retrycli.operations.bulk_action import ActionResult, ManualAttempt, unique_ids
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, login_name, ready_to_send

DESTINATION_FAULTS = frozenset(
    {
        OutcomeKind.TRANSIENT,
        OutcomeKind.UNREACHABLE,
        OutcomeKind.UNKNOWN,
        OutcomeKind.THROTTLED,
        OutcomeKind.UNAUTHORIZED,
    }
)
"""Outcomes that say more about the ticketing API than about the message."""


def retry(settings: Settings, message_id: int, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME) -> Outcome:
    """Attempt one message now, whatever its wait, even if it is escalated.

    It uses up no retry: if it is not delivered, the message stays where it was.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        message_id: the message's id in the application's table.
        by: the operator, for the history; by default the login name.
        runtime: clock and randomness.

    Returns:
        The outcome of the attempt.

    Raises:
        NoSuchMessage: there is no such row.
        NotActionable: it is not failed, or is being sent.
        InvalidMessage: its data can't be turned into a request.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    with ready_to_send(settings, runtime) as (deps, rules, _):
        return asyncio.run(manual_attempt.attempt_by_hand(deps, rules, message_id, by=by or login_name()))


def retry_all(
    settings: Settings,
    ids: Iterable[int],
    *,
    by: str | None = None,
    give_up_after: int | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Attempt messages now, one after the other, as `retry` attempts one.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        ids: the messages.
        by: the operator, for the history; by default the login name.
        give_up_after: stop after this many consecutive failures that say that the ticketing API is down.
        runtime: clock, randomness, and a request to stop early.

    Returns:
        The attempts in ``tried``; ``done`` counts the delivered ones.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    wanted = unique_ids(ids)
    with ready_to_send(settings, runtime) as (deps, rules, _):
        tried, reason = asyncio.run(_attempt_all(deps, rules, wanted, by or login_name(), give_up_after))
    done = sum(attempt.delivered for attempt in tried)
    refused = {attempt.message_id: attempt.error for attempt in tried if attempt.error is not None}
    return ActionResult(len(wanted), done, refused, tried, len(wanted) - len(tried), reason)


async def _attempt_all(
    deps: Dependencies, rules: PassRules, ids: Iterable[int], by: str, give_up_after: int | None
) -> tuple[list[ManualAttempt], str | None]:
    """Attempt messages over one connection and with one log-in; return the attempts, and why they ended early."""
    tried: list[ManualAttempt] = []
    in_a_row = 0
    async with deps.open_gateway() as gateway:
        for message_id in ids:
            if deps.stop_requested():
                return tried, "signal"
            if in_a_row == (give_up_after or -1):
                return tried, "destination_down"
            try:
                tried.append(
                    ManualAttempt(
                        message_id, await manual_attempt.attempt_through(gateway, deps, rules, message_id, by=by)
                    )
                )
            except (NoSuchMessage, NotActionable, InvalidMessage) as error:
                tried.append(ManualAttempt(message_id, error=error))
            outcome = tried[-1].outcome
            in_a_row = in_a_row + 1 if outcome and outcome.kind in DESTINATION_FAULTS else 0
    return tried, None
