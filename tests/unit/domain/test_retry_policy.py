"""The policy: what each outcome does to a message, and what becomes of one that is new to the queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrycli.domain.message import EscalationReason, Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.retry_policy import Backoff, BackoffKind, RetryPolicy, exhausted, first_failure
from retrycli.domain.transition import Transition, TransitionKind

NOON = datetime(2025, 3, 3, 12, tzinfo=UTC)
"""The start of the pass."""
ANSWER = NOON + timedelta(seconds=3)
"""When the answer came."""

DEFAULT = RetryPolicy()
LINEAR = RetryPolicy(Backoff(BackoffKind.LINEAR))
FIXED = RetryPolicy(Backoff(BackoffKind.FIXED))

DELIVERED = Outcome(OutcomeKind.DELIVERED, 200)
DOWN = Outcome(OutcomeKind.TRANSIENT, 503, "HTTP 503")
LOST = Outcome(OutcomeKind.UNKNOWN, None, "no answer in 30 s")
COUNTED = [OutcomeKind.REFUSED, OutcomeKind.UNKNOWN, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE]

FIXED_SENTENCE = "Max retries (10) exceeded. Manual intervention required. Last error: HTTP 503"


def message(
    *,
    retry_count: int = 0,
    last_error: str | None = None,
    created_at: datetime | None = NOON - timedelta(minutes=15),
    updated_at: datetime | None = None,
) -> Message:
    return Message.from_row(
        {
            "id": 7,
            "ticket_id": 12345,
            "message_type": "supplier",
            "subject": "Your delivery",
            "body": "Where is it?",
            "status": "failed",
            "retry_count": retry_count,
            "last_error": last_error,
            "created_at": created_at,
            "updated_at": updated_at,
        }
    )


def queued(
    *,
    retry_count: int = 0,
    unknown_count: int = 0,
    created_at: datetime | None = NOON - timedelta(minutes=15),
    first_failed_at: datetime = NOON - timedelta(minutes=15),
) -> QueuedMessage:
    return QueuedMessage(
        message(retry_count=retry_count, created_at=created_at),
        delivery_key="key",
        first_failed_at=first_failed_at,
        unknown_count=unknown_count,
    )


def decide(
    queued: QueuedMessage,
    outcome: Outcome,
    *,
    policy: RetryPolicy = DEFAULT,
    since: datetime = NOON,
    now: datetime = ANSWER,
    jitter: float = 0.0,
    counts_as_retry: bool = True,
) -> Transition:
    return policy.decide(queued, outcome, since=since, now=now, jitter=jitter, counts_as_retry=counts_as_retry)


@pytest.mark.parametrize(
    ("value", "field"), [(DEFAULT, "max_retries"), (DEFAULT.backoff, "kind"), (Transition.delivered(), "kind")]
)
def test_rules_and_transitions_are_frozen(value: RetryPolicy | Backoff | Transition, field: str) -> None:
    with pytest.raises(AttributeError):
        setattr(value, field, None)


# Each outcome.


@pytest.mark.parametrize(
    ("kind", "counts_as_retry", "transition"),
    [
        (OutcomeKind.DELIVERED, True, TransitionKind.DELIVERED),
        (OutcomeKind.DELIVERED, False, TransitionKind.DELIVERED),
        (OutcomeKind.REFUSED, True, TransitionKind.RESCHEDULED),
        (OutcomeKind.REFUSED, False, TransitionKind.RESCHEDULED),  # who refuses is not down
        (OutcomeKind.UNKNOWN, True, TransitionKind.RESCHEDULED),
        (OutcomeKind.UNKNOWN, False, TransitionKind.RELEASED),
        (OutcomeKind.TRANSIENT, True, TransitionKind.RESCHEDULED),
        (OutcomeKind.TRANSIENT, False, TransitionKind.RELEASED),
        (OutcomeKind.UNREACHABLE, True, TransitionKind.RESCHEDULED),
        (OutcomeKind.UNREACHABLE, False, TransitionKind.RELEASED),
        (OutcomeKind.THROTTLED, True, TransitionKind.RELEASED),
        (OutcomeKind.THROTTLED, False, TransitionKind.RELEASED),
        (OutcomeKind.UNAUTHORIZED, True, TransitionKind.RELEASED),
        (OutcomeKind.UNAUTHORIZED, False, TransitionKind.RELEASED),
        (OutcomeKind.PERMANENT, True, TransitionKind.ESCALATED),
        (OutcomeKind.PERMANENT, False, TransitionKind.ESCALATED),
        (OutcomeKind.INVALID, True, TransitionKind.ESCALATED),
        (OutcomeKind.INVALID, False, TransitionKind.ESCALATED),
    ],
)
def test_each_outcome_charged_or_not_has_its_transition(
    kind: OutcomeKind, *, counts_as_retry: bool, transition: TransitionKind
) -> None:
    assert decide(queued(), Outcome(kind, error="no"), counts_as_retry=counts_as_retry).kind is transition


@pytest.mark.parametrize("retry_count", [0, 9, 10])
def test_what_is_delivered_is_done_on_whichever_try(retry_count: int) -> None:
    done = decide(queued(retry_count=retry_count, unknown_count=2), DELIVERED)
    assert done == Transition(TransitionKind.DELIVERED)


@pytest.mark.parametrize("kind", COUNTED)
def test_a_failure_of_its_own_takes_one_try_and_is_remembered(kind: OutcomeKind) -> None:
    step = decide(queued(retry_count=3), Outcome(kind, 500, "it said no"))
    assert (step.retry_count, step.last_error) == (4, "it said no")


def test_a_permanent_failure_goes_to_a_person_at_once_and_takes_no_try() -> None:
    step = decide(queued(retry_count=3), Outcome(OutcomeKind.PERMANENT, 404, "no such ticket"))
    assert step == Transition(TransitionKind.ESCALATED, reason=EscalationReason.PERMANENT, last_error="no such ticket")


def test_what_cannot_be_built_goes_to_a_person_as_a_bad_row_does() -> None:
    step = decide(queued(retry_count=3), Outcome(OutcomeKind.INVALID, error="attachments: 'a.pdf' is missing"))
    assert step == Transition.invalid("attachments: 'a.pdf' is missing")


@pytest.mark.parametrize("kind", [OutcomeKind.THROTTLED, OutcomeKind.UNAUTHORIZED])
@pytest.mark.parametrize("retry_count", [3, 9])
def test_throttled_and_unauthorized_cost_no_try_and_no_wait_but_send_a_message_behind_the_others(
    kind: OutcomeKind, retry_count: int
) -> None:
    """No message is charged for our wrong password, and none waits longer for the destination's rest."""
    step = decide(queued(retry_count=retry_count), Outcome(kind, error="no", retry_after=timedelta(hours=1)))
    assert step == Transition(TransitionKind.RELEASED, next_attempt_at=ANSWER)


