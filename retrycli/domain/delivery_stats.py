"""Statistics of the attempts in a period, for `stats` and the report."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import accumulate

from retrycli.domain.outcome import OutcomeKind

UNDER_WAY = "under way"  # outcome of an attempt that has not ended
OUTCOMES = (*map(str, OutcomeKind), UNDER_WAY)  # all outcomes, in display order

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
TEN_MINUTES, HOUR, DAY = timedelta(minutes=10), timedelta(hours=1), timedelta(days=1)
FINE, FAIR = 2 * DAY, 60 * DAY
# The durations that one bar may cover.
BARS = (
    TEN_MINUTES,
    *(number * HOUR for number in (0.5, 1, 2, 4, 8, 12)),
    *(number * DAY for number in (1, 2, 7, 28, 364)),
)
MAX_BARS = 90  # maximum number of bars that remain legible on a phone


class GroupBy(StrEnum):
    """The properties by which `stats` can group attempts."""

    OUTCOME = "outcome"
    TYPE = "type"
    TICKET = "ticket"
    HOUR = "hour"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Slice:
    """Attempts with one outcome that started within one time slice."""

    at: datetime
    outcome: str  # one of `OUTCOMES`
    attempts: int


@dataclass(frozen=True, slots=True)
class Group:
    """Attempts with the same value of a `GroupBy` property."""

    key: str | datetime | None  # value of the property; None for messages that the application has deleted
    attempts: int
    delivered: int


@dataclass(frozen=True, slots=True)
class FailureCause:
    """Failed attempts with the same outcome, status code and cause."""

    outcome: str
    status_code: int | None
    cause: str  # error in which numbers, ids and addresses are replaced; see `retrycli.domain.fingerprint`
    attempts: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class PassMark:
    """One pass in a timeline."""

    started_at: datetime
    result: str | None  # a `PassResult`; None while the pass runs, or if no end was recorded
    reason: str | None


@dataclass(frozen=True, slots=True)
class Outage:
    """A period in which a destination was down, derived from the passes.

    An outage lasts from the pass that opened the breaker, or found it open, to the next informative pass (see
    `outages`) that the breaker did not stop. So its start and end are only as exact as the interval between passes.

    Passes show an outage better than attempts do. While the breaker is open, retrycli sends only probes, by
    default about one an hour, so the number of attempts can't distinguish an outage at night from a quiet night.
    Failures among successful deliveries are not an outage: `circuit_breaker` decides which failures count, and how many
    open the breaker.
    """

    began_at: datetime
    ended_at: datetime | None  # None while the outage lasts

    def length(self, now: datetime) -> timedelta:
        """Return the duration of the outage, up to ``now`` if the outage still lasts."""
        return (self.ended_at or now) - self.began_at


@dataclass(frozen=True, slots=True)
class DeliveryStats:
    """The statistics of the attempts in a period."""

    since: datetime
    until: datetime
    unit: timedelta  # length of a slice
    slices: Sequence[Slice]
    tries: Mapping[int, int]  # number of delivered messages, by the number of the attempt that delivered them
    # Number of delivered messages, by the minutes from the first failure to the attempt that delivered them. Messages
    # for which this time is unknown are left out.
    waits: Mapping[int, int]
    troubles: Sequence[FailureCause]  # causes of failed attempts, the most frequent first
    outages: Sequence[Outage]

    @property
    def outcomes(self) -> dict[str, int]:
        """Count the attempts by outcome; omit outcomes that did not occur."""
        return counted(self.slices)

    @property
    def attempts(self) -> int:
        """Count the attempts that started in the period."""
        return sum(part.attempts for part in self.slices)

    @property
    def delivered(self) -> int:
        """Count the messages that were delivered in the period."""
        return sum(self.tries.values())


def counted(slices: Iterable[Slice]) -> dict[str, int]:
    """Count attempts by outcome, in the order of `OUTCOMES`, without zeros."""
    found: Counter[str] = Counter()
    for part in slices:
        found[part.outcome] += part.attempts
    return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


def outages(passes: Iterable[tuple[datetime, bool]]) -> list[Outage]:
    """Return the outages that passes encountered.

    Args:
        passes: the start of each informative pass, and whether the breaker stopped it; oldest first. A pass that
            attempted nothing, because nothing was due or deliveries were paused, is not informative.
    """
    found: list[Outage] = []
    began: datetime | None = None
    for started_at, stopped in passes:
        if stopped:
            began = began or started_at
        elif began is not None:
            found.append(Outage(began, started_at))
            began = None
    return found if began is None else [*found, Outage(began, None)]


def unit_for(span: timedelta) -> timedelta:
    """Return a slice length that keeps the number of slices of a period small."""
    if span <= FINE:
        return TEN_MINUTES
    return HOUR if span <= FAIR else DAY


def bar_for(span: timedelta, *, most: int = MAX_BARS) -> timedelta:
    """Return the shortest bar length with which a chart of the period has at most ``most`` bars.

    If no length is long enough, return the longest one.
    """
    return next((length for length in BARS if span / length <= most), BARS[-1])


def bars(figures: DeliveryStats, length: timedelta) -> dict[datetime, dict[str, int]]:
    """Count attempts by outcome for each bar, including empty bars.

    The first bar starts with the slice that contains the start of the period.
    """
    begin = figures.since - (figures.since - EPOCH) % figures.unit
    found: list[list[Slice]] = [[] for _ in range(max(-(-(figures.until - begin) // length), 1))]
    for part in figures.slices:
        found[min((part.at - begin) // length, len(found) - 1)].append(part)
    return {begin + number * length: counted(slices) for number, slices in enumerate(found)}


def wait_quantiles(waits: Mapping[int, int]) -> list[timedelta | None]:
    """Return the waits within which half, 95 % and all of the messages were delivered; see `quantile`."""
    return [quantile(waits, share) for share in (0.5, 0.95, 1)]


def quantile(waits: Mapping[int, int], share: float) -> timedelta | None:
    """Return the wait, to the minute, within which a share of the messages was delivered.

    Args:
        waits: number of delivered messages, by the minutes that they waited.
        share: the share, from 0 to 1; 0.5 gives the median.

    Returns:
        The wait; None if there are no messages.
    """
    rank = share * sum(waits.values())
    lengths = sorted(waits)
    reached = zip(lengths, accumulate(waits[length] for length in lengths), strict=True)
    return next((timedelta(minutes=length) for length, messages in reached if messages >= rank), None)
