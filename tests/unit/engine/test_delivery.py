"""Passes while the application locks messages. The fake store reports these locks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest

from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.errors import ConfigurationError, DatabaseBusy, DatabaseUnavailable
from retrycli.domain.fair_share import FairShare
from retrycli.domain.message import QueuedMessage, UnusableMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import BreakerOpened, ResultKept
from retrycli.domain.transition import Claim, Decision, Route, WriteResult
from retrycli.engine.ports import SYNC_INTERVAL
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from retrycli.store.results import Results
from tests.fakes import CUT_OFF, DELIVERED, DOWN, RULES, START, Stage, during


class Held(Claims):
    """A store that behaves as if the application had locked some messages, or the whole database."""

    def __init__(self, database: Database, *ids: int) -> None:
        super().__init__(database)
        self.results = HeldResults(self, database)
        self.ids = set(ids)
        self.found_held: list[set[int]] = []
        """The ids of the locked messages, for each call to `record`."""
        self.nothing_due = asyncio.Event()
        """Set once a pass has looked for due messages and found none."""
        self.busy: Callable[[str], bool] = lambda _: False
        """A function that returns True if a step (`begin`, `record`, `send` or `commit`) meets a lock."""

    def patience(self) -> timedelta:
        return timedelta(seconds=1)

    def claim(
        self, claim: Claim, due_by: datetime, limit: int, turns: FairShare | None = None, route: Route | None = None
    ) -> list[int]:
        found = super().claim(claim, due_by, limit, turns, route)
        if not found:
            self.nothing_due.set()
        return found

    @contextmanager
    def transaction(self, *, wait: bool = True) -> Iterator[Callable[[], bool]]:
        self.meet("begin")
        with self._database.transaction(wait=wait) as commit:
            yield lambda: not self.busy("commit") and commit()

    def meet(self, step: str) -> None:
        if self.busy(step):
            raise DatabaseBusy(f"held at {step}")


class HeldResults(Results):
    """A store of results that does not write the results of locked messages."""

    def __init__(self, claims: Held, database: Database) -> None:
        super().__init__(database)
        self._claims = claims

    def record(self, claim: Claim, settled: Sequence[Decision], now: datetime) -> WriteResult:
        self._claims.meet("record")
        free = [message for message in settled if message.message_id not in self._claims.ids]
        held = frozenset(message.message_id for message in settled) & self._claims.ids
        self._claims.found_held.append(set(held))
        assert len(self._claims.found_held) < 500, "the pass does not end"
        return super().record(claim, free, now)._replace(locked=held)

    def begin(
        self,
        *args: Any,  # noqa: ANN401
        **named: Any,  # noqa: ANN401
    ) -> list[QueuedMessage | UnusableMessage]:
        begun = super().begin(*args, **named)
        self._claims.meet("send")
        return begun


def hold(stage: Stage, *ids: int) -> Held:
    held = Held(stage.database, *ids)
    stage.claims = stage.transactions = held
    return held


def times(number: int, *steps: str) -> Callable[[str], bool]:
    """Return a function that reports a lock at these steps, the first ``number`` times."""
    left = number

    def meets(step: str) -> bool:
        nonlocal left
        left -= step in steps
        return step in steps and left >= 0

    return meets


def test_messages_locked_to_the_end_stop_no_others_and_are_left_to_a_later_pass(stage: Stage) -> None:
    """The locked rows are the first rows of the queue, where the pass begins."""
    stage.add(*range(1, 40))
    hold(stage, 1, 2, 3)
    summary = stage.run()
    assert (summary.result, summary.sent, stage.sent()) == ("completed", 36, [*range(4, 40)])
    assert sorted(stage.order) == [*range(1, 40)]
    assert max(stage.widths) == RULES.concurrency
    assert {event.message_id for event in stage.events.of(ResultKept)} == {1, 2, 3}
    assert stage.states() == dict.fromkeys((1, 2, 3), "sending")


def test_a_locked_message_is_retried_once_a_second(stage: Stage) -> None:
    stage.add(*range(1, 60))
    held = hold(stage, 2)
    tries = []

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 40:
            stage.clock.now += SYNC_INTERVAL
        if queued.message_id == 59:
            tries.append(sum(2 in ids for ids in held.found_held))
        return DELIVERED

    assert stage.run(answer).sent == 58
    assert tries == [2]


def test_nothing_more_is_sent_while_all_rows_are_locked(stage: Stage) -> None:
    """Outcomes could still be recorded in retrycli's own tables, but the application may change the rows meanwhile."""
    stage.add(*range(1, 100))
    hold(stage, *range(1, 100))
    with pytest.raises(DatabaseBusy, match="has locked message rows"):
        stage.run()
    assert RULES.concurrency <= len(stage.order) <= 3 * RULES.concurrency
    assert set(stage.states().values()) == {"waiting", "sending"}


