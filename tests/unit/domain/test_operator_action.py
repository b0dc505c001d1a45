"""Operator actions, and the texts of their refusals."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from retrycli.domain.errors import NoSuchMessage, NotActionable
from retrycli.domain.message import State
from retrycli.domain.operator_action import VERBS, MessageStanding, OperatorAction, not_free, refusal
from retrycli.domain.transition import ActionKind

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)


def test_an_action_has_only_its_own_fields() -> None:
    nothing = OperatorAction(ActionKind.NOTED, "ada", NOON)
    assert (nothing.detail, nothing.due, nothing.last_error, nothing.note) == (None, None, None, None)
    rejected = OperatorAction.rejected("a double", by="ada", at=NOON)
    assert rejected == OperatorAction(
        ActionKind.REJECTED, "ada", NOON, "a double", last_error="Rejected by ada: a double"
    )
    before, after = {"subject": "a", "body": None}, {"subject": "b", "body": "c"}
    edited = OperatorAction.edited(before, after, ticket="4711", by="ada", at=NOON)
    assert edited == OperatorAction(
        ActionKind.EDITED, "ada", NOON, "subject, body", ticket="4711", before=before, after=after
    )


def test_the_history_has_times_in_utc() -> None:
    east = datetime(2025, 3, 3, 14, tzinfo=timezone(timedelta(hours=2)))
    assert OperatorAction.requeued(east, by="ada", at=NOON).detail == "due 2025-03-03T12:00:00Z"


@pytest.mark.parametrize("kind", VERBS)
def test_each_refusal_has_a_reason(kind: ActionKind) -> None:
    assert isinstance(refusal(kind, 7, None, NOON), NoSuchMessage)
    for status, state in (("sent", None), ("failed", State.SENDING), ("failed", State.WAITING)):
        error = refusal(kind, 7, MessageStanding(7, status, state), NOON)
        assert isinstance(error, NotActionable)
        assert "message 7 " in str(error)
    free_again = refusal(kind, 7, MessageStanding(7, "failed", State.ESCALATED), NOON)
    assert "message 7 was locked or modified by another transaction" in str(free_again)


def test_only_a_failed_message_that_is_not_being_sent_is_free() -> None:
    for state in (None, State.WAITING, State.ESCALATED):
        assert not_free(MessageStanding(7, "failed", state), "edit", NOON) is None
    error = not_free(MessageStanding(7, "failed", State.SENDING, "pass-1"), "edit", NOON)
    assert "has not renewed its claim" in str(error), "its claim has expired"
