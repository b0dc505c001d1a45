"""Replays of invented histories: the laws that each schedule obeys, and the breaker, outages and limits in a replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from statistics import fmean
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrycli.domain.circuit_breaker import BreakerRules
from retrycli.domain.delivery_window import DeliveryWindows
from retrycli.domain.message import MessageType
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.recorded_history import (
    TRIES,
    RecordedHistory,
    RecordedMessage,
    RecordedOutage,
    TryRates,
)
from retrycli.domain.retry_policy import BOUND, Backoff, BackoffKind, RetryPolicy
from retrycli.domain.schedule_grid import Grid
from retrycli.domain.simulation import ReplayTally
from retrycli.domain.transition import Route
from retrycli.engine.ports import PassRules
from retrycli.operations.replay import replay
from retrycli.operations.replayed_queue import draw
from tests.fakes import RULES, START, TICK

DEFAULT = RetryPolicy()
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
END = START + 48 * HOUR
DELIVERED = Outcome(OutcomeKind.DELIVERED, 200)
REFUSED = Outcome(OutcomeKind.REFUSED, 200)
PERMANENT = Outcome(OutcomeKind.PERMANENT, 422)
INVALID = Outcome(OutcomeKind.INVALID)
UNKNOWN = Outcome(OutcomeKind.UNKNOWN)
DOWN = Outcome(OutcomeKind.TRANSIENT, 503)
CUT_OFF = Outcome(OutcomeKind.UNREACHABLE)
UNAUTHORIZED = Outcome(OutcomeKind.UNAUTHORIZED, 401)


def message(
    number: int, failed_at: datetime, *outcomes: Outcome, of: MessageType = MessageType.CUSTOMER
) -> RecordedMessage:
    return RecordedMessage(number, of, str(number), failed_at, failed_at - MINUTE, list(outcomes))


def history(
    messages: Sequence[RecordedMessage],
    *rates: tuple[Outcome, int],
    outages: Sequence[RecordedOutage] = (),
    destination: str = RULES.destination,
) -> RecordedHistory:
    """Return a history in which the same rates apply to all tries."""
    observed = [TryRates(name, rates or [(DELIVERED, 1)], pooled=False) for name in TRIES]
    ordered = sorted(messages, key=lambda each: (each.first_failed_at, each.message_id))
    return RecordedHistory(ordered, {destination: outages}, observed, attempts=100)


def outage(began_at: datetime, ended_at: datetime, *outcomes: Outcome, failed_at: datetime | None = None) -> Any:  # noqa: ANN401
    """Return an outage whose end is known: a failure at the end's tick, and an answer directly after it."""
    return RecordedOutage(began_at, failed_at or ended_at, ended_at, outcomes or (CUT_OFF,))


def rules_of(policy: RetryPolicy, **changes: Any) -> PassRules:  # noqa: ANN401
    return RULES._replace(policies=dict.fromkeys(MessageType, policy), **changes)


