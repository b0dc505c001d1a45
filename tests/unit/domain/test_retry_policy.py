"""The policy: the effect of each outcome on a message, the state of a new message, and the waits between retries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from retrycli.domain.message import EscalationReason, Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.retry_policy import (
    JITTER_FROM,
    LATEST,
    Backoff,
    BackoffKind,
    NoWait,
    RetryPolicy,
    TooSlow,
    exhausted,
    first_failure,
)
from retrycli.domain.transition import Transition, TransitionKind

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
"""The start of the pass."""
ANSWER = NOON + timedelta(seconds=3)
"""The time of the answer."""

DEFAULT = RetryPolicy()
LINEAR = RetryPolicy(Backoff(BackoffKind.LINEAR))
FIXED = RetryPolicy(Backoff(BackoffKind.FIXED))

DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
LOST = Outcome(OutcomeKind.UNKNOWN, None, "no answer in 30 s")
COUNTED = [OutcomeKind.REFUSED, OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE]

FIXED_SENTENCE = "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503"


def message(**changes: object) -> Message:
    row = {"id": 7, "ticket_id": 12345, "message_type": "supplier", "subject": "Your delivery", "body": "Where is it?"}
    usual = {"status": "failed", "retry_count": 0, "last_error": None, "created_at": NOON - timedelta(minutes=15)}
    return Message.from_row({**row, **usual, **changes})


def queued(*, unknown_count: int = 0, first_failed_at: datetime = NOON, **changes: object) -> QueuedMessage:
    return QueuedMessage(
        message(**changes), delivery_key="key", first_failed_at=first_failed_at, unknown_count=unknown_count
    )


def decide(
    queued: QueuedMessage, outcome: Outcome, *, policy: RetryPolicy = DEFAULT, **changes: datetime | float
) -> Transition:
    usual: dict[str, Any] = {"since": NOON, "now": ANSWER, "jitter": 0.0}
    return policy.decide(queued, outcome, **usual | changes)


AGAIN = Transition.rescheduled(ANSWER + timedelta(hours=5), retry_count=4, unknown_count=1, last_error="it said no")
BEHIND = Transition(TransitionKind.RELEASED, next_attempt_at=ANSWER)
"""Due behind all others, so that the next pass or probe begins with another message."""
TRANSITIONS = {
    OutcomeKind.DELIVERED: (Transition(TransitionKind.DELIVERED),) * 2,
    OutcomeKind.REFUSED: (AGAIN, AGAIN),  # a refusal shows that the destination works
    OutcomeKind.UNKNOWN: (AGAIN._replace(unknown_count=2), BEHIND._replace(unknown_count=2)),
    OutcomeKind.TRANSIENT: (AGAIN, BEHIND._replace(unknown_count=1)),
    OutcomeKind.UNREACHABLE: (AGAIN, BEHIND._replace(unknown_count=1)),
    OutcomeKind.THROTTLED: (BEHIND, BEHIND),  # the destination rests; the message waits no longer than that
    OutcomeKind.UNAUTHORIZED: (BEHIND, BEHIND),
    OutcomeKind.PERMANENT: (Transition.escalated(EscalationReason.PERMANENT, last_error="it said no"),) * 2,
    OutcomeKind.INVALID: (Transition.invalid("it said no"),) * 2,
}


@pytest.mark.parametrize("kind", OutcomeKind)
def test_each_outcome_charged_or_not_has_its_transition(kind: OutcomeKind) -> None:
    before, outcome = queued(retry_count=3, unknown_count=1), Outcome(kind, 500, "it said no", timedelta(hours=5))
    decided = [decide(before, outcome, counts_as_retry=charged) for charged in (True, False)]
    assert decided == [*TRANSITIONS[kind]]


@pytest.mark.parametrize(("jitter", "waits"), [(-1, (30, 48, 192)), (0, (30, 60, 240)), (1, (30, 72, 288))])
def test_the_wait_is_that_of_the_next_retry_with_jitter(jitter: float, waits: tuple[float, ...]) -> None:
    steps = [decide(queued(retry_count=tries_before), DOWN, jitter=jitter) for tries_before in (0, 1, 3)]
    assert [step.next_attempt_at for step in steps] == [NOON + timedelta(minutes=wait) for wait in waits]


@pytest.mark.parametrize(("answered", "due"), [(0, 15), (12, 15), (20, 20)])
def test_waits_start_with_the_pass_and_end_at_the_answer_or_later(answered: float, due: float) -> None:
    """A wait of 15 min from the answer would end just after the next tick of cron, and so last 30 min."""
    step = decide(queued(), DOWN, policy=FIXED, now=NOON + timedelta(minutes=answered))
    assert step.next_attempt_at == NOON + timedelta(minutes=due)


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (timedelta(minutes=20), NOON + timedelta(minutes=30)),
        (timedelta(minutes=30), ANSWER + timedelta(minutes=30)),  # Retry-After counts from the answer
    ],
)
def test_the_later_of_wait_and_retry_after_applies(asked: timedelta, due: datetime) -> None:
    assert decide(queued(), DOWN._replace(retry_after=asked)).next_attempt_at == due


def test_a_retry_after_near_the_year_9999_does_not_overflow() -> None:
    step = decide(queued(), DOWN._replace(retry_after=timedelta(hours=6)), since=LATEST, now=LATEST)
    assert step.next_attempt_at == LATEST


def test_a_linear_message_keeps_its_schedule_from_creation() -> None:
    made = NOON - timedelta(minutes=20)
    step = decide(queued(retry_count=3, created_at=made), DOWN, policy=LINEAR)
    assert step.next_attempt_at == made + timedelta(minutes=75)


@given(
    kind=st.sampled_from(COUNTED),
    backoff=st.sampled_from(BackoffKind),
    retry_count=st.integers(0, 10_000),
    age=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
    jitter=st.floats(-1, 1),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(hours=6)),
)
@example(OutcomeKind.TRANSIENT, BackoffKind.LIST, 998, timedelta(0), 0, None)
@example(OutcomeKind.TRANSIENT, BackoffKind.LIST, 999, timedelta(0), 0, None)
def test_a_failed_message_always_waits_for_a_future_time_or_is_escalated(
    kind: OutcomeKind,
    backoff: BackoffKind,
    retry_count: int,
    age: timedelta,
    jitter: float,
    retry_after: timedelta | None,
) -> None:
    step = decide(
        queued(retry_count=retry_count, created_at=NOON - age),
        Outcome(kind, error="HTTP 503", retry_after=retry_after),
        policy=RetryPolicy(Backoff(backoff, waits=(timedelta(minutes=5),)), max_retries=1000),
        jitter=jitter,
    )
    assert step.retry_count == retry_count + 1
    if retry_count < 999:
        assert step.kind is TransitionKind.RESCHEDULED
        assert step.next_attempt_at is not None
        assert step.next_attempt_at >= ANSWER + (retry_after or timedelta(0))
    else:
        assert (step.kind, step.reason) == (TransitionKind.ESCALATED, EscalationReason.EXHAUSTED)
        assert (step.next_attempt_at, step.last_error) == (None, FIXED_SENTENCE.replace("10", "1000"))


@pytest.mark.parametrize(
    ("limit", "error", "sentence"),
    [
        (10, None, "Max retries (10) exceeded. Manual intervention required."),
        (10, FIXED_SENTENCE, FIXED_SENTENCE),
        (3, "x", "Max retries (3) exceeded. Manual intervention required. Last error: x"),
        *(
            (10, error, f"Max retries (10) exceeded. Manual intervention required. Last error: {error}")
            for error in ("Max retries exceeded with url: /tickets", "Max retries (3) of upstream used up")
        ),
    ],
)
def test_the_documented_text_has_the_limit_and_the_last_error_and_never_itself(
    limit: int, error: str | None, sentence: str
) -> None:
    assert exhausted(limit, error) == sentence


@pytest.mark.parametrize(
    ("limit", "unknowns", "others", "has_lookup", "transition"),
    [
        (2, 1, 0, False, TransitionKind.RESCHEDULED),
        (2, 0, 1, False, TransitionKind.RESCHEDULED),
        (2, 1, 1, False, TransitionKind.ESCALATED),
        (2, 7, 0, False, TransitionKind.ESCALATED),  # the limit was lowered meanwhile
        (0, 0, 0, False, TransitionKind.ESCALATED),
        (0, 9, 1, True, TransitionKind.RESCHEDULED),  # the look-ups settle them
    ],
)
def test_unknown_outcomes_of_all_texts_are_repeated_up_to_the_limit_and_then_escalated(
    limit: int, unknowns: int, others: int, transition: TransitionKind, *, has_lookup: bool
) -> None:
    """Each text of an application that renders it anew after each failure would get all repetitions."""
    message = queued(unknown_count=unknowns)._replace(other_unknowns=others)
    step = decide(message, LOST, policy=RetryPolicy(unknown_limit=limit), has_lookup=has_lookup)
    assert (step.kind, step.unknown_count) == (transition, unknowns + 1)


@pytest.mark.parametrize(("counts_as_retry", "retry_count"), [(True, 10), (False, 9)])
def test_an_escalation_for_unknown_outcomes_says_so_also_after_the_last_retry(
    retry_count: int, *, counts_as_retry: bool
) -> None:
    step = decide(queued(retry_count=9, unknown_count=2), LOST, counts_as_retry=counts_as_retry)
    assert step == Transition(
        TransitionKind.ESCALATED,
        reason=EscalationReason.UNKNOWN,
        last_error="May have arrived: no answer in 30 s (unknown outcomes: 3)",
        retry_count=retry_count,
        unknown_count=3,
    )


def test_an_exhausted_message_keeps_the_count_of_its_unknown_outcomes() -> None:
    step = decide(queued(retry_count=9, unknown_count=1), LOST)
    assert (step.reason, step.unknown_count) == (EscalationReason.EXHAUSTED, 2)


def enrol(message: Message, *, policy: RetryPolicy = DEFAULT, **changes: datetime | float) -> Transition:
    usual: dict[str, Any] = {"first_failed_at": NOON, "now": NOON, "jitter": 0.0}
    return policy.enrol(message, **usual | changes)


@pytest.mark.parametrize(("retry_count", "jitter", "wait"), [(0, 0, 15), (1, 0, 30), (9, 0, 240), (5, 1, 288)])
def test_a_new_message_waits_from_its_failure(retry_count: int, jitter: float, wait: float) -> None:
    failed = NOON - timedelta(days=1)  # it may be due already
    step = enrol(message(retry_count=retry_count), first_failed_at=failed, jitter=jitter)
    assert step == Transition(TransitionKind.ENROLLED, next_attempt_at=failed + timedelta(minutes=wait))


def test_a_message_without_times_is_due_now() -> None:
    step = enrol(message(retry_count=4, created_at=None), first_failed_at=NOON - timedelta(days=1))
    assert step == Transition(TransitionKind.ENROLLED, next_attempt_at=NOON)
    step = enrol(message(created_at=None, updated_at=NOON))
    assert step.next_attempt_at == NOON + timedelta(minutes=15)


@pytest.mark.parametrize("policy", [DEFAULT, LINEAR, FIXED], ids=lambda policy: str(policy.backoff.kind))
@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365 * 5000)])
def test_a_clock_that_is_ahead_delays_no_message_beyond_the_wait_from_now(
    policy: RetryPolicy, ahead: timedelta
) -> None:
    later = NOON + ahead
    step = enrol(message(created_at=later, updated_at=later), policy=policy, first_failed_at=later)
    assert step.next_attempt_at == NOON + timedelta(minutes=15)
    assert decide(queued(created_at=later), DOWN, policy=policy).next_attempt_at == NOON + policy.backoff.wait(2)


@pytest.mark.parametrize(("retry_count", "last_error"), [(10, "HTTP 503"), (10**12, FIXED_SENTENCE)])
def test_a_new_message_without_retries_left_is_escalated_at_once(retry_count: int, last_error: str) -> None:
    step = enrol(message(retry_count=retry_count, last_error=last_error, created_at=None))
    assert step == Transition(TransitionKind.ESCALATED, reason=EscalationReason.EXHAUSTED, last_error=FIXED_SENTENCE)


def test_the_first_failure_is_the_last_change_or_the_creation_or_now() -> None:
    made, changed = NOON - timedelta(hours=2), NOON - timedelta(hours=1)
    assert first_failure(message(created_at=made, updated_at=changed), NOON) == changed
    assert first_failure(message(created_at=made), NOON) == made
    assert first_failure(message(created_at=None), NOON) == NOON


def fail_to_the_end(policy: RetryPolicy, *, jitter: float = 0.0) -> tuple[list[datetime], Transition]:
    """Fail every attempt of a message created at noon. Return the times of the attempts, and the last transition."""
    attempts: list[datetime] = []
    step = policy.enrol(message(created_at=NOON), first_failed_at=NOON, now=NOON, jitter=jitter)
    while step.next_attempt_at is not None and len(attempts) < 100:
        tick = step.next_attempt_at
        waiting = queued(retry_count=len(attempts), created_at=NOON)
        step = policy.decide(waiting, DOWN, since=tick, now=tick + timedelta(seconds=3), jitter=jitter)
        attempts.append(tick)
    return attempts, step


@pytest.mark.parametrize(("policy", "hours"), [(DEFAULT, 27.75), (LINEAR, 2.5), (FIXED, 2.5)], ids=str)
def test_ten_retries_take_as_long_as_scheduled_and_then_escalate(policy: RetryPolicy, hours: float) -> None:
    attempts, last = fail_to_the_end(policy)
    assert len(attempts) == 10
    assert attempts[-1] - NOON == timedelta(hours=hours)
    assert (last.reason, last.retry_count, last.last_error) == (EscalationReason.EXHAUSTED, 10, FIXED_SENTENCE)


@given(st.floats(-1, 1))
def test_a_nightly_outage_escalates_nothing_with_any_jitter(jitter: float) -> None:
    attempts, _ = fail_to_the_end(DEFAULT, jitter=jitter)
    assert timedelta(hours=22) < attempts[-1] - NOON < timedelta(hours=34)


@pytest.mark.parametrize(("age", "expired"), [(timedelta(hours=24), False), (timedelta(hours=24, seconds=1), True)])
def test_a_message_expires_when_it_exceeds_its_maximum_age(age: timedelta, *, expired: bool) -> None:
    """The age of a message without a creation time starts at its first failure."""
    policy = RetryPolicy(expires_after=timedelta(hours=24))
    assert policy.expired(queued(created_at=NOON - age, first_failed_at=NOON), NOON) is expired
    assert policy.expired(queued(created_at=None, first_failed_at=NOON - age), NOON) is expired
    assert not DEFAULT.expired(queued(created_at=NOON - 100_000 * age), NOON)


# -- waits that a function decides ---------------------------------------------------------------------------------


@dataclass
class Waits:
    """A function that records its arguments, and returns a wait or raises an exception."""

    answer: timedelta | NoWait | None
    asked: list[tuple[int, Outcome]]
    name: str = "waits:next_wait"

    def __call__(self, attempt: int, outcome: Outcome) -> timedelta | None:
        self.asked.append((attempt, outcome))
        if isinstance(self.answer, NoWait):
            raise self.answer
        return self.answer


def by_function(answer: timedelta | NoWait | None) -> tuple[RetryPolicy, Waits]:
    waits = Waits(answer, [])
    return RetryPolicy(Backoff(BackoffKind.PYTHON, function=waits, shortest_answer=timedelta(seconds=61))), waits


def test_a_function_decides_the_wait_without_jitter() -> None:
    policy, waits = by_function(timedelta(hours=7))
    change = decide(queued(retry_count=3), DOWN, policy=policy, jitter=1)
    assert change == Transition.rescheduled(
        NOON + timedelta(hours=7), retry_count=4, unknown_count=0, last_error="HTTP 503"
    )
    assert waits.asked == [(4, DOWN)]


def test_a_wait_ends_after_the_pass_and_not_before_retry_after() -> None:
    policy, _ = by_function(timedelta(0))
    change = decide(queued(), DOWN, policy=policy)
    assert change.next_attempt_at == NOON + timedelta(seconds=61)
    asked_to_wait = DOWN._replace(retry_after=timedelta(hours=1))
    change = decide(queued(), asked_to_wait, policy=policy)
    assert change.next_attempt_at == ANSWER + timedelta(hours=1)
    policy, _ = by_function(timedelta.max)
    assert decide(queued(), DOWN, policy=policy).next_attempt_at == LATEST


def test_a_function_may_end_the_retries() -> None:
    policy, _ = by_function(None)
    change = decide(queued(retry_count=2), LOST, policy=policy)
    assert (change.kind, change.reason) == (TransitionKind.ESCALATED, EscalationReason.EXHAUSTED)
    assert (change.retry_count, change.unknown_count) == (3, 1)
    assert change.last_error == (
        "Retries ended by waits:next_wait. Manual intervention required. Last error: no answer in 30 s"
    )
    assert change.problem == "waits:next_wait ended the retries"


def test_a_function_that_fails_makes_its_message_invalid() -> None:
    policy, _ = by_function(NoWait("waits:next_wait raised KeyError"))
    change = decide(queued(retry_count=2), DOWN, policy=policy)
    assert (change.kind, change.reason) == (TransitionKind.ESCALATED, EscalationReason.INVALID)
    assert change.retry_count == 3
    assert change.last_error == "Can't be scheduled: waits:next_wait raised KeyError. Last error: HTTP 503"


def test_a_function_that_is_too_slow_escalates_nothing() -> None:
    """Its database may hang, for example, which is not the message's fault."""
    policy, _ = by_function(TooSlow())
    change = decide(queued(retry_count=2), DOWN, policy=policy)
    assert change == Transition.rescheduled(
        NOON + timedelta(minutes=15), retry_count=3, unknown_count=0, last_error="HTTP 503"
    )


