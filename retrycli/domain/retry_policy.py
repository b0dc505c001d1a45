"""Retry policies: how long to wait before a retry, and which transition an outcome causes.

All functions are pure: the current time and the random jitter are arguments.
"""

import re
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import NamedTuple, Protocol, assert_never

from retrycli.domain.message import EscalationReason, Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.transition import Transition

# Shorter waits get no jitter. Passes start at intervals, so a small jitter would either have no effect or delay a retry
# by a whole interval.
JITTER_FROM = timedelta(hours=1)

LATEST = datetime.max.replace(tzinfo=UTC)


class BackoffKind(StrEnum):
    """The kinds of schedule for the waits between attempts."""

    EXPONENTIAL = "exponential"  # each wait is a multiple of the previous one, up to a cap
    LINEAR = "linear"  # retry n is due n base waits after creation, and at least one base wait after the last attempt
    FIXED = "fixed"  # every wait is the base wait
    LIST = "list"  # the waits are listed; the last one repeats
    PYTHON = "python"  # a function of the application returns each wait after the first, which is the base wait


class NoWait(Exception):
    """The function of a `python` schedule failed. The text says how, and quotes neither a message nor an exception."""


class TooSlow(NoWait):
    """The function did not return in time, which says nothing about the message."""


class WaitFunction(Protocol):
    """The function of a `python` schedule."""

    @property
    def name(self) -> str:
        """Return the function's name, as in the settings."""

    def __call__(self, attempt: int, outcome: Outcome) -> timedelta | None:
        """Return the wait after a failed attempt; None to escalate the message.

        Args:
            attempt: the number of retries of the message, including this one.
            outcome: the outcome of the attempt.

        Raises:
            TooSlow: the function did not return in time.
            NoWait: the function failed.
        """


class Backoff(NamedTuple):
    """A schedule of waits; retries are numbered from 1."""

    kind: BackoffKind = BackoffKind.EXPONENTIAL
    base: timedelta = timedelta(minutes=15)
    factor: float = 2.0
    cap: timedelta = timedelta(hours=4)
    spread: float = 0.2  # maximum fraction by which jitter lengthens or shortens a wait, from 0 to 1
    waits: tuple[timedelta, ...] = ()
    function: WaitFunction | None = None  # only for `PYTHON`
    shortest_answer: timedelta = timedelta(0)  # the function's shorter waits are lengthened to this

    def wait(self, retry: int) -> timedelta:
        """Return the wait before a retry, without jitter. For a linear schedule this is the minimum, and for a `python`
        schedule the wait before the first retry.
        """
        match self.kind:
            case BackoffKind.EXPONENTIAL:
                try:
                    return min(self.base * self.factor ** (retry - 1), self.cap)
                except OverflowError:
                    return self.cap
            case BackoffKind.LINEAR | BackoffKind.FIXED | BackoffKind.PYTHON:
                return self.base
            case BackoffKind.LIST:
                return self.waits[min(retry, len(self.waits)) - 1]

    def next_attempt_at(
        self, retry: int, *, since: datetime, created_at: datetime | None = None, jitter: float = 0.0
    ) -> datetime:
        """Return when a retry is due.

        Args:
            retry: the number of the retry, from 1.
            since: the start of the wait: the start of the pass that made the last attempt, or the first failure.
            created_at: when the message was created; only the linear schedule uses it.
            jitter: a random number, -1 to 1. It is applied after the cap, so that messages that piled up in an outage
                do not all come due at the same time.
        """
        wait = self.wait(retry)
        if wait >= JITTER_FROM:
            wait *= 1 + self.spread * jitter
        due = later(since, wait)
        if self.kind is BackoffKind.LINEAR and created_at is not None:
            due = max(due, later(created_at, self.base, times=retry))
        return due

    def shortest(self, retries: int) -> timedelta:
        """Return the shortest wait before any of the first ``retries`` retries, with the most negative jitter."""
        since = datetime(2000, 1, 1, tzinfo=UTC)
        return min(self.next_attempt_at(retry, since=since, jitter=-1) for retry in range(1, retries + 1)) - since

    def longest(self, retries: int) -> timedelta:
        """Return the longest wait before any of the first ``retries`` retries, with the most positive jitter. For a
        `python` schedule it is a day, although a function may return any wait.
        """
        longest = max(self.wait(retry) for retry in range(1, retries + 1)) * (1 + self.spread)
        others = {BackoffKind.LINEAR: self.base * retries, BackoffKind.PYTHON: timedelta(days=1)}
        return max(longest, others.get(self.kind, longest))


def later(time: datetime, wait: timedelta, *, times: int = 1) -> datetime:
    """Add a wait, one or several times, to a time; return `LATEST` if the sum overflows."""
    try:
        return time + wait * times
    except OverflowError:
        return LATEST


