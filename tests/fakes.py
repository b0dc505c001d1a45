"""Fakes around the engine: a gateway with a script, a clock that tests move, a lock, and an event recorder.

The store is the real one on a SQLite file: a fake store would prove nothing about it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, repeat
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.errors import LockHeld
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence
from retrycli.domain.passes import Event, Hold, HoldKind, PassSummary
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.transition import ActionKind, Decision, Overdue, Transition
from retrycli.engine import runner
from retrycli.engine.manual_attempt import attempt_through
from retrycli.engine.ports import SYNC_INTERVAL, Dependencies, Gateway, PassIdentity, PassRules
from retrycli.engine.ports import Database as Transactions
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import repair_clock_skew
from retrycli.store.counters import prune
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.holds import Holds
from retrycli.store.passes import Ledger

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2025, 3, 3, 12, tzinfo=UTC)
"""The clock's initial time, which is a tick of cron."""
TICK = timedelta(minutes=15)

DELIVERED = Outcome(OutcomeKind.DELIVERED, 200)
REFUSED = Outcome(OutcomeKind.REFUSED, 200, "not now")
DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
LOST = Outcome(OutcomeKind.UNKNOWN, error="no response within 30 s")
UNREAD = Outcome(OutcomeKind.UNKNOWN, 200, "HTTP 200 text/html", unread=True)
CUT_OFF = Outcome(OutcomeKind.UNREACHABLE, error="connection refused")
THROTTLED = Outcome(OutcomeKind.THROTTLED, 429, "HTTP 429")
UNAUTHORIZED = Outcome(OutcomeKind.UNAUTHORIZED, 401, "HTTP 401")
FORBIDDEN = Outcome(OutcomeKind.PERMANENT, 403, "HTTP 403", in_doubt=True)
MOVED = Outcome(OutcomeKind.PERMANENT, 302, "HTTP 302", in_doubt=True)
NOT_FOUND = Outcome(OutcomeKind.PERMANENT, 404, "HTTP 404")
"""A 404 that a rule of the preset attributes to the message, so that it is not in doubt."""

RULES = PassRules(
    destination="https://tickets.example.com",
    policies=dict.fromkeys(MessageType, RetryPolicy()),
    breaker=BreakerRules(),
    due_slack=timedelta(seconds=60),
    deadline=timedelta(minutes=12),
    request_timeout=timedelta(seconds=30),
    concurrency=8,
)

Kind = TypeVar("Kind")
Answer = Callable[[QueuedMessage], Outcome | Awaitable[Outcome]]
Script = Outcome | Mapping[int, Outcome] | Answer
"""One outcome for all messages, outcomes by message (others are delivered), or a function, which may be async."""


def in_turn(*outcomes: Outcome) -> Answer:
    """Build an answer that returns the outcomes in turn, for any message, and then repeats the last one."""
    coming = chain(outcomes, repeat(outcomes[-1]))
    return lambda _: next(coming)


class Clock:
    """A clock that stands still unless a test, a delivery or a sleep moves it.

    A pass that never ends reads it again and again, so `Stage` limits the number of reads in one pass.
    """

    def __init__(self) -> None:
        self.now = START
        self.reads_left = inf

    def __call__(self) -> datetime:
        self.reads_left -= 1
        assert self.reads_left > 0, "the pass does not end"
        return self.now

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)  # lets ready tasks run first, as a real sleep does
        self.now += timedelta(seconds=seconds)


