"""The breaker: when it opens, when it probes, what closes it, and the concurrency of a pass."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.circuit_breaker import LONG_REST, Breaker, BreakerRules, BreakerState, next_concurrency
from retrycli.domain.outcome import OutcomeKind

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
RULES = BreakerRules()
CLOSED = Breaker("tickets.example.com")

FAILURES = [OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE]
ANSWERS = [OutcomeKind.DELIVERED, OutcomeKind.REFUSED, OutcomeKind.PERMANENT]
SILENT = [OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED, OutcomeKind.INVALID]


def after(*kinds: OutcomeKind, since: datetime = NOON, rules: BreakerRules = RULES, tickets: int = 100) -> Breaker:
    """Return the breaker after these outcomes of one pass. The outcomes belong to ``tickets`` tickets in turn."""
    breaker = CLOSED
    for number, kind in enumerate(kinds):
        breaker = breaker.after(kind, rules, since=since, ticket=str(number % tickets))
    return breaker


OPEN = after(*[OutcomeKind.TRANSIENT] * 5)


@pytest.mark.parametrize("kind", FAILURES)
def test_five_consecutive_failures_open_it_and_four_do_not(kind: OutcomeKind) -> None:
    assert after(*[kind] * 4).state is BreakerState.CLOSED
    assert after(*[kind] * 5).state is BreakerState.OPEN


@pytest.mark.parametrize("kind", ANSWERS)
def test_an_answer_in_between_starts_a_new_streak(kind: OutcomeKind) -> None:
    """Any answer about the message shows that the destination works."""
    assert after(*[OutcomeKind.TRANSIENT] * 4, kind) == CLOSED
    assert after(*[OutcomeKind.TRANSIENT] * 4, kind, *[OutcomeKind.TRANSIENT] * 4).state is BreakerState.CLOSED
    assert OPEN.after(kind, RULES, since=NOON + timedelta(minutes=15), ticket="1") == CLOSED, "an answered probe"


@pytest.mark.parametrize("kind", SILENT)
def test_throttled_unauthorized_and_invalid_neither_extend_nor_end_a_streak(kind: OutcomeKind) -> None:
    four = after(*[OutcomeKind.TRANSIENT] * 4)
    assert after(*[kind] * 10) == CLOSED
    assert four.after(kind, RULES, since=NOON, ticket="1") == four
    assert OPEN.after(kind, RULES, since=NOON + timedelta(hours=1), ticket="1") == OPEN


def test_a_streak_continues_across_passes() -> None:
    breaker = CLOSED
    for tick in range(5):
        breaker = breaker.after(OutcomeKind.UNREACHABLE, RULES, since=NOON + tick * timedelta(minutes=15), ticket="1")
    assert breaker.state is BreakerState.OPEN
    assert breaker.opened_at == NOON + timedelta(hours=1)


@pytest.mark.parametrize("kind", [OutcomeKind.TRANSIENT, OutcomeKind.UNKNOWN])
def test_failures_of_two_tickets_never_open_it_and_a_third_ticket_makes_all_count(kind: OutcomeKind) -> None:
    two = after(*[kind] * 40, tickets=2)
    assert (two.state, two.is_healthy) == (BreakerState.CLOSED, False)
    third = two.after(kind, RULES, since=NOON, ticket="third")
    assert third.state is BreakerState.OPEN
    assert third.probe_at == NOON + timedelta(minutes=15), "the first wait, however long the row"


def test_failed_connections_count_for_any_ticket() -> None:
    one = after(*[OutcomeKind.TRANSIENT] * 3, *[OutcomeKind.UNREACHABLE] * 4, tickets=1)
    assert one.state is BreakerState.CLOSED
    assert one.after(OutcomeKind.UNREACHABLE, RULES, since=NOON, ticket="0").state is BreakerState.OPEN


@pytest.mark.parametrize("kind", FAILURES)
def test_a_failed_probe_counts_for_any_ticket_and_keeps_the_start_of_the_outage(kind: OutcomeKind) -> None:
    breaker, waits = OPEN, []
    for _ in range(3):
        assert breaker.probe_at is not None
        probe_at = breaker.probe_at
        breaker = breaker.after(kind, RULES, since=probe_at, ticket="1")
        assert breaker.probe_at is not None
        waits.append(breaker.probe_at - probe_at)
    assert waits == [timedelta(minutes=minutes) for minutes in (30, 60, 60)]
    assert (breaker.opened_at, breaker.failures) == (NOON, 8)


@pytest.mark.parametrize("failures", [1, 7])
def test_the_number_of_failures_is_configurable(failures: int) -> None:
    rules = BreakerRules(failures=failures)
    assert after(*[OutcomeKind.UNREACHABLE] * (failures - 1), rules=rules).state is BreakerState.CLOSED
    assert after(*[OutcomeKind.UNREACHABLE] * failures, rules=rules).state is BreakerState.OPEN


def test_an_open_breaker_blocks_until_its_probe_is_due() -> None:
    assert not after(*[OutcomeKind.TRANSIENT] * 4).blocks(NOON)
    assert OPEN.blocks(NOON + timedelta(minutes=15) - timedelta.resolution)
    assert not OPEN.blocks(NOON + timedelta(minutes=15)), "the next tick may probe"


def test_the_wait_for_a_probe_starts_with_the_pass() -> None:
    """Failures of requests that were in flight when it opened are not probes."""
    assert OPEN.probe_at == NOON + timedelta(minutes=15)
    assert after(*[OutcomeKind.TRANSIENT] * 8).probe_at == OPEN.probe_at
    latest = datetime.max.replace(tzinfo=UTC)
    assert after(*[OutcomeKind.TRANSIENT] * 5, since=latest).probe_at == latest


@pytest.mark.parametrize("kind", [OutcomeKind.DELIVERED, OutcomeKind.TRANSIENT])
def test_a_destination_that_requests_a_rest_gets_no_requests_until_its_end(kind: OutcomeKind) -> None:
    end = NOON + timedelta(minutes=20)
    resting = CLOSED.rest(end, since=NOON)
    assert resting.state is BreakerState.RESTING
    assert resting.after(kind, RULES, since=NOON, ticket="1") == resting, "the request was in flight"
    assert resting.blocks(end - timedelta.resolution)
    assert not resting.blocks(end)
    assert resting.after(OutcomeKind.DELIVERED, RULES, since=end, ticket="1") == CLOSED


def test_a_rest_neither_ends_nor_continues_a_row_of_failures() -> None:
    """Otherwise a gateway that answers a few 503s and then a 429 in each pass would use up all retries unnoticed."""
    later = NOON + timedelta(minutes=15)
    resting = after(*[OutcomeKind.TRANSIENT] * 4).rest(NOON, since=NOON)
    assert (resting.state, resting.failures) == (BreakerState.RESTING, 4)
    assert resting.after(OutcomeKind.DELIVERED, RULES, since=later, ticket="1") == CLOSED
    breaker = resting.after(OutcomeKind.UNREACHABLE, RULES, since=later, ticket="1")
    assert (breaker.state, breaker.opened_at) == (BreakerState.OPEN, later)


@pytest.mark.parametrize("state", [BreakerState.OPEN, BreakerState.UNREAD])
def test_a_throttled_probe_only_moves_the_next_one(state: BreakerState) -> None:
    """The destination has accepted nothing, so the outage goes on."""
    due = NOON + timedelta(minutes=15)
    before = OPEN._replace(state=state)
    assert before.rest(due + LONG_REST, since=NOON) == before
    assert before.rest(due + LONG_REST, since=due) == before._replace(probe_at=due + LONG_REST)


def test_two_hours_of_rests_and_nothing_else_count_as_an_outage() -> None:
    """However short each rest is. An answer of another kind starts anew."""
    breaker, last = CLOSED, NOON + LONG_REST
    for minutes in range(0, 120, 15):
        at = NOON + timedelta(minutes=minutes)
        breaker = breaker.rest(at, since=at)
        assert not breaker.is_down(at)
    for kind in (OutcomeKind.DELIVERED, OutcomeKind.TRANSIENT):
        assert not breaker.after(kind, RULES, since=last, ticket="1").rest(last, since=last).is_down(last)
    assert breaker.after(OutcomeKind.UNAUTHORIZED, RULES, since=last, ticket="1").rest(last, since=last).is_down(last)
    assert not breaker.rest(last - timedelta.resolution, since=last).is_down(last)
    down = breaker.rest(last, since=last)
    assert (down.state, down.is_down(last), down.needs_operator(last)) == (BreakerState.RESTING, True, True)
    assert "has asked retrycli to wait since 2025-03-03T12:00:00Z, no" in down.description
    assert "since" not in breaker.description


def test_a_rest_that_ended_long_ago_is_over() -> None:
    """Nothing was asked since, for example because of a weekend without deliveries."""
    down = CLOSED.rest(NOON + LONG_REST, since=NOON)
    long_after = NOON + 2 * LONG_REST
    assert down.is_down(long_after - timedelta.resolution)
    assert not down.is_down(long_after)
    assert not down.at_start(long_after).rest(long_after, since=long_after).is_down(long_after)
    assert not down.rest(long_after, since=long_after).is_down(long_after)


@given(st.lists(st.tuples(st.sampled_from(OutcomeKind), st.sampled_from("1234")), max_size=30))
def test_it_is_open_exactly_during_five_relevant_consecutive_failures(course: list[tuple[OutcomeKind, str]]) -> None:
    row: list[tuple[OutcomeKind, str]] = []
    breaker, down = CLOSED, False
    for kind, ticket in course:
        row = [] if kind in ANSWERS else [*row, (kind, ticket)] if kind in FAILURES else row
        silent = [outcome for outcome, _ in row if outcome is OutcomeKind.UNREACHABLE]
        tickets = {ticket for outcome, ticket in row if outcome is not OutcomeKind.UNREACHABLE}
        down = bool(row) and (down or len(row if len(tickets) >= 3 else silent) >= 5)
        breaker = breaker._replace(probe_at=None).after(kind, RULES, since=NOON, ticket=ticket)
        assert (breaker.state is BreakerState.OPEN) is down
        if kind not in SILENT:  # a silent outcome does not end an admitted probe
            assert (breaker.probe_at is not None) is down
    assert breaker.destination == "tickets.example.com"


@pytest.mark.parametrize(
    ("width", "kind", "then"),
    [
        *[(1, kind, 2) for kind in ANSWERS],
        *[(4, kind, 5) for kind in ANSWERS],
        *[(8, kind, 8) for kind in ANSWERS],  # at most the limit
        *[(8, kind, 4) for kind in FAILURES],
        *[(5, kind, 2) for kind in FAILURES],
        *[(1, kind, 1) for kind in FAILURES],  # at least one
        *[(4, kind, 4) for kind in SILENT],
    ],
)
@pytest.mark.parametrize("is_healthy", [False, True])
def test_answers_widen_failures_halve_and_others_keep_the_concurrency(
    width: int, kind: OutcomeKind, then: int, *, is_healthy: bool
) -> None:
    to_the_limit = is_healthy and kind is OutcomeKind.DELIVERED
    assert next_concurrency(width, kind, 8, is_healthy=is_healthy) == (8 if to_the_limit else then)
