"""What a pass learns of the place it delivers to: how wide it may go, when it must stop, what an answer is about."""

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
"""How many of a message's probes use up no retry though they got an answer. From the next one on each does, so that a
message that is alone in the queue is escalated in the end."""


class Destination:
    """One destination as one pass meets it.

    Args:
        breaker: what earlier passes have learnt.
        rules: when the breaker opens, and how wide the pass may go at most.
        since: the start of the pass.
    """

    def __init__(self, breaker: Breaker, rules: PassRules, *, since: datetime) -> None:
        resting = breaker.state is BreakerState.RESTING
        # The slack is there for cron's ticks; what the other side has asked for is kept to the second.
        due_by = since if resting else rules.due_by(since)
        if rules.probe_now and breaker.state is BreakerState.OPEN and breaker.probe_at is not None:
            due_by = max(due_by, breaker.probe_at)
        self.breaker = breaker.admitting(due_by)
        self.width = 1
        self._has_no_failure = breaker.is_healthy
        """Whether nothing has failed in this pass, nor as the last one ended."""
        self.stop_reason: StopReason | None = None
        self.detail: str | None = None
        self._rules = rules.breaker
        self._since = since
        self._concurrency = rules.concurrency
        self._doubt = Doubt()
        if self.breaker.blocks(due_by):
            self._stop(StopReason.THROTTLED if resting else StopReason.BREAKER_OPEN)

    def sync(self, breaker: Breaker, now: datetime) -> None:
        """Take over what another pass has learnt meanwhile."""
        self.breaker = breaker
        if breaker.blocks(now):
            self._stop(StopReason.THROTTLED if breaker.state is BreakerState.RESTING else StopReason.BREAKER_OPEN)

    def may_change(self, attempts: Sequence[Attempt]) -> bool:
        """Whether these attempts could tell anything new of the breaker."""
        return not (self.breaker.is_healthy and all(attempt.outcome.kind in ALIVE for attempt in attempts))

    @property
    def probing(self) -> bool:
        """Return whether it is taken to be down, so that what is sent now is its probe."""
        return self.breaker.state is BreakerState.OPEN and self.stop_reason is None

    @property
    def on_trial(self) -> bool:
        """Return whether ten tickets in a row got the same answer, so that other messages show what it is about."""
        return self._doubt.status is not None

    @property
    def tickets_in_doubt(self) -> frozenset[str]:
        """Return the tickets to send nothing more to for now; none unless there are many answers in doubt."""
        return self._doubt.tickets

    def observe(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Learn from attempts in the order in which they ended.

        Returns:
            Those that can be decided. An answer in doubt is held back until it is clear what it is about.
        """
        observed: list[Attempt] = []
        for attempt in attempts:
            if self._doubt.holds(attempt):
                self._doubt.hold(attempt)
            else:
                if attempt.outcome.kind is OutcomeKind.DELIVERED and not attempt.outcome.found:
                    observed += [self._learn(held) for held in self._doubt.let_go(attempt)]
                observed.append(self._learn(attempt))
            if attempt.trial and self.on_trial:
                self._doubt.count_trial(attempt)
            if self._doubt.is_settled:
                observed += self._take_for_ours()
        return observed

    def observe_rest(self) -> list[Attempt]:
        """Decide the attempts that are still held back, now that no other answer can tell what they are about."""
        # Who rejects our credentials may have said so in other words before.
        if self.on_trial or self.stop_reason in {StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER}:
            return self._take_for_ours()
        return [self._learn(held) for held in self._doubt.let_go()]

    def newly_in_doubt(self) -> list[Attempt]:
        """Return the attempts that are held back since this was last asked."""
        return self._doubt.new()

    def _take_for_ours(self) -> list[Attempt]:
        """Stop, because the answers in doubt are about us; none of them is about its message."""
        if self._doubt.status is not None:
            if self._doubt.status == FORBIDDEN:
                self._refuse(StopReason.CREDENTIALS_REFUSED, self._doubt.words)
            else:
                self._refuse(StopReason.SAME_ANSWER, f"{self.breaker.destination} answers {self._doubt.words}")
        return [held._replace(about_us=True) for held in self._doubt.let_go()]

    def _learn(self, attempt: Attempt) -> Attempt:
        kind = attempt.outcome.kind
        counts_as_retry = self._charges(attempt)
        self._has_no_failure &= kind not in OUTAGE
        self.width = next_concurrency(self.width, kind, self._concurrency, is_healthy=self._has_no_failure)
        match kind:
            case OutcomeKind.THROTTLED if not self.breaker.blocks(self._since):
                self.breaker = self.breaker.rest(attempt.finished_at + (attempt.outcome.retry_after or timedelta(0)))
                self._stop(StopReason.THROTTLED)
            case OutcomeKind.UNAUTHORIZED:
                self._refuse(StopReason.CREDENTIALS_REFUSED, self._refusal(attempt.outcome))
            case _:
                self.breaker = self.breaker.after(kind, self._rules, since=self._since, ticket=attempt.ticket)
        if self.breaker.state is BreakerState.OPEN and self.breaker.blocks(self._since):
            self._stop(StopReason.BREAKER_OPEN)
        return attempt._replace(counts_as_retry=counts_as_retry)

    def _charges(self, attempt: Attempt) -> bool:
        """Return whether a failure uses up a retry.

        While the destination is down it does not, but for a message whose probes have got an answer over and over.
        """
        if attempt.trial:
            return False
        if self.breaker.state is BreakerState.OPEN:
            return attempt.probe > FREE_PROBES and attempt.outcome.status_code is not None
        return True

    def _refuse(self, reason: StopReason, detail: str | None) -> None:
        if self.stop_reason is None:
            self.stop_reason, self.detail = reason, detail

    def _refusal(self, outcome: Outcome) -> str | None:
        """What refused us, without the answer's words, which are not for a log."""
        protocol = "SMTP" if self.breaker.destination.startswith("smtp") else "HTTP"
        return outcome.error if outcome.status_code is None else f"{protocol} {outcome.status_code}"

    def _stop(self, reason: StopReason) -> None:
        if self.stop_reason is None and self.breaker.probe_at is not None:
            self.stop_reason, self.detail = reason, self.breaker.description