def test_a_pass_continues_when_all_rows_are_unlocked(stage: Stage) -> None:
    stage.add(*range(1, 100))
    held = hold(stage, *range(1, 100))

    def let_go(step: str) -> bool:
        if len(held.found_held) > 20:
            held.ids.clear()
        return step == "never"

    held.busy = let_go
    assert stage.run().sent == 99
    assert not stage.events.of(ResultKept)


def test_a_ticket_continues_after_its_locked_message_is_recorded(stage: Stage) -> None:
    """While message 1 is locked, message 2 of its ticket is not due. The pass must look for due messages again."""
    stage.add(*range(1, 6))
    stage.sql("UPDATE pending_messages SET ticket_id = 7 WHERE id < 3")
    held = hold(stage, 1)

    async def lets_go() -> Outcome:
        await held.nothing_due.wait()
        held.ids.clear()
        return DELIVERED

    stage.run(lambda queued: lets_go() if queued.message_id == 5 else DELIVERED, RULES._replace(per_ticket_order=True))
    assert stage.order == [1, 3, 4, 5, 2]
    assert stage.sent() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("step", ["begin", "record", "send", "commit"])
@pytest.mark.parametrize(("number", "per_ticket_order"), [(2, True), (40, False)])
def test_a_transaction_that_meets_a_lock_is_repeated(
    stage: Stage, step: str, number: int, *, per_ticket_order: bool
) -> None:
    """Nothing is lost, sent twice, or counted twice, whatever the transaction had done before."""
    stage.add(*range(1, 40))
    stage.sql("UPDATE pending_messages SET ticket_id = id % 7")
    stage.add(40, body=None)
    held = hold(stage)
    held.busy = times(number, step)
    summary = stage.run({7: DOWN}, RULES._replace(per_ticket_order=per_ticket_order))
    skipped = {7, 14, 21, 28, 35} if per_ticket_order else {7}
    expected = sorted(set(range(1, 40)) - skipped)
    assert sorted(stage.order) == sorted({*expected, 7})
    assert stage.sent() == expected
    assert (summary.sent, summary.rescheduled, summary.escalated) == (len(expected), 1, 1)
    assert [stage.attempts(message_id) for message_id in expected] == [[("pass", "delivered")]] * len(expected)
    assert "sending" not in stage.states().values()


def test_a_withdrawal_of_the_reserve_that_meets_a_lock_is_repeated(stage: Stage) -> None:
    """The first transaction after message 40 would withdraw the attempts that are recorded ahead."""
    stage.add(*range(1, 101))
    held = hold(stage)

    def meet_a_lock() -> None:
        assert set(stage.open_attempts()) - set(stage.order)
        held.busy = times(1, "send")

    assert stage.run(during(stage, 40, meet_a_lock)).sent == 100
    assert sorted(stage.order) == [*range(1, 101)]
    assert [stage.attempts(message_id) for message_id in stage.order] == [[("pass", "delivered")]] * 100


@pytest.mark.parametrize("step", ["record", "commit"])
def test_findings_about_a_destination_are_saved_once_though_a_transaction_fails(stage: Stage, step: str) -> None:
    stage.add(*range(1, 20))
    hold(stage).busy = times(3, step)
    assert stage.run(DOWN).reason == "breaker_open"
    [opened] = stage.events.of(BreakerOpened)
    assert stage.ledger.breaker(RULES.destination).failures == opened.failures == 5