class RetryPolicy(NamedTuple):
    """The retry rules of one message type."""

    backoff: Backoff = Backoff()
    max_retries: int = 10
    unknown_limit: int = 2  # maximum number of resends after unknown outcomes that no look-up can settle
    expires_after: timedelta | None = None

    def decide(
        self,
        queued: QueuedMessage,
        outcome: Outcome,
        *,
        since: datetime,
        now: datetime,
        jitter: float,
        counts_as_retry: bool = True,
        has_lookup: bool = False,
    ) -> Transition:
        """Return the transition that an outcome causes.

        Args:
            queued: the message as it was when the attempt began.
            outcome: the outcome of the attempt.
            since: the start of the pass. Waits count from this time, so that they end just before a later pass starts
                and not just after.
            now: the time of the answer; Retry-After counts from this time.
            jitter: a random number, -1 to 1.
            counts_as_retry: False if a failure says nothing about the message, for example because the destination is
                known to be down. The failure then uses up no retry, unless the outcome is ``refused``.
            has_lookup: the next attempt first asks whether the message has arrived, and so sends no duplicate.
        """
        match outcome.kind:
            case OutcomeKind.DELIVERED:
                return Transition.delivered()
            case OutcomeKind.PERMANENT if outcome.found:
                return Transition.changed(f"Not sent: {outcome.error}")
            case OutcomeKind.PERMANENT:
                return Transition.escalated(EscalationReason.PERMANENT, last_error=outcome.error)
            case OutcomeKind.INVALID:
                return Transition.invalid(str(outcome.error))
            case OutcomeKind.UNAUTHORIZED | OutcomeKind.THROTTLED:
                # Both outcomes end this pass's deliveries to the destination. The new due time moves the message behind
                # the others, so the next pass begins with another message.
                return Transition.released(now)
            case OutcomeKind.REFUSED:
                counts_as_retry = True
            case OutcomeKind.TRANSIENT | OutcomeKind.UNREACHABLE:
                pass
            case OutcomeKind.UNKNOWN if self._is_in_doubt(queued, outcome, has_lookup=has_lookup):
                return _escalated_unknown(queued, outcome, counts_as_retry=counts_as_retry)
            case OutcomeKind.UNKNOWN:
                queued = queued._replace(unknown_count=queued.unknown_count + 1)
            case _:
                assert_never(outcome.kind)
        if not counts_as_retry:
            return Transition.released(now, unknown_count=queued.unknown_count)
        return self._use_retry(queued, outcome, since=since, now=now, jitter=jitter)

    def _is_in_doubt(self, queued: QueuedMessage, outcome: Outcome, *, has_lookup: bool) -> bool:
        """Return whether too many attempts may have delivered the message, and no look-up can settle that."""
        unknowns = queued.other_unknowns + queued.unknown_count
        return not has_lookup and (outcome.unread or unknowns >= self.unknown_limit)

    def _use_retry(
        self, queued: QueuedMessage, outcome: Outcome, *, since: datetime, now: datetime, jitter: float
    ) -> Transition:
        retries, function = queued.message.retry_count + 1, self.backoff.function
        asked = later(now, outcome.retry_after or timedelta(0))
        again = Transition.rescheduled(
            max(self._next_due(queued.message, retries + 1, since, jitter), asked),
            retry_count=retries,
            unknown_count=queued.unknown_count,
            last_error=outcome.error,
        )
        if retries >= self.max_retries:
            spent = _spent(queued, EscalationReason.EXHAUSTED, exhausted(self.max_retries, outcome.error))
            return spent._replace(if_lowered=again)
        if function is None:
            return again
        try:
            wait = function(retries, outcome)
        except TooSlow:
            return again
        except NoWait as fault:
            error = f"Can't be scheduled: {fault}. Last error: {outcome.error}"
            return _spent(queued, EscalationReason.INVALID, error, problem=str(fault))
        if wait is None:
            error = f"Retries ended by {function.name}. Manual intervention required. Last error: {outcome.error}"
            return _spent(queued, EscalationReason.EXHAUSTED, error, problem=f"{function.name} ended the retries")
        return again._replace(next_attempt_at=max(later(since, max(wait, self.backoff.shortest_answer)), asked))

    def enrol(self, message: Message, *, first_failed_at: datetime, now: datetime, jitter: float) -> Transition:
        """Return the transition of a new message, or of one that the application changed after its escalation: to
        waiting, or directly to escalated.

        Count the wait from the failure, and never from a time in the future, so that a wrong clock delays no message.
        """
        if not self.has_retries_left(message):
            return self._escalate_exhausted(message)
        if message.created_at is None and message.updated_at is None:
            return Transition.enrolled(now)
        return Transition.enrolled(self._next_due(message, message.retry_count + 1, min(first_failed_at, now), jitter))

    def escalation_before_send(
        self, queued: QueuedMessage, now: datetime, *, has_lookup: bool = False
    ) -> Transition | None:
        """Return the escalation that replaces a message's next attempt; None if the message may be sent.

        Args:
            queued: the message, with the data that its history holds about its current text.
            now: the start of the pass.
            has_lookup: the attempt first asks whether the message has arrived.
        """
        if queued.delivered_at is not None:
            return Transition.already_delivered(queued.delivered_at)
        if queued.elsewhere is not None:
            return Transition.changed(f"Not sent: this text may have arrived under ticket {queued.elsewhere}")
        if queued.with_others:
            return Transition.changed("Not sent: this text may have arrived with the recipients that it had before")
        if any(text.partly for text in queued.earlier):
            return Transition.changed("Not sent: some recipients already have an earlier version of its text")
        if self.expired(queued, now):
            return Transition.expired()
        if not self.has_retries_left(queued.message) or queued.requests >= BOUND * self.max_retries:
            return self._escalate_exhausted(queued.message)
        if queued.unknown_count > self.unknown_limit and not has_lookup:
            return Transition.escalated(
                EscalationReason.UNKNOWN, last_error=f"May have arrived (unknown outcomes: {queued.unknown_count})"
            )
        return None

    def has_retries_left(self, message: Message) -> bool:
        """Return whether a message has retries left; ``max_retries`` may have been lowered while the message waited."""
        return message.retry_count < self.max_retries

    def expired(self, queued: QueuedMessage, now: datetime) -> bool:
        """Return whether a message has expired; see `expires_at`."""
        expires_at = self.expires_at(queued)
        return expires_at is not None and now > expires_at

    def expires_at(self, queued: QueuedMessage) -> datetime | None:
        """Return when a message expires, counted from its creation or else its first failure; None if it never does."""
        return self.wanted_until(queued.message.created_at or queued.first_failed_at)

    def why_spent(self, retry_count: int, made_at: datetime, now: datetime) -> EscalationReason | None:
        """Return why a message is escalated instead of attempted, judged only by its retries and its age."""
        end = self.wanted_until(made_at)
        if end is not None and now > end:
            return EscalationReason.EXPIRED
        return EscalationReason.EXHAUSTED if retry_count >= self.max_retries else None

    def wanted_until(self, made_at: datetime) -> datetime | None:
        """Return when a message that was created or first failed at a given time expires; None if it never expires."""
        return None if self.expires_after is None else later(made_at, self.expires_after)

    def _escalate_exhausted(self, message: Message) -> Transition:
        return Transition.escalated(
            EscalationReason.EXHAUSTED, last_error=exhausted(self.max_retries, message.last_error)
        )

    def _next_due(self, message: Message, retry: int, since: datetime, jitter: float) -> datetime:
        made_at = message.created_at
        if made_at is not None and made_at > since:
            made_at = None  # a creation time in the future must not delay the message
        return self.backoff.next_attempt_at(retry, since=since, created_at=made_at, jitter=jitter)


