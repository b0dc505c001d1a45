"""Look up messages that may have arrived, and mark messages as sent."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from retrycli.config.settings import Settings
from retrycli.domain.errors import InvalidMessage, NoSuchMessage, NotActionable, RetrycliError
from retrycli.domain.operator_action import ActionKind, OperatorAction
from retrycli.domain.outcome import LookUp
from retrycli.engine import manual_attempt
from retrycli.engine.rules import Dependencies, PassRules
from retrycli.operations.bulk_action import ActionResult, perform, unique_ids
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, login_name, ready_to_send
from retrycli.store.operator_actions import Acts


@dataclass(frozen=True, slots=True)
class LookedUp:
    """One message that was looked up: the result, or why it was not looked up."""

    message_id: int
    found: LookUp | None = None
    error: RetrycliError | None = None


def look_up(
    settings: Settings, message_id: int, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> LookUp:
    """Ask the ticketing system if a message has arrived. Nothing is sent.

    If it has, it is recorded as delivered and its status becomes ``sent``. Otherwise it stays where it was.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        message_id: the message's id in the application's table.
        by: the operator, for the history; by default the login name.
        runtime: clock and randomness.

    Raises:
        NoSuchMessage: there is no such row.
        NotActionable: it is not failed, is being sent, is known to be delivered, or its gateway has no look-up; or
            a stop was requested before its look-up.
        InvalidMessage: its data can't be turned into a request.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    for one in look_up_all(settings, [message_id], by=by, runtime=runtime):
        if one.error is not None:
            raise one.error
        if one.found is not None:
            return one.found
    raise NotActionable(f"message {message_id} was not looked up: a stop was requested. Ask again")


def look_up_all(
    settings: Settings, ids: Iterable[int], *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> list[LookedUp]:
    """Look up messages one after the other, as `look_up` does. Messages missing from the result were not reached.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    with ready_to_send(settings, runtime) as (deps, rules, database):
        return asyncio.run(_look_up_each(deps, rules, Acts(database), unique_ids(ids), by or login_name()))


async def _look_up_each(
    deps: Dependencies, rules: PassRules, acts: Acts, ids: Iterable[int], by: str
) -> list[LookedUp]:
    """Look up messages over one connection and with one log-in. Each answer is recorded in the history."""
    asked: list[LookedUp] = []
    async with deps.open_gateway() as gateway:
        for message_id in ids:
            if deps.stop_requested():
                break
            try:
                found = await manual_attempt.look_up_through(gateway, deps, rules, message_id, by=by)
            except (NoSuchMessage, NotActionable, InvalidMessage) as error:
                asked.append(LookedUp(message_id, error=error))
                continue
            acts.write_down({message_id: OperatorAction.looked_up(found, by=by, at=deps.now())})
            asked.append(LookedUp(message_id, found))
    return asked


def mark_sent(
    settings: Settings,
    ids: Iterable[int],
    *,
    note: str | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Mark messages as arrived: their status becomes ``sent``, and no pass sends their texts again.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        ids: the messages; failed ones in any state but being sent.
        note: the evidence, for the history.
        by: the operator; by default the login name.
        runtime: the clock, and a request to stop early.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    name = by or login_name()
    return perform(
        settings,
        ActionKind.MARKED_SENT,
        unique_ids(ids),
        lambda _, at: OperatorAction.marked_sent(note, by=name, at=at),
        runtime,
    )
