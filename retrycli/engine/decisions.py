"""Decisions of a pass about its messages, before an attempt and after it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from retrycli.domain.attempt import Attempt
from retrycli.domain.message import QueuedMessage
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.transition import Decision, Transition, TransitionKind
from retrycli.engine.rules import Dependencies, PassRules


class Decisions:
    """Apply the retry policies.

    Args:
        deps: randomness, and which message types can be looked up.
        rules: the policies.
        since: the start of the pass; waits count from it.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, *, since: datetime) -> None:
        self._deps = deps
        self._rules = rules
        self._since = since

    def is_fit(self, escalations: dict[int, Transition], queued: QueuedMessage) -> bool:
        """Tell if a message may be sent; if not, add its escalation to `escalations`."""
        has_lookup = self._deps.looks_up(queued.message.message_type)
        escalation = self._policy(queued).escalation_before_send(queued, self._since, has_lookup=has_lookup)
        if escalation is not None:
            escalations[queued.message_id] = escalation
        return escalation is None

    def decide(self, attempt: Attempt) -> Decision:
        """Decide what an attempt does to its message."""
        queued = attempt.queued
        if attempt.about_us:
            return as_decision(attempt, Transition.released(attempt.finished_at))
        transition = self._policy(queued).decide(
            queued,
            attempt.outcome,
            since=self._since,
            now=attempt.finished_at,
            jitter=self._deps.jitter(),
            counts_as_retry=attempt.counts_as_retry,
            has_lookup=self._deps.looks_up(queued.message.message_type),
        )
        return as_decision(attempt, transition)

    def _policy(self, queued: QueuedMessage) -> RetryPolicy:
        return self._rules.policies[queued.message.message_type]


def as_decision(attempt: Attempt, transition: Transition) -> Decision:
    """Combine an attempt with its transition."""
    message_id = attempt.queued.message_id
    return Decision(message_id, transition, attempt.outcome, attempt.duration, attempt.finished_at, attempt.queued)


def ended_and_undecided(
    answers: Iterable[Attempt], in_doubt: Iterable[Decision], waiting: Iterable[Decision]
) -> tuple[list[Decision], list[Decision]]:
    """Separate unwritten answers whose attempts have ended from those whose messages are undecided.

    A released message waits again whichever pass takes it over, so its attempt has ended. That pass decides the others.
    """
    ended, kept = [*in_doubt], list[Decision]()
    for decision in waiting:
        (ended if decision.transition.kind is TransitionKind.RELEASED else kept).append(decision)
    for answer in answers:
        (ended if answer.is_spared else kept).append(as_decision(answer, Transition.released()))
    return ended, kept
