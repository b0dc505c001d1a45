"""Rows whose creation time changes from pass to pass, although their text stays the same."""

from __future__ import annotations

from datetime import timedelta

import pytest

from retrycli.domain.identity import REBIRTHS
from retrycli.domain.message import EscalationReason
from retrycli.domain.outcome import Outcome
from retrycli.domain.passes import Event, MessageEscalated, PassStarted
from tests.fakes import DELIVERED, DOWN, LOST, RULES, START, TICK, Stage

SECOND = timedelta(seconds=1)
PROBLEM = "created_at was different at 3 passes in a row, although the text was the same"


def renew(stage: Stage, **columns: object) -> None:
    """Change the creation time, and other columns, as a view does that computes them at each read."""
    stage.clock.now += SECOND
    values = {"created_at": str(stage.clock.now.replace(tzinfo=None)), **columns}
    changes = ", ".join(f"{name} = ?" for name in values)
    stage.sql(f"UPDATE pending_messages SET {changes}", *values.values())


@pytest.fixture
def unstable(stage: Stage) -> Stage:
    """Provide a message that has had another creation time at so many passes that it is escalated."""
    stage.add(1, created_at="2025-03-03 12:00:00")
    stage.run()
    for _ in range(REBIRTHS):
        assert stage.states() == {1: "waiting"}
        renew(stage)
        stage.run()
    return stage


def test_a_message_whose_birth_changes_at_each_pass_is_escalated_once(unstable: Stage) -> None:
    for _ in range(3):
        assert unstable.escalation(1)[0] == EscalationReason.INVALID
        assert unstable.escalation(1)[2] == f"Can't be sent: {PROBLEM}"
        renew(unstable)
        unstable.run()
    [escalated] = unstable.events.of(MessageEscalated)
    assert (escalated.message_id, escalated.reason, escalated.problem) == (1, EscalationReason.INVALID, PROBLEM)
    assert unstable.attempts(1) == []


def test_a_birth_that_changes_from_read_to_read_is_noticed(stage: Stage) -> None:
    """Here it changes between the comparison and the claim of a pass, so no attempt begins."""

    def hear(event: Event) -> None:
        if isinstance(event, PassStarted):
            renew(stage)

    stage.events.hear = hear
    stage.add(1, due=START, created_at="2025-03-03 11:00:00", updated_at="2025-03-03 11:00:00")
    for _ in range(REBIRTHS + 1):
        stage.run()
        stage.clock.now += TICK
    assert (stage.escalation(1)[2], stage.attempts(1)) == (f"Can't be sent: {PROBLEM}", [])


def test_a_pass_with_a_long_slack_claims_such_a_row_once(stage: Stage) -> None:
    """The row stays in the queue, and must not become due within the same pass."""

    def hear(event: Event) -> None:
        if isinstance(event, PassStarted):
            renew(stage)

    stage.events.hear = hear
    stage.add(1, due=START, created_at="2025-03-03 11:00:00")
    assert stage.run(rules=RULES._replace(due_slack=timedelta(hours=1))).sent == 0
    assert (stage.states(), stage.attempts(1)) == ({1: "waiting"}, [])


@pytest.mark.parametrize("outcome", [DELIVERED, DOWN, LOST])
def test_a_birth_that_changes_during_each_request_ends_the_attempts(stage: Stage, outcome: Outcome) -> None:
    def answer(_: object) -> Outcome:
        renew(stage)
        return outcome

    stage.add(1, created_at="2025-03-03 11:00:00")
    for _ in range(20):
        stage.run(answer)
        stage.clock.now += TICK
    assert stage.escalation(1)[2] == f"Can't be sent: {PROBLEM}"
    assert len(stage.attempts(1)) <= REBIRTHS


def test_an_operator_can_send_it_although_its_birth_changes_during_the_attempt(unstable: Stage) -> None:
    for outcome, state in ((DOWN, {1: "escalated"}), (DELIVERED, {})):

        def answer(_: object, outcome: Outcome = outcome) -> Outcome:
            renew(unstable)
            return outcome

        assert unstable.retry(1, answer) == outcome
        assert unstable.states() == state
        renew(unstable)
    assert unstable.sent() == [1]


def test_another_text_is_another_message(unstable: Stage) -> None:
    """However often an id is used again, it is not a row whose birth changes."""
    for number in range(REBIRTHS + 1):
        renew(unstable, body=f"text {number}")
        unstable.run()
        assert unstable.states() == {1: "waiting"}
    unstable.clock.now += timedelta(hours=1)
    unstable.run()
    assert unstable.sent() == [1]


def test_a_pass_that_finds_the_same_birth_begins_to_count_anew(stage: Stage) -> None:
    stage.add(1, created_at="2025-03-03 12:00:00")
    stage.run()
    for _ in range(3):
        for _ in range(REBIRTHS - 1):
            renew(stage)
            stage.run()
        stage.run()
    assert stage.states() == {1: "waiting"}
