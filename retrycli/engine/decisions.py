"""Decisions of a pass about its messages, before an attempt and after it."""

from __future__ import annotations

from datetime import datetime

from retrycli.domain.attempt import Attempt
from retrycli.domain.message import QueuedMessage
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.transition import Decision, Transition
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

    def escalation_before_send(self, queued: QueuedMessage) -> Transition | None:
        """Return the escalation that replaces a message's next attempt; None if it may be sent."""
        has_lookup = self._deps.looks_up(queued.message.message_type)
        return self._policy(queued).escalation_before_send(queued, self._since, has_lookup=has_lookup)

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
