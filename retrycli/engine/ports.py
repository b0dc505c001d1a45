"""The ports of the engine: what it needs of the world, whoever provides it. Tests stand fakes here."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from retrycli.domain.circuit_breaker import Breaker, BreakerRules
from retrycli.domain.events import ClockWasAhead, Event, PassSummary, StartedBy
from retrycli.domain.fair_share import Turns
from retrycli.domain.message import (
    ChangedMessage,
    Claim,
    Lane,
    Lapsed,
    Message,
    MessageType,
    QueuedMessage,
    Span,
    UnusableMessage,
)
from retrycli.domain.outcome import LookUp, Outcome
from retrycli.domain.retry_policy import Recorded, RetryPolicy, Settled

ROUNDS_AHEAD, LEAST_AT_ONCE, MOST_AT_ONCE = 4, 16, 500
"""A claim is enough for so many rounds of answers, and holds so many messages at least and at most."""
CLAIM_MARGIN = timedelta(seconds=60)
"""A pass that is alive can be held up for half of it by an application that keeps a database locked."""

LOOK_EVERY = timedelta(seconds=1)
"""How often a pass looks what others have found out. So long one host may go on while another knows better."""


class Retired(Protocol):
    """What the queue and the application's table did not agree about."""

    @property
    def changed(self) -> Sequence[int]:
        """Escalated messages whose rows the application may have written since, by their ids."""


class Enrolment(Protocol):
    """Which messages the queue looks after."""

    def plan_sweep(self, swept_to: int | None) -> tuple[list[Span], int]:
        """The ranges of ids to compare, and where the next pass goes on."""

    def newly_failed(self, span: Span, limit: int) -> list[Message | UnusableMessage]:
        """Failed messages that the queue does not know."""

    def enrol(self, entries: Sequence[tuple[Settled, datetime, int | str]], now: datetime) -> Mapping[int, str]:
        """Add messages: first transition, first failure, ticket; whose rows took no change, and why."""

    def retire(self, span: Span) -> Retired:
        """Drop messages that are the application's again, and find escalated ones whose rows it may have written."""

    def review(self, ids: Collection[int], decide: Callable[[ChangedMessage], Settled], now: datetime) -> list[Settled]:
        """Let escalated messages wait again, or remember their rows as they are now; return what was decided."""