@pytest.mark.parametrize("kind", [OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE])
@pytest.mark.parametrize("retry_count", [0, 9, 12])
def test_what_fails_uncharged_keeps_its_tries_and_goes_behind_the_others(kind: OutcomeKind, retry_count: int) -> None:
    """Its time becomes now, so that the next probe is another message."""
    step = decide(queued(retry_count=retry_count, unknown_count=1), Outcome(kind, error="no"), counts_as_retry=False)
    assert step == Transition(TransitionKind.RELEASED, next_attempt_at=ANSWER, unknown_count=1)


# When the next attempt is.


@pytest.mark.parametrize(("tries_before", "wait"), [(0, 30), (1, 60), (2, 120), (3, 240), (4, 240), (8, 240)], ids=str)
def test_the_wait_is_that_of_the_retry_to_come(tries_before: int, wait: float) -> None:
    step = decide(queued(retry_count=tries_before), DOWN)
    assert step.next_attempt_at == NOON + timedelta(minutes=wait)


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=3), timedelta(minutes=12)])
def test_waits_count_from_the_start_of_the_pass_and_not_from_the_answer(late: timedelta) -> None:
    """Else a wait of 15 min would end just after a tick, and last 30."""
    step = decide(queued(), DOWN, policy=FIXED, now=NOON + late)
    assert step.next_attempt_at == NOON + timedelta(minutes=15)