class FakeGateway:
    """A gateway whose answers follow a script, each after a fixed time on the clock. It records the deliveries."""

    def __init__(self, script: Script, clock: Clock, takes: timedelta) -> None:
        self._script = script
        self._clock = clock
        self._takes = takes
        self.overdue: list[Overdue] = []
        self.order: list[int] = []
        self.begun_at: list[datetime] = []
        self.in_flight = 0
        self.widths: list[int] = []
        """The number of deliveries in flight when each delivery began, including itself."""

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        self.order.append(queued.message_id)
        self.begun_at.append(self._clock.now)
        self.in_flight += 1
        self.widths.append(self.in_flight)
        try:
            await asyncio.sleep(0)  # yields as a real request does, so that other deliveries can begin
            self._clock.now += self._takes
            answer = self._answer(queued)
            return await answer if isinstance(answer, Awaitable) else answer
        finally:
            self.in_flight -= 1

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        del queued
        return LookUp(Presence.ABSENT)

    def _answer(self, queued: QueuedMessage) -> Outcome | Awaitable[Outcome]:
        if isinstance(self._script, Outcome):
            return self._script
        if isinstance(self._script, Mapping):
            return self._script.get(queued.message_id, DELIVERED)
        return self._script(queued)


class FakeLock:
    """A lock that can't be acquired if ``trouble`` is set."""

    def __init__(self) -> None:
        self.trouble: Exception | None = None
        self.on_acquire: Callable[[], None] = lambda: None
        self.held = False

    def acquire(self) -> None:
        self.on_acquire()
        if self.trouble is not None:
            raise self.trouble
        self.held = True

    def release(self) -> None:
        self.held = False


HELD = LockHeld("another pass holds the lock /run/retrycli.lock: pid 7 on mill, for 3 s")


class Recorder:
    def __init__(self) -> None:
        self.all: list[Event] = []
        self.hear: Callable[[Event], None] = lambda _: None

    def __call__(self, event: Event) -> None:
        self.all.append(event)
        self.hear(event)

    def of(self, kind: type[Kind]) -> list[Kind]:
        return [event for event in self.all if isinstance(event, kind)]


