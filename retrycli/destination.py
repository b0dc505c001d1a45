"""What a pass learns of the place it delivers to: how wide it may go, when it must stop, whom a 403 is about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.breaker import Breaker, BreakerState, wider
from retrycli.events import StopReason
from retrycli.message import QueuedMessage
from retrycli.outcome import ALIVE, OUTAGE, Outcome, OutcomeKind
from retrycli.ports import PassRules

FORBIDDEN = 403
FORBIDDEN_LIMIT = 3
"""When so many tickets in a row get a 403, it is about us and not about the messages."""
DOUBTFUL_AT_MOST = 100
"""So many 403 of fewer tickets are held back at most: were the pass killed before they are written down, they would all
be unknown."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt that has an outcome."""

    queued: QueuedMessage
    outcome: Outcome
    duration: timedelta
    finished_at: datetime
    charged: bool = True
    """Whether a failure takes one of the message's tries; not where the destination is known to be down."""


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
        self.breaker = breaker.admitting(due_by)
        self.width = 1
        self._at_ease = breaker.at_ease
        """Whether nothing has failed in this pass, nor as the last one ended."""
        self.trouble: StopReason | None = None
        self.detail: str | None = None
        self._rules = rules.breaker
        self._since = since
        self._concurrency = rules.concurrency
        self._doubtful: list[Attempt] = []
        self._refused = False
        if self.breaker.blocks(due_by):
            self._stop(StopReason.THROTTLED if resting else StopReason.BREAKER_OPEN)

    def learn_of(self, breaker: Breaker, now: datetime) -> None:
        """Take over what another pass has learnt meanwhile."""
        self.breaker = breaker
        if breaker.blocks(now):
            self._stop(StopReason.THROTTLED if breaker.state is BreakerState.RESTING else StopReason.BREAKER_OPEN)

    def may_change(self, attempts: Sequence[Attempt]) -> bool:
        """Whether these attempts could tell anything new of the breaker."""
        return not (self.breaker.at_ease and all(each.outcome.kind in ALIVE for each in attempts))

    def judge(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Learn from attempts in the order in which they ended.

        Returns:
            Those that can be decided: with the outcome they come to, and whether they are charged. A 403 is held
            back until it is clear whether it is about its message or about our credentials.
        """
        judged: list[Attempt] = []
        for attempt in attempts:
            if not _is_forbidden(attempt.outcome):
                judged += [*self.judge_doubtful(), self._learn(attempt)]
                continue
            self._doubtful.append(attempt)
            if len({str(each.queued.ticket_id) for each in self._doubtful}) == FORBIDDEN_LIMIT:
                self._refuse(f"HTTP {FORBIDDEN} for {FORBIDDEN_LIMIT} tickets in a row")
            if self._refused or len(self._doubtful) == DOUBTFUL_AT_MOST:
                judged += self.judge_doubtful()
        return judged

    def judge_doubtful(self) -> list[Attempt]:
        """The 403 that were held back, now that no other answer can tell whom they are about."""
        doubtful, self._doubtful = self._doubtful, []
        if self._refused:
            refused = OutcomeKind.UNAUTHORIZED
            doubtful = [replace(each, outcome=replace(each.outcome, kind=refused)) for each in doubtful]
        return [self._learn(each) for each in doubtful]

    def _learn(self, attempt: Attempt) -> Attempt:
        kind = attempt.outcome.kind
        down = self.breaker.state is BreakerState.OPEN
        self._at_ease &= kind not in OUTAGE
        self.width = wider(self.width, kind, self._concurrency, at_ease=self._at_ease)
        match kind:
            case OutcomeKind.THROTTLED if not self.breaker.blocks(self._since):
                self.breaker = self.breaker.rest(attempt.finished_at + (attempt.outcome.retry_after or timedelta(0)))
                self._stop(StopReason.THROTTLED)
            case OutcomeKind.UNAUTHORIZED:
                self._refuse(self._refusal(attempt.outcome))
            case _:
                self.breaker = self.breaker.after(kind, self._rules, since=self._since)
        if self.breaker.state is BreakerState.OPEN and self.breaker.blocks(self._since):
            self._stop(StopReason.BREAKER_OPEN)
        return replace(attempt, charged=False) if down else attempt

    def _refuse(self, detail: str | None) -> None:
        self._refused = True
        if self.trouble is None:
            self.trouble, self.detail = StopReason.CREDENTIALS_REFUSED, detail

    def _refusal(self, outcome: Outcome) -> str | None:
        """What refused us, without the answer's words, which are not for a log."""
        protocol = "SMTP" if self.breaker.destination.startswith("smtp") else "HTTP"
        return outcome.error if outcome.status_code is None else f"{protocol} {outcome.status_code}"

    def _stop(self, reason: StopReason) -> None:
        if self.trouble is None and self.breaker.probe_at is not None:
            self.trouble, self.detail = reason, self.breaker.outlook


def _is_forbidden(outcome: Outcome) -> bool:
    return outcome.status_code == FORBIDDEN and outcome.kind is OutcomeKind.PERMANENT