def test_an_answer_later_than_the_wait_is_tried_again_from_now_on() -> None:
    answer = NOON + timedelta(minutes=20)
    assert decide(queued(), DOWN, policy=FIXED, now=answer).next_attempt_at == answer


@pytest.mark.parametrize(
    ("asked", "due"),
    [
        (None, NOON + timedelta(minutes=30)),
        (timedelta(0), NOON + timedelta(minutes=30)),
        (timedelta(minutes=20), NOON + timedelta(minutes=30)),
        (timedelta(minutes=30), ANSWER + timedelta(minutes=30)),  # it counts from the answer
        (timedelta(hours=6), ANSWER + timedelta(hours=6)),
    ],
)
def test_the_later_of_the_wait_and_retry_after_holds(asked: timedelta | None, due: datetime) -> None:
    assert decide(queued(), replace(DOWN, retry_after=asked)).next_attempt_at == due


@pytest.mark.parametrize(("jitter", "wait"), [(-1, 192), (0, 240), (1, 288)])
def test_jitter_reaches_the_wait(jitter: float, wait: float) -> None:
    step = decide(queued(retry_count=5), DOWN, jitter=jitter)
    assert step.next_attempt_at == NOON + timedelta(minutes=wait)


def test_a_linear_message_keeps_its_place_in_the_ladder_from_creation() -> None:
    made = NOON - timedelta(minutes=20)
    step = decide(queued(retry_count=3, created_at=made), DOWN, policy=LINEAR)
    assert step.next_attempt_at == made + timedelta(minutes=75)


@settings(deadline=None)
@given(
    kind=st.sampled_from(COUNTED),
    backoff=st.sampled_from(BackoffKind),
    retry_count=st.integers(0, 10_000),
    age=st.timedeltas(timedelta(days=-400), timedelta(days=400)),
    jitter=st.floats(-1, 1),
    retry_after=st.none() | st.timedeltas(timedelta(0), timedelta(hours=6)),
)
def test_a_failed_message_is_always_waiting_with_a_time_to_come_or_in_a_person_s_hands(
    kind: OutcomeKind,
    backoff: BackoffKind,
    retry_count: int,
    age: timedelta,
    jitter: float,
    retry_after: timedelta | None,
) -> None:
    policy = RetryPolicy(Backoff(backoff, waits=(timedelta(minutes=5),)), max_retries=1000)
    step = decide(
        queued(retry_count=retry_count, created_at=NOON - age),
        Outcome(kind, error="no", retry_after=retry_after),
        policy=policy,
        jitter=jitter,
    )
    assert step.retry_count == retry_count + 1
    if retry_count < 999:
        assert step.kind is TransitionKind.RESCHEDULED
        assert step.next_attempt_at is not None
        assert step.next_attempt_at >= ANSWER + (retry_after or timedelta(0))
    else:
        assert (step.kind, step.reason) == (TransitionKind.ESCALATED, EscalationReason.EXHAUSTED)


# All tries used.


@pytest.mark.parametrize(
    ("max_retries", "tries_before", "transition"),
    [
        (10, 8, TransitionKind.RESCHEDULED),
        (10, 9, TransitionKind.ESCALATED),
        (10, 10, TransitionKind.ESCALATED),  # tried again by hand
        (1, 0, TransitionKind.ESCALATED),
        (3, 1, TransitionKind.RESCHEDULED),
        (3, 2, TransitionKind.ESCALATED),
    ],
)
def test_a_message_is_escalated_when_it_has_had_all_its_tries(
    max_retries: int, tries_before: int, transition: TransitionKind
) -> None:
    step = decide(queued(retry_count=tries_before), DOWN, policy=RetryPolicy(max_retries=max_retries))
    assert (step.kind, step.retry_count) == (transition, tries_before + 1)


