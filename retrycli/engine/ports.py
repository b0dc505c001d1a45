"""The ports of the engine: what it needs of the outside, as protocols. Only type checkers import them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Protocol

from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.claim import ChangedMessage, Claim, ExpiredClaim, IdRange, Route
from retrycli.domain.events import ClockWasAhead
from retrycli.domain.fair_share import FairShare
from retrycli.domain.message import Message, QueuedMessage, UnusableMessage
from retrycli.domain.outcome import LookUp, Outcome
from retrycli.domain.pass_summary import PassSummary, StartedBy
from retrycli.domain.transition import Decision, WriteResult


class Retired(Protocol):
    """What the queue and the application's table did not agree about."""

    @property
    def changed(self) -> Sequence[int]:
        """Escalated messages whose rows the application may have written since, by their ids."""


class Enrolment(Protocol):
    """Which messages the queue looks after."""

    def plan_sweep(self, swept_to: int | None) -> tuple[list[IdRange], int]:
        """The ranges of ids to compare, and where the next pass goes on."""

    def newly_failed(self, span: IdRange, limit: int) -> list[Message | UnusableMessage]:
        """Failed messages that the queue does not know."""

    def enrol(self, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime) -> Mapping[int, str]:
        """Add messages: first transition, first failure, ticket; whose rows took no change, and why."""

    def retire(self, span: IdRange) -> Retired:
        """Drop messages that are the application's again, and find escalated ones whose rows it may have written."""

    def review(
        self, ids: Collection[int], decide: Callable[[ChangedMessage], Decision], now: datetime
    ) -> list[Decision]:
        """Let escalated messages wait again, or remember their rows as they are now; return what was decided."""


class Claims(Protocol):
    """The queue as a pass works on it."""

    def transaction(self, *, wait: bool = True) -> AbstractContextManager[Callable[[], bool]]:
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

    def any_due(self, due_by: datetime, route: Route) -> bool:
        """Whether any message of a route is due."""

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: FairShare | None = None, route: Route | None = None
    ) -> list[int]:
        """Claim due messages of a route whose turn it is."""

    def claim_probe(
        self,
        claim: Claim,
        due_by: datetime,
        since: datetime,
        route: Route | None = None,
        *,
        per_ticket_order: bool = False,
    ) -> list[int]:
        """Claim one due message to probe with, another one each time."""

    def claim_elsewhere(
        self,
        claim: Claim,
        due_by: datetime,
        tickets: Collection[str],
        route: Route | None = None,
        *,
        per_ticket_order: bool = False,
    ) -> list[int]:
        """Claim one due message of another ticket than these."""

    def count_probes(self, message_id: int, since: datetime) -> int:
        """Count the probes that a message has been since a time."""

    def claim_first_of(
        self, claim: Claim, due_by: datetime, tickets: Collection[str], route: Route | None = None
    ) -> list[int]:
        """Claim the first unfinished message of each ticket, where it is due."""

    def renew(self, claim: Claim) -> None:
        """Hold what is claimed for longer."""

    def claim_one(self, claim: Claim, message_id: int, now: datetime, verb: str = "retry") -> bool:
        """Claim one message, whatever its wait; return whether it was escalated."""

    def record_arrival(
        self, claim: Claim, settled: Decision, *, made_by: str, destination: str, started_at: datetime
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

    def record_answers(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts whose messages are not decided yet."""

    def record(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> WriteResult:
        """Write down what came of messages, but only the attempts' outcomes if the application holds their rows."""

    def keep_outcomes(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> None:
        """Record the outcomes of attempts, and touch no row of the application's."""

    def release(self, claim: Claim, ids: Collection[int]) -> None:
        """Give back messages that no attempt was begun for."""

    def take_over_expired(self, claim: Claim, now: datetime, limit: int) -> list[ExpiredClaim]:
        """Claim messages whose claims have expired."""


class Ledger(Protocol):
    """What passes remember from one to the next."""

    def start_pass(
        self, pass_id: str, *, host: str, pid: int, now: datetime, started_by: StartedBy = StartedBy.UNKNOWN
    ) -> None:
        """A pass has begun."""

    def repair_clock_skew(self, now: datetime, lease: timedelta) -> ClockWasAhead | None:
        """Put right what was written by a clock that was ahead."""

    def heartbeat(self, pass_id: str, now: datetime) -> None:
        """A pass is alive."""

    def finish_pass(self, summary: PassSummary, now: datetime, *, swept_to: int | None = None) -> None:
        """A pass has ended."""

    def mark_dead_passes(self, pass_id: str, *, silent_since: datetime) -> None:
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
