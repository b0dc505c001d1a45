"""Fingerprints, which group errors by their cause."""

from __future__ import annotations

from functools import partial

import pytest

from retrycli.domain.fingerprint import LENGTH, cause, fingerprint
from retrycli.domain.message import EscalationReason
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.retry_policy import exhausted
from retrycli.domain.transition import Decision, Transition
from tests.cpu import cpu_seconds


@pytest.mark.parametrize(
    ("error", "stripped"),
    [
        ("HTTP 422: ticket 8812 is closed", "HTTP 422: ticket … is closed"),
        ("HTTP 422: bob.o'neil+x@example.com is unknown", "HTTP 422: … is unknown"),
        ("no user 'bob.o'neil@example.com'", "no user '…'"),
        ("HTTP 400: no object 6f1ab6ea-36a0-5c3e-9a43-2d1f6f0c8f0e", "HTTP 400: no object …"),
        ("HTTP 400: no object a81bc81bdead4e5dabff90865d1e13b1", "HTTP 400: no object …"),
        ("HTTP 400: request req_8fJ2kLmQ failed", "HTTP 400: request … failed"),
        ("HTTP 503", "HTTP 503"),
        ("10.0.0.7:8080 refused at 12:30:01.25", "… refused at …"),
        ("May have arrived: ReadTimeout (unknown outcomes: 3)", "May have arrived: ReadTimeout (unknown outcomes: …)"),
        (exhausted(10, "HTTP 503"), "HTTP 503"),
        (exhausted(10, None), exhausted(10, None).replace("10", "…")),
    ],
)
def test_numbers_addresses_and_ids_are_not_part_of_a_cause(error: str, stripped: str) -> None:
    assert cause(error) == stripped


def escalated(error: str, outcome: Outcome | None) -> Decision:
    reason = EscalationReason.PERMANENT if outcome else EscalationReason.INVALID
    return Decision(1, Transition.escalated(reason, last_error=error), outcome)


def test_messages_that_differ_only_in_ids_have_one_fingerprint() -> None:
    refused = Outcome(OutcomeKind.PERMANENT, 422)
    one = fingerprint(escalated("HTTP 422: ticket 1 is closed", refused))
    assert one == fingerprint(escalated("HTTP 422: ticket 234 is closed", refused))
    assert len(one) == LENGTH


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        ("HTTP 422: ticket 1 is locked", Outcome(OutcomeKind.PERMANENT, 422)),
        ("ticket 1 is closed", Outcome(OutcomeKind.PERMANENT, 409)),
        ("ticket 1 is closed", Outcome(OutcomeKind.REFUSED, 422)),
        ("ticket 1 is closed", None),
    ],
)
def test_a_different_text_status_or_outcome_is_a_different_cause(error: str, outcome: Outcome | None) -> None:
    usual = fingerprint(escalated("ticket 1 is closed", Outcome(OutcomeKind.PERMANENT, 422)))
    assert fingerprint(escalated(error, outcome)) != usual


def test_the_error_of_the_outcome_tells_causes_apart_if_the_row_gets_no_error() -> None:
    errors = ("the ticket is closed", "the disk is full", "\ud800")  # the last is not valid UTF-8
    outcomes = [Outcome(OutcomeKind.TRANSIENT, 503, error=error) for error in errors]
    assert len({fingerprint(Decision(1, Transition.unwritten(), outcome)) for outcome in outcomes}) == 3


@pytest.mark.parametrize("piece", ["a", "a@", "a1-", "HTTP 4", "0-"])
def test_no_error_text_takes_long_to_normalise(piece: str) -> None:
    """The limit is a hundred times the CPU time for plain words. Backtracking would take thousands of times as long."""
    text, words = piece * (20_000 // len(piece)), "plain words " * 333
    assert cpu_seconds(partial(cause, text)) < 100 * max(cpu_seconds(partial(cause, words)), 1e-4)