@pytest.mark.parametrize("kind", COUNTED)
def test_an_exhausted_message_says_so_in_the_fixed_sentence(kind: OutcomeKind) -> None:
    step = decide(queued(retry_count=9), Outcome(kind, 503, "HTTP 503"))
    assert step.kind is TransitionKind.ESCALATED
    assert step.reason is EscalationReason.EXHAUSTED
    assert step.last_error == FIXED_SENTENCE
    assert step.next_attempt_at is None


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("HTTP 503", FIXED_SENTENCE),
        (None, "Max retries (10) exceeded. Manual intervention required."),
        (FIXED_SENTENCE, FIXED_SENTENCE),
        (
            "Max retries exceeded with url: /tickets",
            "Max retries (10) exceeded. Manual intervention required. "
            "Last error: Max retries exceeded with url: /tickets",
        ),
    ],
)
def test_the_fixed_sentence_holds_the_last_error_and_never_itself(error: str | None, sentence: str) -> None:
    assert exhausted(10, error) == sentence


def test_the_fixed_sentence_names_the_limit_of_the_policy() -> None:
    assert exhausted(3, "x") == "Max retries (3) exceeded. Manual intervention required. Last error: x"


# Outcomes that are not known.


def test_what_may_have_arrived_is_sent_again_as_often_as_the_limit_says_and_then_escalated() -> None:
    """Two times by default: three attempts in all, the last of which asks a person."""
    steps = [decide(queued(retry_count=n, unknown_count=n), LOST) for n in range(3)]
    assert [step.kind for step in steps] == [
        TransitionKind.RESCHEDULED,
        TransitionKind.RESCHEDULED,
        TransitionKind.ESCALATED,
    ]
    assert [step.unknown_count for step in steps] == [1, 2, 3]
    assert [step.retry_count for step in steps] == [1, 2, 3]


def test_the_escalation_of_what_may_have_arrived_says_so() -> None:
    step = decide(queued(retry_count=4, unknown_count=2), LOST)
    assert step == Transition(
        TransitionKind.ESCALATED,
        reason=EscalationReason.UNKNOWN,
        last_error="May have arrived: no answer in 30 s (3 times)",
        retry_count=5,
        unknown_count=3,
    )


@pytest.mark.parametrize(
    ("limit", "unknowns_before", "transition"),
    [
        (0, 0, TransitionKind.ESCALATED),
        (1, 0, TransitionKind.RESCHEDULED),
        (1, 1, TransitionKind.ESCALATED),
        (5, 4, TransitionKind.RESCHEDULED),
        (5, 5, TransitionKind.ESCALATED),
        (2, 7, TransitionKind.ESCALATED),  # the limit was lowered meanwhile
    ],
)
def test_the_limit_of_unknown_outcomes_can_be_set(limit: int, unknowns_before: int, transition: TransitionKind) -> None:
    step = decide(queued(unknown_count=unknowns_before), LOST, policy=RetryPolicy(unknown_limit=limit))
    assert step.kind is transition


def test_an_uncharged_unknown_outcome_takes_no_try_but_is_counted_as_unknown() -> None:
    step = decide(queued(retry_count=4), LOST, counts_as_retry=False)
    assert step == Transition(TransitionKind.RELEASED, next_attempt_at=ANSWER, unknown_count=1)


def test_an_uncharged_unknown_outcome_at_the_limit_is_escalated_with_its_tries_kept() -> None:
    step = decide(queued(retry_count=4, unknown_count=2), LOST, counts_as_retry=False)
    assert (step.reason, step.retry_count) == (EscalationReason.UNKNOWN, 4)


