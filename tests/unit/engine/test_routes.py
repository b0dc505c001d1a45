"""Several destinations in one pass: each message type has its route, and no route delays another."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import PassResult, StopReason
from retrycli.domain.transition import Route
from tests.fakes import DELIVERED, DOWN, LOST, RULES, START, TICK, UNAUTHORIZED, Answer, Stage

MAIL = Route("smtp://mail.example.com", only=frozenset({MessageType.SUPPLIER}))
REST = Route("https://tickets.example.com", but=frozenset({MessageType.SUPPLIER}))
RULES_OF_TWO = RULES._replace(routes=(MAIL, REST))


def at_mail(outcome: Outcome, otherwise: Outcome = DELIVERED) -> Answer:
    """Return a script with one outcome for messages to suppliers, and another for all other messages."""

    def answer(queued: QueuedMessage) -> Outcome:
        return outcome if queued.message.message_type is MessageType.SUPPLIER else otherwise

    return answer


def test_a_destination_that_is_down_delays_no_other(stage: Stage) -> None:
    stage.add(*range(1, 8), message_type="supplier")
    stage.add(*range(11, 18))
    summary = stage.run(at_mail(DOWN), RULES_OF_TWO)
    assert (summary.result, summary.reason) == (PassResult.STOPPED, StopReason.BREAKER_OPEN)
    assert summary.detail is not None
    assert summary.detail.startswith(MAIL.destination)
    assert stage.sent() == [*range(11, 18)]
    assert stage.ledger.breaker(MAIL.destination).state is BreakerState.OPEN
    assert stage.ledger.breaker(REST.destination) == Breaker(REST.destination)


def test_refused_credentials_are_reported_before_problems_of_other_routes(stage: Stage) -> None:
    stage.add(*range(1, 8), message_type="supplier")
    stage.add(11)
    summary = stage.run(at_mail(DOWN, UNAUTHORIZED), RULES_OF_TWO)
    assert summary.reason is StopReason.CREDENTIALS_REFUSED
    assert stage.tries()[11] == 0


def test_no_route_uses_up_the_limit_of_later_ones(stage: Stage) -> None:
    stage.add(*range(1, 21), message_type="supplier")
    stage.add(31)
    summary = stage.run(rules=RULES_OF_TWO._replace(limit=5))
    assert stage.sent() == [1, 2, 3, 31]
    assert (summary.result, summary.reason) == (PassResult.COMPLETED, StopReason.LIMIT)


THREE = RULES._replace(
    routes=(
        MAIL,
        Route("https://notes.example.com", only=frozenset({MessageType.INTERNAL})),
        Route(REST.destination, but=frozenset({MessageType.SUPPLIER, MessageType.INTERNAL})),
    )
)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_below_the_number_of_routes_rotates_among_them(limit: int, stage: Stage) -> None:
    for number, kind in enumerate(("supplier", "internal", "customer")):
        stage.add(*range(10 * number + 1, 10 * number + 7), message_type=kind)
    for _ in range(3):
        assert stage.run(rules=THREE._replace(limit=limit)).sent == limit
    assert Counter(message_id // 10 for message_id in stage.sent()) == {0: limit, 1: limit, 2: limit}


@pytest.mark.parametrize("answer", [UNAUTHORIZED, DOWN])
def test_a_route_that_delivers_nothing_does_not_use_up_the_limit(answer: Outcome, stage: Stage) -> None:
    """The route's messages are the oldest due ones, and would use up the limit of every pass."""
    stage.add(*range(1, 7), message_type="supplier")
    stage.add(11, 12)
    for _ in range(4):
        stage.run(at_mail(answer), RULES_OF_TWO._replace(limit=1))
        stage.clock.now += TICK
    assert stage.sent() == [11, 12]


def test_a_manual_retry_does_not_count_as_a_routes_turn(stage: Stage) -> None:
    stage.add(1, 2, 3, 4, message_type="supplier")
    stage.add(11, 12)
    for by_hand in (3, 4):
        stage.run(rules=RULES_OF_TWO._replace(limit=1))
        stage.retry(by_hand)
    assert stage.sent() == [1, 3, 4, 11]


def test_a_route_without_a_share_of_the_limit_is_not_probed(stage: Stage) -> None:
    down = Breaker(REST.destination, BreakerState.OPEN, 5, START - TICK, START)
    stage.ledger.save_breaker(down)
    stage.add(1, message_type="supplier")
    stage.add(2)
    assert stage.run(rules=RULES_OF_TWO._replace(limit=1)).sent == 1
    assert stage.ledger.breaker(REST.destination) == down


