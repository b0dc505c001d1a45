"""Whole passes, with the real store on a SQLite file and fakes around it."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.errors import DatabaseUnavailable, LockUnusable
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import (
    BreakerClosed,
    BreakerOpened,
    ClaimsExpired,
    ClockWasAhead,
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageMovedOn,
    PassResult,
    PassStarted,
    PassStopped,
    PassSummary,
    Pause,
    StopReason,
    Tally,
)
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy
from retrycli.domain.transition import Claim
from retrycli.engine.enrolment import BATCH
from retrycli.engine.ports import PassRules
from tests.fakes import (
    CUT_OFF,
    DELIVERED,
    DOWN,
    HELD,
    LOST,
    NOT_FOUND,
    REFUSED,
    RULES,
    START,
    THROTTLED,
    TICK,
    UNAUTHORIZED,
    UNREAD,
    Script,
    Stage,
)

ONE_BY_ONE = RULES._replace(concurrency=1)
MOMENT = timedelta(microseconds=1)
AFTER_THE_CLAIM = RULES.lease
"""The time until the claims of a dead pass have expired."""


def ended(summary: PassSummary) -> tuple[PassResult, str | None]:
    return summary.result, summary.reason


def test_an_idle_pass_opens_no_gateway(stage: Stage) -> None:
    stage.add(1, due=START + timedelta(hours=1))
    summary = stage.run()
    assert ended(summary) == (PassResult.COMPLETED, None)
    assert stage.gateway is None
    assert stage.events.all == [PassStarted("pass-1", due=0)]


def test_due_messages_are_sent_in_the_order_of_their_waits(stage: Stage) -> None:
    """Newly failed messages are enrolled, and messages that the application has rejected leave the queue."""
    for message_id, minutes in ((1, 10), (2, 30), (3, 20), (4, 60)):
        stage.add(message_id, due=START - timedelta(minutes=minutes))
    stage.sql("UPDATE pending_messages SET status = 'rejected' WHERE id = 4")
    stage.add(5)
    stage.run(rules=ONE_BY_ONE)
    assert stage.order == [2, 3, 1, 5]
    assert stage.states() == {}


def test_messages_due_within_a_minute_of_the_start_are_due_and_no_later_ones(stage: Stage) -> None:
    """Cron may start a pass slightly early. Without this slack, messages would then wait for the next pass."""
    stage.add(1, due=START + timedelta(seconds=60))
    stage.add(2, due=START + timedelta(seconds=60) + MOMENT)
    stage.run()
    assert stage.order == [1]
    assert stage.states() == {2: "waiting"}


DRIFT = [0, 50, 2, 59, 0, 31, 1, 58, 12]  # seconds by which each tick of cron comes late


def test_a_wait_as_long_as_crons_interval_ends_at_each_tick(stage: Stage) -> None:
    """Without the slack, an early tick would miss the message. Answers are slow."""
    policy = RetryPolicy(Backoff(BackoffKind.FIXED), max_retries=100)
    every_tick = RULES._replace(policies=dict.fromkeys(MessageType, policy))
    stage.add(1)
    for tick, seconds in enumerate(DRIFT):
        stage.clock.now = START + tick * TICK + timedelta(seconds=seconds)
        stage.run(REFUSED, every_tick, takes=timedelta(seconds=20))
        assert stage.order == [1]


def test_an_attempt_is_committed_before_its_request_and_its_outcome_before_the_next(stage: Stage) -> None:
    """The pass holds its lock all the time."""
    seen: list[tuple[object, ...]] = []

    def look(queued: QueuedMessage) -> Outcome:
        assert stage.open_attempts() == [queued.message_id]
        assert stage.sent() == list(range(1, queued.message_id))
        assert stage.lock.held
        seen.extend(
            stage.sql(
                "SELECT a.made_by, a.pass_id, a.number, a.started_at, q.state, q.claimed_by"
                " FROM retrycli_attempts a JOIN retrycli_queue q USING (message_id) WHERE message_id = ?",
                queued.message_id,
            )
        )
        return DELIVERED

    stage.add(1, 2, 3)
    assert stage.run(look, ONE_BY_ONE).sent == 3
    assert seen == [("pass", "pass-1", 1, "2025-03-03 12:00:00.000000", "sending", "pass-1")] * 3
    assert not stage.lock.held


def test_no_transaction_is_open_during_a_request(stage: Stage) -> None:
    def write(_: QueuedMessage) -> Outcome:
        with closing(sqlite3.connect(stage.path, timeout=0)) as other:
            other.execute("BEGIN IMMEDIATE")
        return DELIVERED

    stage.add(*range(1, 10))
    assert stage.run(write).sent == 9


def test_an_attempt_is_recorded_completely(stage: Stage) -> None:
    stage.add(1, 2)
    outcome = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503", retry_after=timedelta(seconds=90))
    stage.run(outcome, takes=timedelta(seconds=2.5))
    assert stage.sql(
        "SELECT finished_at, outcome, status_code, error, retry_after_s, duration_ms FROM retrycli_attempts"
    ) == [
        ("2025-03-03 12:00:02.500000", "transient", 503, "HTTP 503", 90, 2500),
        ("2025-03-03 12:00:05.000000", "transient", 503, "HTTP 503", 90, 2500),
    ]


FRESH, DOWN_AND_DUE = Breaker(RULES.destination), Breaker(RULES.destination, BreakerState.OPEN, 5, START - TICK, START)


@pytest.mark.parametrize(
    ("last_heard", "script", "limit", "widths"),
    [
        (FRESH, DELIVERED, None, (1, 8, 8)),  # the first delivery allows the full concurrency
        # Another answer may concern all messages, for example if the preset is wrong, so the concurrency grows slowly.
        (FRESH, REFUSED, None, (1, 2, 4, 8, 8)),
        (FRESH, {8: DOWN, 9: DOWN}, None, (1, 8, 2, 4, 8)),  # each failure halves the concurrency
        (FRESH, DELIVERED, 5, (1, 4)),
        (FRESH._replace(failures=1), DELIVERED, None, (1, 2, 4, 8, 8)),
        (DOWN_AND_DUE, DELIVERED, None, (1, 2, 4, 8, 8)),
        (FRESH.rest(START, since=START), DELIVERED, None, (1, 2, 4, 8, 8)),
    ],
)
def test_answers_widen_the_concurrency_up_to_its_limit(
    stage: Stage, last_heard: Breaker, script: Script, limit: int | None, widths: tuple[int, ...]
) -> None:
    stage.ledger.save_breaker(last_heard)
    stage.add(*range(1, 40))
    stage.run(script, RULES._replace(limit=limit))
    rounds = [place for width in widths for place in range(1, width + 1)]  # requests in flight, if they end in rounds
    assert stage.widths[: sum(widths)] == rounds


async def settle() -> None:
    """Let the event loop run all tasks that are ready."""
    for _ in range(20):
        await asyncio.sleep(0)


def test_an_outage_costs_five_messages_one_retry_each_and_the_others_none(stage: Stage) -> None:
    stage.add(*range(1, 101), retry_count=3)
    summary = stage.run(DOWN)
    assert stage.order == [1, 2, 3, 4, 5]
    assert stage.widths == [1] * 5
    assert ended(summary) == (PassResult.STOPPED, "breaker_open")
    assert summary.detail == "https://tickets.example.com, next probe at 2025-03-03T12:15:00Z"
    assert summary.rescheduled == 5
    assert stage.tries() == dict.fromkeys(range(1, 6), 4) | dict.fromkeys(range(6, 101), 3)
    assert set(stage.states().values()) == {"waiting"}
    assert stage.sql("SELECT count(*) FROM retrycli_queue WHERE claimed_by IS NOT NULL") == [(0,)]
    assert stage.sql("SELECT count(*) FROM pending_messages WHERE last_error IS NOT NULL") == [(5,)]
    assert stage.events.of(BreakerOpened) == [BreakerOpened(RULES.destination, 5, START + TICK)]
    assert stage.events.of(PassStopped) == [PassStopped(StopReason.BREAKER_OPEN)]


@pytest.fixture
def outage(stage: Stage) -> Stage:
    """Provide a stage with twenty messages and an open breaker. Messages 1 to 5 have used up a retry."""
    stage.add(*range(1, 21))
    stage.run(DOWN)
    return stage


def test_probes_follow_after_15_30_and_then_every_60_minutes(outage: Stage) -> None:
    """A pass may start up to a minute before a probe is due."""
    outage.clock.now = START + timedelta(minutes=13, seconds=59)
    assert ended(outage.run()) == (PassResult.STOPPED, "breaker_open")
    assert outage.gateway is None
    probed_at = list[int]()
    for minutes in range(15, 240, 15):
        outage.clock.now = START + timedelta(minutes=minutes)
        outage.run(DOWN)
        if outage.gateway:
            probed_at.append(minutes)
    assert probed_at == [15, 45, 105, 165, 225]
    outage.clock.now = START + timedelta(minutes=284)
    assert ended(outage.run()) == (PassResult.COMPLETED, None)
    assert outage.sent() == list(range(1, 21))
    assert outage.widths[:3] == [1, 1, 2]
    assert outage.events.of(BreakerClosed) == [BreakerClosed(RULES.destination)]
    assert outage.ledger.breaker(RULES.destination) == Breaker(RULES.destination)


def open_since(stage: Stage) -> None:
    stage.ledger.save_breaker(Breaker(RULES.destination, BreakerState.OPEN, 5, START, START + TICK))


def test_mails_that_some_recipients_got_open_no_breaker(stage: Stage) -> None:
    """The server works, although it refuses the address that all mails are copied to."""
    stage.add(*range(1, 11))
    refused = Outcome(OutcomeKind.TRANSIENT, 450, "RCPT all@example.com: SMTP 450", delivered_to=("a@example.com",))
    summary = stage.run(refused)
    assert (ended(summary), summary.rescheduled) == ((PassResult.COMPLETED, None), 10)


def test_failures_of_two_tickets_open_no_breaker_across_passes_and_a_third_does(stage: Stage) -> None:
    stage.add(*range(1, 7))
    stage.sql("UPDATE pending_messages SET ticket_id = 7 + id % 2 WHERE id < 6")
    assert stage.run(DOWN, RULES._replace(limit=5)).reason == "limit"
    assert ended(stage.run(DOWN)) == (PassResult.STOPPED, "breaker_open")
    assert stage.order == [6]
    assert stage.ledger.breaker(RULES.destination).probe_at == START + TICK


@pytest.mark.parametrize(("answer", "charged_from"), [(DOWN, 3), (CUT_OFF, None), (LOST, None)])
def test_from_its_third_probe_a_message_is_charged_for_an_answer(
    stage: Stage, answer: Outcome, charged_from: int | None
) -> None:
    open_since(stage)
    stage.looks_up = True  # without a look-up, an unknown outcome would be escalated
    stage.add(1, due=START)
    for number in range(1, 6):
        stage.clock.now += timedelta(hours=5)
        summary = stage.run(answer)
        assert (stage.order, summary.released + summary.rescheduled) == ([1], 1)
        assert stage.tries() == {1: 0 if charged_from is None else max(number - charged_from + 1, 0)}


def test_a_probe_with_an_invalid_row_is_followed_by_another(stage: Stage) -> None:
    open_since(stage)
    stage.add(1, 2, 3, due=START)
    stage.sql("UPDATE pending_messages SET body = NULL WHERE id < 3")
    stage.clock.now = START + TICK
    assert stage.run(rules=RULES._replace(per_ticket_order=True)).sent == 1
    stage.add(4, due=START)
    open_since(stage)
    stage.sql("UPDATE pending_messages SET body = NULL WHERE id = 4")
    assert ended(stage.run(rules=RULES._replace(per_ticket_order=True))) == (PassResult.COMPLETED, None)


def test_a_pass_probes_early_on_request(outage: Stage) -> None:
    outage.clock.now = START + timedelta(minutes=1)
    assert ended(outage.run(DOWN, RULES._replace(probe_now=True))) == (PassResult.STOPPED, "breaker_open")
    assert outage.order == [6]
    assert outage.ledger.breaker(RULES.destination).probe_at == outage.clock.now + timedelta(minutes=30)
    assert ended(outage.run()) == (PassResult.STOPPED, "breaker_open")
    assert outage.run(rules=RULES._replace(probe_now=True)).sent == 15
    outage.ledger.save_breaker(FRESH.rest(outage.clock.now + TICK, since=START))  # the destination asked for it
    outage.add(21)
    assert ended(outage.run(rules=RULES._replace(probe_now=True))) == (PassResult.STOPPED, "throttled")


@pytest.mark.parametrize(("outcome", "unknown_count"), [(DOWN, 0), (LOST, 1)])
def test_requests_in_flight_as_the_breaker_opened_are_not_charged(
    stage: Stage, outcome: Outcome, unknown_count: int
) -> None:
    """After the first delivery, eight requests are in flight and fail. Five failures open the breaker; the other three
    are released.

    If the outcome is unknown, all eight messages are recorded as possibly arrived.
    """
    stage.add(*range(1, 30))
    summary = stage.run(dict.fromkeys(range(2, 30), outcome), takes=timedelta(seconds=1))
    assert stage.order == list(range(1, 10))
    assert (summary.sent, summary.rescheduled, summary.released) == (1, 5, 3)
    assert summary.unknown == 8 * unknown_count
    assert [stage.tries()[message_id] for message_id in range(2, 10)] == [1] * 5 + [0] * 3
    unknowns = dict(stage.sql("SELECT message_id, unknown_count FROM retrycli_queue"))
    assert [unknowns[message_id] for message_id in range(2, 11)] == [unknown_count] * 8 + [0]
    assert stage.events.of(BreakerOpened) == [BreakerOpened(RULES.destination, 5, START + TICK)]


def test_a_429_in_flight_does_not_turn_an_outage_into_a_rest(stage: Stage) -> None:
    stage.add(*range(1, 30))
    down, throttled = dict.fromkeys(range(2, 7), DOWN), THROTTLED._replace(retry_after=timedelta(hours=1))
    assert ended(stage.run(down | dict.fromkeys(range(7, 30), throttled))) == (PassResult.STOPPED, "breaker_open")
    assert stage.order == list(range(1, 10))
    breaker = stage.ledger.breaker(RULES.destination)
    assert (breaker.state, breaker.probe_at) == (BreakerState.OPEN, START + TICK)


def test_the_breaker_is_read_under_the_lock(stage: Stage) -> None:
    """While this pass waited for the lock, the previous one may have opened the breaker."""
    opened = Breaker(RULES.destination, BreakerState.OPEN, 5, START, START + TICK)
    stage.lock.on_acquire = lambda: stage.ledger.save_breaker(opened)
    stage.add(1)
    assert ended(stage.run()) == (PassResult.STOPPED, "breaker_open")
    assert stage.gateway is None


@pytest.mark.parametrize("outcome", [THROTTLED, UNAUTHORIZED])
def test_a_message_that_stops_each_pass_does_not_block_others(stage: Stage, outcome: Outcome) -> None:
    """A firewall may answer one message's text with 401 or 429. The next pass begins with another message."""
    stage.add(1, due=START - TICK)
    stage.add(*range(2, 10), due=START)
    assert stage.run({1: outcome}, takes=timedelta(seconds=1)).released == 1
    assert stage.order == [1]
    stage.clock.now = START + TICK
    assert stage.run({1: outcome}, ONE_BY_ONE).sent == 8
    assert stage.order == [*range(2, 10), 1]
    assert set(stage.tries().values()) == {0}