class Claims(Protocol):
    """The queue as a pass works on it."""

    def together(self, *, wait: bool = True) -> AbstractContextManager[Callable[[], bool]]:
        """Write all that is written inside in one transaction.

        It is committed at the end, or before by the function that is given: it returns False if readers of a SQLite
        file are in the way, and may be called again.

        Raises:
            DatabaseBusy: the application holds a lock; soon, unless `wait` is set.
        """

    def patience(self) -> timedelta:
        """Return how long to wait for a lock that the application holds."""

    def count_due(self, due_by: datetime) -> int:
        """How many messages are due."""

    def any_due(self, due_by: datetime, lane: Lane) -> bool:
        """Whether any message of a lane is due."""

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: Turns | None = None, lane: Lane | None = None
    ) -> list[int]:
        """Claim due messages of a lane whose turn it is."""

    def claim_probe(
        self, claim: Claim, due_by: datetime, since: datetime, lane: Lane | None = None, *, in_order: bool = False
    ) -> list[int]:
        """Claim one due message to probe with, another one each time."""

    def claim_elsewhere(
        self,
        claim: Claim,
        due_by: datetime,
        tickets: Collection[str],
        lane: Lane | None = None,
        *,
        in_order: bool = False,
    ) -> list[int]:
        """Claim one due message of another ticket than these."""

    def count_probes(self, message_id: int, since: datetime) -> int:
        """Count the probes that a message has been since a time."""

    def claim_first_of(
        self, claim: Claim, due_by: datetime, tickets: Collection[str], lane: Lane | None = None
    ) -> list[int]:
        """Claim the first unfinished message of each ticket, where it is due."""

    def renew(self, claim: Claim) -> None:
        """Hold what is claimed for longer."""

    def claim_one(self, claim: Claim, message_id: int, now: datetime, verb: str = "retry") -> bool:
        """Claim one message, whatever its wait; return whether it was escalated."""

    def record_arrival(
        self, claim: Claim, settled: Settled, *, made_by: str, destination: str, started_at: datetime
    ) -> None:
        """Record an attempt at a claimed message that is found to have arrived, and its outcome."""

    def begin(
        self,
        claim: Claim,
        ids: Sequence[int],
        *,
        made_by: str,
        pass_id: str | None,
        now: datetime,
        fit: Callable[[QueuedMessage], bool],
        destination_of: Callable[[str], str | None],
        probe: bool = False,
    ) -> list[QueuedMessage | UnusableMessage]:
        """Load claimed messages, and record an attempt for each that is fit for one."""

    def record_answers(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> None:
        """Record the outcomes of attempts whose messages are not decided yet."""

    def record(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> Recorded:
        """Write down what came of messages, but only the attempts' outcomes if the application holds their rows."""

    def keep_outcomes(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> None:
        """Record the outcomes of attempts, and touch no row of the application's."""

    def release(self, claim: Claim, ids: Collection[int]) -> None:
        """Give back messages that no attempt was begun for."""

    def take_over_lapsed(self, claim: Claim, now: datetime, limit: int) -> list[Lapsed]:
        """Claim messages whose claims have expired."""


class Ledger(Protocol):
    """What passes remember from one to the next."""

    def start_pass(
        self, pass_id: str, *, host: str, pid: int, now: datetime, started_by: StartedBy = StartedBy.UNKNOWN
    ) -> None:
        """A pass has begun."""

    def mend_times(self, now: datetime, lease: timedelta) -> ClockWasAhead | None:
        """Put right what was written by a clock that was ahead."""

    def heartbeat(self, pass_id: str, now: datetime) -> None:
        """A pass is alive."""

    def finish_pass(self, summary: PassSummary, now: datetime, *, swept_to: int | None = None) -> None:
        """A pass has ended."""

    def bury_dead_passes(self, pass_id: str, *, silent_since: datetime) -> None:
        """Passes that have not ended, and have given no sign of life since a time, are dead."""

    def prune(self, before: datetime, limit: int) -> int:
        """Look at the next so many attempts, and forget the old ones; and old acts and passes."""

    def swept_to(self) -> int | None:
        """Where the last sweep left off."""

    def last_start(self) -> str | None:
        """Return the destination with which the newest pass started that attempted anything."""

    def breaker(self, destination: str) -> Breaker:
        """What is remembered of a destination."""

    def breaker_to_judge(self, destination: str) -> Breaker:
        """The same, which no other pass changes until this transaction ends."""

    def save_breaker(self, breaker: Breaker) -> None:
        """Remember a destination."""

    def take_probe(self, breaker: Breaker, until: datetime) -> bool:
        """Take the one probe that is due, before another pass does."""

    def take_turn(self, destination: str, now: datetime, interval: timedelta, too_late: datetime) -> datetime:
        """Reserve a time for one request, unless it would come too late."""

    def paused(self, now: datetime) -> str | None:
        """Why deliveries are held back, in words; None where they are not."""


class Lock(Protocol):
    """One pass at a time."""

    def acquire(self) -> None:
        """Take it.

        Raises:
            LockHeld: another pass has it.
        """

    def release(self) -> None:
        """Give it back, where it was taken."""


class Gateway(Protocol):
    """What delivers."""

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message; never raises for what the other side did."""

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask whether a message has arrived, and send nothing; never raises for what the other side did."""


@dataclass(frozen=True, slots=True)
class World:
    """Everything outside the engine."""

    enrolment: Enrolment
    claims: Claims
    ledger: Ledger
    open_gateway: Callable[[], AbstractAsyncContextManager[Gateway]]
    """Opened only when there is something to send: it takes longer than a pass with nothing due."""
    emit: Callable[[Event], None]
    now: Callable[[], datetime]
    sleep: Callable[[float], Awaitable[None]]
    jitter: Callable[[], float]
    """One roll of the dice, -1 to 1."""
    stop_requested: Callable[[], bool]
    looks_up: Callable[[MessageType], bool] = lambda _: False
    """Whether the gateway asks for a message that may have arrived before it sends it again."""


@dataclass(frozen=True, slots=True)
class PassRules:
    """How a pass is to go about it."""

    destination: str
    """Where messages go that have no lane of their own."""
    policies: dict[MessageType, RetryPolicy]
    breaker: BreakerRules
    due_slack: timedelta
    deadline: timedelta
    request_timeout: timedelta
    concurrency: int
    limit: int | None = None
    rate_per_second: float | None = None
    in_order: bool = False
    """Of one ticket's messages, a later one waits until an earlier one is delivered or in a person's hands."""
    lanes: tuple[Lane, ...] = ()
    """Where messages go, one lane after the other; without any, all of them go to ``destination``."""
    retention: timedelta | None = None
    """How long attempts and passes are kept; None is for ever."""
    probe_now: bool = False
    """Whether to probe a destination that is down now, and not only when its probe is due."""
    at_a_server: bool = False
    """Whether the messages are at a database server, for which each transaction has to wait."""

    def destination_of(self, message_type: str) -> str:
        """Where a message goes."""
        own = (each.destination for each in self.lanes if each.only is not None and message_type in each.only)
        return next(own, self.destination)

    @property
    def claim_at_once(self) -> int:
        """How many messages to claim at once: enough to be busy for a moment. The rest is there for other hosts."""
        enough = min(max(ROUNDS_AHEAD * self.concurrency, LEAST_AT_ONCE), MOST_AT_ONCE)
        return enough if self.rate_per_second is None else min(enough, math.ceil(self.rate_per_second))

    @property
    def lease(self) -> timedelta:
        """How long a claim lasts unless it is renewed: for a request, and for what may hold its pass up besides."""
        return self.request_timeout + CLAIM_MARGIN

    def due_by(self, started_at: datetime) -> datetime:
        """What comes due until then is due for a pass that starts at a time: cron's ticks are never quite on time."""
        return started_at + self.due_slack


@dataclass(frozen=True, slots=True)
class Identity:
    """Which process this pass is, and who started it."""

    pass_id: str
    host: str
    pid: int
    started_by: StartedBy = StartedBy.UNKNOWN
