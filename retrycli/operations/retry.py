"""Attempt and look up messages by hand, one after another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from retrycli.config.settings import Settings
from retrycli.domain.errors import InvalidMessage, NoSuchMessage, NotActionable, RetrycliError
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import OUTAGE, LookUp, Outcome, OutcomeKind
from retrycli.engine.manual_attempt import attempt_through, look_up_through
from retrycli.engine.ports import Dependencies, Gateway
from retrycli.operations.ids import resolve
from retrycli.operations.recovery import record_dead
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, ready_to_send
from retrycli.store.database import Database
from retrycli.store.operator_actions import Acts
from retrycli.system.process import login_name

Result = TypeVar("Result")
Answer = TypeVar("Answer")
# Outcomes that are probably caused by the ticketing API, not by the message.
DESTINATION_FAULTS = OUTAGE | {OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED}


@dataclass(frozen=True, slots=True)
class ManualAttempt:
    """One attempt by hand: its outcome, or why no attempt was made."""

    message_id: int
    outcome: Outcome | None = None
    error: RetrycliError | None = None

    @property
    def delivered(self) -> bool:
        """Return whether the attempt delivered the message; False if no attempt was made."""
        return self.outcome is not None and self.outcome.kind is OutcomeKind.DELIVERED

    @property
    def failed(self) -> bool:
        """Return whether the message was not delivered, although it exists and its state allowed an attempt."""
        return not self.delivered and not isinstance(self.error, NoSuchMessage | NotActionable)


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action on messages.

    Attributes:
        refused: the errors of messages to which the action could not be applied, by id.
        left: the number of messages that were not reached; they are unchanged.
        canaries: the numbers of canaries that all slices have attempted, and of those that failed.
        reason: why messages were not reached: ``canary_failed``, ``destination_down``, ``signal``, or ``time`` (see
            `retrycli.operations.message_actions.act`).
    """

    matched: int
    done: int = 0
    refused: dict[int, RetrycliError] = field(default_factory=dict)
    tried: list[ManualAttempt] = field(default_factory=list)
    left: int = 0
    reason: str | None = None
    canaries: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class LookedUp:
    """The look-up of one message: the result, or the reason why it was not looked up."""

    message_id: int
    found: LookUp | None = None
    error: RetrycliError | None = None