class Stage:
    """An application's database with retrycli's tables, and the fakes around it.

    Args:
        path: a SQLite file that has all tables.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database = Database(f"sqlite:///{path}")
        self.enrolment = Enrolment(self.database)
        self.claims = Claims(self.database)
        self.transactions: Transactions = self.database
        self.ledger = Ledger(self.database)
        self.clock = Clock()
        self.events = Recorder()
        self.lock = FakeLock()
        self.stop_requested = False
        self.looks_up = False
        self.gateway: FakeGateway | None = None
        """The gateway that the last pass or `retry` opened, if any."""
        self.passes = 0

    def add(self, *ids: int, due: datetime | None = None, **columns: object) -> None:
        """Add failed messages. With ``due``, enrol them now, due at that time; otherwise the next pass enrols them."""
        row = {"message_type": "customer", "subject": "Re: tea", "body": "Is it hot?", "status": "failed"} | columns
        names = ", ".join(["id", "ticket_id", *row])
        marks = ", ".join("?" * (len(row) + 2))
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.executemany(
                f"INSERT INTO pending_messages ({names}) VALUES ({marks})",
                [(message_id, 1000 + message_id, *row.values()) for message_id in ids],
            )
        if due is not None:
            entries = [(Decision(message_id, Transition.enrolled(due)), START, 1000 + message_id) for message_id in ids]
            self.enrolment.enrol(entries, START)

    def hold(self, kind: HoldKind, text: str) -> Hold:
        """Hold a part of the queue from now on."""
        begun = Hold(kind, text, self.clock.now, None, "anna", None)
        Holds(self.database).begin([begun], {})
        return begun

    def resume(self, ended: Hold) -> None:
        """End a hold."""
        Holds(self.database).end([ended], [ended.part], OperatorAction(ActionKind.RESUMED, "anna", self.clock.now))

    def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Run a statement over a separate connection, as another process would."""
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement, values).fetchall()

    def tries(self) -> dict[int, int]:
        return dict(self.sql("SELECT id, retry_count FROM pending_messages ORDER BY id"))

    def states(self) -> dict[int, str]:
        return dict(self.sql("SELECT message_id, state FROM retrycli_queue ORDER BY message_id"))

    def sent(self) -> list[int]:
        return [row for (row,) in self.sql("SELECT id FROM pending_messages WHERE status = 'sent' ORDER BY id")]

    def open_attempts(self) -> list[int]:
        """Return the messages of unfinished attempts, in the order in which the attempts were recorded."""
        found = self.sql("SELECT message_id FROM retrycli_attempts WHERE finished_at IS NULL ORDER BY id")
        return [message_id for (message_id,) in found]

    def next_attempt_at(self, message_id: int) -> datetime:
        ((at,),) = self.sql("SELECT next_attempt_at FROM retrycli_queue WHERE message_id = ?", message_id)
        return datetime.fromisoformat(at).replace(tzinfo=UTC)

    def escalation(self, message_id: int) -> tuple[str, int, str]:
        """Return an escalated message's reason, retry count and last error."""
        ((reason, tries, error),) = self.sql(
            "SELECT escalation_reason, retry_count, last_error FROM retrycli_queue"
            " JOIN pending_messages ON id = message_id WHERE message_id = ? AND state = 'escalated'",
            message_id,
        )
        return reason, tries, error

    def attempts(self, message_id: int) -> list[tuple[str, str | None]]:
        """Return ``made_by`` and the outcome of each attempt."""
        return self.sql(
            "SELECT made_by, outcome FROM retrycli_attempts WHERE message_id = ? ORDER BY number", message_id
        )

    def run(
        self, script: Script = DELIVERED, rules: PassRules = RULES, *, takes: timedelta = timedelta(0)
    ) -> PassSummary:
        return asyncio.run(self.run_pass(script, rules, takes=takes))

    async def run_pass(
        self, script: Script = DELIVERED, rules: PassRules = RULES, *, takes: timedelta = timedelta(0)
    ) -> PassSummary:
        """Run a pass in the running event loop."""
        self.passes += 1
        self.clock.reads_left = 100_000
        me = PassIdentity(f"pass-{self.passes}", host="mill", pid=self.passes)
        return await runner.run_pass(self.dependencies(script, takes), self.lock, rules, me)

    def retry(self, message_id: int, script: Script = DELIVERED, *, by: str = "anna") -> Outcome:
        deps = self.dependencies(script, timedelta(seconds=1))
        return asyncio.run(attempt_by_hand(deps, RULES, message_id, by=by))

    @property
    def order(self) -> list[int]:
        """Return the messages that the last pass or `retry` attempted, in order."""
        return self.gateway.order if self.gateway else []

    @property
    def widths(self) -> list[int]:
        """Return the number of deliveries in flight at the start of each delivery of the last pass or `retry`."""
        return self.gateway.widths if self.gateway else []

    @property
    def begun_at(self) -> list[datetime]:
        """Return the start time of each delivery of the last pass or `retry`."""
        return self.gateway.begun_at if self.gateway else []

    def dependencies(self, script: Script, takes: timedelta = timedelta(0)) -> Dependencies:
        """Return what a pass or an attempt needs, with a gateway that follows a script."""
        self.gateway = None

        @asynccontextmanager
        async def open_gateway() -> AsyncIterator[Gateway]:
            self.gateway = FakeGateway(script, self.clock, takes)
            yield self.gateway

        return Dependencies(
            enrolment=self.enrolment,
            database=self.transactions,
            claims=self.claims,
            ledger=self.ledger,
            repair_clock_skew=partial(repair_clock_skew, self.database),
            prune=partial(prune, self.database),
            open_gateway=open_gateway,
            emit=self.events,
            now=self.clock,
            sleep=self.clock.sleep,
            jitter=lambda: 0.0,
            stop_requested=lambda: self.stop_requested,
            findable_requests=lambda _: "a preset" if self.looks_up else None,
        )


async def attempt_by_hand(deps: Dependencies, rules: PassRules, message_id: int, *, by: str) -> Outcome:
    """Attempt one message now through a newly opened gateway."""
    async with deps.open_gateway() as gateway:
        return await attempt_through(gateway, deps, rules, message_id, by=by, send_again=True)


def during(stage: Stage, message_id: int, happens: Callable[[], object], *, after: timedelta = SYNC_INTERVAL) -> Answer:
    """Return a script that delivers every message. During one of them, it advances the clock and calls ``happens``."""

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == message_id:
            stage.clock.now += after
            happens()
        return DELIVERED

    return answer
