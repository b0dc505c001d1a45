"""The environment of messages: a database that the application, two hosts and an operator share, and the clock.

It connects the same parts as `retrycli.operations.wiring`. But a script answers as the ticketing API, and a process may
die at any call to a port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import text

from retrycli.config.gateway import RoutedGatewaySettings as GatewaySettings
from retrycli.config.settings import DatabaseSettings, ScheduleSettings, Settings, TypeScheduleSettings
from retrycli.domain.message import MessageType
from retrycli.domain.passes import Hold, HoldTarget
from retrycli.domain.retry_policy import LATEST
from retrycli.engine import runner
from retrycli.engine.ports import Dependencies, Gateway, PassIdentity
from retrycli.operations import pause
from retrycli.operations.wiring import Runtime, pass_rules
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import repair_clock_skew
from retrycli.store.counters import prune
from retrycli.store.enrolment import Enrolment
from retrycli.store.passes import Ledger
from tests.fakes import Clock, FakeLock, attempt_by_hand
from tests.model.book import MAX_RETRIES, UNKNOWN_LIMIT
from tests.model.death import Fate, Killed, mortal
from tests.model.habits import own_triggers
from tests.model.hold import Hold as RowLock
from tests.model.picture import time_of
from tests.model.server import Answer, ScriptedGateway, Sender, Server
from tests.store.application import Application, is_sqlite, opened

if TYPE_CHECKING:
    from retrycli.domain.outcome import Outcome
    from retrycli.domain.passes import Event, PassSummary
    from retrycli.store.database import Database

Made = TypeVar("Made")

SCHEDULE = ScheduleSettings(
    max_retries=MAX_RETRIES,
    types={
        MessageType.SUPPLIER: TypeScheduleSettings.model_validate({"backoff": "linear"}),
        MessageType.INTERNAL: TypeScheduleSettings.model_validate({"backoff": "fixed", "expires_after_hours": 72}),
    },
)
OWN_TABLES = (
    "queue",
    "attempts",
    "acts",
    "passes",
    "breakers",
    "rates",
    "pause",
    "holds",
    "told",
    "totals",
    "escalations",
    "own_values",
)
PATIENCE = {True: 0, False: 1}
"""Seconds that retrycli waits for a lock, by whether the database is SQLite. PostgreSQL would wait forever at 0."""
OPERATOR = "anna"
DUE_SLACK = timedelta(seconds=60)


class Host:
    """A machine that runs passes and manual attempts, one process at a time."""

    def __init__(self, name: str, database: Database, runner: asyncio.Runner) -> None:
        self.name = name
        self.enrolment = Enrolment(database)
        self.database = database
        self.claims = Claims(database)
        self.ledger = Ledger(database)
        self.repair_clock_skew = partial(repair_clock_skew, database)
        self.prune = partial(prune, database)
        self._runner = runner

    def run(self, process: Coroutine[Any, Any, Made], fate: Fate) -> Made | None:
        """Run a process; return its result, or None if it was killed."""
        try:
            return self._runner.run(process)
        except* Killed:
            assert fate.dead
        return None


@dataclass(frozen=True)
class Script:
    """What happens to one process that sends.

    Args:
        answers: the ticketing API's answers, in turn; the last one repeats.
        fate: when the process dies.
        interfere: called during the first request, with the id of its message.
    """

    answers: Sequence[Answer] = (Answer.TAKEN,)
    fate: Fate | None = None
    interfere: Callable[[int], None] | None = None


class Place:
    """One database and its users. Successive lives reuse it, because its creation is slow.

    Args:
        application: the application, with retrycli's tables in its database.
        hosts: two machines.
        elsewhere: a thread for the second host while the first one is suspended.
    """

    def __init__(self, application: Application, hosts: Sequence[Host], elsewhere: ThreadPoolExecutor) -> None:
        self.application = application
        self.first, self.second = hosts
        self._elsewhere = elsewhere
        self.settings = Settings(
            database=DatabaseSettings.model_validate({"url": application.url, **application.settings}),
            gateway=GatewaySettings(base_url="https://tickets.example.com", unknown_limit=UNKNOWN_LIMIT),
            schedule=SCHEDULE,
        )
        self.hold = RowLock(application)
        for statement in own_triggers(application):
            application.sql(statement)
        self.begin_anew()

    def begin_anew(self) -> None:
        """Delete all messages and all history, and reset the clock, for the next life."""
        self.hold.release()
        self.clock = Clock()
        self.server = Server(self.application, self.clock)
        self.runtime = Runtime(now=self.clock)
        self._rng = Random(0)
        self._passes = 0
        self.events: list[Event] = []
        """The events of all passes and manual attempts since the start of the current step."""
        self._paused_at, self._paused_until = self.clock.now, self.clock.now - timedelta(days=1)
        with self.application._engine.begin() as connection:
            for table in OWN_TABLES:
                connection.execute(text(f"DELETE FROM retrycli_{table}"))
        self.application.delete()

    @property
    def kind(self) -> str:
        return "sqlite" if is_sqlite(self.application.url) else "postgresql"

    @property
    def is_paused(self) -> bool:
        """Return whether deliveries are paused now, according to the calls of `pause` and `resume`.

        If a pass found that the pause began in the future, the pause lasts for its length from that pass on.
        """
        for row in self.application.asked("SELECT since FROM retrycli_pause"):
            began_at = time_of(row["since"]) + timedelta.resolution
            if began_at < self._paused_at:
                if self._paused_until != LATEST:
                    self._paused_until -= self._paused_at - began_at
                self._paused_at = began_at
        return self.clock.now < self._paused_until

    def pause(self, length: timedelta | None) -> None:
        """Pause deliveries for a time, or until `resume` if the time is None."""
        pause.pause(self.settings, length=length, by=OPERATOR, now=self.clock)
        self._paused_at = self.clock.now
        self._paused_until = LATEST if length is None else self.clock.now + length

    def resume(self) -> None:
        pause.resume(self.settings, now=self.clock)
        self._paused_until = self.clock.now - timedelta(days=1)

    def hold_part(self, target: HoldTarget, length: timedelta | None) -> None:
        """Hold a part of the queue for a time, or until `end_holds` if the time is None."""
        pause.pause(self.settings, target=target, length=length, by=OPERATOR, now=self.clock)

    def end_holds(self) -> list[Hold]:
        """End all active holds, and return them."""
        return pause.resume(self.settings, target=[hold.part for hold in self.holds()], by=OPERATOR, now=self.clock)

    def holds(self) -> list[Hold]:
        """Return the active holds."""
        return pause.holds(self.settings, now=self.clock)

    def make_pass(self, host: Host, script: Script, *, limit: int | None, per_ticket_order: bool) -> PassSummary | None:
        """Run one pass; return None if its process was killed."""
        self._passes += 1
        me = PassIdentity(f"pass-{self._passes}", host.name, self._passes)
        rules = pass_rules(self.settings, limit=limit)._replace(per_ticket_order=per_ticket_order)
        sender = Sender(
            by_pass=True,
            due_by=self.clock.now + DUE_SLACK,
            paused=self.is_paused,
            holds=self.holds(),
            # Interference may insert an earlier message during a request, so the order is not checked then.
            per_ticket_order=per_ticket_order and not script.interfere,
            limit=limit,
        )
        fate = script.fate or Fate()
        deps = self._deps(host, script, sender, fate)
        summary = host.run(runner.run_pass(deps, mortal(FakeLock(), fate), rules, me), fate)
        sender.killed = summary is None
        return summary

    def make_pass_meanwhile(self, *, per_ticket_order: bool) -> None:
        """Run a pass on the second host, while the first one is suspended during a request."""
        self._elsewhere.submit(
            self.make_pass, self.second, Script(), limit=None, per_ticket_order=per_ticket_order
        ).result()

    def try_by_hand(self, message_id: int, script: Script) -> Outcome | None:
        """Make one manual attempt; return None if its process was killed."""
        fate = script.fate or Fate()
        sender = Sender(by_pass=False)
        deps = self._deps(self.first, script, sender, fate)
        rules = pass_rules(self.settings)
        outcome = self.first.run(attempt_by_hand(deps, rules, message_id, by=OPERATOR), fate)
        sender.killed = outcome is None
        return outcome

    def try_by_hand_meanwhile(self, message_id: int) -> None:
        """Make a manual attempt on the second host, while the first one is suspended during a request."""
        deps = self._deps(self.second, Script(), Sender(by_pass=False), Fate())
        process = attempt_by_hand(deps, pass_rules(self.settings), message_id, by=OPERATOR)
        self._elsewhere.submit(self.second.run, process, Fate()).result()

    def _deps(self, host: Host, script: Script, sender: Sender, fate: Fate) -> Dependencies:
        fate.heard = self.hold.count

        @asynccontextmanager
        async def open_gateway() -> AsyncIterator[Gateway]:
            with fate.call():
                gateway = ScriptedGateway(self.server, script.answers, sender, script.interfere, fate.call)
            yield gateway

        return Dependencies(
            enrolment=mortal(host.enrolment, fate),
            database=mortal(host.database, fate),
            claims=mortal(host.claims, fate),
            ledger=mortal(host.ledger, fate),
            repair_clock_skew=mortal(host.repair_clock_skew, fate),
            prune=mortal(host.prune, fate),
            open_gateway=open_gateway,
            emit=mortal(self.events.append, fate),
            now=self.clock,
            sleep=self.clock.sleep,
            jitter=lambda: self._rng.uniform(-1, 1),
            stop_requested=lambda: False,
        )


@contextmanager
def place(url: str, kind: type[Application] = Application) -> Iterator[Place]:
    """Open a place in a database that already has the application's tables and retrycli's."""
    with ExitStack() as until_the_end:
        application = kind(url, made=True)
        until_the_end.callback(application.close)
        patience = PATIENCE[is_sqlite(url)]
        hosts = [
            Host(
                name,
                until_the_end.enter_context(opened(application, patience=patience)),
                until_the_end.enter_context(asyncio.Runner()),
            )
            for name in ("mill", "dale")
        ]
        elsewhere = until_the_end.enter_context(ThreadPoolExecutor(max_workers=1))
        yield Place(application, hosts, elsewhere)
