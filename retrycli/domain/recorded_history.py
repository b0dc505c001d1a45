"""What a replay needs of the history of a period: messages with their outcomes, outages, and outcome rates."""

from bisect import bisect
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import accumulate
from typing import NamedTuple

from retrycli.domain.message import MessageType
from retrycli.domain.outcome import Outcome, OutcomeKind

TRIES = ("first", "second", "later")  # the numbers of tries for which outcomes are counted separately


class RecordedPass(NamedTuple):
    """A pass in the history."""

    pass_id: str
    started_at: datetime
    result: str | None
    reason: str | None


class RecordedAttempt(NamedTuple):
    """An attempt in the history. Values that the version which made it did not record are None."""

    message_id: int
    birth: str | None
    digest: str | None
    number: int
    message_type: str | None
    ticket: str | None
    pass_id: str | None
    made_by: str
    started_at: datetime
    waited_s: int | None
    outcome: str | None
    status_code: int | None
    retry_after_s: int | None
    probe: bool | None


@dataclass(slots=True)
class RecordedMessage:
    """A message that failed for the first time in the period."""

    message_id: int
    message_type: MessageType
    ticket: str
    first_failed_at: datetime
    created_at: datetime | None
    outcomes: list[Outcome] = field(default_factory=list)  # of its attempts outside outages, the first one first


class RecordedOutage(NamedTuple):
    """A period in which a destination delivered nothing.

    It ended at an unknown time between the last failure and the first answer after it.
    """

    began_at: datetime
    failed_at: datetime  # start of the pass with the last failure
    answered_at: datetime | None  # start of the pass with the first answer; None if the outage had not ended
    outcomes: Sequence[Outcome]  # the outcomes of the attempts in the outage

    def end(self, share: float, until: datetime) -> datetime:
        """Return a possible end of the outage.

        Args:
            share: a random number, from 0 to less than 1.
            until: the end of an outage that had not ended.
        """
        answered_at = self.answered_at or until
        return answered_at - max(answered_at - self.failed_at, timedelta(0)) * share


class TryRates:
    """The observed outcomes of one number of tries.

    Args:
        name: one of `TRIES`.
        outcomes: outcomes with their numbers of observed attempts.
        pooled: the attempts of all tries are counted, because there are few for this one.
    """

    def __init__(self, name: str, outcomes: Sequence[tuple[Outcome, int]], *, pooled: bool) -> None:
        self.name = name
        self.pooled = pooled
        self._outcomes = [outcome for outcome, _ in outcomes]
        self._upto = list(accumulate(number for _, number in outcomes))

    @property
    def attempts(self) -> int:
        """Return the number of observed attempts."""
        return self._upto[-1] if self._upto else 0

    @property
    def kinds(self) -> dict[OutcomeKind, int]:
        """Count the observed attempts by outcome, the most frequent first."""
        found: Counter[OutcomeKind] = Counter()
        for outcome, upto, before in zip(self._outcomes, self._upto, [0, *self._upto], strict=False):
            found[outcome.kind] += upto - before
        return dict(found.most_common())

    def draw(self, share: float) -> Outcome:
        """Return an outcome at its observed rate; ``share`` is a random number, from 0 to less than 1."""
        return self._outcomes[bisect(self._upto, int(share * self.attempts))]


@dataclass(frozen=True, slots=True)
class RecordedHistory:
    """What a replay needs of the history of a period."""

    messages: Sequence[RecordedMessage]  # those that failed first in the period, in order
    outages: Mapping[str, Sequence[RecordedOutage]]  # by destination, the first one first
    rates: Sequence[TryRates]  # one for each of `TRIES`
    attempts: int  # number of passes' attempts outside outages