def retry(
    settings: Settings,
    message_id: int | str,
    *,
    send_again: bool = False,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Outcome:
    """Attempt one message now, even if it is not due or is escalated.

    The attempt does not use up a retry. If it does not deliver the message, the message's state is unchanged, unless
    the application changes the row during the attempt.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        message_id: the message's id in the application's table.
        send_again: send also a message that may have arrived.
        by: the operator, for the history; by default the current user's login name.
        runtime: clock and randomness.

    Returns:
        The outcome of the attempt.

    Raises:
        NoSuchMessage: the application's table has no such row.
        MayHaveArrived: the message may have arrived and can't be looked up first. It was not sent.
        NotActionable: the message is not failed, or is being sent; or a stop was requested before the attempt.
        InvalidMessage: the message's data can't be turned into a request. No attempt was made, and the message is
            escalated.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    tried = retry_all(settings, [message_id], by=by, send_again=send_again, runtime=runtime).tried
    return _only([(attempt.outcome, attempt.error) for attempt in tried], f"message {message_id} was not attempted")


def look_up(
    settings: Settings, message_id: int | str, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> LookUp:
    """Ask the ticketing system whether a message has arrived. Send nothing.

    A message that has arrived is recorded as delivered, and its status becomes ``sent`` unless its row has changed
    or can't be written. Otherwise the message is unchanged.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        message_id: the message's id in the application's table.
        by: the operator, for the history; by default the current user's login name.
        runtime: clock and randomness.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, is being sent, is known to be delivered, or its gateway has no
            look-up; or a stop was requested before the look-up.
        InvalidMessage: the message's data can't be turned into a request.
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a setting, the preset or the application's table is wrong.
        EventLoopRunning: this thread runs an event loop.
    """
    asked = look_up_all(settings, [message_id], by=by, runtime=runtime)
    return _only([(answer.found, answer.error) for answer in asked], f"message {message_id} was not looked up")


def _only(answers: list[tuple[Result | None, RetrycliError | None]], unreached: str) -> Result:
    for result, error in answers:
        if error is not None:
            raise error
        if result is not None:
            return result
    raise NotActionable(f"{unreached}, because a stop was requested. Run this again")


def retry_all(
    settings: Settings,
    ids: Iterable[int | str],
    *,
    by: str | None = None,
    give_up_after: int | None = None,
    streak: int = 0,
    send_again: bool = False,
    runtime: Runtime = DEFAULT_RUNTIME,
    database: Database | None = None,
) -> ActionResult:
    """Attempt messages now, one after another, each as in `retry`. Count the delivered ones as done.

    Stop after ``give_up_after`` consecutive failures that the ticketing API has probably caused, including the
    ``streak`` immediately before these attempts. Without ``send_again``, do not send a message that may have
    arrived, unless it can be looked up first; its error is `MayHaveArrived`.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database, a setting or the preset can't be used.
        EventLoopRunning: this thread runs an event loop.
    """
    operator = by or login_name()

    def is_down(tried: Sequence[ManualAttempt]) -> bool:
        return give_up_after is not None and failure_streak(tried, streak) >= give_up_after

    with ready_to_send(settings, runtime, database=database) as (deps, rules, opened):
        record_dead(settings, opened, runtime)
        wanted = resolve(opened, ids)

        def attempt(gateway: Gateway, message_id: int) -> Awaitable[Outcome]:
            return attempt_through(gateway, deps, rules, message_id, by=operator, send_again=send_again)

        tried = asyncio.run(_one_by_one(deps, wanted, attempt, ManualAttempt, is_down))
    reason = None if len(tried) == len(wanted) else "destination_down" if is_down(tried) else "signal"
    return ActionResult(
        len(wanted),
        done=sum(attempt.delivered for attempt in tried),
        refused={attempt.message_id: attempt.error for attempt in tried if attempt.error is not None},
        tried=tried,
        left=len(wanted) - len(tried),
        reason=reason,
    )


def failure_streak(tried: Sequence[ManualAttempt], before: int = 0) -> int:
    """Count the last consecutive failures that the ticketing API has probably caused, after ``before`` earlier ones."""
    for number, attempt in enumerate(reversed(tried)):
        if attempt.outcome is None or attempt.outcome.of_destination not in DESTINATION_FAULTS:
            return number
    return before + len(tried)


def look_up_all(
    settings: Settings, ids: Iterable[int | str], *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> list[LookedUp]:
    """Look up messages one after another, each as in `look_up`. Messages missing from the result were not reached.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database, a setting or the preset can't be used.
        EventLoopRunning: this thread runs an event loop.
    """
    operator = by or login_name()
    with ready_to_send(settings, runtime) as (deps, rules, database):
        record_dead(settings, database, runtime)
        acts = Acts(database)

        async def ask(gateway: Gateway, message_id: int) -> LookUp:
            found = await look_up_through(gateway, deps, rules, message_id, by=operator)
            acts.write_down({message_id: OperatorAction.looked_up(found, by=operator, at=deps.now())})
            return found

        return asyncio.run(_one_by_one(deps, resolve(database, ids), ask, LookedUp))


async def _one_by_one(
    deps: Dependencies,
    ids: Iterable[int],
    act: Callable[[Gateway, int], Awaitable[Result]],
    answer: Callable[[int, Result | None, RetrycliError | None], Answer],
    is_enough: Callable[[list[Answer]], bool] = lambda _: False,
) -> list[Answer]:
    """Act on messages with shared connections and log-ins, until a stop is requested or ``is_enough`` returns True.
    Answer for each message that was reached: the result of the action, or the error that prevented it.
    """
    answers: list[Answer] = []
    async with deps.open_gateway() as gateway:
        for message_id in ids:
            if deps.stop_requested() or is_enough(answers):
                break
            try:
                answers.append(answer(message_id, await act(gateway, message_id), None))
            except (NoSuchMessage, NotActionable, InvalidMessage) as error:
                answers.append(answer(message_id, None, error))
    return answers