def test_the_destination_rests_until_retry_after(stage: Stage) -> None:
    stage.add(1, 2)
    stage.run(THROTTLED._replace(retry_after=timedelta(minutes=20)), takes=timedelta(seconds=3))
    stage.clock.now = START + TICK
    resting = stage.run()
    assert stage.gateway is None
    assert ended(resting) == (PassResult.STOPPED, "throttled")
    assert resting.detail == "https://tickets.example.com, no requests until 2025-03-03T12:20:03Z"
    assert stage.events.of(BreakerOpened) == []
    stage.clock.now = START + 2 * TICK
    assert ended(stage.run()) == (PassResult.COMPLETED, None)
    assert stage.sent() == [1, 2]
    assert stage.ledger.breaker(RULES.destination) == Breaker(RULES.destination)


@pytest.mark.parametrize(
    ("rules", "takes", "end", "begun_at"),
    [
        (RULES._replace(limit=3), 0, (PassResult.COMPLETED, "limit"), [0, 0, 0]),
        (ONE_BY_ONE, 5, (PassResult.STOPPED, "deadline"), [0, 5, 10]),
    ],
    ids=["limit", "deadline"],
)
def test_nothing_starts_after_the_limit_or_the_deadline_and_claims_are_released(
    stage: Stage, rules: PassRules, takes: int, end: tuple[PassResult, str], begun_at: list[int]
) -> None:
    stage.add(*range(1, 10), retry_count=2)
    assert ended(stage.run(rules=rules, takes=timedelta(minutes=takes))) == end
    assert [(at - START) // timedelta(minutes=1) for at in stage.begun_at] == begun_at
    assert stage.sent() == [1, 2, 3]
    assert stage.states() == dict.fromkeys(range(4, 10), "waiting")
    assert set(stage.tries().values()) == {2}


def test_requests_in_flight_at_a_429_are_settled_by_their_answers(stage: Stage) -> None:
    """A delivery among these requests does not end the rest, and the longest of several rests counts."""
    stage.add(*range(1, 12))
    soon, late, whenever = (THROTTLED._replace(retry_after=wait) for wait in (timedelta(0), timedelta(hours=1), None))
    summary = stage.run({4: soon, 5: late, 7: DELIVERED, 8: NOT_FOUND, 9: whenever})
    assert stage.order == list(range(1, 10))
    assert (summary.sent, summary.escalated, summary.released) == (5, 1, 3)
    assert summary.detail == f"{RULES.destination}, no requests until 2025-03-03T13:00:00Z"
    assert stage.ledger.breaker(RULES.destination).probe_at == START + timedelta(hours=1)


def test_answers_that_the_preset_cannot_judge_are_met_by_one_message_at_a_time(stage: Stage) -> None:
    stage.add(*range(1, 9))
    probed = []
    for _ in range(12):
        summary = stage.run(UNREAD)
        assert ended(summary) == (PassResult.STOPPED, "unread_answer")
        probed += [stage.clock.now - START] * len(stage.order)
        stage.clock.now += TICK
    assert [at // TICK for at in probed] == [0, 1, 3, 7, 11]
    assert {stage.escalation(number)[0] for number in range(1, 6)} == {"unknown"}
    stage.clock.now += timedelta(hours=1)
    assert ended(stage.run()) == (PassResult.COMPLETED, None)
    assert stage.sent() == [6, 7, 8]


def test_an_unread_answer_is_looked_up_before_the_message_is_sent_again(stage: Stage) -> None:
    stage.looks_up = True
    stage.add(1)
    stage.run(UNREAD)
    assert stage.states() == {1: "waiting"}


@pytest.mark.parametrize(
    ("script", "limit", "reason"),
    [(UNAUTHORIZED, 1, "credentials_refused"), (THROTTLED, 1, "throttled"), (DOWN, 5, "breaker_open")],
)
def test_a_limit_does_not_hide_a_problem_of_the_destination(
    stage: Stage, script: Script, limit: int, reason: str
) -> None:
    """``run-once --limit 1`` is the usual way to test a password."""
    stage.add(*range(1, 10))
    assert ended(stage.run(script, RULES._replace(limit=limit))) == (PassResult.STOPPED, reason)


def test_a_signal_lets_requests_in_flight_finish_and_releases_the_rest(stage: Stage) -> None:
    answers = asyncio.Event()

    async def wait(queued: QueuedMessage) -> Outcome:
        if queued.message_id > 1:
            await answers.wait()
        return REFUSED if queued.message_id == 5 else DELIVERED

    async def scenario() -> PassSummary:
        running = asyncio.create_task(stage.run_pass(wait))
        await settle()
        assert stage.order == list(range(1, 10))
        assert sorted(stage.open_attempts()) == list(range(2, 18)), "eight are recorded ahead"
        stage.stop_requested = True
        answers.set()
        return await running

    stage.add(*range(1, 20))
    summary = asyncio.run(scenario())
    assert ended(summary) == (PassResult.INTERRUPTED, "signal")
    assert (summary.sent, summary.rescheduled, summary.released) == (8, 1, 0)
    assert stage.open_attempts() == []
    assert stage.states() == dict.fromkeys([5, *range(10, 20)], "waiting")
    assert stage.attempts(10) == []
    assert stage.tries() == dict.fromkeys(range(1, 20), 0) | {5: 1}


def test_a_signal_before_the_first_attempt_changes_nothing(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    stage.stop_requested = True
    assert ended(stage.run()) == (PassResult.INTERRUPTED, "signal")
    assert stage.gateway is None
    assert stage.states() == {1: "waiting", 2: "waiting"}


def test_failures_after_a_signal_open_the_breaker_once(stage: Stage) -> None:
    """The failures must not also count as failed probes, which would extend the outage by an hour."""

    async def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id < 8:
            return DELIVERED
        for _ in range(20 if queued.message_id == 8 else 60):
            await asyncio.sleep(0)
        stage.stop_requested = True
        return DOWN

    stage.add(*range(1, 30))
    summary = stage.run(answer)
    assert ended(summary) == (PassResult.INTERRUPTED, "signal")
    assert (summary.rescheduled, summary.released) == (5, 3)
    assert stage.events.of(BreakerOpened) == [BreakerOpened(RULES.destination, 5, START + TICK)]
    assert stage.ledger.breaker(RULES.destination).probe_at == START + TICK


@pytest.mark.parametrize(
    ("seconds", "begun_at"), [(0, [0, 0.25, 0.5, 0.75, 1, 1.25]), (2, [0, 2, 4])], ids=["quick", "slow"]
)
def test_attempts_never_exceed_the_rate_and_slow_answers_do_not_slow_it(
    stage: Stage, seconds: float, begun_at: list[float]
) -> None:
    stage.add(*range(1, 7))
    stage.run(rules=RULES._replace(rate_per_second=4), takes=timedelta(seconds=seconds))
    found = [(at - START).total_seconds() for at in stage.begun_at[: len(begun_at)]]
    assert found == pytest.approx(begun_at, abs=0.2 * seconds)


def test_a_slow_answer_does_not_delay_the_next_attempt(stage: Stage) -> None:
    """Message 2 is answered only after message 3 has begun. The clock advances only for deliveries and the rate."""
    third = asyncio.Event()

    async def wait(queued: QueuedMessage) -> Outcome:
        stage.clock.now += timedelta(milliseconds=1)
        if queued.message_id == 2:
            await third.wait()
        if queued.message_id == 3:
            third.set()
        return DELIVERED

    stage.add(1, 2, 3)
    stage.run(wait, RULES._replace(rate_per_second=1000))
    assert [(at - START).total_seconds() for at in stage.begun_at] == [0, 0.001, 0.003]
    assert stage.widths == [1, 1, 2]


def test_a_paused_pass_changes_nothing(stage: Stage) -> None:
    stage.add(1)
    stage.ledger.set_pause(Pause(START, until=None, by="anna", reason="moving house"))
    summary = stage.run()
    assert ended(summary) == (PassResult.PAUSED, "paused")
    assert summary.detail == "paused by anna: moving house"
    assert stage.gateway is None
    assert stage.states() == {}
    assert not stage.lock.held


def test_a_held_lock_skips_the_pass_and_an_unusable_one_fails_it(stage: Stage) -> None:
    stage.add(1)
    stage.lock.trouble = HELD
    assert ended(stage.run()) == (PassResult.SKIPPED, "lock_held")
    stage.lock.trouble = LockUnusable("can't open the lock file")
    with pytest.raises(LockUnusable):
        stage.run()
    assert stage.gateway is None
    assert stage.states() == {}
    assert stage.sql("SELECT result, reason, detail, finished_at FROM retrycli_passes ORDER BY id") == [
        ("skipped", "lock_held", str(HELD), "2025-03-03 12:00:00.000000"),
        ("failed", "fault", "can't open the lock file", "2025-03-03 12:00:00.000000"),
    ]


def test_a_pass_starts_when_it_gets_the_lock(stage: Stage) -> None:
    """While the pass waits, another pass records later times. These must not look like times from a fast clock.

    Messages that become due during the wait are sent. The other pass may report escalations, and would never report
    one with an earlier date. Without a heartbeat after the wait, another host would consider this pass dead.
    """
    first, signs = stage.clock.now, list[str]()

    def wait() -> None:
        stage.clock.now += timedelta(minutes=40)
        other = PassSummary("other", PassResult.COMPLETED)
        stage.ledger.start_pass(other.pass_id, host="quarry", pid=1, now=first)
        stage.ledger.finish_pass(other, stage.clock.now)

    def hear(event: Event) -> None:
        if isinstance(event, PassStarted):
            signs.extend(at for (at,) in stage.sql("SELECT heartbeat_at FROM retrycli_passes WHERE id = 'pass-1'"))

    stage.add(1, due=first + timedelta(minutes=30))
    stage.add(2, message_type="pigeon")
    stage.lock.on_acquire = wait
    stage.events.hear = hear
    summary = stage.run(REFUSED)
    assert stage.order == [1]
    assert ended(summary) == (PassResult.COMPLETED, None)
    assert summary.duration_seconds == 40 * 60
    assert stage.next_attempt_at(1) == stage.clock.now + 2 * TICK
    assert stage.events.of(ClockWasAhead) == []
    assert stage.sql("SELECT escalated_at FROM retrycli_queue WHERE message_id = 2") == [
        ("2025-03-03 12:40:00.000000",)
    ]
    assert signs == ["2025-03-03 12:40:00.000000"]


def test_later_escalations_on_enrolment_have_later_dates(stage: Stage) -> None:
    """Another pass may report escalations during a long enrolment.

    An escalation that is recorded later but dated earlier would never be reported.
    """

    def hear(event: Event) -> None:
        if isinstance(event, MessageEscalated):
            stage.clock.now += timedelta(seconds=1)

    stage.add(*range(1, BATCH + 2), message_type="pigeon")
    stage.events.hear = hear
    stage.run()
    assert stage.sql("SELECT escalated_at, count(*) FROM retrycli_queue GROUP BY 1") == [
        ("2025-03-03 12:00:00.000000", BATCH),
        ("2025-03-03 12:08:20.000000", 1),
    ]


def test_the_lock_is_released_though_listeners_fail_repeatedly(stage: Stage) -> None:
    def fail(_: Event) -> None:
        raise ValueError

    stage.add(1)
    stage.events.hear = fail
    with pytest.raises(ValueError, match=r"^$"):
        stage.run()
    assert not stage.lock.held


def test_a_stopping_pass_enrols_no_more_messages(stage: Stage) -> None:
    """The pass reports the batch that it has enrolled. The next pass enrols the rest."""

    def stop(event: Event) -> None:
        stage.stop_requested |= isinstance(event, MessageEscalated)

    stage.add(*range(1, BATCH + 2), message_type="pigeon")
    stage.events.hear = stop
    stage.run()
    assert len(stage.states()) == BATCH
    stage.stop_requested, stage.events.hear = False, lambda _: None
    stage.run()
    assert len(stage.states()) == len(stage.events.of(MessageEscalated)) == BATCH + 1


class Broken(Exception):
    """An internal error of the gateway."""


def break_down(_: QueuedMessage) -> Outcome:
    raise Broken


def test_an_internal_error_is_raised_unchanged_and_leaves_requests_in_flight_unknown(stage: Stage) -> None:
    """After the first delivery, one of eight requests in flight raises an error. All eight outcomes are unknown."""

    async def wait(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 6:
            raise Broken
        if queued.message_id > 1:
            await asyncio.Event().wait()
        return DELIVERED

    stage.add(*range(1, 12))
    with pytest.raises(Broken):
        stage.run(wait)
    assert stage.sql("SELECT result, reason, detail, finished_at IS NULL FROM retrycli_passes") == [
        ("failed", "fault", "internal error: Broken", 0)
    ]
    assert stage.open_attempts() == list(range(2, 10))
    assert stage.states() == dict.fromkeys(range(2, 10), "sending") | {10: "waiting", 11: "waiting"}
    assert not stage.lock.held
    stage.clock.now = START + AFTER_THE_CLAIM
    summary = stage.run()
    assert (summary.rescheduled, summary.unknown, summary.sent) == (8, 8, 2)
    assert stage.open_attempts() == []


def test_a_lost_database_connection_is_raised_unchanged(stage: Stage) -> None:
    """The command exits with 69 for this error, so the error must keep its type."""

    def drop(_: QueuedMessage) -> Outcome:
        stage.sql("DROP TABLE retrycli_attempts")
        return DELIVERED

    stage.add(1)
    with pytest.raises(DatabaseUnavailable):
        stage.run(drop)
    assert not stage.lock.held


def die(stage: Stage, rules: PassRules = RULES) -> None:
    with pytest.raises(Broken):
        stage.run(break_down, rules)


def die_with_claims(stage: Stage) -> None:
    """Simulate a pass that was killed: unlike after `die`, its claims are not released."""
    die(stage)
    stage.claims.claim(Claim("pass-1", START + AFTER_THE_CLAIM), START, limit=10)


def test_attempts_of_a_dead_pass_are_unknown_and_its_other_claims_are_sent(stage: Stage) -> None:
    stage.add(1, 2, 3)
    die_with_claims(stage)
    stage.clock.now = START + AFTER_THE_CLAIM
    summary = stage.run()
    assert stage.sent() == [2, 3]
    assert (summary.sent, summary.rescheduled, summary.released, summary.unknown) == (2, 1, 2, 1)
    assert stage.events.of(ClaimsExpired) == [ClaimsExpired(released=2, unknown=1)]
    assert stage.attempts(1) == [("pass", "unknown")]
    assert stage.sql(
        "SELECT unknown_count, retry_count FROM retrycli_queue JOIN pending_messages ON id = message_id"
    ) == [(1, 1)]
    assert stage.next_attempt_at(1) == stage.clock.now + timedelta(minutes=30)


def test_the_third_unknown_outcome_is_escalated(stage: Stage) -> None:
    stage.add(1)
    for _ in range(3):
        die(stage)
        stage.clock.now += timedelta(hours=5)
        summary = stage.run(rules=RULES._replace(limit=0))
        stage.clock.now += timedelta(hours=5)
    assert (summary.escalated, summary.unknown) == (1, 1)
    reason, tries, error = stage.escalation(1)
    assert (reason, tries) == ("unknown", 3)
    assert error == (
        "May have arrived: no response was recorded, for example because the process was killed or the disk was full "
        "(unknown outcomes: 3)"
    )


@pytest.mark.parametrize("state", ["waiting", "escalated"])
def test_a_manual_attempt_that_died_is_unknown_and_uses_up_no_retry(stage: Stage, state: str) -> None:
    if state == "escalated":
        stage.add(1, retry_count=4)
        stage.run(Outcome(OutcomeKind.PERMANENT, 422, "HTTP 422"))
    else:
        stage.add(1, due=START + timedelta(hours=1), retry_count=4)
    before = stage.tries()
    with pytest.raises(Broken):
        stage.retry(1, break_down)
    stage.clock.now = START + timedelta(minutes=5)
    summary = stage.run()
    assert (stage.states(), stage.tries()) == ({1: state}, before)
    assert stage.attempts(1)[-1] == ("anna", "unknown")
    assert stage.sql("SELECT unknown_count FROM retrycli_queue") == [(1,)]
    assert (summary.released, summary.unknown) == (1, 1)


@pytest.mark.parametrize(
    ("change", "by", "expected", "said"),
    [
        ("body = NULL", "pass", ("changed", 3), "may have arrived"),
        ("created_at = 'soon'", "pass", ("invalid", 4), "Can't be sent: created_at"),
        ("created_at = 'soon'", "anna", ("invalid", 3), "Can't be sent: created_at"),
    ],
)
def test_an_unknown_attempt_counts_also_if_the_row_became_invalid(
    stage: Stage, change: str, by: str, expected: tuple[str, int], said: str
) -> None:
    stage.add(1, retry_count=3)
    with pytest.raises(Broken):
        stage.run(break_down) if by == "pass" else stage.retry(1, break_down)
    stage.sql(f"UPDATE pending_messages SET {change}")
    stage.clock.now = START + AFTER_THE_CLAIM
    summary = stage.run()
    assert stage.attempts(1) == [(by, "unknown")]
    reason, tries, error = stage.escalation(1)
    assert (reason, tries) == expected
    assert said in error
    assert summary.escalated == 1


def test_more_lapsed_claims_than_one_transaction_holds_are_recovered(stage: Stage) -> None:
    stage.add(*range(1, 1202), due=START)
    stage.claims.claim(Claim("the dead", START), START, limit=2000)
    summary = stage.run(rules=RULES._replace(limit=0))
    assert (summary.released, summary.unknown) == (1201, 0)
    assert set(stage.states().values()) == {"waiting"}
    assert set(stage.tries().values()) == {0}


def test_dead_passes_are_recorded_as_interrupted(stage: Stage) -> None:
    """A pass counts as dead by its age, regardless of its host, because pods may share a host name but no lock."""
    stage.ledger.start_pass("the dead", host="barn", pid=9, now=START - RULES.lease - MOMENT)
    stage.ledger.start_pass("another's", host="mill", pid=9, now=START - RULES.lease)
    stage.run()
    assert stage.sql("SELECT id, result FROM retrycli_passes ORDER BY started_at, id") == [
        ("the dead", "interrupted"),
        ("another's", None),
        ("pass-1", "completed"),
    ]


def test_invalid_rows_are_escalated_without_an_attempt_and_others_are_sent(stage: Stage) -> None:
    stage.add(1)
    stage.add(2, message_type="fax")
    stage.add(3, body=None)
    stage.add(4, retry_count="many")
    stage.add(5, 6, due=START)
    stage.sql("UPDATE pending_messages SET body = x'00ff' WHERE id = 5")
    summary = stage.run(rules=ONE_BY_ONE)
    assert stage.sent() == [1, 6]
    assert (summary.sent, summary.escalated) == (2, 4)
    assert stage.escalation(5) == ("invalid", 0, "Can't be sent: body must be text")
    assert stage.attempts(2) == stage.attempts(5) == []
    assert {event.message_id: event.problem for event in stage.events.of(MessageEscalated)} == {
        2: "message_type must be one of customer, supplier, internal: 'fax'",
        3: "body is missing",
        4: "retry_count must be an integer: 'many'",
        5: "body must be text",
    }


def test_each_message_type_has_its_own_policy(stage: Stage) -> None:
    stage.add(1, message_type="internal")
    stage.add(2, message_type="customer")
    rules = RULES._replace(policies=RULES.policies | {MessageType.INTERNAL: RetryPolicy(max_retries=1)})
    stage.run(DOWN, rules)
    assert stage.states() == {1: "escalated", 2: "waiting"}


def test_a_message_withdrawn_during_its_request_stays_withdrawn(stage: Stage) -> None:
    def reject(_: QueuedMessage) -> Outcome:
        stage.sql("UPDATE pending_messages SET status = 'rejected', last_error = 'by anna'")
        return DELIVERED

    stage.add(1)
    summary = stage.run(reject)
    assert stage.events.of(MessageMovedOn) == [MessageMovedOn(1, OutcomeKind.DELIVERED)]
    assert stage.events.of(MessageDelivered) == []
    assert stage.sql("SELECT status, last_error, sent_at FROM pending_messages") == [("rejected", "by anna", None)]
    assert stage.states() == {}
    assert stage.attempts(1) == [("pass", "delivered")]
    assert summary.sent == 0


def test_a_summary_agrees_with_the_database(stage: Stage) -> None:
    """The messages are delivered, refused, unknown, permanent, invalid, exhausted and, at the end, throttled."""
    stage.add(*range(1, 30))
    stage.add(30, message_type="fax")
    stage.add(31, retry_count=10)
    script = {3: REFUSED, 7: LOST, 11: NOT_FOUND, 12: LOST, 20: THROTTLED}
    stage.sql("UPDATE pending_messages SET retry_count = 9 WHERE id = 3")
    summary = stage.run(script, ONE_BY_ONE, takes=timedelta(seconds=1))
    counts = {name: getattr(summary, name) for name in ("sent", "rescheduled", "escalated", "unknown", "released")}
    assert counts == {"sent": 15, "rescheduled": 2, "escalated": 4, "unknown": 2, "released": 1}
    assert stage.sql("SELECT sent, rescheduled, escalated, unknown, released FROM retrycli_passes") == [
        tuple(counts.values())
    ]
    (record,) = stage.ledger.last_passes(10)
    assert (record.pass_id, record.host, record.pid, record.result) == ("pass-1", "mill", 1, PassResult.STOPPED)
    assert (record.started_at, record.finished_at) == (START, START + timedelta(seconds=20))
    assert summary.duration_seconds == 20
    assert stage.ledger.swept_to() == stage.enrolment.plan_sweep(None)[1]  # the next pass continues here
    assert len(stage.sent()) == counts["sent"]
    assert list(stage.states().values()).count("escalated") == counts["escalated"]
    outcomes = [outcome for (outcome,) in stage.sql("SELECT outcome FROM retrycli_attempts")]
    assert {each: outcomes.count(each) for each in set(outcomes)} == {
        "delivered": counts["sent"],
        "refused": 1,
        "unknown": counts["unknown"],
        "permanent": 1,
        "throttled": counts["released"],
    }
    tally = Tally()
    for emitted in stage.events.all:
        tally.count(emitted)
    told = tally.summary("pass-1", summary.result, timedelta(seconds=20))
    assert told == summary._replace(reason=None, detail=None)


def test_history_beyond_its_retention_is_pruned_and_the_rest_kept(stage: Stage) -> None:
    rules = RULES._replace(retention=timedelta(days=90))
    stage.add(1)
    stage.run()
    stage.clock.now += timedelta(days=89)
    stage.add(2)
    stage.run(rules=rules)
    assert stage.sql("SELECT message_id FROM retrycli_attempts") == [(1,), (2,)]
    stage.clock.now += timedelta(days=2)
    stage.run()
    assert len(stage.sql("SELECT id FROM retrycli_passes")) == 3, "without a retention nothing is pruned"
    stage.run(rules=rules)
    assert stage.sql("SELECT message_id FROM retrycli_attempts") == [(1,), (2,)], "it tells what was delivered"
    assert len(stage.sql("SELECT id FROM retrycli_passes")) == 3
    stage.sql("DELETE FROM pending_messages WHERE id = 1")
    stage.run(rules=rules)
    assert stage.sql("SELECT message_id FROM retrycli_attempts") == [(2,)]
