"""What came of the attempts of some days, in figures, and what can be read off them: for `stats` and the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from retrycli.domain.outage import Outage
from retrycli.domain.outcome import OutcomeKind

UNDER_WAY = "under way"
"""What stands for the outcome of an attempt that has none yet."""
OUTCOMES = (*map(str, OutcomeKind), UNDER_WAY)
"""All that can be said of an attempt, in the order in which it is shown."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEN_MINUTES, HOUR, DAY = timedelta(minutes=10), timedelta(hours=1), timedelta(days=1)
FINE, FAIR = 2 * DAY, 60 * DAY
BARS = (
    TEN_MINUTES,
    *(number * HOUR for number in (0.5, 1, 2, 4, 8, 12)),
    *(number * DAY for number in (1, 2, 7, 28, 364)),
)
"""The lengths of time that one bar may stand for."""
MOST_BARS = 90
"""So many bars can still be told apart on a phone."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Attempts that began within one stretch of time and came to one outcome."""

    at: datetime
    """When that time begins."""
    outcome: str
    """One of `OUTCOMES`."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Group:
    """Attempts that have something in common."""

    key: str | datetime | None
    """None for messages that the application has deleted."""
    attempts: int
    delivered: int


@dataclass(frozen=True, slots=True)
class FailureCause:
    """Attempts that came to nothing for one cause."""

    outcome: str
    status_code: int | None
    cause: str
    """The error without its numbers and ids."""
    attempts: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class PassMark:
    """One pass, as a mark in a row of them."""

    started_at: datetime
    result: str | None
    """A `PassResult`; None while it runs."""
    reason: str | None


@dataclass(frozen=True, slots=True)
class DeliveryStats:
    """The figures of a time."""

    since: datetime
    until: datetime
    unit: timedelta
    """How long each slice is."""
    slices: Sequence[Slice]
    tries: Mapping[int, int]
    """Messages that were delivered, by the number of the attempt that did it."""
    waits: Mapping[int, int]
    """Messages that were delivered, by the minutes from their first failure to that attempt, where that is known."""
    troubles: Sequence[FailureCause]
    """The busiest first."""
    outages: Sequence[Outage]

    @property
    def outcomes(self) -> dict[str, int]:
        """How many attempts came to each outcome, as far as any did."""
        return counted(self.slices)

    @property
    def attempts(self) -> int:
        """How many attempts began."""
        return sum(part.attempts for part in self.slices)

    @property
    def delivered(self) -> int:
        """How many messages were delivered."""
        return sum(self.tries.values())


def counted(slices: Iterable[Slice]) -> dict[str, int]:
    """Attempts by outcome, in the order of `OUTCOMES`, without those that none came to."""
    found: Counter[str] = Counter()
    for part in slices:
        found[part.outcome] += part.attempts
    return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


def unit_for(span: timedelta) -> timedelta:
    """How finely attempts are counted over so long a time, so that never too many counts come back."""
    if span <= FINE:
        return TEN_MINUTES
    return HOUR if span <= FAIR else DAY


def bar_for(span: timedelta, *, most: int = MOST_BARS) -> timedelta:
    """How long a time one bar of a chart stands for, so that there are not too many of them."""
    return next((length for length in BARS if span / length <= most), BARS[-1])


def bars(figures: DeliveryStats, length: timedelta) -> dict[datetime, dict[str, int]]:
    """The attempts by outcome of each stretch of a length, empty ones too; the first begins where its slice does."""
    begin = figures.since - (figures.since - EPOCH) % figures.unit
    found: list[list[Slice]] = [[] for _ in range(max(-(-(figures.until - begin) // length), 1))]
    for part in figures.slices:
        found[min((part.at - begin) // length, len(found) - 1)].append(part)
    return {begin + number * length: counted(slices) for number, slices in enumerate(found)}


def quantile(waits: Mapping[int, int], share: float) -> timedelta | None:
    """The wait within which such a share of the messages was delivered, to the minute; None where there are none.

    Args:
        waits: messages by minutes.
        share: 0.5 for the median.
    """
    rank = share * sum(waits.values())
    seen = 0
    for minutes in sorted(waits):
        seen += waits[minutes]
        if seen >= rank:
            return timedelta(minutes=minutes)
    return None