def first_failure(message: Message, now: datetime) -> datetime:
    """Return the assumed time of a message's first failure: its last update, else its creation, else now."""
    return message.updated_at or message.created_at or now


# Maximum number of requests by passes for one message since its last delivery or requeue, as a multiple of
# ``max_retries``. This limit holds even if the application keeps resetting the row's ``retry_count``, or renders its
# text anew at each failure.
BOUND = 3


EXHAUSTED = re.compile(r"Max retries \(\d+\) exceeded\. Manual intervention required\.")
ENDED = re.compile(r"Retries ended by \S+\. Manual intervention required\.")


def exhausted(max_retries: int, error: str | None) -> str:
    """Return the ``last_error`` of an exhausted message. Operators search for this wording."""
    start = f"Max retries ({max_retries}) exceeded. Manual intervention required."
    if error is None:
        return start
    return error if EXHAUSTED.match(error) else f"{start} Last error: {error}"


def _spent(
    queued: QueuedMessage, reason: EscalationReason, last_error: str, *, problem: str | None = None
) -> Transition:
    """Return the escalation of a message whose last attempt used up a retry."""
    escalated = Transition.escalated(
        reason, last_error=last_error, retry_count=queued.message.retry_count + 1, unknown_count=queued.unknown_count
    )
    return escalated._replace(problem=problem)


def _escalated_unknown(queued: QueuedMessage, outcome: Outcome, *, counts_as_retry: bool) -> Transition:
    unknowns = queued.unknown_count + 1
    total = queued.other_unknowns + unknowns
    return Transition.escalated(
        EscalationReason.UNKNOWN,
        last_error=f"May have arrived: {outcome.error} (unknown outcomes: {total})",
        retry_count=queued.message.retry_count + counts_as_retry,
        unknown_count=unknowns,
    )