def test_a_function_is_asked_only_about_a_failure_that_uses_up_a_retry() -> None:
    policy, waits = by_function(timedelta(hours=1))
    for kind in {*OutcomeKind} - {*COUNTED}:
        decide(queued(), Outcome(kind, error="x"), policy=policy)
    decide(queued(), DOWN, policy=policy, counts_as_retry=False)
    decide(queued(retry_count=9), DOWN, policy=policy)
    assert enrol(message(), policy=policy) == Transition.enrolled(NOON + timedelta(minutes=15))
    assert waits.asked == []


@pytest.mark.parametrize(
    ("backoff", "retries", "longest"),
    [
        (Backoff(), 10, timedelta(hours=4.8)),
        (Backoff(BackoffKind.LINEAR), 10, timedelta(minutes=150)),
        (Backoff(BackoffKind.LINEAR), 1, timedelta(minutes=18)),  # jitter lengthens the only wait
        (Backoff(BackoffKind.FIXED, spread=0), 10, timedelta(minutes=15)),
        (
            Backoff(BackoffKind.LIST, spread=0.5, waits=(timedelta(hours=8), timedelta(hours=2))),
            10,
            timedelta(hours=12),
        ),
        (Backoff(BackoffKind.PYTHON), 10, timedelta(days=1)),
    ],
)
def test_no_wait_is_longer_than_the_longest(backoff: Backoff, retries: int, longest: timedelta) -> None:
    assert backoff.longest(retries) == longest


