"""What a pass is given besides messages: its dependencies, its rules and its identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from retrycli.domain.pass_summary import StartedBy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from datetime import datetime

    from retrycli.domain.circuit_breaker import BreakerRules
    from retrycli.domain.claim import Route
    from retrycli.domain.events import Event
    from retrycli.domain.message import MessageType
    from retrycli.domain.retry_policy import RetryPolicy
    from retrycli.engine.ports import Claims, Enrolment, Gateway, Ledger

ROUNDS_AHEAD, LEAST_AT_ONCE, MOST_AT_ONCE = 4, 16, 500
"""A claim is enough for so many rounds of answers, and holds so many messages at least and at most."""
CLAIM_MARGIN = timedelta(seconds=60)
"""A pass that is alive can be held up for half of it by an application that keeps a database locked."""

SYNC_INTERVAL = timedelta(seconds=1)
"""How often a pass looks what others have found out. So long one host may go on while another knows better."""


class Dependencies(NamedTuple):
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
    """Where messages go that have no route of their own."""
    policies: dict[MessageType, RetryPolicy]
    breaker: BreakerRules
    due_slack: timedelta
    deadline: timedelta
    request_timeout: timedelta
    concurrency: int
    limit: int | None = None
    rate_per_second: float | None = None
    per_ticket_order: bool = False
    """Of one ticket's messages, a later one waits until an earlier one is delivered or in a person's hands."""
    routes: tuple[Route, ...] = ()
    """Where messages go, one route after the other; without any, all of them go to ``destination``."""
    retention: timedelta | None = None
    """How long attempts and passes are kept; None is for ever."""
    probe_now: bool = False
    """Whether to probe a destination that is down now, and not only when its probe is due."""
    at_a_server: bool = False
    """Whether the messages are at a database server, for which each transaction has to wait."""

    def destination_of(self, message_type: str) -> str:
        """Where a message goes."""
        own = (route.destination for route in self.routes if route.only is not None and message_type in route.only)
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


class PassIdentity(NamedTuple):
    """Which process this pass is, and who started it."""

    pass_id: str
    host: str
    pid: int
    started_by: StartedBy = StartedBy.UNKNOWN
