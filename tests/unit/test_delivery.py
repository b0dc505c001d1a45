"""What a pass does while the application holds messages: the store at its port finds them held."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from retrycli.message import Claim, Lane, QueuedMessage
from retrycli.outcome import Outcome
from retrycli.policy import Recorded, Settled
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.turns import Turns
from tests.fakes import DELIVERED, RULES, Stage


class Held(Claims):
    """A store in which the application holds some messages until they are waited for or it lets them go."""

    def __init__(self, database: Database, *ids: int) -> None:
        super().__init__(database)
        self.ids = set(ids)
        self.waited_for: list[set[int]] = []
        """What was held when it was waited for."""
        self.nothing_due = asyncio.Event()
        """Whether a pass has looked for more and found nothing."""

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: Turns | None = None, lane: Lane | None = None
    ) -> list[int]:
        found = super().claim(claim, due_by, limit, turns, lane)
        if not found:
            self.nothing_due.set()
        return found

    def record(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> Recorded:
        held = {each.message_id for each in settled} & self.ids
        if held:
            self.waited_for.append(held)
            self.ids -= held
        return super().record(claim, settled, now)

    def record_free(self, claim: Claim, settled: Sequence[Settled], now: datetime) -> Recorded:
        free = [each for each in settled if each.message_id not in self.ids]
        held = frozenset(each.message_id for each in settled) & self.ids
        return super().record_free(claim, free, now)._replace(held=held)


def hold(stage: Stage, *ids: int) -> Held:
    held = Held(stage.database, *ids)
    stage.claims = held
    return held


def test_a_message_that_is_held_to_the_end_is_waited_for_by_itself(stage: Stage) -> None:
    stage.add(*range(1, 7))
    held = hold(stage, 2)
    summary = stage.run()
    assert (summary.sent, stage.sent()) == (6, [1, 2, 3, 4, 5, 6])
    assert held.waited_for == [{2}]


def test_a_message_that_is_free_again_comes_with_the_next_ones(stage: Stage) -> None:
    stage.add(*range(1, 7))
    held = hold(stage, 2)

    def lets_go(queued: QueuedMessage) -> Outcome:
        held.ids -= {2} if queued.message_id == 4 else set()
        return DELIVERED

    assert stage.run(lets_go).sent == 6
    assert held.waited_for == []


def test_where_all_is_held_one_more_goes_out_before_that_is_waited_for(stage: Stage) -> None:
    """No more is sent than can be written down."""
    stage.add(*range(1, 11))
    held = hold(stage, *range(1, 11))
    assert stage.run().sent == 10
    assert stage.widths[:2] == [1, 1]
    assert held.waited_for[0] == {1, 2}
    assert all(len(each) <= RULES.concurrency for each in held.waited_for)


def test_a_ticket_is_free_when_what_was_held_of_it_is_written_down(stage: Stage) -> None:
    """Though it was looked for what is due, and nothing found, while it was held."""
    stage.add(*range(1, 6))
    stage.sql("UPDATE pending_messages SET ticket_id = 7 WHERE id < 3")
    held = hold(stage, 1)

    async def lets_go() -> Outcome:
        await held.nothing_due.wait()
        held.ids.clear()
        return DELIVERED

    stage.run(lambda queued: lets_go() if queued.message_id == 5 else DELIVERED, replace(RULES, in_order=True))
    assert stage.order == [1, 3, 4, 5, 2]
    assert stage.sent() == [1, 2, 3, 4, 5]
    assert held.waited_for == []
