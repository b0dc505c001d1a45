"""The result of a simulation: the figures of a schedule, and what they rest on."""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.delivery_stats import HOUR, quantile
from retrycli.domain.duration import in_words
from retrycli.domain.message import MessageType
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy

WITHIN_HOURS = (1, 4, 24)


@dataclass(slots=True)
class ReplayTally:
    """What happened to messages in one replay."""

    messages: int = 0
    escalated: int = 0
    requests: int = 0
    requests_in_outages: int = 0
    # The seconds from the first failure to the delivery, for each delivered message.
    waits: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, other: "ReplayTally") -> None:
        """Add the counts of other messages."""
        self.messages += other.messages
        self.escalated += other.escalated
        self.requests += other.requests
        self.requests_in_outages += other.requests_in_outages
        self.waits.extend(other.waits)

    def figures(self) -> "dict[str, int | None]":
        """Return the figures that a simulation shows, by name; None for a wait if no message was delivered."""
        minutes = Counter(seconds // 60 for seconds in self.waits)
        median, most = (quantile(minutes, share) for share in (0.5, 0.95))
        return {
            "messages": self.messages,
            **{f"delivered_within_{hours}h": self._within(hours * HOUR) for hours in WITHIN_HOURS},
            "escalated": self.escalated,
            "requests_in_outages": self.requests_in_outages,
            "requests": self.requests,
            "median_wait_seconds": None if median is None else int(median.total_seconds()),
            "p95_wait_seconds": None if most is None else int(most.total_seconds()),
        }

    def _within(self, time: timedelta) -> int:
        limit = time.total_seconds()
        return sum(seconds <= limit for seconds in self.waits)


class Estimate(NamedTuple):
    """A figure of several replays with different random numbers. None stands for a wait without any delivery."""

    value: int | None  # the median of the replays
    low: int | None
    high: int | None

    @classmethod
    def of(cls, found: Sequence[int | None]) -> "Estimate":
        """Return the estimate that the results of an odd number of replays give."""
        known = sorted(value for value in found if value is not None)
        return cls(known[len(known) // 2], known[0], known[-1]) if known else cls(None, None, None)


@dataclass(frozen=True, slots=True)
class SimulatedSchedule:
    """One schedule, and the figures of its replays by name; `ReplayTally.figures` lists the names."""

    description: str
    figures: Mapping[str, Estimate]


@dataclass(frozen=True, slots=True)
class ObservedRate:
    """The outcomes of recorded attempts, from which the replays draw those of attempts that were never made."""

    tries: str  # "first", "second" or "later"
    attempts: int
    pooled: bool  # the attempts of all tries are counted, because few were observed for this one
    outcomes: Mapping[OutcomeKind, int]  # number of attempts by outcome


@dataclass(frozen=True, slots=True)
class SimulatedOutage:
    """An outage of the record, during which the replays deliver nothing.

    It ended after ``failed_at`` and not later than ``answered_at``, which is None if it had not ended.
    """

    destination: str
    began_at: datetime
    failed_at: datetime
    answered_at: datetime | None
    attempts: int  # number of recorded attempts


@dataclass(frozen=True, slots=True)
class Simulation:
    """Today's schedule, and a proposed one, replayed against the recorded outages and outcomes."""

    since: datetime
    until: datetime
    message_type: MessageType | None  # the type of the messages that the figures cover; None for all types
    attempts: int  # number of recorded attempts outside outages
    replays: int  # number of replays of each schedule
    outages: Sequence[SimulatedOutage]
    rates: Sequence[ObservedRate]
    today: SimulatedSchedule
    proposed: SimulatedSchedule | None  # None if no change was proposed
    section: str  # the section of the settings that the proposal changes
    lines: Sequence[str]  # the lines of that section that make the proposed schedule today's


# -- words ------------------------------------------------------------------------------------------------------------

LABELS = {
    "messages": "Messages",
    "delivered_within_1h": "Delivered within 1 h",
    "delivered_within_4h": "Delivered within 4 h",
    "delivered_within_24h": "Delivered within 24 h",
    "escalated": "Escalated",
    "requests_in_outages": "Requests in outages",
    "requests": "Requests",
    "median_wait_seconds": "Median wait, h:min",
    "p95_wait_seconds": "95% wait, h:min",
}


def rows(found: Simulation) -> list[tuple[str, ...]]:
    """Return the figures in words: label, today's value and, if a change was proposed, its value and the difference.

    Deliveries are shares of the messages. A value that differs between replays is followed by its range.
    """
    today, proposed = found.today.figures, None if found.proposed is None else found.proposed.figures
    messages = today["messages"].value or 0
    shown = []
    for name, label in LABELS.items():
        values = [today[name]] if proposed is None else [today[name], proposed[name]]
        words = [_estimate_in_words(name, value, messages) for value in values]
        if proposed is not None:
            words.append(_difference_in_words(name, today[name].value, proposed[name].value, messages))
        shown.append((label, *words))
    return shown


def _estimate_in_words(name: str, found: Estimate, messages: int) -> str:
    if found.value is None:
        return "–"
    words = _in_words(name, found.value, messages)
    if found.low == found.high or found.low is None or found.high is None:
        return words
    low, high = (_in_words(name, value, messages) for value in (found.low, found.high))
    return words if low == high else f"{words} ({low.removesuffix('%')}–{high.removesuffix('%')})"


def _in_words(name: str, value: int, messages: int) -> str:
    if name.startswith("delivered"):
        return f"{value / messages * 100:.1f}%" if messages else "–"
    return f"{value // 3600}:{value % 3600 // 60:02}" if name.endswith("seconds") else f"{value:,}"


def _difference_in_words(name: str, today: int | None, proposed: int | None, messages: int) -> str:
    if today is None or proposed is None or not messages:
        return "–"
    change = proposed - today
    if change == 0:
        return "0"
    sign = "+" if change > 0 else "−"
    if name.startswith("delivered"):
        return f"{sign}{abs(change) / messages * 100:.1f} points"
    return sign + _in_words(name, abs(change), messages)


def describe(policies: Mapping[MessageType, RetryPolicy]) -> str:
    """Describe the schedules of message types in words; types with the same schedule are named together."""
    alike: dict[str, list[MessageType]] = {}
    for message_type, policy in policies.items():
        alike.setdefault(_policy_in_words(policy), []).append(message_type)
    if len(alike) == 1:
        return next(iter(alike))
    return "; ".join(f"{', '.join(types)}: {words}" for words, types in alike.items())


def _policy_in_words(policy: RetryPolicy) -> str:
    number = policy.max_retries
    retries = f"{number:,} {'retry' if number == 1 else 'retries'}"
    expiry = "" if policy.expires_after is None else f", expires after {in_words(policy.expires_after)}"
    return f"{_backoff_in_words(policy.backoff)}, {retries}{expiry}"


def _backoff_in_words(backoff: Backoff) -> str:
    base = in_words(backoff.base)
    match backoff.kind:
        case BackoffKind.EXPONENTIAL:
            return f"exponential from {base} by {backoff.factor:g} to {in_words(backoff.cap)}"
        case BackoffKind.LINEAR | BackoffKind.FIXED:
            return f"{backoff.kind} {base}"
        case BackoffKind.LIST:
            return f"list {', '.join(map(in_words, backoff.waits))}"
        case BackoffKind.PYTHON:
            return f"first {base}, then by {backoff.function.name if backoff.function else 'a function'}"