def test_a_destination_stays_down_while_it_has_no_due_messages(stage: Stage) -> None:
    """Deliveries elsewhere do not show that this destination is back. The incident must not end and begin again."""
    stage.add(*range(1, 6), message_type="supplier")
    assert stage.run(at_mail(DOWN), RULES_OF_TWO).reason is StopReason.BREAKER_OPEN
    stage.sql("UPDATE retrycli_queue SET next_attempt_at = '2025-03-03 20:00:00.000000'")
    stage.clock.now += TICK
    idle = stage.run(rules=RULES_OF_TWO)
    stage.add(11)
    busy = stage.run(rules=RULES_OF_TWO)
    assert (idle.result, idle.reason) == (PassResult.COMPLETED, None)
    assert (busy.result, busy.reason, busy.sent) == (PassResult.COMPLETED, StopReason.BREAKER_OPEN, 1)
    assert busy.detail == f"{MAIL.destination}, next probe at 2025-03-03T12:15:00Z"
    assert busy.exit_status == 69


def test_no_route_uses_up_the_time_of_later_ones(stage: Stage) -> None:
    stage.add(*range(1, 21), message_type="supplier")
    stage.add(31)
    rules = RULES_OF_TWO._replace(concurrency=1, deadline=timedelta(minutes=10))
    summary = stage.run(rules=rules, takes=timedelta(minutes=1))
    assert summary.reason is StopReason.DEADLINE
    assert 31 in stage.sent()
    assert len(stage.sent()) == 6


@pytest.mark.parametrize("message_type", ["supplier", "customer"])
def test_an_idle_route_uses_no_time_of_others(message_type: str, stage: Stage) -> None:
    stage.add(*range(1, 21), message_type=message_type)
    rules = RULES_OF_TWO._replace(concurrency=1, deadline=timedelta(minutes=10))
    stage.run(rules=rules, takes=timedelta(minutes=1))
    assert len(stage.sent()) == 10


@pytest.mark.parametrize("reason", [StopReason.SIGNAL, StopReason.PAUSED])
def test_whatever_ends_a_pass_ends_all_its_routes(reason: StopReason, stage: Stage) -> None:
    stage.add(1, message_type="supplier")
    stage.add(2)

    def answer(queued: QueuedMessage) -> Outcome:
        del queued
        stage.stop_requested = reason is StopReason.SIGNAL
        if reason is StopReason.PAUSED:
            stage.sql("INSERT INTO retrycli_pause (since, by) VALUES (?, 'anna')", "2025-03-03 12:00:00")
            stage.clock.now += timedelta(seconds=2)
        return DELIVERED

    stage.add(3, message_type="supplier")
    summary = stage.run(answer, RULES_OF_TWO._replace(concurrency=1))
    assert summary.reason is reason
    assert 2 not in stage.sent()


def test_a_message_whose_type_became_unknown_is_escalated(stage: Stage) -> None:
    stage.add(1, 2, 3, due=START)
    stage.sql("UPDATE pending_messages SET message_type = 'partner' WHERE id = 2")
    stage.sql("UPDATE pending_messages SET message_type = NULL WHERE id = 3")
    stage.run(rules=RULES_OF_TWO)
    assert stage.sent() == [1]
    assert stage.states() == {2: "escalated", 3: "escalated"}


def test_a_tickets_order_is_kept_across_routes(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.add(2, message_type="supplier", due=START)
    stage.sql("UPDATE pending_messages SET ticket_id = 7")
    stage.sql("UPDATE retrycli_queue SET ticket = '7'")
    per_ticket_order = RULES_OF_TWO._replace(per_ticket_order=True)
    stage.run(rules=per_ticket_order)
    assert stage.sent() == [1]
    stage.run(rules=per_ticket_order)
    assert stage.sent() == [1, 2]


def test_an_unknown_outcome_with_a_look_up_is_never_escalated_as_one(stage: Stage) -> None:
    """With a look-up, the next attempt finds out whether the message arrived, so no operator is needed."""
    stage.looks_up = True
    stage.add(1)
    for _ in range(5):
        stage.run(LOST)
        stage.clock.now += timedelta(hours=5)
    assert stage.states() == {1: "waiting"}
    assert stage.tries() == {1: 5}
    stage.looks_up = False
    stage.run(LOST)
    reason, _, _ = stage.escalation(1)
    assert reason == "unknown"
