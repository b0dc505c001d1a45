"""The rules of a pass, and its ports: protocols that adapters implement."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from retrycli.domain.circuit_breaker import Breaker, BreakerRules
from retrycli.domain.message import Message, MessageType, Place, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import LookUp, Outcome
from retrycli.domain.passes import ClockWasAhead, Event, PassSummary, Pause, StartedBy, withheld
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.transition import (
    NOTHING_WITHHELD,
    ChangedMessage,
    Claim,
    Decision,
    ExpiredClaim,
    IdRange,
    Route,
    Withheld,
    WriteResult,
)

if TYPE_CHECKING:
    from retrycli.domain.delivery_window import DeliveryWindows
    from retrycli.domain.fair_share import FairShare
    from retrycli.domain.passes import Hold
    from retrycli.domain.transition import Overdue

# A transaction claims at most `ROUNDS_AHEAD` messages for each concurrent request. This limit is at least `MIN_BATCH`
# and at most `MAX_BATCH`. A request rate can lower it. It is higher if more attempts may be recorded at once.
ROUNDS_AHEAD, MIN_BATCH, MAX_BATCH = 4, 16, 500
# Extra time in the lease of a claim. A live pass keeps its claims even if an application locks the database for half of
# this time.
CLAIM_MARGIN = timedelta(seconds=60)

# The interval at which a pass reads the shared state. Between two reads, the pass may act on outdated state.
SYNC_INTERVAL = timedelta(seconds=1)


class Enrolment(Protocol):
    """Compare the queue with the application's table, and add or drop messages."""

    def plan_sweep(self, swept_to: int | None) -> tuple[list[IdRange], int]:
        """Return the ranges of ids to compare in this pass, and the id at which the next pass continues."""

    def newly_failed(self, span: IdRange, limit: int) -> list[Message | UnusableMessage]:
        """Return at most `limit` failed messages that are not in the queue, in the order of their ids."""

    def enrol(
        self, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime
    ) -> tuple[Sequence[Decision], Mapping[int, str]]:
        """Add messages to the queue. Each entry is a decision, the time of the first failure, and the ticket. Return
        the decisions to escalate messages immediately, as made when their texts were read, and the reasons why rows of
        such messages rejected their change, by id.
        """

    def retire(self, span: IdRange) -> Sequence[int]:
        """Drop messages that are no longer failed. Return the ids of escalated messages whose rows the application may
        have changed.
        """

    def review(
        self, ids: Collection[int], decide: Callable[[ChangedMessage], Decision], now: datetime
    ) -> list[Decision]:
        """Apply `decide` to escalated messages whose rows may have changed, and return the decisions.

        For a message that stays escalated, store the current state of its row.
        """


class Database(Protocol):
    """Transactions that span all ports."""

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[Callable[[], bool]]:
        """Run all writes in the block in one transaction.

        Commit at the end of the block, or earlier if the block calls the yielded function. This function returns False
        if readers of a SQLite file block the commit, and may be called again.

        Raises:
            DatabaseBusy: the application holds a lock. Without `wait`, this error is raised almost immediately.
        """

    def patience(self) -> timedelta:
        """Return how long to wait for a lock that the application holds."""


