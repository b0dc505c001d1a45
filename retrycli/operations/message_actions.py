"""What a person does about failed messages, one or ten thousand of them: find, try, requeue, reject, acknowledge, note.

Every act is written down with who did it. Many messages are acted on in short transactions, 500 at a time, so that
passes and the application can go on meanwhile. None is touched that has been sent, or is being sent just then; one that
was acted on no longer matches what it was found by, so what was interrupted can simply be done again.
"""

from __future__ import annotations

import asyncio
import uuid
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import pairwise

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, InvalidMessage, NoSuchMessage, NotActionable, RetrycliError
from retrycli.domain.filter import Filter
from retrycli.domain.listing import ListedMessage
from retrycli.domain.message import Message, MessageStatus, QueuedMessage
from retrycli.domain.operator_action import ActionKind, OperatorAction, not_written, unfit, would_expire
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.engine import manual_attempt
from retrycli.engine.rules import Dependencies, PassRules
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, login_name, open_database, ready_to_send
from retrycli.store.database import Database
from retrycli.store.listing import Views
from retrycli.store.operator_actions import Acts

BATCH = 500
"""How many messages are acted on in one transaction."""
SHOWN = 5
"""How many of the messages that were found are shown before a person is asked."""

DESTINATION_FAULTS = frozenset(
    {
        OutcomeKind.TRANSIENT,
        OutcomeKind.UNREACHABLE,
        OutcomeKind.UNKNOWN,
        OutcomeKind.THROTTLED,
        OutcomeKind.UNAUTHORIZED,
    }
)
"""Outcomes that say more of the ticketing API than of the message."""


@dataclass(frozen=True, slots=True)
class Match:
    """The messages that a filter lets through, as they were when somebody looked."""

    ids: Sequence[int]
    """The lowest first: an array, for a million of them is no rare number."""
    first: list[ListedMessage]
    """The first few of them."""


@dataclass(frozen=True, slots=True)
class ManualAttempt:
    """One attempt by hand: an outcome, or why there was none."""

    message_id: int
    outcome: Outcome | None = None
    error: RetrycliError | None = None

    @property
    def delivered(self) -> bool:
        """Whether the other side has it."""
        return self.outcome is not None and self.outcome.kind is OutcomeKind.DELIVERED

    @property
    def failed(self) -> bool:
        """Whether it could have been delivered and was not: a message that has moved on is no failure."""
        return not self.delivered and not isinstance(self.error, NoSuchMessage | NotActionable)


@dataclass(frozen=True, slots=True)
class Canary:
    """Try the first messages before the rest is requeued."""

    number: int = 3
    abort_over: float = 0.3
    """The share of them that may fail."""

    def fails(self, tried: Sequence[ManualAttempt]) -> bool:
        """Whether too many of those that were tried failed."""
        made = [each for each in tried if each.delivered or each.failed]
        return bool(made) and sum(each.failed for each in made) / len(made) > self.abort_over


@dataclass(frozen=True, slots=True)
class ActionResult:
    """What came of an act on messages."""

    matched: int
    """How many there were to act on."""
    done: int = 0
    refused: dict[int, RetrycliError] = field(default_factory=dict)
    """Those that were left alone because they had moved on, or could not be acted on to begin with, and why."""
    tried: list[ManualAttempt] = field(default_factory=list)
    """Attempts that were made by hand."""
    left: int = 0
    """Those that were not come to: they are as they were."""
    reason: str | None = None
    """Why some were left: ``canary_failed``, ``destination_down`` or ``signal``."""


def named(settings: Settings, ids: Sequence[int], *, shown: int = SHOWN) -> Match:
    """Return messages that an operator names, and the first of them that are failed.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        wanted = once(ids)
        return Match(wanted, list(Views(database).pages(wanted[:shown], Filter())))


def find(settings: Settings, wanted: Filter, *, shown: int = SHOWN) -> Match:
    """Return the failed messages that a filter lets through, which may be none.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        views = Views(database)
        ids = views.ids(wanted)
        return Match(ids, list(views.pages(ids[:shown], wanted)))


