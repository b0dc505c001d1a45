"""Delivery windows in a pass: a type is claimed only while its windows are open."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import PassResult, PassStarted
from retrycli.engine.ports import PassRules
from tests.fakes import DELIVERED, RULES, START, TICK, Answer, Stage

BERLIN = ZoneInfo("Europe/Berlin")
SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
OPEN = Breaker(RULES.destination, BreakerState.OPEN, 5, opened_at=START - TICK, probe_at=START)


def within(*texts: str, rules: PassRules = RULES, types: tuple[MessageType, ...] = tuple(MessageType)) -> PassRules:
    """Return rules with delivery windows in UTC. The clock of the tests starts at noon on a Monday."""
    return rules._replace(windows=dict.fromkeys(types, DeliveryWindows.parse(texts, UTC)))


@pytest.mark.parametrize(
    ("text", "is_open"),
    [("Mon 12:00-13:00", True), ("Mon 11:00-12:00", False), ("Mon 12:01-13:00", False), ("Sun 13:00-12:30", True)],
)
def test_messages_are_sent_if_a_window_is_open_at_the_start_of_the_pass(
    stage: Stage, text: str, *, is_open: bool
) -> None:
    """The slack for due times does not open a window early."""
    stage.add(1, due=START)
    summary = stage.run(rules=within(text))
    assert (summary.result, summary.sent) == (PassResult.COMPLETED, int(is_open))
    assert stage.events.of(PassStarted) == [PassStarted("pass-1", due=int(is_open))]
    assert stage.states() == ({} if is_open else {1: "waiting"})
    assert is_open or stage.next_attempt_at(1) == START
    assert set(stage.tries().values()) == {0}


def test_a_probe_is_sent_with_a_type_whose_window_is_open(stage: Stage) -> None:
    stage.add(1, due=START - TICK)
    stage.add(2, message_type="supplier", due=START)
    stage.ledger.save_breaker(OPEN)
    stage.run(rules=within("Mon 13:00-14:00", types=(MessageType.CUSTOMER,)))
    assert stage.order == [2]


def slow(stage: Stage, taking: timedelta) -> Answer:
    """Return a script that delivers every message, each after this time."""

    def answer(_: QueuedMessage) -> Outcome:
        stage.clock.now += taking
        return DELIVERED

    return answer


def test_a_window_that_closes_during_a_pass_stops_further_claims(stage: Stage) -> None:
    """Messages that the pass has claimed are released without an attempt."""
    stage.add(*range(1, 9), due=START)
    rules = within("Mon 12:00-12:01", rules=RULES._replace(concurrency=1))
    summary = stage.run(slow(stage, 20 * SECOND), rules)
    assert (summary.result, summary.reason) == (PassResult.COMPLETED, None)
    assert stage.order == [1, 2, 3]
    assert stage.states() == dict.fromkeys(range(4, 9), "waiting")
    assert [stage.attempts(message_id) for message_id in range(4, 9)] == [[]] * 5
    assert all(begun < START + MINUTE for begun in stage.begun_at)


def test_a_window_that_opens_during_a_pass_lets_its_messages_go(stage: Stage) -> None:
    """The pass is still at work with messages of another type to the same destination."""
    stage.add(*range(1, 5), message_type="supplier", due=START)
    stage.add(5, due=START)
    rules = within("Mon 12:01-13:00", rules=RULES._replace(concurrency=1), types=(MessageType.CUSTOMER,))
    stage.run(slow(stage, 20 * SECOND), rules)
    assert sorted(stage.order) == [1, 2, 3, 4, 5]


def test_a_closed_first_message_holds_back_the_later_ones_of_its_ticket(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.add(2, message_type="supplier", due=START)
    stage.sql("UPDATE pending_messages SET ticket_id = 7")
    stage.sql("UPDATE retrycli_queue SET ticket = '7'")
    rules = within("Mon 13:00-14:00", rules=RULES._replace(per_ticket_order=True), types=(MessageType.CUSTOMER,))
    assert stage.run(rules=rules).sent == 0


def test_no_reply_is_sent_at_night_or_in_an_hour_that_does_not_exist(stage: Stage) -> None:
    """Messages become due at all hours. On Sunday, clocks in Berlin change at 02:00 to 03:00."""
    windows = DeliveryWindows.parse(["Mon-Fri 08:00-18:00", "Sun 02:30-04:00"], BERLIN)
    rules = RULES._replace(windows=dict.fromkeys(MessageType, windows))
    ticks = (
        datetime(2025, 3, day, hour, minute, tzinfo=UTC)
        for day, hours in ((28, (16, 17)), (29, (10,)), (30, (0, 1, 2)), (31, (5, 6)))
        for hour in hours
        for minute in (0, 15, 30, 45)
    )
    begun: list[datetime] = []
    for number, at in enumerate(ticks, 1):
        stage.clock.now = at
        stage.add(number, due=at)
        stage.run(rules=rules)
        begun += stage.begun_at
    assert sorted({time.astimezone(BERLIN).strftime("%d %H:%M") for time in begun}) == [
        *("28 17:00", "28 17:15", "28 17:30", "28 17:45"),
        *("30 03:00", "30 03:15", "30 03:30", "30 03:45"),
        *("31 08:00", "31 08:15", "31 08:30", "31 08:45"),
    ]
