"""Several hosts with one table: shared breaker, pause and rate, and claims that are renewed while in use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.message import QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import MessageDelivered, MessageMovedOn, PassResult, PassSummary, Pause
from retrycli.domain.transition import Claim
from retrycli.engine.ports import PassRules
from tests.fakes import (
    CUT_OFF,
    DELIVERED,
    DOWN,
    NOT_FOUND,
    RULES,
    START,
    THROTTLED,
    TICK,
    UNAUTHORIZED,
    Script,
    Stage,
    during,
)

ONE_BY_ONE = RULES._replace(concurrency=1)
OPEN = Breaker(RULES.destination, BreakerState.OPEN, 5, opened_at=START - TICK, probe_at=START)
ALL_MESSAGES = range(1, 9)
ENOUGH_FOR_TWO = range(1, 2 * RULES.claim_at_once)
"""More messages than one host claims in one transaction."""


def two_at_once(stage: Stage, script: Script, rules: PassRules = RULES) -> list[PassSummary]:
    """Run passes of two hosts at the same time; the fake lock excludes neither."""

    async def both() -> list[PassSummary]:
        return list(await asyncio.gather(stage.run_pass(script, rules), stage.run_pass(script, rules)))

    return asyncio.run(both())


def of_one_ticket(stage: Stage, *ids: int) -> None:
    stage.add(*ids)
    stage.sql("UPDATE pending_messages SET ticket_id = 7")


def test_two_hosts_probe_an_unavailable_destination_once(stage: Stage) -> None:
    stage.add(*ENOUGH_FOR_TWO, due=START)
    stage.ledger.save_breaker(OPEN)
    probed: list[int] = []

    def down(queued: QueuedMessage) -> Outcome:
        probed.append(queued.message_id)
        return DOWN

    summaries = two_at_once(stage, down)
    assert [(summary.result, summary.reason) for summary in summaries] == [(PassResult.STOPPED, "breaker_open")] * 2
    assert len(probed) == 1
    assert stage.ledger.breaker(RULES.destination) == OPEN._replace(failures=6, probe_at=START + 2 * TICK)
    assert set(stage.tries().values()) == {0}


def test_the_host_that_did_not_probe_waits_for_its_next_pass(stage: Stage) -> None:
    stage.add(*ALL_MESSAGES, due=START)
    stage.ledger.save_breaker(OPEN)
    summaries = two_at_once(stage, DELIVERED)
    assert sorted(summary.sent for summary in summaries) == [0, len(ALL_MESSAGES)]
    assert stage.ledger.breakers() == []


def test_a_probe_of_a_dead_pass_blocks_others_no_longer_than_its_claim(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.ledger.save_breaker(OPEN)
    assert stage.ledger.take_probe(OPEN, START + RULES.lease)
    assert stage.run().reason == "breaker_open"
    assert stage.gateway is None
    stage.clock.now += RULES.lease
    assert stage.run().sent == 1


def test_an_inconclusive_probe_leaves_the_breaker_open(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.ledger.save_breaker(OPEN)
    assert stage.run(UNAUTHORIZED).reason == "credentials_refused"
    assert stage.ledger.breaker(RULES.destination).state is BreakerState.OPEN
    stage.clock.now += TICK
    assert stage.run().sent == 1


@pytest.mark.parametrize(
    ("happens", "result", "reason", "detail"),
    [
        (
            lambda stage: stage.ledger.save_breaker(OPEN._replace(opened_at=START, probe_at=START + TICK)),
            PassResult.STOPPED,
            "breaker_open",
            f"{RULES.destination}, next probe at 2025-03-03T12:15:00Z",
        ),
        (
            lambda stage: stage.ledger.save_breaker(Breaker(RULES.destination).rest(START + TICK, since=START)),
            PassResult.STOPPED,
            "throttled",
            f"{RULES.destination}, no requests until 2025-03-03T12:15:00Z",
        ),
        (
            lambda stage: stage.ledger.set_pause(Pause(START, until=None, by="anna", reason="wrong price")),
            PassResult.PAUSED,
            "paused",
            "paused by anna: wrong price",
        ),
    ],
    ids=["an outage", "a rest", "a pause"],
)
def test_a_running_pass_starts_nothing_more_after(
    stage: Stage, happens: Callable[[Stage], object], result: PassResult, reason: str, detail: str
) -> None:
    """Another host, or an operator, has written it to the database."""
    stage.add(*ALL_MESSAGES, due=START)
    summary = stage.run(during(stage, 1, lambda: happens(stage)), ONE_BY_ONE)
    assert (summary.result, summary.reason, summary.detail, summary.sent) == (result, reason, detail, 1)
    assert stage.order == [1]
    assert set(stage.states().values()) == {"waiting"}


def test_answers_to_earlier_requests_do_not_close_another_hosts_breaker(stage: Stage) -> None:
    """Requests sent before another host opened the breaker do not show that the destination works again."""
    stage.add(*ALL_MESSAGES, due=START)
    opened = OPEN._replace(opened_at=START, probe_at=START + TICK)
    answers = {2: DOWN, 3: DELIVERED}

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 2:
            stage.ledger.save_breaker(opened)
        return answers.get(queued.message_id, DELIVERED)

    assert stage.run(answer).reason == "breaker_open"
    assert stage.ledger.breaker(RULES.destination) == opened


def test_failures_of_another_host_count_before_this_passs_first(stage: Stage) -> None:
    """The pass reads the breaker whenever it has a failure to count."""
    stage.add(*ALL_MESSAGES, due=START)
    failed = Breaker(RULES.destination, failures=4)

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 2:
            stage.ledger.save_breaker(failed)
            return CUT_OFF
        return DELIVERED

    assert stage.run(answer, ONE_BY_ONE).reason == "breaker_open"
    assert stage.order == [1, 2]


def test_two_hosts_throttled_at_once_keep_the_rest(stage: Stage) -> None:
    stage.add(*ENOUGH_FOR_TWO, due=START)
    summaries = two_at_once(stage, THROTTLED._replace(retry_after=timedelta(minutes=10)))
    assert [summary.reason for summary in summaries] == ["throttled"] * 2
    assert stage.ledger.breaker(RULES.destination).probe_at == START + timedelta(minutes=10)


def test_the_rate_limit_holds_across_all_hosts(stage: Stage) -> None:
    stage.add(*ALL_MESSAGES, due=START)
    begun: list[datetime] = []

    def answer(_: QueuedMessage) -> Outcome:
        begun.append(stage.clock.now)
        return DELIVERED

    summaries = two_at_once(stage, answer, RULES._replace(rate_per_second=4))
    assert sum(summary.sent for summary in summaries) == len(ALL_MESSAGES)
    assert all(later - earlier >= timedelta(seconds=0.25) for earlier, later in pairwise(begun))


def test_a_pass_continues_the_rate_of_the_previous_one(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    slow = RULES._replace(rate_per_second=0.5, limit=1)
    stage.run(rules=slow)
    stage.run(rules=slow)
    assert stage.begun_at == [START + timedelta(seconds=2)]


def test_a_turn_reserved_by_a_wrong_clock_delays_no_other(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.ledger.take_turn(
        RULES.destination, START + timedelta(days=30), timedelta(seconds=0.25), START + timedelta(days=31)
    )
    stage.run(rules=RULES._replace(rate_per_second=4))
    assert stage.begun_at == [START]


def test_a_pass_does_not_wait_for_a_turn_after_its_end(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    summary = stage.run(rules=RULES._replace(rate_per_second=1 / RULES.deadline.total_seconds()))
    assert (summary.sent, summary.reason, stage.clock.now) == (1, "deadline", START)


def claim_expires_at(stage: Stage, message_id: int) -> str:
    ((at,),) = stage.sql("SELECT claim_expires_at FROM retrycli_queue WHERE message_id = ?", message_id)
    return str(at)


def test_a_pass_keeps_its_claims_as_long_as_it_runs(stage: Stage) -> None:
    """Each answer takes half of a lease, so the claims would expire if the pass did not renew them. Without its
    heartbeats, another host would record its end.
    """
    stage.add(*ALL_MESSAGES, due=START)
    lapsed: list[int] = []
    ended: list[object] = []

    def slowly(queued: QueuedMessage) -> Outcome:
        stage.clock.now += RULES.lease / 2
        found = stage.claims.take_over_expired(Claim("another", stage.clock.now + RULES.lease), stage.clock.now, 10)
        lapsed.extend(attempt.message.message_id for attempt in found)
        stage.ledger.mark_dead_passes("another", silent_since=stage.clock.now - RULES.lease)
        ended.extend(stage.sql("SELECT result FROM retrycli_passes WHERE finished_at IS NOT NULL"))
        return DELIVERED

    assert stage.run(slowly, ONE_BY_ONE).sent == len(ALL_MESSAGES)
    assert lapsed == ended == []


def test_claims_far_from_lapsing_are_not_renewed(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    seen: list[str] = []

    def answer(_: QueuedMessage) -> Outcome:
        seen.append(claim_expires_at(stage, 2))
        stage.clock.now += RULES.lease / 6
        return DELIVERED

    stage.run(answer, ONE_BY_ONE)
    assert len(set(seen)) == 1


def test_no_request_can_last_longer_than_its_claim(stage: Stage) -> None:
    """The process may be suspended while it waits for an answer. Then nobody renews the claim."""
    stage.add(*ALL_MESSAGES, due=START)
    rules = ONE_BY_ONE._replace(request_timeout=timedelta(minutes=10))
    left: list[timedelta] = []

    def answer(queued: QueuedMessage) -> Outcome:
        expires_at = datetime.fromisoformat(claim_expires_at(stage, queued.message_id)).replace(tzinfo=UTC)
        left.append(expires_at - stage.clock.now)
        stage.clock.now += rules.lease / 7
        return DELIVERED

    assert stage.run(answer, rules).sent == len(ALL_MESSAGES)
    assert min(left) >= rules.request_timeout


def test_a_suspended_pass_sends_nothing_that_another_may_have_claimed(stage: Stage) -> None:
    """The pass is suspended after it has delivered message 1. When it continues, another host has claimed message 2."""
    stage.add(1, 2, due=START)

    class Stopped(type(stage.events)):  # type: ignore[misc]  # the class of the stage's event listener
        def __call__(self, event: object) -> None:
            super().__call__(event)
            if isinstance(event, MessageDelivered):
                stage.clock.now += RULES.lease
                other = Claim("another", stage.clock.now + RULES.lease)
                stage.claims.take_over_expired(other, stage.clock.now, 10)

    stage.events = Stopped()
    summary = stage.run(rules=ONE_BY_ONE)
    assert stage.order == [1]
    assert (summary.sent, stage.events.of(MessageMovedOn)[0].message_id) == (1, 2)
    assert stage.sql("SELECT claimed_by FROM retrycli_queue") == [("another",)]


def test_a_later_message_of_a_ticket_waits_for_the_earlier_one(stage: Stage) -> None:
    of_one_ticket(stage, 1, 2, 3)
    stage.run(rules=RULES._replace(per_ticket_order=True))
    assert stage.order == [1, 2, 3]
    assert stage.widths == [1, 1, 1]
    assert stage.sent() == [1, 2, 3]


@pytest.mark.parametrize(("per_ticket_order", "sent"), [(True, [2, 4, 6, 8]), (False, [2, 3, 4, 5, 6, 7, 8])])
def test_tickets_do_not_wait_for_each_other(stage: Stage, sent: list[int], *, per_ticket_order: bool) -> None:
    """Without the setting, a later message of a ticket may overtake."""
    stage.add(*ALL_MESSAGES)
    stage.sql("UPDATE pending_messages SET ticket_id = id % 2")
    stage.run({1: DOWN}, RULES._replace(per_ticket_order=per_ticket_order))
    assert stage.sent() == sent
    assert stage.states() == dict.fromkeys(set(ALL_MESSAGES) - set(sent), "waiting")


def test_a_later_message_is_sent_after_the_earlier_one_is_escalated(stage: Stage) -> None:
    of_one_ticket(stage, 1, 2, 3, 4)
    stage.run(rules=RULES._replace(limit=0))  # enrols the messages
    stage.sql("UPDATE pending_messages SET body = NULL WHERE id = 2")
    stage.run({1: NOT_FOUND}, RULES._replace(per_ticket_order=True))
    assert stage.sent() == [3, 4]
    assert stage.states() == {1: "escalated", 2: "escalated"}


def test_a_ticket_with_many_messages_does_not_delay_others(stage: Stage) -> None:
    """The ticket's messages have waited longest. Claims ordered only by time would contain no other messages."""
    of_one_ticket(stage, *range(1, 501))
    stage.add(501, 502)
    stage.run()
    assert max(stage.order.index(501), stage.order.index(502)) < 100
    assert len(set(stage.order)) == len(stage.order) == 502
