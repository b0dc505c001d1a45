"""The requests of one route that are in flight, and the answers that have arrived and are not decided yet."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from retrycli.domain.attempt import Attempt
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, Outcome, OutcomeKind
from retrycli.engine.coordination import PassCoordinator
from retrycli.engine.rules import SYNC_INTERVAL, Dependencies

if TYPE_CHECKING:
    from retrycli.engine.ports import Gateway

ENOUGH, SHARE = 8, 1 / 4
"""An answer waits for others, to be recorded with them in one transaction, until there are this many, or this share of
the requests in flight if that is more. If it waited for all, soon all requests would be sent, and answered, in step."""
ROUNDS_FOR_A_FILE, ROUNDS_FOR_A_SERVER = 5, 60
"""The maximum wait of an answer for others, in rounds of the event loop: a transaction in a file costs little, and one
at a server waits for it five times."""


class StartedAttempt(NamedTuple):
    """An attempt that is recorded and is sent next."""

    queued: QueuedMessage
    at: datetime
    probe: int
    """The number of the probe among the message's probes; 0 if it is not a probe."""
    on_trial: bool


class InFlight:
    """Send recorded attempts, and collect their answers.

    Args:
        deps: the clock.
        coordinator: tells when the claims expire.
        at_a_server: the database is a server, where each transaction waits.
    """

    def __init__(self, deps: Dependencies, coordinator: PassCoordinator, *, at_a_server: bool) -> None:
        self.count = 0
        """Number of attempts that are started and have no answer yet."""
        self.fault: ConfigurationError | None = None
        """The error because of which no request can be built."""
        self._now = deps.now
        self._coordinator = coordinator
        self._rounds = ROUNDS_FOR_A_SERVER if at_a_server else ROUNDS_FOR_A_FILE
        self._unsent: list[StartedAttempt] = []
        """Attempts that are sent once their transaction is committed."""
        self._answered: asyncio.Queue[Attempt] = asyncio.Queue()

    def add(self, attempt: StartedAttempt) -> None:
        """Add an attempt that the current transaction records."""
        self._unsent.append(attempt)
        self.count += 1

    def discard_unsent(self) -> int:
        """Drop attempts whose transaction has failed; return their number."""
        dropped = len(self._unsent)
        self._unsent.clear()
        self.count -= dropped
        return dropped

    def send(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Send the attempts that have been recorded."""
        for attempt in self._unsent:
            group.create_task(self._attempt(gateway, attempt))
        self._unsent.clear()

    def arrived(self) -> list[Attempt]:
        """Return the answers that have arrived."""
        answers = [self._answered.get_nowait() for _ in range(self._answered.qsize())]
        self.count -= len(answers)
        return answers

    async def next_answer(self) -> Attempt:
        """Wait for one answer."""
        answer = await self._answered.get()
        self.count -= 1
        return answer

    async def answers(self) -> list[Attempt]:
        """Wait for an answer for at most `SYNC_INTERVAL`, and return all that have arrived by then."""
        answers = []
        if self.count:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_INTERVAL.total_seconds()):
                    answers.append(await self._answered.get())
            await self._gather()
            self.count -= len(answers)
        return answers + self.arrived()

    async def _gather(self) -> None:
        """Let other answers in that have arrived and only have to be read."""
        enough = min(self.count, max(ENOUGH, int(self.count * SHARE)))
        for _ in range(self._rounds):
            await asyncio.sleep(0)
            if 1 + self._answered.qsize() >= enough:
                return

    async def _attempt(self, gateway: Gateway, started: StartedAttempt) -> None:
        has_expired = self._now() >= self._coordinator.claim.expires_at
        about_us = False
        try:
            outcome = CLAIM_EXPIRED_BEFORE_SEND if has_expired else await gateway.deliver(started.queued)
        except ConfigurationError as fault:  # the other requests are still answered
            self.fault = self.fault or fault
            outcome = Outcome(OutcomeKind.UNREACHABLE, error=f"not sent: {fault}")
            about_us = True
        now = self._now()
        self._answered.put_nowait(
            Attempt(started.queued, outcome, now - started.at, now, started.probe, started.on_trial, about_us=about_us)
        )