# -- schedules of waits -------------------------------------------------------------------------------------------

EXPONENTIAL, FIXED_WAIT, LINEAR_WAIT = Backoff(), FIXED.backoff, LINEAR.backoff
LIST = Backoff(BackoffKind.LIST, waits=(timedelta(minutes=5), timedelta(minutes=20), timedelta(minutes=90)))


def minutes(*waits: float) -> list[timedelta]:
    return [timedelta(minutes=wait) for wait in waits]


@pytest.mark.parametrize(
    ("backoff", "waits"),
    [
        (EXPONENTIAL, minutes(15, 30, 60, 120, 240, 240, 240, 240, 240, 240)),
        (LINEAR_WAIT, minutes(15, 15, 15, 15)),
        (FIXED_WAIT, minutes(15, 15, 15, 15)),
        (LIST, minutes(5, 20, 90, 90, 90)),
        (Backoff(base=timedelta(minutes=10), factor=3), minutes(10, 30, 90, 240, 240)),
        (Backoff(factor=1), minutes(15, 15, 15)),
        (Backoff(base=timedelta(hours=8)), minutes(240, 240)),
        (Backoff(BackoffKind.FIXED, base=timedelta(hours=8)), minutes(480, 480)),
    ],
)
def test_each_schedule_has_its_documented_waits(backoff: Backoff, waits: list[timedelta]) -> None:
    assert [backoff.wait(retry) for retry in range(1, len(waits) + 1)] == waits


