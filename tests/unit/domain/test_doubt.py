"""Answers in doubt, which may concern retrycli's access instead of single messages."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import timedelta

import pytest

from retrycli.domain.circuit_breaker import Breaker, BreakerState
from retrycli.domain.message import MessageType, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.passes import PassResult, PassSummary, Pause, StopReason
from retrycli.domain.transition import Claim, Route
from retrycli.engine.destination import MAX_HELD, TICKETS
from retrycli.engine.ports import PassRules
from tests.fakes import (
    DELIVERED,
    DOWN,
    FORBIDDEN,
    LOST,
    MOVED,
    NOT_FOUND,
    REFUSED,
    RULES,
    START,
    THROTTLED,
    TICK,
    UNAUTHORIZED,
    Stage,
    in_turn,
)

ONE_BY_ONE = RULES._replace(concurrency=1)
MISSING = Outcome(OutcomeKind.PERMANENT, 404, "HTTP 404", in_doubt=True)
MAINTENANCE = MOVED._replace(kind=OutcomeKind.REFUSED, error="look-up: HTTP 302")
"""The outcome of an attempt whose look-up was redirected."""


def ended(summary: PassSummary) -> tuple[PassResult, str | None, str | None]:
    return summary.result, summary.reason, summary.detail


def stopped(status: int, *, said: str = "to every request") -> tuple[PassResult, StopReason, str]:
    return PassResult.STOPPED, StopReason.SAME_ANSWER, f"{RULES.destination} responds with HTTP {status} {said}"


def but(messages: range, outcome: Outcome, otherwise: Outcome = DELIVERED) -> Callable[[QueuedMessage], Outcome]:
    return lambda queued: outcome if queued.message_id in messages else otherwise


def of_one_ticket(stage: Stage, *ids: int, ticket: int = 7) -> None:
    stage.add(*ids)
    stage.sql(f"UPDATE pending_messages SET ticket_id = {ticket} WHERE id IN ({', '.join(map(str, ids))})")


def check_untouched(stage: Stage) -> None:
    """Check that nothing is escalated, no retry is used up, and nothing is claimed."""
    assert set(stage.states().values()) == {"waiting"}
    assert set(stage.tries().values()) == {0}
    assert stage.sql("SELECT count(*) FROM retrycli_queue WHERE claimed_by IS NOT NULL") == [(0,)]
    assert stage.sql("SELECT count(*) FROM pending_messages WHERE last_error IS NOT NULL") == [(0,)]


def test_a_later_delivery_makes_them_permanent(stage: Stage) -> None:
    stage.add(*range(1, 12))
    summary = stage.run(but(range(1, TICKETS), FORBIDDEN), ONE_BY_ONE)
    assert (summary.result, summary.reason) == (PassResult.COMPLETED, None)
    assert (summary.sent, summary.escalated) == (2, TICKETS - 1)
    assert stage.escalation(1) == ("permanent", 0, "HTTP 403")


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        (Outcome(OutcomeKind.REFUSED, 200, "refused: no licence", in_doubt=True), "200 and a refusal"),
        (MOVED._replace(status_code=303), "303"),
    ],
)
def test_only_probes_follow_an_answer_after_which_messages_may_be_stored(
    stage: Stage, refused: Outcome, said: str
) -> None:
    """A lapsed licence may say so in each answer, with a 200, for a whole weekend. Or a proxy may change a status that
    the preset expects, although the messages are stored. Or the address is a form, which answers a message that it
    stored with a redirect to its next page.
    """
    stage.add(*range(1, 21))
    said = f"{RULES.destination} responds with HTTP {said} to every request"
    assert ended(stage.run(refused, ONE_BY_ONE)) == (PassResult.STOPPED, StopReason.SAME_ANSWER, said)
    assert len(stage.order) == TICKETS + 3
    probes: Counter[int] = Counter()
    for _ in range(60 * 4):
        stage.clock.now += TICK
        assert stage.run(refused, ONE_BY_ONE).reason in {StopReason.SAME_ANSWER, StopReason.BREAKER_OPEN}
        probes.update(stage.order)
    check_untouched(stage)
    assert probes.total() < 60 + 5, "about one probe an hour"
    assert (len(probes), max(probes.values())) == (20, 4)
    stage.clock.now += TICK * 4
    assert stage.run(DELIVERED).sent == 20


def test_few_messages_in_each_pass_add_up(stage: Stage) -> None:
    """Applications often fail a few messages between two passes. An outage must not escalate all of them."""
    for number in range(4):
        stage.add(*range(5 * number + 1, 5 * number + 6))
        summary = stage.run(MISSING, ONE_BY_ONE)
        stage.clock.now += TICK
    assert (summary.reason, summary.escalated) == (StopReason.SAME_ANSWER, 0)
    assert Counter(stage.states().values()) == {"escalated": 5, "waiting": 15}


@pytest.mark.parametrize(
    ("other_rules", "is_delivered", "later"),
    [
        (RULES, False, timedelta(days=1) + TICK),
        (RULES._replace(destination="https://other.example.com"), False, TICK),
        (RULES, True, TICK),
    ],
    ids=["a day ago", "another destination", "before a delivery"],
)
def test_answers_of_other_passes_do_not_add_up(
    stage: Stage, other_rules: PassRules, later: timedelta, *, is_delivered: bool
) -> None:
    stage.add(*range(1, TICKETS))
    assert stage.run(MOVED, other_rules).escalated == TICKETS - 1
    if is_delivered:
        stage.add(100)
        assert stage.run(DELIVERED).sent == 1
    stage.clock.now += later
    stage.add(*range(TICKETS, 2 * TICKETS - 1))
    assert stage.run(MOVED).escalated == TICKETS - 1


def test_answers_between_deliveries_never_add_up(stage: Stage) -> None:
    stage.add(*range(1, 41))
    summary = stage.run(lambda queued: DELIVERED if queued.message_id % 8 == 0 else FORBIDDEN, ONE_BY_ONE)
    assert (summary.result, summary.reason) == (PassResult.COMPLETED, None)
    assert (summary.sent, summary.escalated) == (5, 35)
    assert stage.order == list(range(1, 41)), "no trial was made"


def test_nine_tickets_are_not_ten_however_many_messages_they_have(stage: Stage) -> None:
    stage.add(*range(1, 31))
    stage.sql("UPDATE pending_messages SET ticket_id = id % 9")
    assert stage.run(FORBIDDEN, ONE_BY_ONE).escalated == 30


def test_different_statuses_do_not_add_up(stage: Stage) -> None:
    stage.add(*range(1, 19))
    summary = stage.run(but(range(1, TICKETS), FORBIDDEN, MISSING), ONE_BY_ONE)
    assert (summary.reason, summary.escalated) == (None, 18)


def test_a_delivery_sent_before_them_settles_nothing(stage: Stage) -> None:
    """Message 9 was sent before the other messages got redirects, so its late delivery does not show that requests are
    accepted again.
    """
    stage.add(*range(1, 40))
    late = asyncio.Event()

    async def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 1:
            return DELIVERED
        if queued.message_id == 9:
            await late.wait()
            return DELIVERED
        stage.clock.now += timedelta(seconds=1)
        if len(stage.order) >= 1 + 8 + 3:
            late.set()
        return MOVED

    summary = stage.run(answer)
    assert (summary.reason, summary.sent, summary.escalated) == ("same_answer", 2, 0)


def test_a_trial_goes_on_if_a_delivery_sent_earlier_leaves_ten_tickets_in_doubt(stage: Stage) -> None:
    """Message 10 was sent after the redirect of message 2 and before ten others, so its late delivery settles only that
    of message 2.
    """
    stage.add(*range(1, 40))
    sent, late = asyncio.Event(), asyncio.Event()
    before_the_trial = 17

    async def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 10:
            sent.set()
            await late.wait()
        if queued.message_id in {1, 10}:
            return DELIVERED
        if queued.message_id in range(3, 10):
            await sent.wait()
        stage.clock.now += timedelta(seconds=1)
        if queued.message_id in range(14, before_the_trial + 1):
            late.set()
            return REFUSED
        return MOVED

    summary = stage.run(answer)
    assert (summary.reason, summary.sent) == ("same_answer", 2)
    assert len(stage.order) == before_the_trial + 3


FOUND = DELIVERED._replace(found=True)
"""A look-up found that the message had already arrived: nothing was sent."""


def test_a_message_found_and_not_sent_settles_nothing(stage: Stage) -> None:
    """A route that accepts nothing may still answer look-ups."""
    stage.add(*range(1, 40))
    summary = stage.run(but(range(37, 40), FOUND, FORBIDDEN), ONE_BY_ONE)
    assert (summary.reason, summary.sent, summary.escalated) == ("credentials_refused", 3, 0)
    assert set(stage.tries().values()) == {0}


def test_after_ten_tickets_a_trial_from_the_other_end_of_the_queue_is_sent(stage: Stage) -> None:
    for message_id in range(1, 31):
        stage.add(message_id, due=START - timedelta(minutes=60 - message_id))
    summary = stage.run(but(range(1, 16), FORBIDDEN), ONE_BY_ONE)
    assert stage.order[: TICKETS + 2] == [*range(1, TICKETS + 1), 30, 11]
    assert (summary.sent, summary.escalated, summary.reason) == (15, 15, None)


def test_a_trial_is_the_only_request_in_flight(stage: Stage) -> None:
    """After the first delivery, eight requests are in flight. The trial waits until these requests have ended."""
    stage.add(*range(1, 60))
    summary = stage.run(but(range(2, 60), MOVED))
    assert (summary.sent, summary.reason) == (1, "same_answer")
    assert stage.ledger.breaker(RULES.destination).state is BreakerState.OPEN
    assert stage.widths[-3:] == [1, 1, 1]
    assert len(stage.order) <= 1 + TICKETS + RULES.concurrency + 3


@pytest.mark.parametrize(
    ("outcome", "reason", "said", "status"),
    [
        (MOVED._replace(status_code=301), StopReason.SAME_ANSWER, " responds with HTTP 301 to every request", 69),
        (FORBIDDEN, StopReason.CREDENTIALS_REFUSED, ": HTTP 403 to every request", 77),
    ],
)
def test_a_failed_trial_stops_the_pass_and_charges_or_escalates_nothing(
    stage: Stage, outcome: Outcome, reason: StopReason, said: str, status: int
) -> None:
    stage.add(*range(1, 41))
    summary = stage.run(outcome)
    assert ended(summary) == (PassResult.STOPPED, reason, RULES.destination + said)
    assert summary.exit_status == status
    assert (len(stage.order), summary.released) == (TICKETS + 3, TICKETS + 3)
    check_untouched(stage)
    assert stage.ledger.breakers() == []


def test_one_delivery_of_three_is_enough_and_the_refused_ones_count(stage: Stage) -> None:
    stage.add(*range(1, 31))
    summary = stage.run(in_turn(*[MOVED] * TICKETS, REFUSED, MOVED, DELIVERED), ONE_BY_ONE)
    counts = (summary.escalated, summary.rescheduled, summary.sent)
    assert (summary.reason, counts) == (None, (TICKETS + 1, 1, 18))


@pytest.mark.parametrize("outcome", [REFUSED, MISSING, DOWN])
def test_other_outcomes_of_a_trial_use_up_no_retry(stage: Stage, outcome: Outcome) -> None:
    stage.add(*range(1, 31))
    summary = stage.run(in_turn(*[MOVED] * TICKETS, outcome), ONE_BY_ONE)
    assert len(stage.order) == TICKETS + 3
    assert ended(summary) == stopped(302, said=f"for {TICKETS} tickets, without a delivery in between")
    check_untouched(stage)


def test_a_trial_that_may_have_arrived_is_recorded(stage: Stage) -> None:
    stage.add(*range(1, 31))
    assert stage.run(in_turn(*[MOVED] * TICKETS, LOST, MOVED), ONE_BY_ONE).reason == "same_answer"
    assert stage.sql("SELECT count(*) FROM retrycli_queue WHERE unknown_count = 1") == [(1,)]
    assert set(stage.tries().values()) == {0}


def test_an_invalid_row_does_not_count_as_a_trial(stage: Stage) -> None:
    stage.add(*range(1, 31), due=START)
    stage.sql("UPDATE pending_messages SET body = NULL WHERE id IN (29, 30)")
    summary = stage.run(but(range(1, 11), MOVED), ONE_BY_ONE)
    assert (summary.escalated, summary.sent) == (TICKETS + 2, 18)
    invalid = Outcome(OutcomeKind.INVALID, error="an attachment is missing")
    stage.add(*range(101, 131))
    summary = stage.run(lambda queued: invalid if queued.message_id > 126 else MOVED, ONE_BY_ONE)
    assert ended(summary) == stopped(302)
    assert len(stage.order) == TICKETS + 4 + 3


def test_tickets_in_doubt_get_no_trial(stage: Stage) -> None:
    """Each ticket in doubt has a second message at the end of the queue, where trials are chosen."""
    for number in range(TICKETS):
        of_one_ticket(stage, 1 + number, 101 + number, ticket=number)
    stage.add(51, 52, 53)
    stage.run(FORBIDDEN, ONE_BY_ONE)
    assert stage.order == [*range(1, TICKETS + 1), 53, 52, 51]


def test_a_trial_respects_the_order_of_its_ticket(stage: Stage) -> None:
    stage.add(*range(1, TICKETS + 1))
    of_one_ticket(stage, 51, 52, 53)
    stage.run(but(range(1, TICKETS + 1), FORBIDDEN), ONE_BY_ONE._replace(per_ticket_order=True))
    assert stage.order[TICKETS:] == [51, 52, 53]


@pytest.mark.parametrize("others", [0, 2])
def test_fewer_than_three_other_messages_are_sufficient(stage: Stage, others: int) -> None:
    stage.add(*range(1, TICKETS + others + 1))
    said = "to every request" if others else f"for {TICKETS} tickets, without a delivery in between"
    assert ended(stage.run(MOVED)) == stopped(302, said=said)
    assert len(stage.order) == TICKETS + others
    check_untouched(stage)


def test_the_next_pass_starts_with_other_messages(stage: Stage) -> None:
    stage.add(*range(1, 31))
    stage.run(MOVED, takes=timedelta(seconds=1))
    tried = set(stage.order)
    stage.clock.now = START + TICK
    stage.run()
    assert not tried & set(stage.order[:17])
    assert stage.states() == {}


def test_a_redirected_look_up_uses_up_no_retry(stage: Stage) -> None:
    """The message itself was not sent, so the redirect must not count as a refusal of the message."""
    stage.add(*range(1, 31))
    summary = stage.run(lambda queued: MAINTENANCE if queued.message_id % 2 else MOVED, ONE_BY_ONE)
    assert ended(summary) == stopped(302)
    check_untouched(stage)


def test_only_a_delivery_ends_a_streak(stage: Stage) -> None:
    """Other answers, such as 404, do not show that the destination accepts messages."""
    stage.add(*range(1, 41))
    summary = stage.run(lambda queued: NOT_FOUND if queued.message_id % 3 == 0 else FORBIDDEN, ONE_BY_ONE)
    assert summary.reason == "credentials_refused"
    assert set(stage.states().values()) == {"waiting", "escalated"}
    assert all(message_id % 3 == 0 for message_id, state in stage.states().items() if state == "escalated")


def test_answers_are_recorded_at_once_and_their_messages_stay_claimed(stage: Stage) -> None:
    stage.add(1, 2, 3)
    seen: list[object] = []

    def answer(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 3:
            seen.append([stage.attempts(message_id) for message_id in (1, 2)])
            seen.append(stage.states())
            return DELIVERED
        return FORBIDDEN

    assert stage.run(answer, ONE_BY_ONE).escalated == 2
    assert seen == [[[("pass", "permanent")]] * 2, {1: "sending", 2: "sending", 3: "sending"}]
    assert stage.attempts(1) == [("pass", "permanent")]


def test_messages_of_a_dead_pass_wait_again_unchanged(stage: Stage) -> None:
    stage.add(1, 2)

    def die(queued: QueuedMessage) -> Outcome:
        if queued.message_id == 2:
            raise KeyboardInterrupt
        return FORBIDDEN

    with pytest.raises(KeyboardInterrupt):
        stage.run(die, ONE_BY_ONE)
    stage.clock.now += RULES.lease
    stage.run(rules=RULES._replace(limit=0))
    assert stage.states() == {1: "waiting", 2: "waiting"}
    assert stage.tries() == {1: 0, 2: 1}
    assert dict(stage.sql("SELECT message_id, unknown_count FROM retrycli_queue")) == {1: 0, 2: 1}


def test_claims_of_messages_in_doubt_are_renewed(stage: Stage) -> None:
    stage.add(*range(1, 9))
    lapsed: list[int] = []

    def slowly(queued: QueuedMessage) -> Outcome:
        stage.clock.now += RULES.lease / 2
        found = stage.claims.take_over_expired(Claim("another", stage.clock.now + RULES.lease), stage.clock.now, 10)
        lapsed.extend(attempt.message.message_id for attempt in found)
        return DELIVERED if queued.message_id == 8 else FORBIDDEN

    assert stage.run(slowly, ONE_BY_ONE).escalated == 7
    assert lapsed == []


def test_many_answers_of_few_tickets_let_other_tickets_go_first(stage: Stage) -> None:
    """The number of messages in doubt is limited, because they are held in memory. Only other tickets can show whether
    the answers concern the messages.
    """
    of_one_ticket(stage, *range(1, 2 * MAX_HELD))
    stage.add(*range(1001, 1021))
    rules = ONE_BY_ONE._replace(rate_per_second=1)  # one message is claimed at a time, so no ticket is passed over
    summary = stage.run(MOVED, rules)
    assert ended(summary) == stopped(302)
    assert stage.order[MAX_HELD:] == [*range(1020, 1020 - TICKETS + 1, -1), *range(1020 - TICKETS + 1, 1008, -1)]
    check_untouched(stage)


def test_many_answers_of_few_tickets_are_decisive_if_no_other_ticket_is_due(stage: Stage) -> None:
    of_one_ticket(stage, *range(1, 2 * MAX_HELD))
    most: list[int] = []

    def answer(_: QueuedMessage) -> Outcome:
        [(sending,)] = stage.sql("SELECT count(*) FROM retrycli_queue WHERE state = 'sending'")
        most.append(sending)
        return FORBIDDEN

    assert stage.run(answer, ONE_BY_ONE).escalated == 2 * MAX_HELD - 1
    assert max(most) <= MAX_HELD + ONE_BY_ONE.claim_at_once


@pytest.mark.parametrize(
    ("limit", "reason", "escalated"),
    [(TICKETS - 1, "limit", TICKETS - 1), (TICKETS, "same_answer", 0), (TICKETS + 1, "same_answer", 0)],
)
def test_a_limit_ends_the_trial_without_escalations(stage: Stage, limit: int, reason: str, escalated: int) -> None:
    stage.add(*range(1, 31))
    summary = stage.run(MOVED, RULES._replace(limit=limit))
    assert (len(stage.order), summary.reason, summary.escalated) == (limit, reason, escalated)
    assert set(stage.tries().values()) == {0}


def end(stage: Stage, why: str) -> None:
    """Give a running pass a reason to end."""
    match why:
        case "signal":
            stage.stop_requested = True
        case "deadline":
            stage.clock.now = START + RULES.deadline
        case _:
            stage.ledger.set_pause(Pause(START, until=None, by="anna", reason=None))
            stage.clock.now = START + timedelta(seconds=2)


@pytest.mark.parametrize(
    ("why", "tried", "escalated"),
    [("signal", TICKETS - 1, TICKETS - 1), ("deadline", TICKETS, 0), ("paused", 3, 3), ("paused", TICKETS + 1, 0)],
)
def test_a_pass_that_ends_early_decides_what_ten_tickets_leave_open(
    stage: Stage, why: str, tried: int, escalated: int
) -> None:
    stage.add(*range(1, 31))

    def answer(_: QueuedMessage) -> Outcome:
        if len(stage.order) == tried:
            end(stage, why)
        return MOVED

    summary = stage.run(answer, ONE_BY_ONE)
    assert (summary.reason, summary.escalated, summary.released) == (why, escalated, tried - escalated)
    assert len(stage.order) == tried
    assert set(stage.tries().values()) == {0}
    assert stage.sql("SELECT count(*) FROM retrycli_queue WHERE claimed_by IS NOT NULL") == [(0,)]


def test_three_answers_after_the_breaker_opened_are_about_their_messages(stage: Stage) -> None:
    """After the first delivery, eight requests are in flight: five fail, and three get a 403."""
    stage.add(*range(1, 20))
    answers: Mapping[int, Outcome] = dict.fromkeys(range(2, 7), DOWN) | dict.fromkeys(range(7, 20), FORBIDDEN)
    summary = stage.run(answers)
    assert summary.reason == "breaker_open"
    assert (summary.sent, summary.rescheduled, summary.escalated) == (1, 5, 3)


def test_a_403_before_a_401_means_refused_credentials(stage: Stage) -> None:
    stage.add(*range(1, 20))
    summary = stage.run(in_turn(FORBIDDEN, FORBIDDEN, UNAUTHORIZED), ONE_BY_ONE)
    assert (summary.reason, summary.escalated, summary.released) == ("credentials_refused", 0, 3)
    check_untouched(stage)


def test_a_rest_in_between_ends_the_pass(stage: Stage) -> None:
    stage.add(*range(1, 20))
    summary = stage.run(in_turn(FORBIDDEN, FORBIDDEN, THROTTLED), ONE_BY_ONE)
    assert (summary.reason, summary.escalated, summary.released) == ("throttled", 2, 1)


MAIL = Route("https://mail.example.com", only=frozenset({MessageType.SUPPLIER}))
REST = Route("https://tickets.example.com", but=frozenset({MessageType.SUPPLIER}))
RULES_OF_TWO = RULES._replace(routes=(MAIL, REST))


def test_each_route_is_judged_separately(stage: Stage) -> None:
    stage.add(*range(1, 31), message_type="supplier")
    stage.add(*range(101, 131))
    summary = stage.run(but(range(1, 31), MOVED), RULES_OF_TWO)
    detail = f"{MAIL.destination} responds with HTTP 302 to every request"
    assert ended(summary) == (PassResult.STOPPED, StopReason.SAME_ANSWER, detail)
    assert (summary.sent, summary.escalated, summary.released) == (30, 0, TICKETS + 3)


def test_the_tickets_of_two_routes_do_not_add_up(stage: Stage) -> None:
    stage.add(*range(1, 8), message_type="supplier")
    stage.add(*range(101, 108))
    summary = stage.run(MOVED, RULES_OF_TWO)
    assert (summary.reason, summary.escalated) == (None, 14)


OPEN = Breaker(RULES.destination, BreakerState.OPEN, 5, START - TICK, START)


def test_a_probe_with_an_answer_in_doubt_is_followed_by_another(stage: Stage) -> None:
    stage.ledger.save_breaker(OPEN)
    stage.add(1, 2, 3, due=START)
    summary = stage.run(in_turn(FORBIDDEN, DELIVERED))
    assert (summary.sent, summary.escalated) == (2, 1)
    assert stage.ledger.breakers() == []


def test_a_maintenance_page_after_an_outage_leaves_the_breaker_open(stage: Stage) -> None:
    stage.ledger.save_breaker(OPEN)
    stage.add(*range(1, 31), due=START)
    said = f"for {TICKETS} tickets, without a delivery in between"
    assert ended(stage.run(MOVED)) == stopped(302, said=said)
    assert stage.widths == [1] * TICKETS, "no trial is made of probes"
    check_untouched(stage)
    assert stage.ledger.breaker(RULES.destination).state is BreakerState.OPEN
    stage.clock.now += TICK * 2
    assert stage.run().sent == 30
