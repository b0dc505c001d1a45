"""The dependencies, the rules and the identity of a pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from retrycli.domain.passes import StartedBy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from retrycli.domain.circuit_breaker import BreakerRules
    from retrycli.domain.message import MessageType, QueuedMessage
    from retrycli.domain.outcome import Outcome
    from retrycli.domain.passes import ClockWasAhead, Event
    from retrycli.domain.retry_policy import RetryPolicy
    from retrycli.domain.transition import Route, Transition
    from retrycli.engine.ports import Claims, Database, Enrolment, Gateway, Ledger

# A claim holds enough messages for `ROUNDS_AHEAD` rounds of answers, within the minimum and the maximum.
ROUNDS_AHEAD, MIN_BATCH, MAX_BATCH = 4, 16, 500
# Extra time of a claim. An application that locks the database may delay a live pass by half of it.
CLAIM_MARGIN = timedelta(seconds=60)

# The interval at which a pass reads the shared state. A host may act on outdated state for this long.
SYNC_INTERVAL = timedelta(seconds=1)


class Dependencies(NamedTuple):
    """Everything outside the engine."""

    database: Database
    enrolment: Enrolment
    claims: Claims
    ledger: Ledger
    # Corrects times in the future that a wrong clock wrote, given the current time and the lease of a claim.
    repair_clock_skew: Callable[[datetime, timedelta], ClockWasAhead | None]
    # Examines up to the given number of further attempts. Deletes those before a given time, together with old actions
    # and passes.
    prune: Callable[[datetime, int], int]
    # Opens the gateway. It is opened only if there is something to send, because that takes longer than a pass with
    # nothing due.
    open_gateway: Callable[[], AbstractAsyncContextManager[Gateway]]
    emit: Callable[[Event], None]
    now: Callable[[], datetime]
    sleep: Callable[[float], Awaitable[None]]
    jitter: Callable[[], float]  # returns a random number between -1 and 1
    stop_requested: Callable[[], bool]
    # Returns whether the gateway looks up a message that may have arrived before it sends it again.
    looks_up: Callable[[MessageType], bool] = lambda _: False


@dataclass(frozen=True, slots=True)
class PassRules:
    """The rules of a pass."""

    destination: str  # destination for messages without a route of their own
    policies: dict[MessageType, RetryPolicy]
    breaker: BreakerRules
    due_slack: timedelta
    deadline: timedelta
    request_timeout: timedelta
    concurrency: int
    limit: int | None = None
    rate_per_second: float | None = None
    per_ticket_order: bool = False  # a ticket's messages wait until its earlier ones are delivered or escalated
    routes: tuple[Route, ...] = ()  # routes, in order; without routes all messages go to ``destination``
    retention: timedelta | None = None  # age up to which attempts and passes are kept; None keeps them forever
    probe_now: bool = False  # probes a destination that is down, without waiting until its probe is due
    at_a_server: bool = False  # the database is on a server, where each transaction waits

    def destination_of(self, message_type: str) -> str:
        """Return the destination of a message type."""
        own = (route.destination for route in self.routes if route.only is not None and message_type in route.only)
        return next(own, self.destination)

    @property
    def claim_at_once(self) -> int:
        """Return how many messages to claim in one transaction: enough for a short time. Other hosts can claim the
        rest.
        """
        enough = min(max(ROUNDS_AHEAD * self.concurrency, MIN_BATCH), MAX_BATCH)
        return enough if self.rate_per_second is None else min(enough, math.ceil(self.rate_per_second))

    @property
    def lease(self) -> timedelta:
        """Return the lease of a claim: the time for a request, and for delays of its pass."""
        return self.request_timeout + CLAIM_MARGIN

    def due_by(self, started_at: datetime) -> datetime:
        """Return the time by which messages must be due to belong to a pass: cron's ticks are never exact."""
        return started_at + self.due_slack


class PassIdentity(NamedTuple):
    """The process of a pass, and what started it."""

    pass_id: str
    host: str
    pid: int
    started_by: StartedBy = StartedBy.UNKNOWN


def decide(
    deps: Dependencies,
    rules: PassRules,
    queued: QueuedMessage,
    outcome: Outcome,
    *,
    since: datetime,
    now: datetime,
    counts_as_retry: bool = True,
) -> Transition:
    """Return the transition that an outcome causes: see `RetryPolicy.decide`."""
    message_type = queued.message.message_type
    return rules.policies[message_type].decide(
        queued,
        outcome,
        since=since,
        now=now,
        jitter=deps.jitter(),
        counts_as_retry=counts_as_retry,
        has_lookup=deps.looks_up(message_type),
    )


def escalation_before_send(
    deps: Dependencies, rules: PassRules, queued: QueuedMessage, now: datetime
) -> Transition | None:
    """Return the escalation that replaces a message's next attempt: see `RetryPolicy.escalation_before_send`."""
    message_type = queued.message.message_type
    policy = rules.policies[message_type]
    return policy.escalation_before_send(queued, now, has_lookup=deps.looks_up(message_type))
