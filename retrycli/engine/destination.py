"""The destination of a pass: its concurrency, why it stops, and what its answers are about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from retrycli.domain.attempt import Attempt
from retrycli.domain.circuit_breaker import Breaker, BreakerState, next_concurrency
from retrycli.domain.doubt import Doubt
from retrycli.domain.outcome import ALIVE, OUTAGE, Outcome, OutcomeKind
from retrycli.domain.pass_summary import StopReason
from retrycli.engine.rules import PassRules

FORBIDDEN = 403
FREE_PROBES = 2
"""A message's probes that got an answer use up no retry up to this number. Later ones do, so that a message that is
alone in the queue is escalated in the end."""


class Destination:
    """The state of one destination in one pass.

    Args:
        breaker: the breaker that earlier passes left.
        rules: when the breaker opens, and the maximum concurrency.
        since: the start of the pass.
    """

    def __init__(self, breaker: Breaker, rules: PassRules, *, since: datetime) -> None:
        resting = breaker.state is BreakerState.RESTING
        # The slack is for cron's ticks; a rest that the other side asked for is kept to the second.
        due_by = since if resting else rules.due_by(since)
        if rules.probe_now and breaker.state is BreakerState.OPEN and breaker.probe_at is not None:
            due_by = max(due_by, breaker.probe_at)
        self.breaker = breaker.admitting(due_by)
        self.width = 1
        self._has_no_failure = breaker.is_healthy
        """Nothing has failed in this pass, nor at the end of the previous one."""
        self.stop_reason: StopReason | None = None
        self.detail: str | None = None
        self._rules = rules.breaker
        self._since = since
        self._concurrency = rules.concurrency
        self._doubt = Doubt()
        if self.breaker.blocks(due_by):
            self._stop(StopReason.THROTTLED if resting else StopReason.BREAKER_OPEN)

    def sync(self, breaker: Breaker, now: datetime) -> None:
        """Take over the breaker that another pass saved."""
        self.breaker = breaker
        if breaker.blocks(now):
            self._stop(StopReason.THROTTLED if breaker.state is BreakerState.RESTING else StopReason.BREAKER_OPEN)

    def may_change(self, attempts: Sequence[Attempt]) -> bool:
        """Tell if these attempts can change the breaker."""
        return not (self.breaker.is_healthy and all(attempt.outcome.kind in ALIVE for attempt in attempts))

    @property
    def probing(self) -> bool:
        """Tell if the destination counts as down, so that the next request is its probe."""
        return self.breaker.state is BreakerState.OPEN and self.stop_reason is None

    @property
    def on_trial(self) -> bool:
        """Tell if ten tickets in a row got the same answer, so that other messages must show what it is about."""
        return self._doubt.status is not None

    @property
    def tickets_in_doubt(self) -> frozenset[str]:
        """Return the tickets that get no request for now; none unless many answers are in doubt."""
        return self._doubt.tickets

    def observe(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Update the state from attempts, in the order in which they ended.

        Returns:
            The attempts that can be decided. An answer in doubt is withheld until it is clear what it is about.
        """
        observed: list[Attempt] = []
        for attempt in attempts:
            if self._doubt.holds(attempt):
                self._doubt.hold(attempt)
            else:
                if attempt.outcome.kind is OutcomeKind.DELIVERED and not attempt.outcome.found:
                    observed += [self._update(held) for held in self._doubt.let_go(attempt)]
                observed.append(self._update(attempt))
            if attempt.trial and self.on_trial:
                self._doubt.count_trial(attempt)
            if self._doubt.is_settled:
                observed += self._attribute_to_us()
        return observed

    def observe_rest(self) -> list[Attempt]:
        """Return the withheld attempts, because no other answer can tell what they are about."""
        # A destination that rejects our credentials may have said so with another status before.
        if self.on_trial or self.stop_reason in {StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER}:
            return self._attribute_to_us()
        return [self._update(held) for held in self._doubt.let_go()]

    def newly_in_doubt(self) -> list[Attempt]:
        """Return the attempts that were withheld since the last call."""
        return self._doubt.new()

    def _attribute_to_us(self) -> list[Attempt]:
        """Stop, because the answers in doubt are about us and not about their messages."""
        if self._doubt.status is not None:
            if self._doubt.status == FORBIDDEN:
                self._stop_refused(StopReason.CREDENTIALS_REFUSED, self._doubt.words)
            else:
                self._stop_refused(StopReason.SAME_ANSWER, f"{self.breaker.destination} answers {self._doubt.words}")
        return [held._replace(about_us=True) for held in self._doubt.let_go()]

    def _update(self, attempt: Attempt) -> Attempt:
        kind = attempt.outcome.kind
        counts_as_retry = self._uses_retry(attempt)
        self._has_no_failure &= kind not in OUTAGE
        self.width = next_concurrency(self.width, kind, self._concurrency, is_healthy=self._has_no_failure)
        match kind:
            case OutcomeKind.THROTTLED if not self.breaker.blocks(self._since):
                self.breaker = self.breaker.rest(attempt.finished_at + (attempt.outcome.retry_after or timedelta(0)))
                self._stop(StopReason.THROTTLED)
            case OutcomeKind.UNAUTHORIZED:
                self._stop_refused(StopReason.CREDENTIALS_REFUSED, self._refusal_text(attempt.outcome))
            case _:
                self.breaker = self.breaker.after(kind, self._rules, since=self._since, ticket=attempt.ticket)
        if self.breaker.state is BreakerState.OPEN and self.breaker.blocks(self._since):
            self._stop(StopReason.BREAKER_OPEN)
        return attempt._replace(counts_as_retry=counts_as_retry)

    def _uses_retry(self, attempt: Attempt) -> bool:
        """Tell if a failure uses up a retry.

        While the destination is down it does not, except for a message whose probes were answered repeatedly.
        """
        if attempt.trial:
            return False
        if self.breaker.state is BreakerState.OPEN:
            return attempt.probe > FREE_PROBES and attempt.outcome.status_code is not None
        return True

    def _stop_refused(self, reason: StopReason, detail: str | None) -> None:
        if self.stop_reason is None:
            self.stop_reason, self.detail = reason, detail

    def _refusal_text(self, outcome: Outcome) -> str | None:
        """Return what refused us, without the answer's text, which must not reach a log."""
        protocol = "SMTP" if self.breaker.destination.startswith("smtp") else "HTTP"
        return outcome.error if outcome.status_code is None else f"{protocol} {outcome.status_code}"

    def _stop(self, reason: StopReason) -> None:
        if self.stop_reason is None and self.breaker.probe_at is not None:
            self.stop_reason, self.detail = reason, self.breaker.description
