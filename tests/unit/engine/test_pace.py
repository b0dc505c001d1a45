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
from retrycli.engine.ports import SYNC_INTERVAL, PassRules
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

    def note(queued: QueuedMessage) -> Outcome:
        assert queued.message_id in stage.open_attempts()
        at.append(len(committed))
        return DELIVERED

    assert stage.run(note).sent == 100
    assert max(at.count(number) for number in set(at)) > WIDE
    assert max(stage.widths) == WIDE


def test_answers_are_recorded_together(stage: Stage) -> None:
    """Recording a dozen answers in one transaction takes little longer than recording a single answer."""
    stage.add(*range(1, 101))
    committed = count_commits(stage)

    async def answer_in_turn(queued: QueuedMessage) -> Outcome:
        for _ in range(queued.message_id % 24):
            await asyncio.sleep(0)
        return DELIVERED

    assert stage.run(answer_in_turn).sent == 100
    assert len(committed) < 45


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


@pytest.mark.parametrize(("at_once", "most"), [(1, 0), (2, 2), (100, 100)])
def test_a_reserve_holds_no_more_than_may_be_in_flight(stage: Stage, at_once: int, most: int) -> None:
    """A process that dies leaves the outcomes of its reserve unknown, although it has not sent these attempts."""
    stage.add(*range(1, 301))
    seen: list[int] = []
    stage.run(reserves(stage, seen), RULES._replace(concurrency=at_once))
    assert max(seen) == most


UNKNOWN_ESCALATES = {kind: policy._replace(unknown_limit=0) for kind, policy in RULES.policies.items()}


@pytest.mark.parametrize(
    ("messages", "rules", "seconds", "failures"),
    [
        (30, RULES._replace(policies=UNKNOWN_ESCALATES), 0, 0),
        (40, RULES, 1, 0),  # a message would be sent long after its row was read
        (WIDE - 1, RULES, 0, 1),
    ],
    ids=["an unknown outcome escalates", "the destination is slow", "it recovers"],
)
def test_there_is_no_reserve_if_it_could_do_harm(
    stage: Stage, messages: int, rules: PassRules, seconds: int, failures: int
) -> None:
    stage.ledger.save_breaker(Breaker(RULES.destination, failures=failures))
    stage.add(*range(1, messages + 1))
    seen: list[int] = []
    stage.run(reserves(stage, seen), rules, takes=timedelta(seconds=seconds))
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


def test_an_attempt_that_was_withdrawn_at_the_limit_is_recorded_again(stage: Stage) -> None:
    """All 30 attempts are recorded when the reserve is withdrawn."""
    stage.add(*range(1, 101))

    def require_all() -> None:
        assert len(stage.sql("SELECT 1 FROM retrycli_attempts")) == 30
        assert has_reserve(stage)

    summary = stage.run(during(stage, 20, require_all), RULES._replace(limit=30))
    assert (summary.sent, summary.reason) == (30, "limit")


@pytest.mark.parametrize("why", [None, "paused", "signal", "deadline"])
def test_a_hold_a_pause_or_a_stop_withdraws_the_reserve(stage: Stage, why: str | None) -> None:
    stage.add(*range(1, 101), due=START)
    begun: list[int] = []

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 40:
            assert has_reserve(stage)
            begun.append(len(stage.order))
            stage.clock.now += RULES.deadline if why == "deadline" else SYNC_INTERVAL
            stage.stop_requested = why == "signal"
            if why == "paused":
                stage.ledger.set_pause(Pause(START, until=None, by="anna", reason=None))
            if why is None:
                stage.hold(HoldKind.TYPE, "customer")
        return DELIVERED

    summary = stage.run(answer)
    assert summary.reason == why
    assert summary.sent == len(stage.order) < begun[0] + WIDE
    assert stage.open_attempts() == []
    assert set(stage.states().values()) == {"waiting"}


def test_an_attempt_is_sent_although_the_next_turn_comes_after_the_deadline(stage: Stage) -> None:
    stage.add(1, 2, 3)
    rules = RULES._replace(rate_per_second=1.5 / 60, deadline=timedelta(seconds=60))
    assert stage.run(rules=rules).sent == 2


def test_the_duration_of_an_attempt_begins_when_it_is_sent(stage: Stage) -> None:
    """The clock advances by 10 ms with each answer, so the others in flight prolong each attempt."""
    stage.add(*range(1, 101))
    stage.run(takes=timedelta(milliseconds=10))
    [[longest]] = stage.sql("SELECT max(duration_ms) FROM retrycli_attempts")
    assert longest <= 10 * (2 * WIDE)
