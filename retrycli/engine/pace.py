"""Decide how many attempts to record, and send them."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.transition import Attempt
from retrycli.engine.destination import Destination
from retrycli.engine.ports import Dependencies, Gateway, PassRules
from retrycli.engine.stages import InFlight, PassLimits, ResultWriter, Supply

# Attempts are recorded ahead only if the destination answers within this time. So no message is sent long after its row
# was read.
QUICK = timedelta(seconds=0.25)
# Answers are recorded when none has arrived for `QUIET_SECONDS`, because the transaction then delays no other answer,
# but at most `RECORD_WITHIN_SECONDS` after the first one. While the rate limit delays the next attempt, the limit is
# `RECORD_WITHIN_TURN_SECONDS`.
QUIET_SECONDS, RECORD_WITHIN_SECONDS, RECORD_WITHIN_TURN_SECONDS = 0.005, 0.02, 0.1
# Minimum number of consecutive results that met a locked row, to assume that the next rows are locked too.
MANY_LOCKED = 8


class Pace:
    """Decide how many attempts may be recorded, and send them as soon as there is room.

    While a destination is healthy, more attempts are recorded than there is room for. So a request need not wait for
    the commit of its attempt. Attributes are replaced and never mutated, so that a shallow copy can restore them.
    """

    def __init__(
        self,
        deps: Dependencies,
        rules: PassRules,
        destination: Destination,
        limits: PassLimits,
        supply: Supply,
        results: ResultWriter,
    ) -> None:
        self.in_flight = InFlight(deps, supply)  # the requests that have no answer yet
        self.reserve: Sequence[Attempt] = ()  # recorded attempts that have not been sent yet
        self._is_quick = False
        # Without resends after unknown outcomes, a dead process would cause an escalation for each attempt that it had
        # recorded ahead.
        resends = all(policy.unknown_limit for policy in rules.policies.values())
        self._may_run_ahead = resends and rules.concurrency > 1
        self._deps = deps
        self._rules = rules
        self._destination = destination
        self._limits = limits
        self._supply = supply
        self._results = results

    def observe(self, answered: Sequence[Attempt]) -> None:
        """Note whether the destination gave any of the latest answers quickly."""
        self._is_quick = any(attempt.duration <= QUICK for attempt in answered)

    def keep(self, attempts: Sequence[Attempt]) -> None:
        """Keep attempts in the reserve. Call this after the commit of their transaction."""
        self.reserve = [*self.reserve, *attempts]

    def withdraw(self) -> None:
        """Delete the attempts of the reserve, and return their messages to the supply."""
        if self.reserve:
            ids = [attempt.queued.message_id for attempt in self.reserve]
            self._deps.claims.results.withdraw(self._supply.claim, ids)
            self._supply.put_back(ids)
            self._limits.count(-len(ids))
            self.reserve = ()

    async def exchange(self, gateway: Gateway, group: asyncio.TaskGroup) -> list[Attempt]:
        """Send recorded attempts while there is room, and return the answers to record in one transaction.

        After each quick delivery, send the next recorded attempt at once. Any other answer may change what may be sent.
        """
        self._send(gateway, group)
        if seconds := self._limits.seconds_to_turn():
            await self._deps.sleep(min(seconds, RECORD_WITHIN_TURN_SECONDS))
            return self.in_flight.arrived()
        answers = more = await self.in_flight.answers()
        time = asyncio.get_running_loop().time
        until = time() + RECORD_WITHIN_SECONDS
        while more and time() < until and (self.reserve or not self._supply) and all(map(_is_usual, more)):
            self._send(gateway, group)
            more = await self.in_flight.answers(QUIET_SECONDS)
            answers += more
        return answers

    def _send(self, gateway: Gateway, group: asyncio.TaskGroup) -> None:
        room = self.width - self.in_flight.count
        if self.reserve and room > 0 and self._limits.may_send():
            self.in_flight.send(self.reserve[:room], gateway, group)
            self.reserve = self.reserve[room:]

    @property
    def may_go_on(self) -> bool:
        """Return whether results can be written, and the destination and the settings allow more requests."""
        return not self.is_write_blocked and self.in_flight.fault is None and self._destination.stop_reason is None

    @property
    def is_write_blocked(self) -> bool:
        """Return whether the latest results all met locked rows, so that the next rows are probably locked too."""
        return self._results.locked_in_a_row >= max(MANY_LOCKED, self._rules.concurrency)

    @property
    def width(self) -> int:
        """Return the maximum number of requests in flight."""
        return 1 if self._destination.on_trial or self._destination.probing else self._destination.width

    @property
    def ahead(self) -> int:
        """Return how many attempts to record before there is room to send them: some if the destination is healthy."""
        is_healthy = self.width == self._rules.concurrency and not self._destination.doubt.tickets
        may_run_ahead = self._may_run_ahead and is_healthy and self.may_go_on and self._is_quick
        # Never more than may be in flight: if the process dies, the outcomes of these attempts are unknown, too.
        return self._rules.concurrency if may_run_ahead else 0


def _is_usual(answer: Attempt) -> bool:
    return answer.outcome.kind is OutcomeKind.DELIVERED and answer.duration <= QUICK