class Results(Protocol):
    """Record attempts to deliver claimed messages, and their results."""

    def record_arrival(
        self, claim: Claim, settled: Decision, *, made_by: str, destination: str, started_at: datetime
    ) -> None:
        """Record, as an attempt, a look-up that found a claimed message at its destination."""

    def begin(
        self,
        claim: Claim,
        ids: Sequence[int],
        *,
        made_by: str,
        pass_id: str | None,
        now: datetime,
        fit: Callable[[QueuedMessage], bool],
        place_of: Callable[[MessageType], Place],
        probe: bool = False,
    ) -> list[QueuedMessage | UnusableMessage]:
        """Load claimed messages, and record the start of an attempt for each message that `fit` accepts."""

    def withdraw(self, claim: Claim, ids: Sequence[int]) -> None:
        """Delete the attempts of messages whose requests were not sent. The messages stay claimed."""

    def record_answers(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the results of attempts without changing the application's rows or the queue."""

    def record(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> WriteResult:
        """Record decisions. If the application has locked a message's row, record only the outcome."""

    def keep_outcomes(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts without writing a row of the application's table."""


class Claims(Protocol):
    """Claim messages in the queue, for a pass or an operator."""

    @property
    def results(self) -> Results:
        """Return the port that records attempts to deliver claimed messages, and their results."""

    def count_due(self, due_by: datetime, route: Route) -> int:
        """Count the waiting messages of a route that are due by the given time."""

    def any_due(self, due_by: datetime, route: Route) -> bool:
        """Return whether any waiting message of a route is due by the given time."""

    def claim(self, claim: Claim, due_by: datetime, limit: int, turns: FairShare, route: Route) -> list[int]:
        """Examine at most `limit` due messages of a route, and claim those that `turns` selects."""

    def claim_probe(
        self, claim: Claim, due_by: datetime, since: datetime, route: Route, *, per_ticket_order: bool
    ) -> list[int]:
        """Claim one due message as a probe. Prefer messages that have not been probes since the given time."""

    def claim_elsewhere(
        self, claim: Claim, due_by: datetime, tickets: Collection[str], route: Route, *, per_ticket_order: bool
    ) -> list[int]:
        """Claim one due message of a ticket that is not among ``tickets``: the message that came due last."""

    def count_probes(self, message_id: int, since: datetime) -> int:
        """Count the probes with one message since the given time."""

    def claim_first_of(self, claim: Claim, due_by: datetime, tickets: Collection[str], route: Route) -> list[int]:
        """Claim the first unfinished message of each ticket, if it is due and belongs to the route."""

    def renew(self, claim: Claim) -> None:
        """Extend the lease of all messages that a claim still holds."""

    def claim_one(self, claim: Claim, message_id: int, now: datetime, verb: str) -> bool:
        """Claim one message, even if it is not due. Return whether it was escalated before the claim."""

    def release(self, claim: Claim, ids: Collection[int]) -> None:
        """Release claimed messages that were not attempted."""

    def take_over_expired(self, claim: Claim, now: datetime, limit: int) -> list[ExpiredClaim]:
        """Claim at most `limit` messages whose leases have expired."""


class Ledger(Protocol):
    """Store the state that all passes share."""

    def start_pass(self, pass_id: str, *, host: str, pid: int, now: datetime, started_by: StartedBy) -> None:
        """Record the start of a pass, so that a later pass can mark this pass as dead if it never ends."""

    def heartbeat(self, pass_id: str, now: datetime) -> None:
        """Record that a pass is alive, so that no other pass marks it as dead."""

    def finish_pass(self, summary: PassSummary, now: datetime, *, swept_to: int | None) -> None:
        """Record the end of a pass, and the id at which its sweep stopped."""

    def mark_dead_passes(self, pass_id: str, *, silent_since: datetime) -> None:
        """Mark all other unfinished passes as dead if they have had no heartbeat since a given time."""

    def swept_to(self) -> int | None:
        """Return the id at which the last sweep stopped (see `Enrolment.plan_sweep`); None if no pass has swept yet."""

    def last_start(self) -> str | None:
        """Return the first destination of the last pass that made attempts; None if no pass made a recent attempt."""

    def refused_tickets(self, destination: str, since: datetime) -> Mapping[int, frozenset[str]]:
        """Return the tickets that a destination has refused since its last delivery, by status. Leave out attempts that
        began before the given time.
        """

    def breaker(self, destination: str) -> Breaker:
        """Return the breaker of a destination; a closed breaker if none is stored."""

    def breaker_to_judge(self, destination: str) -> Breaker:
        """Return a destination's breaker, and lock it for an update until this transaction ends."""

    def save_breaker(self, breaker: Breaker) -> None:
        """Store a breaker, so that later passes and passes on other hosts use it."""

    def take_probe(self, breaker: Breaker, until: datetime) -> bool:
        """Reserve the due probe of a destination until the given time. Return False if another pass was faster."""

    def take_turn(self, destination: str, now: datetime, interval: timedelta, too_late: datetime) -> datetime:
        """Return the time at which the next request may be sent. Reserve this time if it is before `too_late`."""

    def pause_and_holds(self, now: datetime) -> tuple[Pause | None, Sequence[Hold]]:
        """Return the pause in force, if any, and the active holds."""


class Lock(Protocol):
    """A lock that prevents overlapping passes on one host."""

    def acquire(self) -> None:
        """Acquire the lock.

        Raises:
            LockHeld: another pass holds the lock.
        """

    def release(self) -> None:
        """Release the lock, if it is held."""


class Gateway(Protocol):
    """An adapter that delivers messages."""

    @property
    def overdue(self) -> Sequence[Overdue]:
        """Return the attempts that went on after their time limit, whether or not they have ended since."""

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message. Never raise for an error at the destination."""

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask whether a message has arrived, without sending it. Never raise for an error at the destination."""


class Dependencies(NamedTuple):
    """The ports, the clock, and the other functions that connect the engine to the outside."""

    database: Database
    enrolment: Enrolment
    claims: Claims
    ledger: Ledger
    # Corrects future times that were recorded while a clock was wrong, given the current time, the lease of claims and
    # the longest wait of the schedules.
    repair_clock_skew: Callable[[datetime, timedelta, timedelta], ClockWasAhead | None]
    # Deletes attempts, actions and passes that ended before a given time and are no longer needed. Each call examines
    # at most the given number of attempts, beginning where the previous call stopped.
    prune: Callable[[datetime, int], int]
    # Opens the gateway. A pass opens it only if there is something to send, because opening takes longer than a whole
    # pass with nothing due.
    open_gateway: Callable[[], AbstractAsyncContextManager[Gateway]]
    emit: Callable[[Event], None]
    now: Callable[[], datetime]
    sleep: Callable[[float], Awaitable[None]]
    jitter: Callable[[], float]  # returns a random number between -1 and 1
    stop_requested: Callable[[], bool]
    # Returns a hash of the requests for a type that the gateway's look-up finds; None if it has no look-up.
    findable_requests: Callable[[MessageType], str | None] = lambda _: None
    # Raises an error if an operator must first accept which messages the settings select. Called before a pass changes
    # or sends anything, and before a manual attempt.
    require_accepted: Callable[[], None] = lambda: None


class PassRules(NamedTuple):
    """The rules by which a pass claims, sends and retries messages."""

    destination: str  # destination of messages whose types have no separate route
    policies: dict[MessageType, RetryPolicy]
    breaker: BreakerRules
    due_slack: timedelta
    deadline: timedelta
    request_timeout: timedelta
    concurrency: int
    limit: int | None = None
    rate_per_second: float | None = None
    per_ticket_order: bool = False  # a message waits while an earlier one of its ticket waits or is being sent
    routes: tuple[Route, ...] = ()  # if empty, all messages go to ``destination``
    retention: timedelta | None = None  # age up to which the history is kept; None keeps the history forever
    probe_now: bool = False  # if a destination is down, probe it immediately, even if no probe is due yet
    windows: Mapping[MessageType, DeliveryWindows] = {}  # other types are always open

    def destination_of(self, message_type: str) -> str:
        """Return the destination of the type's separate route or, if it has none, the default destination."""
        return next(
            (route.destination for route in self.routes if route.only is not None and message_type in route.only),
            self.destination,
        )

    def withheld(self, holds: Sequence[Hold], at: datetime) -> Withheld:
        """Return the messages that no pass may claim at a given time, because of the active holds or the delivery
        windows.
        """
        if not holds and not self.windows:
            return NOTHING_WITHHELD
        closed = {kind for kind, windows in self.windows.items() if not windows.is_open(at)}
        return withheld(holds, self.destination_of, closed)

    @property
    def claim_at_once(self) -> int:
        """Return the maximum number of messages to claim in one transaction, unless it may record more attempts. Other
        hosts can then claim the rest.
        """
        enough = min(max(ROUNDS_AHEAD * self.concurrency, MIN_BATCH), MAX_BATCH)
        return enough if self.rate_per_second is None else min(enough, math.ceil(self.rate_per_second))

    @property
    def lease(self) -> timedelta:
        """Return the duration of a claim's lease: the time for a request, and extra time for delays of the pass."""
        return self.request_timeout + CLAIM_MARGIN

    @property
    def longest_wait(self) -> timedelta:
        """Return the longest wait of the schedules."""
        return max(policy.backoff.longest(policy.max_retries) for policy in set(self.policies.values()))

    def due_by(self, started_at: datetime) -> datetime:
        """Return the latest due time of messages that belong to a pass. The slack allows for inexact start times."""
        return started_at + self.due_slack


class PassIdentity(NamedTuple):
    """The process of a pass, and what started it."""

    pass_id: str
    host: str
    pid: int
    started_by: StartedBy = StartedBy.UNKNOWN