def played(
    found: RecordedHistory,
    policy: RetryPolicy = DEFAULT,
    *,
    seed: int = 0,
    looks_up: bool = False,
    **changes: Any,  # noqa: ANN401
) -> ReplayTally:
    """Replay with passes every 15 minutes, and return what happened to messages of all types."""
    passes = [START + number * TICK for number in range((END - START) // TICK)]
    tallies = replay(
        found,
        rules_of(policy, **changes),
        seed=seed,
        passes=passes,
        later=Grid(START, TICK),
        until=END,
        looks_up=dict.fromkeys(MessageType, looks_up),
    )
    whole = ReplayTally()
    for tally in tallies.values():
        whole.add(tally)
    return whole


backoffs = st.one_of(
    st.tuples(
        st.sampled_from([BackoffKind.EXPONENTIAL, BackoffKind.FIXED, BackoffKind.LINEAR]),
        st.sampled_from([2 * MINUTE, 15 * MINUTE, 40 * MINUTE, 3 * HOUR]),
    ).map(lambda given: Backoff(*given)),
    st.lists(st.sampled_from([5 * MINUTE, HOUR, 7 * HOUR]), min_size=1, max_size=4).map(
        lambda waits: Backoff(BackoffKind.LIST, waits=tuple(waits))
    ),
)
policies = st.tuples(backoffs, st.integers(1, 6)).map(lambda given: RetryPolicy(*given))
times = st.integers(0, 24 * 60).map(lambda minutes: START + minutes * MINUTE)


def messages(*outcomes: Outcome, most: int = 30) -> st.SearchStrategy[list[RecordedMessage]]:
    """Generate messages of all types, each with some of these outcomes."""
    own = st.lists(st.sampled_from(outcomes), max_size=5) if outcomes else st.just([])
    each = st.tuples(times, st.sampled_from(MessageType), own)
    return st.lists(each, max_size=most).map(
        lambda given: [message(number, at, *own, of=of) for number, (at, of, own) in enumerate(given)]
    )


# -- laws ---------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(messages(), policies, st.integers(0, 5))
def test_without_failures_each_message_is_delivered_at_the_first_tick_after_it_is_due(
    found: list[RecordedMessage], policy: RetryPolicy, seed: int
) -> None:
    tally = played(history(found), policy._replace(backoff=policy.backoff._replace(spread=0)), seed=seed)
    expected = []
    for each in found:
        due = policy.backoff.next_attempt_at(1, since=each.first_failed_at, created_at=each.created_at)
        first = max(due - RULES.due_slack, each.first_failed_at)
        tick = START - (START - first) // TICK * TICK
        expected.append(int((tick - each.first_failed_at).total_seconds()))
    assert sorted(tally.waits) == sorted(expected)
    assert (tally.messages, tally.requests, tally.escalated) == (len(found), len(found), 0)


@settings(deadline=None, max_examples=50)
@given(messages(REFUSED, DELIVERED, PERMANENT), policies, st.integers(1, 5), st.integers(0, 5))
def test_more_retries_never_escalate_more_messages(
    found: list[RecordedMessage], policy: RetryPolicy, more: int, seed: int
) -> None:
    rates = ((DELIVERED, 3), (REFUSED, 6), (PERMANENT, 1))
    few = played(history(found, *rates), policy, seed=seed)
    many = played(history(found, *rates), policy._replace(max_retries=policy.max_retries + more), seed=seed)
    assert many.escalated <= few.escalated
    assert len(many.waits) >= len(few.waits)
    assert many.requests >= few.requests


@settings(deadline=None, max_examples=50)
@given(
    messages(REFUSED, DELIVERED, PERMANENT, INVALID, UNKNOWN, DOWN, CUT_OFF),
    policies,
    st.integers(0, 5),
    st.lists(st.tuples(times, st.integers(1, 12)), max_size=2),
)
def test_each_message_is_delivered_or_escalated_and_no_text_is_requested_without_end(
    found: list[RecordedMessage], policy: RetryPolicy, seed: int, down: list[tuple[datetime, int]]
) -> None:
    outages = [outage(at, at + hours * HOUR, DOWN, UNKNOWN) for at, hours in sorted(down)]
    rates = ((DELIVERED, 3), (REFUSED, 3), (DOWN, 3), (UNKNOWN, 1))
    tally = played(history(found, *rates, outages=outages), policy, seed=seed)
    assert tally.messages == len(found) == len(tally.waits) + tally.escalated
    assert all(wait >= 0 for wait in tally.waits)
    assert tally.requests_in_outages <= tally.requests


def probes(length: timedelta, rules: BreakerRules) -> int:
    """Return the maximum number of probes in an outage of this length. Ticks can only delay a probe."""
    number, spent = 0, timedelta(0)
    while True:
        spent += rules.probe_after[min(number, len(rules.probe_after) - 1)] - RULES.due_slack
        if spent >= length:
            return number
        number += 1


@settings(deadline=None, max_examples=50)
@given(messages(most=60), policies, st.integers(0, 5), times, st.integers(1, 20), st.integers(1, 8))
def test_requests_in_an_outage_never_exceed_the_failures_that_open_the_breaker_and_the_probes(
    found: list[RecordedMessage], policy: RetryPolicy, seed: int, at: datetime, hours: int, failures: int
) -> None:
    rules = BreakerRules(failures)
    tally = played(history(found, outages=[outage(at, at + hours * HOUR)]), policy, seed=seed, breaker=rules)
    assert tally.requests_in_outages <= failures + probes(hours * HOUR, rules)


@settings(deadline=None, max_examples=20)
@given(messages(REFUSED, DOWN), policies, st.integers(0, 5))
def test_a_replay_is_reproducible(found: list[RecordedMessage], policy: RetryPolicy, seed: int) -> None:
    recorded = history(found, (DELIVERED, 1), (REFUSED, 1))
    assert played(recorded, policy, seed=seed) == played(recorded, policy, seed=seed)


@settings(deadline=None, max_examples=20)
@given(messages(REFUSED), policies, st.integers(1, 3))
def test_a_limit_delays_messages_but_loses_none(found: list[RecordedMessage], policy: RetryPolicy, limit: int) -> None:
    free, held = (played(history(found), policy, limit=each) for each in (None, limit))
    assert (held.messages, held.escalated, len(held.waits)) == (free.messages, free.escalated, len(free.waits))
    assert sum(held.waits) >= sum(free.waits)


# -- examples -----------------------------------------------------------------------------------------------------


def test_a_message_gets_its_recorded_outcomes_in_order_and_then_random_ones() -> None:
    found = history([message(1, START, REFUSED, REFUSED)], (PERMANENT, 1))
    tally = played(found)
    assert (tally.requests, tally.escalated) == (3, 1)


def test_a_message_that_was_rejected_or_invalid_stays_so() -> None:
    found = [message(1, START, PERMANENT), message(2, START, INVALID)]
    tally = played(history(found, outages=[outage(START, START + 9 * HOUR)]))
    assert (tally.escalated, list(tally.waits)) == (2, [])
    assert played(history([message(1, START, INVALID)], outages=[outage(START, START + 9 * HOUR)])).requests == 0


def test_a_message_that_is_alone_is_escalated_by_its_answered_probes() -> None:
    """The first two probes are free, as in a real pass. Probes without an answer are always free."""
    policy, rules = RetryPolicy(Backoff(BackoffKind.FIXED)), BreakerRules(failures=1)
    night = START + 40 * HOUR
    alone = [message(1, START)]
    answered = played(history(alone, outages=[outage(START, night, DOWN, CUT_OFF)]), policy, breaker=rules)
    silent = played(history(alone, outages=[outage(START, night, CUT_OFF)]), policy, breaker=rules)
    assert (answered.escalated, silent.escalated) == (1, 0)
    assert len(silent.waits) == 1


def test_a_message_that_has_not_been_a_probe_goes_first() -> None:
    """One message an hour fails, and each probe goes to a new one. None gets a third probe, which would escalate it."""
    found = [message(number, START + max(number - 5, 0) * HOUR) for number in range(47)]
    tally = played(history(found, outages=[outage(START, START + 44 * HOUR, DOWN)]), RetryPolicy(max_retries=2))
    assert (tally.escalated, len(tally.waits)) == (0, 47)
    assert tally.requests_in_outages == 5 + 44, "the breaker opens at 0:15; probes at 0:30, at 1:00, and then each hour"


def test_a_text_is_not_requested_without_end_even_if_no_request_is_charged() -> None:
    """An unknown outcome of a probe uses up no retry. With a look-up it does not escalate the message either."""
    recorded = history([message(1, START)], outages=[outage(START, START + 47 * HOUR, CUT_OFF, UNKNOWN)])
    rules = BreakerRules(failures=1)
    tally = played(recorded, RetryPolicy(max_retries=4), breaker=rules, looks_up=True)
    assert (tally.escalated, len(tally.waits)) == (1, 0)
    assert tally.requests >= BOUND * 4


def test_an_answer_closes_the_breaker_again() -> None:
    """After the outage, a single failure delays only its own message."""
    early = [message(number, START) for number in range(9)]
    fails = message(20, START + 30 * HOUR, CUT_OFF, DELIVERED)
    others = [message(number, START + 30 * HOUR, DELIVERED) for number in range(21, 24)]
    recorded = history([*early, fails, *others], outages=[outage(START, START + 5 * HOUR)])
    tally = played(recorded)
    assert sorted(tally.waits)[:4] == [900, 900, 900, 2700]


def test_a_refused_access_uses_up_no_retry() -> None:
    found = [message(number, START) for number in range(30)]
    recorded = history(found, outages=[outage(START, START + 20 * HOUR, UNAUTHORIZED)])
    tally = played(recorded, RetryPolicy(max_retries=1))
    assert (tally.escalated, len(tally.waits)) == (0, 30)
    assert tally.requests_in_outages == 79, "one request in each pass"


def test_destinations_have_separate_breakers_and_outages() -> None:
    kinds = {MessageType.SUPPLIER: "https://suppliers", MessageType.CUSTOMER: "https://customers"}
    routes = (
        Route("https://suppliers", only=frozenset({MessageType.SUPPLIER})),
        Route("https://customers", but=frozenset({MessageType.SUPPLIER})),
    )
    found = [message(number, START, of=kind) for number, kind in enumerate([*kinds] * 10)]
    down = [outage(START, START + 9 * HOUR)]
    recorded = history(found, outages=down, destination="https://suppliers")
    tally = played(recorded, destination="https://customers", routes=routes)
    assert sum(wait < HOUR.total_seconds() for wait in tally.waits) == 10
    assert sum(wait >= 9 * 3600 for wait in tally.waits) == 10


def test_destinations_share_the_limit_of_a_pass() -> None:
    kinds = {MessageType.SUPPLIER: "https://suppliers", MessageType.CUSTOMER: "https://customers"}
    routes = tuple(Route(name, only=frozenset({kind})) for kind, name in kinds.items())
    found = [message(number, START, of=kind) for number, kind in enumerate([*kinds] * 10)]
    tallies = replay(
        history(found),
        rules_of(DEFAULT, destination="https://customers", routes=routes, limit=2),
        seed=0,
        passes=[],
        later=Grid(START, TICK),
        until=START,
        looks_up=dict.fromkeys(MessageType, False),
    )
    for kind in kinds:
        assert sorted(tallies[kind].waits) == [900 + 900 * number for number in range(10)]


def test_an_expired_message_is_escalated_instead_of_sent() -> None:
    policy = RetryPolicy(expires_after=2 * HOUR)
    down = [outage(START, START + 9 * HOUR)]
    early, late = ([message(number, at) for number in range(20)] for at in (START, START + 8 * HOUR))
    tally = played(history([*early, *late], outages=down), policy)
    assert (tally.escalated, len(tally.waits)) == (20, 20)


def test_unknown_outcomes_escalate_a_message_that_can_not_be_looked_up() -> None:
    found = history([message(1, START)], (UNKNOWN, 1))
    rules = BreakerRules(failures=100)
    policy = RetryPolicy(unknown_limit=2)
    assert played(found, policy, breaker=rules).requests == 3
    assert played(found, policy, breaker=rules, looks_up=True).requests == 10


def test_a_message_waits_until_the_window_of_its_type_opens() -> None:
    opens = START + 3 * HOUR
    windows = DeliveryWindows.parse([f"daily {opens:%H:%M}-{opens + HOUR:%H:%M}"], UTC)
    found = [message(1, START), message(2, START, of=MessageType.SUPPLIER)]
    tally = played(history(found), windows={MessageType.CUSTOMER: windows})
    assert sorted(tally.waits) == [15 * 60, 3 * 60 * 60]


def test_passes_that_were_never_made_deliver_nothing() -> None:
    tallies = replay(
        history([message(1, START)]),
        RULES,
        seed=0,
        passes=[START + 5 * MINUTE, START + 9 * HOUR],
        later=Grid(START, TICK),
        until=END,
        looks_up=dict.fromkeys(MessageType, False),
    )
    assert list(tallies[MessageType.CUSTOMER].waits) == [9 * 3600]


def test_a_pass_after_the_period_sends_what_is_due_within_the_slack() -> None:
    tallies = replay(
        history([message(1, START + 0.5 * MINUTE)]),
        rules_of(RetryPolicy(Backoff(base=30 * MINUTE))),
        seed=0,
        passes=[],
        later=Grid(START, TICK),
        until=START,
        looks_up=dict.fromkeys(MessageType, False),
    )
    assert list(tallies[MessageType.CUSTOMER].waits) == [30 * 60 - 30]


def test_a_table_without_times_is_tried_at_once() -> None:
    bare = [replace(message(1, START), created_at=None)]
    tallies = replay(
        history(bare),
        RULES,
        seed=0,
        passes=[START],
        later=Grid(START, TICK),
        until=END,
        looks_up=dict.fromkeys(MessageType, False),
        has_times=False,
    )
    assert list(tallies[MessageType.CUSTOMER].waits) == [0]


def test_the_unknown_end_of_an_outage_spreads_the_replays() -> None:
    """The last failure was at 20:00 and the next answer at 21:00. A probe at 20:30 succeeds in about half of them."""
    down = RecordedOutage(START, START + 8 * HOUR, START + 9 * HOUR, [CUT_OFF])
    found = [message(number, START + 30 * MINUTE) for number in range(10)]
    waits = {max(played(history(found, outages=[down]), seed=seed).waits) for seed in range(20)}
    assert len(waits) == 2


def test_an_outage_that_had_not_ended_ends_before_the_end_of_the_period() -> None:
    down = RecordedOutage(END - HOUR, END - 30 * MINUTE, None, [CUT_OFF])
    found = [message(number, END - HOUR) for number in range(10)]
    for seed in range(10):
        tally = played(history(found, outages=[down]), seed=seed)
        assert len(tally.waits) == 10
        assert max(tally.waits) <= 3 * 3600


def test_draws_are_spread_evenly_and_depend_on_each_argument() -> None:
    drawn = [
        draw(seed, purpose, subject, turn)
        for seed in range(9)
        for purpose in range(4)
        for subject in range(50)
        for turn in range(9)
    ]
    assert len(set(drawn)) == len(drawn)
    assert 0 <= min(drawn) < max(drawn) < 1
    assert fmean(drawn) == pytest.approx(0.5, abs=0.01)
    tenths = [sum(number / 10 <= value < (number + 1) / 10 for value in drawn) for number in range(10)]
    assert max(tenths) < 1.1 * len(drawn) / 10