@pytest.mark.parametrize("kind", [OutcomeKind.REFUSED, OutcomeKind.TRANSIENT, OutcomeKind.UNREACHABLE])
def test_a_known_failure_does_not_make_an_earlier_unknown_one_forgotten(kind: OutcomeKind) -> None:
    assert decide(queued(unknown_count=2), Outcome(kind, error="no")).unknown_count == 2


def test_an_exhausted_message_keeps_the_count_of_its_unknown_outcomes() -> None:
    step = decide(queued(retry_count=9, unknown_count=1), LOST)
    assert (step.reason, step.unknown_count) == (EscalationReason.EXHAUSTED, 2)


def test_the_last_try_of_what_may_have_arrived_still_asks_whether_it_did() -> None:
    step = decide(queued(retry_count=9, unknown_count=2), LOST)
    assert step.reason is EscalationReason.UNKNOWN


# New to the queue.


def enrol(
    message: Message,
    *,
    policy: RetryPolicy = DEFAULT,
    first_failed_at: datetime = NOON,
    now: datetime = NOON,
    jitter: float = 0.0,
) -> Transition:
    return policy.enrol(message, first_failed_at=first_failed_at, now=now, jitter=jitter)


@pytest.mark.parametrize(("retry_count", "wait"), [(0, 15), (1, 30), (2, 60), (3, 120), (9, 240)])
def test_a_new_message_waits_for_its_next_retry_from_its_failure_on(retry_count: int, wait: float) -> None:
    failed = NOON - timedelta(minutes=10)
    step = enrol(message(retry_count=retry_count), first_failed_at=failed)
    assert step == Transition(TransitionKind.ENROLLED, next_attempt_at=failed + timedelta(minutes=wait))


def test_a_message_that_failed_long_ago_is_due_already() -> None:
    step = enrol(message(created_at=NOON - timedelta(days=2)), first_failed_at=NOON - timedelta(days=1))
    assert step.next_attempt_at is not None
    assert step.next_attempt_at < NOON


def test_a_message_without_times_is_due_now() -> None:
    step = enrol(message(retry_count=4, created_at=None), first_failed_at=NOON - timedelta(days=1))
    assert step == Transition(TransitionKind.ENROLLED, next_attempt_at=NOON)


def test_one_time_of_the_two_is_enough_to_wait() -> None:
    step = enrol(message(created_at=None, updated_at=NOON))
    assert step.next_attempt_at == NOON + timedelta(minutes=15)


@pytest.mark.parametrize("policy", [DEFAULT, LINEAR, FIXED], ids=lambda policy: str(policy.backoff.kind))
@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(days=365 * 5000)])
def test_a_clock_that_is_ahead_delays_nobody_beyond_the_wait_from_now(policy: RetryPolicy, ahead: timedelta) -> None:
    later = NOON + ahead
    step = enrol(message(created_at=later, updated_at=later), policy=policy, first_failed_at=later)
    assert step.next_attempt_at == NOON + timedelta(minutes=15)


@pytest.mark.parametrize("policy", [DEFAULT, FIXED], ids=lambda policy: str(policy.backoff.kind))
def test_a_message_made_in_times_to_come_waits_no_longer_after_an_attempt_either(policy: RetryPolicy) -> None:
    step = decide(queued(created_at=NOON + timedelta(days=365)), DOWN, policy=policy)
    assert step.next_attempt_at == NOON + policy.backoff.wait(2)


def test_jitter_reaches_the_first_wait() -> None:
    step = enrol(message(retry_count=5), jitter=1)
    assert step.next_attempt_at == NOON + timedelta(minutes=288)


@pytest.mark.parametrize("retry_count", [10, 11, 10**12])
@pytest.mark.parametrize("last_error", ["HTTP 503", FIXED_SENTENCE])
def test_a_new_message_that_has_had_all_its_tries_goes_to_a_person_at_once(retry_count: int, last_error: str) -> None:
    step = enrol(message(retry_count=retry_count, last_error=last_error, created_at=None))
    assert step == Transition(TransitionKind.ESCALATED, reason=EscalationReason.EXHAUSTED, last_error=FIXED_SENTENCE)