def retry_all(
    settings: Settings,
    ids: Iterable[int],
    *,
    by: str | None = None,
    give_up_after: int | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Try messages now, one after the other, as `retrycli.retry` tries one.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        ids: the messages.
        by: who asks for it, for the history; by default the login name.
        give_up_after: leave the rest after so many failures in a row that say that the ticketing API is down.
        runtime: clock and randomness, and whether to stop early.

    Returns:
        What came of each, ``tried``; ``done`` were delivered.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    wanted = once(ids)
    with ready_to_send(settings, runtime) as (deps, rules, _):
        tried, reason = asyncio.run(_try(deps, rules, wanted, by or login_name(), give_up_after))
    done = sum(each.delivered for each in tried)
    refused = {each.message_id: each.error for each in tried if each.error is not None}
    return ActionResult(len(wanted), done, refused, tried, len(wanted) - len(tried), reason)


async def _try(
    deps: Dependencies, rules: PassRules, ids: Iterable[int], by: str, give_up_after: int | None
) -> tuple[list[ManualAttempt], str | None]:
    """Attempts by hand over one connection and with one log-in, and why they ended early."""
    tried: list[ManualAttempt] = []
    in_a_row = 0
    async with deps.open_gateway() as gateway:
        for each in ids:
            if deps.stop_requested():
                return tried, "signal"
            if in_a_row == (give_up_after or -1):
                return tried, "destination_down"
            try:
                tried.append(
                    ManualAttempt(each, await manual_attempt.attempt_through(gateway, deps, rules, each, by=by))
                )
            except (NoSuchMessage, NotActionable, InvalidMessage) as error:
                tried.append(ManualAttempt(each, error=error))
            outcome = tried[-1].outcome
            in_a_row = in_a_row + 1 if outcome and outcome.kind in DESTINATION_FAULTS else 0
    return tried, None


def requeue(
    settings: Settings,
    ids: Iterable[int],
    *,
    due: datetime | None = None,
    spread: timedelta = timedelta(0),
    canary: Canary | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> ActionResult:
    """Hand escalated messages back to the passes: waiting, with all their retries. So are messages that `reject`
    rejected, if they are named, and if their rows have not changed since.

    The delivery key stays, unless a delivery of the text is recorded: then it is sent under the next key.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        ids: the messages.
        due: when the first of them is due; by default now.
        spread: the span over which they become due, evenly in the order of their ids.
        canary: try the first ones by hand before, and leave all the others where they are when too many fail.
        by: who asks for it, for the history; by default the login name.
        runtime: clock and randomness, and whether to stop early.

    Messages that have expired are left alone, and none is tried as a canary: a pass would escalate them again.

    Returns:
        How many were requeued, and why the others were not. A canary that failed is in a person's hands as before;
        one that was delivered is done with.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    named_ids = once(ids)
    expired: dict[int, RetrycliError] = {
        each: would_expire(each) for each in expired_among(settings, named_ids, runtime)
    }
    wanted = [each for each in named_ids if each not in expired] if expired else named_ids
    tried = [] if canary is None else _try_canaries(settings, wanted, canary.number, by, runtime)
    rest = wanted[len(tried) :]
    if canary is not None and canary.fails(tried):
        return ActionResult(len(named_ids), refused=expired, tried=tried, left=len(rest), reason="canary_failed")
    name = by or login_name()

    def act(position: int, at: datetime) -> OperatorAction:
        return OperatorAction.requeued((due or at) + spread * position / len(rest), by=name, at=at)

    after = perform(settings, ActionKind.REQUEUED, rest, act, runtime)
    return replace(after, matched=len(named_ids), refused=expired | after.refused, tried=tried)


def expired_among(settings: Settings, ids: Sequence[int], runtime: Runtime = DEFAULT_RUNTIME) -> set[int]:
    """Find the failed messages that a pass would escalate as expired.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    if not ids or not any(each.expires_after for each in settings.policies.values()):
        return set()
    with open_database(settings) as database:
        now = clock(database, runtime.now)()
        listed = Views(database).pages(array("q", ids), Filter())
        ends = ((each.id, each.expires_at(settings.policies)) for each in listed)
        return {message_id for message_id, end in ends if end is not None and end < now}


def _try_canaries(
    settings: Settings, ids: Sequence[int], number: int, by: str | None, runtime: Runtime
) -> list[ManualAttempt]:
    """Try the first messages until so many could be tried; those that have moved on are passed over."""
    tried: list[ManualAttempt] = []
    while (missing := number - sum(each.delivered or each.failed for each in tried)) > 0:
        coming = ids[len(tried) : len(tried) + missing]
        if not coming or runtime.stop_requested():
            break
        tried += retry_all(settings, coming, by=by, runtime=runtime).tried
    return tried


def reject(
    settings: Settings, ids: Iterable[int], reason: str, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> ActionResult:
    """Give messages up: their status in the application's table becomes ``rejected``, and they leave the queue.

    Args:
        settings: from `retrycli.load_settings`, or made directly.
        ids: the messages; failed ones in any state but being sent.
        reason: why, for ``last_error`` and the history.
        by: who asks for it; by default the login name.
        runtime: the clock, and whether to stop early.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    name = by or login_name()
    return perform(
        settings, ActionKind.REJECTED, once(ids), lambda _, at: OperatorAction.rejected(reason, by=name, at=at), runtime
    )


def acknowledge(
    settings: Settings, ids: Iterable[int], *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> ActionResult:
    """Say of escalated messages that somebody sees to them; they stay where they are.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    name = by or login_name()
    return perform(
        settings, ActionKind.ACKNOWLEDGED, once(ids), lambda _, at: OperatorAction.acknowledged(by=name, at=at), runtime
    )


def note(
    settings: Settings, message_id: int, text: str, *, by: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> None:
    """Leave a word with an escalated message, in place of any earlier one.

    Raises:
        NoSuchMessage: there is no such row.
        NotActionable: it is in no person's hands.
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    name = by or login_name()
    done = perform(
        settings, ActionKind.NOTED, [message_id], lambda _, at: OperatorAction.noted(text, by=name, at=at), runtime
    )
    if message_id in done.refused:
        raise done.refused[message_id]


def once(ids: Iterable[int]) -> array[int]:
    """The ids in their order, each of them once."""
    packed = array("q", ids)
    rising = all(one < next_one for one, next_one in pairwise(packed))
    return packed if rising else array("q", dict.fromkeys(packed))


def perform(
    settings: Settings,
    kind: ActionKind,
    ids: Sequence[int],
    act: Callable[[int, datetime], OperatorAction],
    runtime: Runtime,
) -> ActionResult:
    """Do an act to messages, some at a time; ``act`` is given each one's position, and when it all began."""
    refused: dict[int, RetrycliError] = {}
    came_to = 0
    with open_database(settings) as database:
        acts, now = Acts(database), clock(database, runtime.now)
        at = now()
        while came_to < len(ids) and not runtime.stop_requested():
            batch = {each: act(came_to + n, at) for n, each in enumerate(ids[came_to : came_to + BATCH])}
            messages = acts.read(batch) if kind is ActionKind.REQUEUED else []
            rejected = {each.id for each in messages if each.fields["status"] == MessageStatus.REJECTED}
            too_old = _too_old(settings, acts, messages, at)
            problems = _problems(settings, database, messages, now) if messages else {}
            performed = acts.perform(kind, batch, problems | dict.fromkeys(too_old, "it has expired"))
            refused |= {each: not_written(kind, each, why) for each, why in performed.refused.items()}
            refused |= {
                each: would_expire(each, is_rejected=each in rejected) if each in too_old else unfit(each, why)
                for each, why in performed.unfit.items()
            }
            if performed.lost:
                refused |= acts.why_not(kind, performed.lost, now())
            came_to += len(batch)
    left = len(ids) - came_to
    return ActionResult(len(ids), came_to - len(refused), refused, left=left, reason="signal" if left else None)


def _too_old(settings: Settings, acts: Acts, messages: Sequence[Message], now: datetime) -> set[int]:
    """Find the messages that have expired, whatever their status: one may be rejected, and not in the queue."""
    policies = {each.id: settings.policies[each.message_type] for each in messages}
    if not any(each.expires_after for each in policies.values()):
        return set()
    failed_at = acts.first_failures([each.id for each in messages if each.created_at is None])
    made_at = failed_at | {each.id: each.created_at for each in messages if each.created_at is not None}
    ends = ((each, policies[each].wanted_until(at)) for each, at in made_at.items())
    return {each for each, end in ends if end is not None and end < now}


def _problems(
    settings: Settings, database: Database, messages: Sequence[Message], now: Callable[[], datetime]
) -> dict[int, str]:
    """Find out of which messages no request can be built, and why. Nothing is sent.

    Where no gateway can be used as it is set, nothing is known of them: a pass finds out.
    """
    from retrycli.gateway.router import router_of

    async def ask() -> dict[int, str]:
        columns = database.messages.c.keys()
        async with router_of(settings.gateway, columns=columns, connections=1, now=now) as gateway:
            queued = [QueuedMessage(each, str(uuid.uuid4()), now()) for each in messages]
            found = {each.message_id: await gateway.problem(each) for each in queued}
        return {each: why for each, why in found.items() if why is not None}

    with suppress(ConfigurationError), ThreadPoolExecutor(1) as aside:  # the caller may run an event loop
        return aside.submit(asyncio.run, ask()).result()
    return {}