def test_answers_that_are_kept_during_a_lock_count_once(stage: Stage) -> None:
    """Three failures would open the breaker if each lock counted them again."""
    stage.add(1, 2, 3)
    hold(stage).busy = times(3, "record")
    assert stage.run(DOWN).reason is None
    assert stage.ledger.breaker(RULES.destination).failures == 3


def test_a_failed_transaction_loses_no_failure_to_another_hosts_breaker(stage: Stage) -> None:
    """The other host has saved four failures. This pass's failure is added to them and opens the breaker."""
    stage.add(1, 2, 3)
    held = hold(stage)

    def fails_once(step: str) -> bool:
        if step == "send" and stage.order:
            held.busy = saves
            return True
        return False

    def saves(step: str) -> bool:
        if step == "begin":
            stage.ledger.save_breaker(Breaker(RULES.destination, failures=4))
            held.busy = lambda _: False
        return False

    held.busy = fails_once
    assert stage.run(CUT_OFF, RULES._replace(concurrency=1)).reason == "breaker_open"
    assert stage.order == [1]
    assert [event.failures for event in stage.events.of(BreakerOpened)] == [5]
    assert stage.ledger.breaker(RULES.destination).failures == 5


def test_an_answer_is_on_disk_while_the_application_locks_its_table(stage: Stage) -> None:
    """The answer is recorded in retrycli's own tables, so a kill would not lose it."""
    stage.add(1)
    held = hold(stage)
    found = []

    def all_held(step: str) -> bool:
        if step == "begin":
            found.append(stage.attempts(1))
        if step == "record":
            stage.clock.now += held.patience()
        return step == "record"

    held.busy = all_held
    with pytest.raises(DatabaseBusy):
        stage.run(rules=RULES._replace(deadline=timedelta(seconds=5)))
    assert found[-1] == [("pass", "delivered")]
    stage.claims = Claims(stage.database)
    stage.clock.now += timedelta(hours=1)
    stage.run()
    assert (stage.sent(), stage.order) == ([1], [])


def test_a_signal_ends_a_pass_with_saved_answers_though_a_table_is_locked(stage: Stage) -> None:
    stage.add(1, 2)
    held = hold(stage)

    def answers(_: QueuedMessage) -> Outcome:
        held.busy = lambda step: step == "record"
        stage.stop_requested = True
        return DELIVERED

    began = stage.clock.now
    summary = stage.run(answers)
    assert (summary.result, summary.exit_status) == ("interrupted", 143)
    assert stage.clock.now - began < timedelta(seconds=5)
    assert stage.events.of(ResultKept) == [ResultKept(1)]
    assert stage.states() == {1: "sending", 2: "waiting"}


def test_a_signal_reports_no_answers_as_saved_if_the_database_is_gone(stage: Stage) -> None:
    """Until the claims expired, the application held all locks. Then the database is lost while the pass gives up."""
    stage.add(1)
    held = hold(stage)
    late: list[str] = []

    def locked_then_gone(step: str) -> bool:
        late.extend([step] if stage.clock.now >= START + RULES.lease else [])
        if len(late) > 2:
            raise DatabaseUnavailable("the server has gone away")
        return True

    def answers(_: QueuedMessage) -> Outcome:
        held.busy = locked_then_gone
        stage.stop_requested = True
        return DELIVERED

    with pytest.raises(DatabaseBusy):
        stage.run(answers)
    assert not stage.events.of(ResultKept)


def test_an_invalid_configuration_found_late_ends_the_pass_without_losing_answers(stage: Stage) -> None:
    """The pass waits for the requests in flight, and the message that raised the error loses no retry."""
    stage.add(*range(1, 10))

    async def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 3:
            raise ConfigurationError("gateway.base_url: invalid URL")
        for _ in range(50):
            await asyncio.sleep(0)
        return DELIVERED

    with pytest.raises(ConfigurationError, match="invalid URL"):
        stage.run(answer)
    others = [message_id for message_id in stage.order if message_id != 3]
    assert stage.sent() == sorted(others)
    assert stage.tries()[3] == 0
    assert stage.states()[3] == "waiting"