def test_a_new_message_with_one_try_left_waits_for_it() -> None:
    assert enrol(message(retry_count=9)).kind is TransitionKind.ENROLLED


@pytest.mark.parametrize(
    ("created_at", "updated_at", "expected"),
    [
        (NOON - timedelta(hours=2), NOON - timedelta(hours=1), NOON - timedelta(hours=1)),
        (NOON - timedelta(hours=2), None, NOON - timedelta(hours=2)),
        (None, NOON - timedelta(hours=1), NOON - timedelta(hours=1)),
        (None, None, NOON),
    ],
)
def test_the_first_failure_is_the_last_change_else_the_creation_else_now(
    created_at: datetime | None, updated_at: datetime | None, expected: datetime
) -> None:
    assert first_failure(message(created_at=created_at, updated_at=updated_at), NOON) == expected


# A whole life of failures.


def fail_to_the_end(policy: RetryPolicy, *, jitter: float = 0.0) -> tuple[list[datetime], Transition]:
    """Fail every attempt of a message made at noon: when each was made, and what came last."""
    attempts: list[datetime] = []
    step = policy.enrol(message(created_at=NOON), first_failed_at=NOON, now=NOON, jitter=jitter)
    while step.next_attempt_at is not None and len(attempts) < 100:
        tick = step.next_attempt_at
        waiting = queued(retry_count=len(attempts), created_at=NOON)
        step = policy.decide(waiting, DOWN, since=tick, now=tick + timedelta(seconds=3), jitter=jitter)
        attempts.append(tick)
    return attempts, step


@pytest.mark.parametrize(
    ("policy", "length"),
    [
        (DEFAULT, timedelta(hours=27, minutes=45)),
        (LINEAR, timedelta(hours=2, minutes=30)),
        (FIXED, timedelta(hours=2, minutes=30)),
    ],
    ids=["exponential", "linear", "fixed"],
)
def test_ten_retries_take_as_long_as_the_schedule_says_and_then_a_person_is_asked(
    policy: RetryPolicy, length: timedelta
) -> None:
    attempts, last = fail_to_the_end(policy)
    assert len(attempts) == 10
    assert attempts[-1] - NOON == length
    assert (last.reason, last.retry_count) == (EscalationReason.EXHAUSTED, 10)


@settings(deadline=None)
@given(st.floats(-1, 1))
def test_a_night_s_outage_escalates_nothing_whatever_the_jitter(jitter: float) -> None:
    attempts, _ = fail_to_the_end(DEFAULT, jitter=jitter)
    assert timedelta(hours=22) < attempts[-1] - NOON < timedelta(hours=34)


# Expiry.


@pytest.mark.parametrize(
    ("age", "expired"),
    [(timedelta(hours=23), False), (timedelta(hours=24), False), (timedelta(hours=24, seconds=1), True)],
)
def test_a_message_expires_when_it_is_older_than_it_may_be(age: timedelta, *, expired: bool) -> None:
    policy = RetryPolicy(expires_after=timedelta(hours=24))
    assert policy.expired(queued(created_at=NOON - age, first_failed_at=NOON), NOON) is expired


@pytest.mark.parametrize(("hours_ago", "expired"), [(24, False), (25, True)])
def test_the_age_of_a_message_without_a_creation_counts_from_its_first_failure(
    hours_ago: int, *, expired: bool
) -> None:
    policy = RetryPolicy(expires_after=timedelta(hours=24))
    failed = NOON - timedelta(hours=hours_ago)
    assert policy.expired(queued(created_at=None, first_failed_at=failed), NOON) is expired


def test_without_a_limit_nothing_expires() -> None:
    assert not DEFAULT.expired(queued(created_at=NOON - timedelta(days=100_000)), NOON)