def test_a_late_retry_waits_the_maximum_and_does_not_overflow() -> None:
    assert [Backoff(factor=factor).wait(10**9) for factor in (1.5, 2.0)] == [timedelta(hours=4)] * 2


@given(
    retry=st.integers(1, 10_000),
    base=st.timedeltas(timedelta(seconds=1), timedelta(days=365)),
    factor=st.floats(1, 100),
    cap=st.timedeltas(timedelta(seconds=1), timedelta(days=365)),
)
def test_exponential_waits_never_decrease_and_never_exceed_the_maximum(
    retry: int, base: timedelta, factor: float, cap: timedelta
) -> None:
    backoff = Backoff(base=base, factor=factor, cap=cap)
    assert min(base, cap) <= backoff.wait(retry) <= backoff.wait(retry + 1) <= cap


@pytest.mark.parametrize("backoff", [EXPONENTIAL, FIXED_WAIT, LIST], ids=lambda backoff: str(backoff.kind))
def test_only_the_linear_schedule_uses_the_creation_time(backoff: Backoff) -> None:
    for created_at in (None, NOON - timedelta(days=1), NOON + timedelta(days=1)):
        assert backoff.next_attempt_at(2, since=NOON, created_at=created_at) == NOON + backoff.wait(2)


@pytest.mark.parametrize(
    ("retry", "failed_after", "due_after"),
    [
        (1, 40, 55),  # one base after the failure, which is later than one base after creation
        (2, 15, 30),
        (4, 20, 60),  # four bases after creation, which is later than one base after the failure
        (4, 300, 315),  # one base after the failure
    ],
)
def test_linear_retry_n_is_due_n_bases_after_creation_and_at_least_one_base_from_now(
    retry: int, failed_after: int, due_after: int
) -> None:
    due = LINEAR_WAIT.next_attempt_at(retry, since=NOON + timedelta(minutes=failed_after), created_at=NOON)
    assert due == NOON + timedelta(minutes=due_after)


