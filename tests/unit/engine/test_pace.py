"""Attempts that are recorded ahead: a request need not wait for the commit of its own attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import Connection, event

from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import HoldKind, PassResult, Pause
from retrycli.engine.ports import SYNC_INTERVAL
from tests.fakes import DELIVERED, DOWN, REFUSED, RULES, START, UNAUTHORIZED, Stage, during

WIDE = RULES.concurrency


def has_reserve(stage: Stage) -> bool:
    return bool(set(stage.open_attempts()) - set(stage.order))


def count_commits(stage: Stage) -> list[Connection]:
    committed: list[Connection] = []
    event.listen(stage.database._engine, "commit", committed.append)
    return committed


def reserves(stage: Stage, seen: list[int]) -> Callable[[QueuedMessage], Outcome]:
    """Return a script that notes how many attempts are recorded but not sent yet."""

    def note(_: QueuedMessage) -> Outcome:
        seen.append(len(set(stage.open_attempts()) - set(stage.order)))
        return DELIVERED

    return note


def test_requests_follow_answers_without_a_commit_in_between(stage: Stage) -> None:
    stage.add(*range(1, 101))
    committed = count_commits(stage)
    at: list[int] = []

    def note(_: QueuedMessage) -> Outcome:
        at.append(len(committed))
        return DELIVERED

    assert stage.run(note).sent == 100
    assert max(at.count(number) for number in set(at)) > WIDE
    assert max(stage.widths) == WIDE


def test_every_attempt_is_committed_before_its_request(stage: Stage) -> None:
    def look(queued: QueuedMessage) -> Outcome:
        assert queued.message_id in stage.open_attempts()
        return DELIVERED

    stage.add(*range(1, 101))
    assert stage.run(look).sent == 100


@pytest.mark.parametrize(("at_once", "most"), [(8, 45), (32, 40)])
def test_answers_are_recorded_together(stage: Stage, at_once: int, most: int) -> None:
    """Recording a dozen answers in one transaction takes little longer than recording a single answer."""
    stage.add(*range(1, 101))
    committed = count_commits(stage)

    async def answer_in_turn(queued: QueuedMessage) -> Outcome:
        for _ in range(queued.message_id % 24):
            await asyncio.sleep(0)
        return DELIVERED

    assert stage.run(answer_in_turn, RULES._replace(concurrency=at_once)).sent == 100
    assert len(committed) < most


def test_the_last_answers_are_recorded_together(stage: Stage) -> None:
    """Nothing is left to send, so no request waits for the transaction."""
    stage.add(*range(1, 62))
    committed = count_commits(stage)

    async def answer_in_turn(queued: QueuedMessage) -> Outcome:
        for _ in range(queued.message_id):
            await asyncio.sleep(0)
        return DELIVERED

    assert stage.run(answer_in_turn, RULES._replace(concurrency=64)).sent == 61
    assert len(committed) < 40


@pytest.mark.parametrize("at_once", [2, 8, 100])
def test_a_reserve_holds_no_more_than_may_be_in_flight(stage: Stage, at_once: int) -> None:
    """A process that dies leaves the outcomes of its reserve unknown, although it has not sent these attempts."""
    stage.add(*range(1, 501))
    seen: list[int] = []
    stage.run(reserves(stage, seen), RULES._replace(concurrency=at_once))
    assert max(seen) == at_once


def test_there_is_no_reserve_for_one_request_at_a_time(stage: Stage) -> None:
    stage.add(*range(1, 10))
    seen: list[int] = []
    stage.run(reserves(stage, seen), RULES._replace(concurrency=1))
    assert set(seen) == {0}


def test_there_is_no_reserve_if_an_unknown_outcome_escalates(stage: Stage) -> None:
    stage.add(*range(1, 30))
    seen: list[int] = []
    policies = {kind: policy._replace(unknown_limit=0) for kind, policy in RULES.policies.items()}
    stage.run(reserves(stage, seen), RULES._replace(policies=policies))
    assert set(seen) == {0}


def test_there_is_no_reserve_for_a_slow_destination(stage: Stage) -> None:
    """A message would be sent long after its row was read."""
    stage.add(*range(1, 40))
    seen: list[int] = []
    stage.run(reserves(stage, seen), takes=timedelta(seconds=1))
    assert set(seen) == {0}


def test_there_is_no_reserve_while_the_destination_recovers(stage: Stage) -> None:
    stage.ledger.save_breaker(Breaker(RULES.destination, failures=1))
    stage.add(*range(1, WIDE))
    seen: list[int] = []
    stage.run(reserves(stage, seen))
    assert set(seen) == {0}


def test_an_outage_costs_no_more_messages_a_retry_than_requests_are_in_flight(stage: Stage) -> None:
    stage.add(*range(1, 201))
    summary = stage.run(lambda _: DELIVERED if len(stage.order) <= 50 else DOWN)
    assert summary.detail is not None
    assert summary.rescheduled <= WIDE
    assert len(stage.order) - summary.sent <= WIDE
    assert stage.open_attempts() == []
    assert set(stage.states().values()) == {"waiting"}


def test_a_refusal_is_recorded_before_anything_more_is_sent(stage: Stage) -> None:
    """After one refusal of many deliveries, the messages recorded ahead are sent all the same."""
    stage.add(*range(1, 101))
    refused_at: list[int] = []

    def answer(queued: QueuedMessage) -> Outcome:
        if refused_at and len(stage.order) > refused_at[0] + WIDE:
            assert stage.attempts(30) == [("pass", "refused")]
        if queued.message_id == 30:
            refused_at.append(len(stage.order))
            return REFUSED
        return DELIVERED

    assert stage.run(answer).sent == 99


def test_after_refused_credentials_the_reserve_is_withdrawn(stage: Stage) -> None:
    stage.add(*range(1, 101))
    summary = stage.run(lambda queued: UNAUTHORIZED if queued.message_id == 30 else DELIVERED)
    assert (summary.result, stage.open_attempts()) == (PassResult.STOPPED, [])
    assert len(stage.order) < 30 + 2 * WIDE
    left = set(range(1, 101)) - set(stage.order)
    assert {message_id: stage.attempts(message_id) for message_id in left} == {message_id: [] for message_id in left}
    assert set(stage.states().values()) == {"waiting"}


def test_a_change_of_a_message_recorded_ahead_is_noticed(stage: Stage) -> None:
    stage.add(*range(1, 101))
    texts: dict[int, str] = {}

    def edit() -> None:
        assert has_reserve(stage)
        stage.clock.now += SYNC_INTERVAL
        stage.sql("UPDATE pending_messages SET body = 'Is it cold?' WHERE id > 50")
        stage.sql("UPDATE pending_messages SET status = 'rejected' WHERE id = 60")

    def answer(queued: QueuedMessage) -> Outcome:
        texts[queued.message_id] = str(queued.message.fields["body"])
        if queued.message_id == 40:
            edit()
        return DELIVERED

    stage.run(answer)
    assert {texts[message_id] for message_id in texts if message_id > 50} == {"Is it cold?"}
    assert set(texts) == set(range(1, 101)) - {60}


def test_a_message_recorded_ahead_can_be_held(stage: Stage) -> None:
    stage.add(*range(1, 101), due=START)

    def hold() -> None:
        assert has_reserve(stage)
        stage.hold(HoldKind.TYPE, "customer")

    summary = stage.run(during(stage, 40, hold))
    assert summary.sent == len(stage.order) < 40 + 2 * WIDE
    assert stage.open_attempts() == []
    assert set(stage.states().values()) == {"waiting"}


def test_a_pause_withdraws_the_reserve(stage: Stage) -> None:
    stage.add(*range(1, 101))

    def pause() -> None:
        assert has_reserve(stage)
        stage.ledger.set_pause(Pause(START, until=None, by="anna", reason=None))

    summary = stage.run(during(stage, 40, pause))
    assert (summary.result, summary.sent) == (PassResult.PAUSED, len(stage.order))
    assert len(stage.order) < 40 + 2 * WIDE
    assert stage.open_attempts() == []
    assert set(stage.states().values()) == {"waiting"}


def test_the_limit_is_reached_exactly(stage: Stage) -> None:
    stage.add(*range(1, 101))

    def require_reserve() -> None:
        assert has_reserve(stage)

    summary = stage.run(during(stage, 40, require_reserve), RULES._replace(limit=60))
    assert (summary.sent, len(stage.order)) == (60, 60)


def test_an_attempt_that_was_withdrawn_at_the_limit_is_recorded_again(stage: Stage) -> None:
    """All 30 attempts are recorded when the reserve is withdrawn."""
    stage.add(*range(1, 101))

    def require_all() -> None:
        assert len(stage.sql("SELECT 1 FROM retrycli_attempts")) == 30
        assert has_reserve(stage)

    summary = stage.run(during(stage, 20, require_all), RULES._replace(limit=30))
    assert (summary.sent, summary.reason) == (30, "limit")


@pytest.mark.parametrize("why", ["signal", "deadline"])
def test_nothing_of_the_reserve_is_sent_after_a_stop(stage: Stage, why: str) -> None:
    stage.add(*range(1, 101))
    begun: list[int] = []

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 40:
            assert has_reserve(stage)
            begun.append(len(stage.order))
            if why == "signal":
                stage.stop_requested = True
            else:
                stage.clock.now = START + RULES.deadline
        return DELIVERED

    summary = stage.run(answer)
    assert summary.reason == why
    assert summary.sent == len(stage.order) < begun[0] + WIDE
    assert stage.open_attempts() == []
    assert set(stage.states().values()) == {"waiting"}


class Broken(Exception):
    pass


def test_after_an_internal_error_only_requests_in_flight_are_unknown(stage: Stage) -> None:
    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 40:
            raise Broken
        return DELIVERED

    stage.add(*range(1, 101))
    with pytest.raises(Broken):
        stage.run(answer)
    just_started = set(stage.open_attempts()) - set(stage.order)
    assert len(just_started) < WIDE
    assert list(stage.states().values()).count("sending") == len(stage.open_attempts())


def test_an_attempt_is_sent_although_the_next_turn_comes_after_the_deadline(stage: Stage) -> None:
    stage.add(1, 2, 3)
    rules = RULES._replace(rate_per_second=1.5 / RULES.deadline.total_seconds())
    assert stage.run(rules=rules).sent == 2


def test_the_duration_of_an_attempt_begins_when_it_is_sent(stage: Stage) -> None:
    """The clock advances by 10 ms with each answer, so the others in flight prolong each attempt."""
    stage.add(*range(1, 101))
    stage.run(takes=timedelta(milliseconds=10))
    [[longest]] = stage.sql("SELECT max(duration_ms) FROM retrycli_attempts")
    assert longest <= 10 * (2 * WIDE)
