"""The recipients that already have a message, its id at the destination, and when it may first have been delivered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from retrycli.domain.message import EscalationReason, QueuedMessage
from retrycli.domain.outcome import PROCESS_DIED, Outcome, OutcomeKind
from retrycli.domain.transition import Claim, Decision, Transition
from retrycli.store.claims import Claims
from retrycli.store.database import Database
from tests.store.application import HOUR, MINUTE, NOON, Application
from tests.store.own_tables import PASS, attempt_rows, begin, enrol, queue_rows

DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
BROKEN = Outcome(OutcomeKind.TRANSIENT, 500, "HTTP 500")
BUSY = Outcome(OutcomeKind.TRANSIENT, 450, "450 for one", delivered_to=("cy@x.test", "ana@x.test"))
GONE = Outcome(OutcomeKind.PERMANENT, 550, "550 for one", delivered_to=("bo@x.test",))
LOST = Outcome(OutcomeKind.UNKNOWN, error="no answer")
HAND = Claim("a-hand", NOON + HOUR)


def attempt(claims: Claims, *settled: Decision, claim: Claim = PASS, at: datetime = NOON) -> None:
    """Attempt some messages, and record the given results."""
    ids = [message.message_id for message in settled]
    begun = {message.message_id: message for message in claimed(claims, ids, claim, at=at)}
    known = [message._replace(message=begun.get(message.message_id)) for message in settled]
    claims.results.record(claim, known, at)


def claimed(claims: Claims, ids: Sequence[int], claim: Claim = PASS, *, at: datetime = NOON) -> list[QueuedMessage]:
    """Claim messages and begin attempts at them."""
    claims.claim(claim, at, 10)
    return [message for message in begin(claims, ids, claim, at=at) if isinstance(message, QueuedMessage)]


def again(message_id: int, outcome: Outcome, *, finished_at: datetime | None = None) -> Decision:
    return Decision(message_id, Transition.released(), outcome, finished_at=finished_at)


def test_reached_recipients_accumulate_per_message(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}, {}, {}])
    enrol(database, [1, 2, 3])
    attempt(claims, again(1, BUSY), again(2, LOST), again(3, GONE))
    attempt(claims, again(1, GONE), again(2, LOST), again(3, GONE._replace(external_id="№ 7")))
    assert [row["external_id"] for row in attempt_rows(database, 3)] == [None, "№ 7"]
    one, two, three = claimed(claims, [1, 2, 3])
    assert one.delivered_to == {"ana@x.test", "bo@x.test", "cy@x.test"}
    assert two.delivered_to == frozenset()
    assert three.delivered_to == {"bo@x.test"}
    assert queue_rows(database)[1]["delivered_to"] == '["ana@x.test", "bo@x.test", "cy@x.test"]'
    claims.results.record(HAND, [again(2, BUSY)._replace(message=two)], NOON)
    assert queue_rows(database)[2]["delivered_to"] is None, "a lost claim adds no recipients"


def test_the_recipients_of_an_escalated_message_are_known_to_a_manual_attempt(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add()
    enrol(database, [1])
    escalated = Transition.escalated(EscalationReason.PERMANENT, last_error="550 for one")
    attempt(claims, Decision(1, escalated, GONE))
    claims.claim_one(HAND, 1, NOON)
    [queued] = claimed(claims, [1], HAND)
    assert queued.delivered_to == {"bo@x.test"}
    claims.results.record(HAND, [again(1, BUSY)._replace(message=queued)], NOON)
    assert queue_rows(database)[1]["delivered_to"] == '["ana@x.test", "bo@x.test", "cy@x.test"]'


@pytest.mark.parametrize("unknown_count", [0, 2])
def test_a_manual_attempt_with_another_text_keeps_the_known_recipients(
    application: Application, database: Database, claims: Claims, unknown_count: int
) -> None:
    """The recipients belong to the old text. It may return, so an attempt with another text must not change them."""
    application.add(body="a")
    enrol(database, [1])
    escalated = Transition.escalated(EscalationReason.UNKNOWN, last_error="May have arrived")
    unknown = Outcome(OutcomeKind.UNKNOWN, error="no answer", delivered_to=("bo@x.test",))
    attempt(claims, Decision(1, escalated._replace(unknown_count=2), unknown))
    before = queue_rows(database)
    application.change(1, body="b")
    claims.claim_one(HAND, 1, NOON)
    [queued] = claimed(claims, [1], HAND)
    assert queued.unknown_count == 0
    assert queued.delivered_to == frozenset()
    released = Transition.released(unknown_count=unknown_count)
    claims.results.record(HAND, [Decision(1, released, BUSY, message=queued)], NOON)
    assert queue_rows(database) == before
    application.change(1, body="a")
    claims.claim_one(HAND, 1, NOON)
    [queued] = claimed(claims, [1], HAND)
    assert queued.unknown_count == 2
    assert queued.delivered_to == {"bo@x.test"}


def test_a_message_may_have_arrived_since_its_newest_unknown_attempt(
    application: Application, database: Database, claims: Claims
) -> None:
    application.add_all([{}] * 4)
    enrol(database, [1, 2, 3, 4])
    for minute, (one, two) in enumerate([(LOST, LOST), (PROCESS_DIED, BUSY), (BUSY, BUSY)]):
        ended = NOON + minute * MINUTE + timedelta(microseconds=7)
        outcomes = enumerate([one, two, DOWN, BROKEN], 1)
        attempt(claims, *(again(each, outcome, finished_at=ended) for each, outcome in outcomes))
    first, second, third, fourth = claimed(claims, [1, 2, 3, 4])
    assert first.unsettled_since == NOON + MINUTE + timedelta(microseconds=7)
    assert second.unsettled_since == NOON + timedelta(microseconds=7)
    assert third.unsettled_since is None
    assert fourth.unsettled_since == NOON + 2 * MINUTE + timedelta(microseconds=7)
