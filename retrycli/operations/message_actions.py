"""What a person does about failed messages, one or ten thousand of them: find, try, requeue, reject, acknowledge, note.

Every act is written down with who did it. Many messages are acted on in short transactions, 500 at a time, so that
passes and the application can go on meanwhile. None is touched that has been sent, or is being sent just then; one that
was acted on no longer matches what it was found by, so what was interrupted can simply be done again.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.errors import RetrycliError
from retrycli.domain.filter import Filter
from retrycli.domain.listing import ListedMessage
from retrycli.domain.operator_action import ActionKind, OperatorAction, would_expire
from retrycli.operations.bulk_action import ActionResult, ManualAttempt, once, perform
from retrycli.operations.retry import retry_all
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, login_name, open_database
from retrycli.store.views import Views

SHOWN = 5
"""How many of the messages that were found are shown before a person is asked."""


@dataclass(frozen=True, slots=True)
class Match:
    """The messages that a filter lets through, as they were when somebody looked."""

    ids: Sequence[int]
    """The lowest first: an array, for a million of them is no rare number."""
    first: list[ListedMessage]
    """The first few of them."""


@dataclass(frozen=True, slots=True)
class Canary:
    """Try the first messages before the rest is requeued."""

    number: int = 3
    abort_over: float = 0.3
    """The share of them that may fail."""

    def fails(self, tried: Sequence[ManualAttempt]) -> bool:
        """Whether too many of those that were tried failed."""
        made = [attempt for attempt in tried if attempt.delivered or attempt.failed]
        return bool(made) and sum(attempt.failed for attempt in made) / len(made) > self.abort_over


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
        message_id: would_expire(message_id) for message_id in expired_among(settings, named_ids, runtime)
    }
    wanted = [message_id for message_id in named_ids if message_id not in expired] if expired else named_ids
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
    if not ids or not any(policy.expires_after for policy in settings.policies.values()):
        return set()
    with open_database(settings) as database:
        now = clock(database, runtime.now)()
        listed = Views(database).pages(array("q", ids), Filter())
        ends = ((message.id, message.expires_at(settings.policies)) for message in listed)
        return {message_id for message_id, end in ends if end is not None and end < now}


def _try_canaries(
    settings: Settings, ids: Sequence[int], number: int, by: str | None, runtime: Runtime
) -> list[ManualAttempt]:
    """Try the first messages until so many could be tried; those that have moved on are passed over."""
    tried: list[ManualAttempt] = []
    while (missing := number - sum(attempt.delivered or attempt.failed for attempt in tried)) > 0:
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
