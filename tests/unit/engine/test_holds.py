"""Holds in a pass: what is held is not claimed, and a hold that begins or ends during the pass is obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import timedelta

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.message import MessageType
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import HoldKind, PassResult, PassStarted
from retrycli.domain.transition import Route
from retrycli.engine.ports import SYNC_INTERVAL
from tests.fakes import DELIVERED, DOWN, FORBIDDEN, RULES, START, TICK, Stage, during

ONE_BY_ONE = RULES._replace(concurrency=1)
OPEN = Breaker(RULES.destination, BreakerState.OPEN, 5, opened_at=START - TICK, probe_at=START)


@pytest.mark.parametrize(
    ("kind", "text"), [(HoldKind.TYPE, "customer"), (HoldKind.DESTINATION, RULES.destination), (HoldKind.MESSAGE, "1")]
)
def test_if_all_that_is_due_is_held_nothing_is_due_and_nothing_is_probed(
    stage: Stage, kind: HoldKind, text: str
) -> None:
    stage.add(1, due=START)
    stage.hold(kind, text)
    stage.ledger.save_breaker(OPEN)
    summary = stage.run()
    assert (summary.result, summary.reason, summary.sent) == (PassResult.COMPLETED, None, 0)
    assert stage.events.all == [PassStarted("pass-1", due=0)]
    assert stage.gateway is None
    assert stage.ledger.breaker(RULES.destination) == OPEN
    assert stage.states() == {1: "waiting"}


def test_a_probe_is_sent_with_a_message_that_is_not_held(stage: Stage) -> None:
    stage.add(1, due=START - TICK)
    stage.add(2, due=START)
    stage.hold(HoldKind.TICKET, "1001")
    stage.ledger.save_breaker(OPEN)
    stage.run(DOWN)
    assert stage.order == [2]


def test_the_messages_that_settle_an_ambiguous_answer_are_not_held_ones(stage: Stage) -> None:
    """The pass looks elsewhere in the queue, and message 12, which came due last, is held."""
    stage.add(*range(1, 11), due=START - TICK)
    stage.add(11, due=START - timedelta(minutes=1))
    stage.add(12, due=START)
    stage.hold(HoldKind.MESSAGE, "12")
    stage.run(lambda queued: DELIVERED if queued.message_id > 10 else FORBIDDEN)
    assert 11 in stage.order
    assert 12 not in stage.order
    assert stage.states()[12] == "waiting"


@pytest.mark.parametrize(
    ("kind", "targets"), [(HoldKind.TICKET, range(1002, 1009)), (HoldKind.DESTINATION, [RULES.destination])]
)
def test_a_hold_that_begins_during_a_pass_stops_further_claims(
    stage: Stage, kind: HoldKind, targets: Iterable[object]
) -> None:
    """The pass has already claimed the held messages, and releases them without an attempt."""
    stage.add(*range(1, 9), due=START)

    def hold() -> None:
        for target in targets:
            stage.hold(kind, str(target))

    summary = stage.run(during(stage, 1, hold), ONE_BY_ONE)
    assert (summary.result, summary.reason, summary.sent) == (PassResult.COMPLETED, None, 1)
    assert stage.states() == dict.fromkeys(range(2, 9), "waiting")
    assert set(stage.tries().values()) == {0}
    assert [stage.attempts(message_id) for message_id in range(2, 9)] == [[]] * 7
    assert {stage.next_attempt_at(message_id) for message_id in range(2, 9)} == {START}


def test_a_hold_of_some_messages_during_a_pass_lets_the_others_go_on(stage: Stage) -> None:
    stage.add(*range(1, 9), due=START)
    stage.run(during(stage, 1, lambda: stage.hold(HoldKind.MESSAGE, "5")), ONE_BY_ONE)
    assert stage.order == [1, 2, 3, 4, 6, 7, 8]


def test_requests_in_flight_finish_when_a_hold_begins(stage: Stage) -> None:
    stage.add(*range(1, 9), due=START)
    rules = RULES._replace(concurrency=4)
    summary = stage.run(during(stage, 2, lambda: stage.hold(HoldKind.TYPE, "customer")), rules)
    assert (summary.result, summary.sent) == (PassResult.COMPLETED, len(stage.order))
    assert {outcome for message_id in stage.order for _, outcome in stage.attempts(message_id)} == {"delivered"}
    assert max(stage.widths) > 1
    assert len(stage.order) < 8


def test_a_hold_that_ends_during_a_pass_lets_its_messages_go(stage: Stage) -> None:
    stage.add(*range(1, 9), due=START)
    held = stage.hold(HoldKind.MESSAGE, "2")
    stage.run(during(stage, 5, lambda: stage.resume(held)), ONE_BY_ONE)
    assert sorted(stage.order) == [*range(1, 9)]


def test_a_hold_that_ends_when_all_others_are_claimed_lets_its_messages_go(stage: Stage) -> None:
    """The pass still waits for the answer to message 8, and has found nothing more to claim."""
    stage.add(*range(1, 10), due=START)
    held = stage.hold(HoldKind.MESSAGE, "9")

    others_are_sent = asyncio.Event()
    stage.events.hear = lambda _: others_are_sent.set() if stage.sent() == [*range(1, 8)] else None

    async def late() -> Outcome:
        await others_are_sent.wait()
        stage.clock.now += SYNC_INTERVAL
        stage.resume(held)
        return DELIVERED

    stage.run(lambda queued: late() if queued.message_id == 8 else DELIVERED)
    assert stage.order[-1] == 9


def test_a_held_route_takes_no_share_of_the_limit(stage: Stage) -> None:
    mail = Route("smtp://mail.example.com", only=frozenset({MessageType.SUPPLIER}))
    rest = Route(RULES.destination, but=frozenset({MessageType.SUPPLIER}))
    stage.add(1, 2, message_type="supplier", due=START - TICK)
    stage.add(3, 4, due=START)
    stage.hold(HoldKind.DESTINATION, mail.destination)
    stage.run(rules=RULES._replace(routes=(mail, rest), limit=2))
    assert stage.sent() == [3, 4]


def test_an_expired_message_is_escalated_when_its_hold_ends(stage: Stage) -> None:
    """As with a pause, a held message that has expired waits until a pass would claim it."""
    policies = {kind: policy._replace(expires_after=timedelta(hours=1)) for kind, policy in RULES.policies.items()}
    rules = RULES._replace(policies=policies)
    stage.add(1, due=START, created_at="2025-03-03 10:00:00")
    held = stage.hold(HoldKind.MESSAGE, "1")
    assert stage.run(rules=rules).escalated == 0
    stage.resume(held)
    assert stage.run(rules=rules).escalated == 1
    assert stage.escalation(1)[0] == "expired"