@pytest.mark.parametrize("backoff", [EXPONENTIAL, LINEAR_WAIT], ids=lambda backoff: str(backoff.kind))
def test_a_time_after_the_year_9999_becomes_the_latest_possible(backoff: Backoff) -> None:
    late = LATEST - timedelta(minutes=1)
    assert backoff.next_attempt_at(1, since=late, created_at=late, jitter=1) == LATEST
    assert LINEAR_WAIT.next_attempt_at(2**63 - 1, since=NOON, created_at=NOON) == LATEST


@pytest.mark.parametrize(
    ("wait", "due_after"), [(59.99, 59.99), (60, 72), (61, 73.2)], ids=["below", "an hour", "above"]
)
def test_jitter_starts_at_one_hour(wait: float, due_after: float) -> None:
    backoff = Backoff(BackoffKind.FIXED, base=timedelta(minutes=wait))
    assert backoff.next_attempt_at(1, since=NOON, jitter=1) == NOON + timedelta(minutes=due_after)


@given(
    retry=st.integers(1, 10_000),
    jitter=st.floats(-1, 1),
    spread=st.floats(0, 1),
    base=st.timedeltas(timedelta(minutes=1), timedelta(days=2)),
    kind=st.sampled_from([BackoffKind.EXPONENTIAL, BackoffKind.FIXED]),
)
def test_jitter_changes_a_long_wait_by_at_most_its_spread_and_a_short_one_never(
    retry: int, jitter: float, spread: float, base: timedelta, kind: BackoffKind
) -> None:
    backoff = Backoff(kind, base=base, spread=spread)
    wait = backoff.wait(retry)
    moved = backoff.next_attempt_at(retry, since=NOON, jitter=jitter) - NOON - wait
    assert abs(moved) <= (wait * spread + timedelta.resolution if wait >= JITTER_FROM else timedelta(0))
