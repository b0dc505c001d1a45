"""The requests of one route that are in flight, and the answers that have arrived and are not decided yet."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from retrycli.domain.attempt import Attempt
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.engine.rules import SYNC_INTERVAL, Dependencies, PassRules
from retrycli.engine.supply import Supply

if TYPE_CHECKING:
    from retrycli.engine.ports import Gateway

# An answer waits until there are this many answers, or this share of the requests in flight if that is more. They are
# then recorded in one transaction. If every answer waited for all others, all requests would soon be sent and answered
# in step.
ENOUGH, SHARE = 8, 1 / 4
# The maximum time that an answer waits for others, in rounds of the event loop. A transaction in a file costs little; a
# transaction on a server waits for the server five times.
ROUNDS_FOR_A_FILE, ROUNDS_FOR_A_SERVER = 5, 60


class InFlight:
    """Send recorded attempts, and collect their answers.

    Args:
        deps: the clock.
        rules: show whether the database is on a server, where each transaction waits.
        supply: knows when the claims expire.
    """

    def __init__(self, deps: Dependencies, rules: PassRules, supply: Supply) -> None:
        self.count = 0  # number of attempts that were sent and have no answer yet
        self.fault: ConfigurationError | None = None  # error that prevents every request from being built
        self._now = deps.now
        self._supply = supply
        self._rounds = ROUNDS_FOR_A_SERVER if rules.at_a_server else ROUNDS_FOR_A_FILE
        self._answered: asyncio.Queue[Attempt] = asyncio.Queue()

    def send(self, started: Sequence[Attempt], gateway: Gateway, group: asyncio.TaskGroup) -> None:
        """Send recorded attempts."""
        self.count += len(started)
        for attempt in started:
            group.create_task(self._send(gateway, attempt))

    def arrived(self) -> list[Attempt]:
        """Return the answers that have arrived."""
        answers = [self._answered.get_nowait() for _ in range(self._answered.qsize())]
        self.count -= len(answers)
        return answers

    async def answers(self) -> list[Attempt]:
        """Wait at most `SYNC_INTERVAL` for an answer, and return all answers that have arrived by then."""
        answers = []
        if self.count:
            with suppress(TimeoutError):
                async with asyncio.timeout(SYNC_INTERVAL.total_seconds()):
                    answers.append(await self._answered.get())
            await self._gather()
            self.count -= len(answers)
        return answers + self.arrived()

    async def _gather(self) -> None:
        """Let the event loop read answers that have already arrived."""
        enough = min(self.count, max(ENOUGH, int(self.count * SHARE)))
        for _ in range(self._rounds):
            await asyncio.sleep(0)
            if 1 + self._answered.qsize() >= enough:
                return

    async def _send(self, gateway: Gateway, attempt: Attempt) -> None:
        outcome, about_us = attempt.outcome, False
        try:
            if self._now() < self._supply.claim.expires_at:
                outcome = await gateway.deliver(attempt.queued)
        except ConfigurationError as fault:  # the other requests are still answered
            self.fault = self.fault or fault
            outcome, about_us = Outcome(OutcomeKind.UNREACHABLE, error=f"not sent: {fault}"), True
        self._answered.put_nowait(attempt.ended(outcome, self._now(), about_us=about_us))
