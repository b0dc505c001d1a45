"""Attempts that succeed after their time limit, while the pass still runs."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

import pytest

from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import Event, MessageDelivered, MessageRescheduled
from retrycli.domain.retry_policy import RetryPolicy
from retrycli.domain.transition import Overdue
from tests.fakes import DELIVERED, DOWN, LOST, RULES, START, Clock, Stage

SOON = timedelta(seconds=20)


class Ends(Future[Outcome]):
    """The outcome of a call that ends when the clock shows a given time."""

    def __init__(self, clock: Clock, at: datetime, outcome: Outcome) -> None:
        super().__init__()
        self.set_result(outcome)
        self._clock = clock
        self._at = at

    def done(self) -> bool:
        return self._clock.now >= self._at


@dataclass
class Calls:
    """A script in which each call exceeds its time limit and then goes on."""

    stage: Stage
    goes_on: timedelta = SOON
    ends_with: Outcome = DELIVERED
    stops: bool = False

    def __call__(self, queued: QueuedMessage) -> Outcome:
        ends = Ends(self.stage.clock, self.stage.clock.now + self.goes_on, self.ends_with)
        assert self.stage.gateway is not None
        self.stage.gateway.overdue.append(Overdue(queued.message_id, queued.delivery_key, ends))
        self.stage.stop_requested = self.stops
        return LOST


def test_a_late_success_is_recorded_as_a_look_up_would(stage: Stage) -> None:
    stage.add(1, 2, due=START)
    summary = stage.run(Calls(stage))
    assert stage.sent() == [1, 2]
    assert stage.attempts(1) == stage.attempts(2) == [("pass", "unknown"), ("pass", "delivered")]
    assert summary.sent == len(stage.events.of(MessageDelivered)) == 2
    assert stage.states() == {}
    assert stage.clock.now - START < SOON + timedelta(seconds=1)


def test_a_late_success_takes_back_an_escalation(stage: Stage) -> None:
    stage.add(1, due=START)
    at_once = dict.fromkeys(MessageType, RetryPolicy(unknown_limit=0))
    stage.run(Calls(stage), RULES._replace(policies=at_once))
    assert (stage.sent(), stage.states()) == ([1], {})


@pytest.mark.parametrize(
    ("seconds", "deadline"), [(31, RULES.deadline), (20, timedelta(seconds=10))], ids=["request timeout", "deadline"]
)
def test_a_pass_waits_no_longer_than_it_may(stage: Stage, seconds: int, deadline: timedelta) -> None:
    stage.add(1, due=START)
    stage.run(Calls(stage, timedelta(seconds=seconds)), RULES._replace(deadline=deadline))
    assert (stage.sent(), stage.attempts(1)) == ([], [("pass", "unknown")])
    waited = stage.clock.now - START
    assert min(RULES.request_timeout, deadline) <= waited < timedelta(seconds=seconds)


def test_a_stopped_pass_records_what_has_ended_and_does_not_wait(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.run(Calls(stage, stops=True))
    assert (stage.sent(), stage.clock.now) == ([], START)
    stage.add(2, due=START)
    stage.stop_requested = False
    stage.run(Calls(stage, timedelta(0), stops=True))
    assert (stage.sent(), stage.clock.now) == ([2], START)


def test_only_a_success_changes_what_was_recorded(stage: Stage) -> None:
    stage.add(1, due=START)
    stage.run(Calls(stage, ends_with=DOWN))
    assert (stage.sent(), stage.attempts(1), stage.tries()) == ([], [("pass", "unknown")], {1: 1})


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ("UPDATE pending_messages SET body = 'Another'", {1: "waiting"}),
        ("UPDATE pending_messages SET message_type = 'fax'", {1: "waiting"}),
        ("UPDATE pending_messages SET status = 'rejected'", {}),
        ("DELETE FROM pending_messages", {}),
    ],
)
def test_a_row_that_was_changed_meanwhile_is_not_marked(stage: Stage, change: str, state: dict[int, str]) -> None:
    stage.add(1, due=START)

    def hear(event: Event) -> None:
        if isinstance(event, MessageRescheduled):
            stage.sql(change)

    stage.events.hear = hear
    stage.run(Calls(stage))
    assert (stage.sent(), stage.states(), stage.attempts(1)) == ([], state, [("pass", "unknown")])
