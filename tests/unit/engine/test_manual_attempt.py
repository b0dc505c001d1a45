"""One attempt at an operator's request: what it changes, and what it keeps."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.errors import ConfigurationError, InvalidMessage, NoSuchMessage, NotActionable
from retrycli.domain.message import EscalationReason, MessageType, QueuedMessage
from retrycli.domain.outcome import CLAIM_EXPIRED_BEFORE_SEND, Outcome, OutcomeKind
from retrycli.domain.passes import (
    BreakerClosed,
    HoldKind,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    MessageReleased,
    Pause,
)
from retrycli.domain.transition import Claim
from retrycli.store.schema import queue
from tests.fakes import (
    CUT_OFF,
    DELIVERED,
    DOWN,
    FORBIDDEN,
    LOST,
    NOT_FOUND,
    REFUSED,
    RULES,
    START,
    THROTTLED,
    UNAUTHORIZED,
    UNREAD,
    Stage,
    attempt_by_hand,
)

LATER = START + timedelta(hours=3)
NOT_DELIVERED = [CUT_OFF, DOWN, FORBIDDEN, NOT_FOUND, REFUSED, THROTTLED, UNAUTHORIZED]


def escalate(stage: Stage, message_id: int = 1) -> None:
    """Escalate a message, as a pass does after its last retry."""
    stage.add(message_id, retry_count=9, last_error="HTTP 500")
    stage.run(DOWN)
    stage.events.all.clear()
    assert stage.states() == {message_id: "escalated"}


def everything(stage: Stage) -> list[tuple[Any, ...]]:
    """Return all rows of both tables, without the columns that are set when a text is read."""
    known = ", ".join(column.name for column in queue.c if column.name not in {"delivery_key", "digest"})
    return [*stage.sql("SELECT * FROM pending_messages"), *stage.sql(f"SELECT {known} FROM retrycli_queue")]


def test_a_message_is_sent_before_it_is_due(stage: Stage) -> None:
    stage.add(1, due=LATER, retry_count=4, last_error="HTTP 503")
    assert stage.retry(1, DELIVERED) == DELIVERED
    assert stage.sql("SELECT status, retry_count, last_error, sent_at FROM pending_messages") == [
        ("sent", 4, None, "2025-03-03 12:00:01.000000")
    ]
    assert stage.states() == {}
    assert stage.events.all == [MessageDelivered(1, 1001, MessageType.CUSTOMER, 4)]


def test_a_message_is_not_sent_after_its_claim_has_expired(stage: Stage) -> None:
    """The process was suspended after it had recorded the attempt."""
    stage.add(1, due=LATER)
    times = [START]
    deps = stage.dependencies(DELIVERED)._replace(now=lambda: times.pop() if times else LATER)
    outcome = asyncio.run(attempt_by_hand(deps, RULES, 1, by="anna"))
    assert outcome == CLAIM_EXPIRED_BEFORE_SEND
    assert (stage.order, stage.sent()) == ([], [])


def test_the_attempt_is_committed_before_its_request_is_sent(stage: Stage) -> None:
    def look(_: QueuedMessage) -> Outcome:
        assert stage.attempts(1) == [("anna", None)]
        assert stage.states() == {1: "sending"}
        return DELIVERED

    stage.add(1, due=LATER)
    assert stage.retry(1, look) == DELIVERED


def test_neither_a_pause_nor_a_hold_nor_an_open_breaker_stops_a_manual_attempt(stage: Stage) -> None:
    stage.ledger.set_pause(Pause(START, until=None, by="anna", reason=None))
    stage.hold(HoldKind.MESSAGE, "1")
    opened = Breaker(RULES.destination, BreakerState.OPEN, 5, START, LATER)
    stage.ledger.save_breaker(opened)
    stage.add(1, due=LATER)
    assert stage.retry(1, DOWN) == DOWN
    assert stage.ledger.breaker(RULES.destination) == opened
    assert stage.retry(1, DELIVERED) == DELIVERED


def test_a_manual_delivery_closes_the_breaker(stage: Stage) -> None:
    stage.ledger.save_breaker(Breaker(RULES.destination, BreakerState.OPEN, 5, START, LATER))
    stage.add(1, 2, due=START)
    stage.retry(1, DELIVERED)
    assert stage.ledger.breakers() == []
    assert stage.events.of(BreakerClosed) == [BreakerClosed(RULES.destination)]
    assert stage.run().sent == 1


def test_a_manual_delivery_ends_a_streak_of_failures_and_no_rest(stage: Stage) -> None:
    resting = Breaker(RULES.destination).rest(LATER, since=START)
    stage.add(1, 2, due=START)
    stage.ledger.save_breaker(Breaker(RULES.destination, failures=4))
    stage.retry(1, DELIVERED)
    assert stage.ledger.breakers() == []
    stage.ledger.save_breaker(resting)
    stage.retry(2, DELIVERED)
    assert stage.ledger.breakers() == [resting._replace(opened_at=None)]  # it accepted a message
    assert stage.events.of(BreakerClosed) == []


def test_an_answer_that_the_preset_cannot_judge_stops_passes(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    stage.retry(1, UNREAD)
    assert stage.run().reason == "unread_answer"
    assert stage.order == []


def test_the_longest_rest_counts_but_no_outage_becomes_a_rest(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    opened = Breaker(RULES.destination, BreakerState.OPEN, 5, START, LATER)
    stage.ledger.save_breaker(opened)
    stage.retry(1, THROTTLED._replace(retry_after=timedelta(hours=5)))
    assert stage.ledger.breakers() == [opened]
    stage.ledger.save_breaker(Breaker(RULES.destination))
    for wait in (timedelta(hours=1), timedelta(seconds=1)):
        stage.retry(1, THROTTLED._replace(retry_after=wait))
    [resting] = stage.ledger.breakers()
    assert (resting.state, resting.probe_at) == (BreakerState.RESTING, START + timedelta(hours=1, seconds=2))
    assert stage.run().reason == "throttled"


@pytest.mark.parametrize("escalated", [False, True])
def test_a_message_that_is_not_delivered_is_left_as_it_was(stage: Stage, *, escalated: bool) -> None:
    """Unknown outcomes are counted, but escalate nothing."""

    def refuse(_queued: QueuedMessage) -> Outcome:
        raise ConfigurationError("gateway.base_url: invalid URL")

    if escalated:
        escalate(stage)
    else:
        stage.add(1, due=LATER, retry_count=9, last_error="HTTP 500")
    before = everything(stage)
    for outcome in NOT_DELIVERED:
        stage.events.all.clear()
        assert stage.retry(1, outcome) == outcome
        assert everything(stage) == before
        released = MessageReleased(1, 1001, MessageType.CUSTOMER, 9, outcome.kind, outcome.status_code)
        assert escalated or stage.events.all == [released]
    with pytest.raises(ConfigurationError, match="invalid URL"):
        stage.retry(1, refuse)
    assert everything(stage) == before
    assert stage.attempts(1)[-1] == ("anna", "unreachable"), "it was not sent, so its outcome is not unknown"
    for count in range(1, 12):
        assert stage.retry(1, LOST) == LOST
        assert stage.sql("SELECT unknown_count FROM retrycli_queue") == [(count,)]
    stage.sql("UPDATE retrycli_queue SET unknown_count = 0")
    assert everything(stage) == before


def test_an_attempt_under_the_next_delivery_key_keeps_the_count_of_the_escalated_key(stage: Stage) -> None:
    """The message was escalated because it moved while its text was delivered, so the attempt has the next key."""

    def move(_: QueuedMessage) -> Outcome:
        stage.sql("UPDATE pending_messages SET ticket_id = 2002")
        return DELIVERED

    stage.add(1, due=START, created_at="2025-03-03 11:00:00")
    stage.run(LOST)
    stage.clock.now = LATER
    stage.run(move)
    assert stage.escalation(1)[0] == "changed"
    counted = stage.sql("SELECT delivery_key, unknown_count FROM retrycli_queue")
    assert [count for _, count in counted] == [1]
    stage.retry(1, REFUSED)
    assert stage.sql("SELECT delivery_key, unknown_count FROM retrycli_queue") == counted
    keys = [key for [key] in stage.sql("SELECT delivery_key FROM retrycli_attempts ORDER BY number")]
    assert keys[0] == keys[1] != keys[2]


def test_other_messages_are_left_to_the_next_pass(stage: Stage) -> None:
    stage.add(2, due=LATER)
    stage.add(1, 3)
    stage.retry(2, DELIVERED)
    assert stage.sent() == [2]
    assert stage.states() == {}


def test_a_new_message_that_is_not_delivered_waits_its_first_wait(stage: Stage) -> None:
    stage.add(1, created_at="2025-03-03 11:59:00")
    stage.retry(1, DOWN)
    assert stage.states() == {1: "waiting"}
    assert stage.next_attempt_at(1) == START + timedelta(minutes=14)


def test_a_message_escalated_on_enrolment_is_reported(stage: Stage) -> None:
    """Passes do not report messages that are already escalated, so the manual attempt must report this escalation."""
    stage.add(1, retry_count=10, last_error="HTTP 500")
    stage.retry(1, DOWN)
    assert stage.states() == {1: "escalated"}
    assert [event._replace(fingerprint="") for event in stage.events.of(MessageEscalated)] == [
        MessageEscalated(1, 1001, MessageType.CUSTOMER, 10, EscalationReason.EXHAUSTED)
    ]


@pytest.mark.parametrize("due", [None, LATER], ids=["new", "waiting"])
def test_an_invalid_row_is_named_and_escalated_once_for_all_attempts(stage: Stage, due: datetime | None) -> None:
    stage.add(1, due=due)
    stage.sql("UPDATE pending_messages SET body = NULL")
    with pytest.raises(InvalidMessage, match="message 1 can't be sent: body is missing"):
        stage.retry(1)
    assert (stage.order, stage.attempts(1), stage.escalation(1)[0]) == ([], [], "invalid")
    before = everything(stage)
    stage.clock.now += timedelta(days=1)
    with pytest.raises(InvalidMessage, match="body is missing"):
        stage.retry(1)
    assert everything(stage) == before
    assert [event.problem for event in stage.events.of(MessageEscalated)] == ["body is missing"]


def test_a_fixed_row_can_be_sent(stage: Stage) -> None:
    stage.add(1, message_type="fax")
    stage.run()
    stage.sql("UPDATE pending_messages SET message_type = 'internal'")
    assert stage.retry(1, DELIVERED) == DELIVERED
    assert stage.sent() == [1]


def test_a_missing_id_is_refused(stage: Stage) -> None:
    stage.add(1)
    with pytest.raises(NoSuchMessage, match="no message 2; `retrycli list-failed` lists"):
        stage.retry(2)


def test_a_message_that_is_not_failed_is_refused(stage: Stage) -> None:
    stage.add(1, status="approved")
    before = everything(stage)
    with pytest.raises(NotActionable, match="message 1 is approved, not failed: there is nothing to retry"):
        stage.retry(1)
    assert stage.order == []
    assert everything(stage) == before


def test_a_message_that_is_being_sent_is_refused(stage: Stage) -> None:
    stage.add(1, due=START)
    assert stage.claims.claim(Claim("pass-7", LATER), START, limit=10) == [1]
    before = everything(stage)
    with pytest.raises(NotActionable, match=r"message 1 is being sent now \(claimed by pass-7\)"):
        stage.retry(1)
    assert stage.order == []
    assert everything(stage) == before


def test_a_pass_leaves_a_message_with_a_manual_attempt_alone(stage: Stage) -> None:
    def pass_meanwhile(_: QueuedMessage) -> Outcome:
        assert stage.claims.claim(Claim("pass-7", LATER), LATER, limit=10) == []
        return DELIVERED

    stage.add(1)
    assert stage.retry(1, pass_meanwhile) == DELIVERED
    assert (stage.sent(), stage.states()) == ([1], {})


def test_a_message_withdrawn_during_the_attempt_stays_withdrawn(stage: Stage) -> None:
    def reject(_: QueuedMessage) -> Outcome:
        stage.sql("UPDATE pending_messages SET status = 'rejected'")
        return DELIVERED

    stage.add(1, due=LATER)
    assert stage.retry(1, reject) == DELIVERED
    assert stage.events.all == [MessageMovedOn(1, OutcomeKind.DELIVERED)]
    assert stage.sql("SELECT status, sent_at FROM pending_messages") == [("rejected", None)]
    assert stage.attempts(1) == [("anna", "delivered")]
