"""Messages that passes hand over to the application's own sender, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from retrycli.domain.circuit_breaker import APPLICATION, BreakerState
from retrycli.domain.errors import NotActionable
from retrycli.domain.listing import Filter
from retrycli.domain.message import MessageType, State
from retrycli.domain.operator_action import OperatorAction
from retrycli.domain.passes import (
    BreakerClosed,
    BreakerOpened,
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageHandedOver,
    MessageRescheduled,
    PassSummary,
)
from retrycli.domain.table_mapping import parse_mapping
from retrycli.domain.transition import ActionKind, Decision, Route, Transition
from retrycli.engine import runner
from retrycli.engine.manual_attempt import attempt_through
from retrycli.engine.ports import Dependencies, PassIdentity, PassRules
from retrycli.store.claims import Claims
from retrycli.store.clock_repair import repair_clock_skew
from retrycli.store.counters import prune
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.listing import MessageQueries
from retrycli.store.operator_actions import Acts, Performed
from retrycli.store.passes import Ledger
from retrycli.store.summaries import QueueCounts
from tests.fakes import RULES, Clock, FakeLock
from tests.store.application import HOUR, MINUTE, NOON, naive
from tests.store.conftest import on_default_table
from tests.store.mapped import MappedApplication
from tests.store.own_tables import PASS, attempt_rows, enrol, queue_rows

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from retrycli.engine.ports import Gateway
    from tests.store.application import Application

STATUS = {"failed": "failed", "sent": "sent", "queued": "queued", "rejected": "rejected"}
TO_THE_APPLICATION = RULES._replace(destination=APPLICATION, routes=(Route(APPLICATION),), answer_within=HOUR)
TICK = 15 * MINUTE


class Desk:
    """Passes and operators that hand messages over, and the application's sender."""

    def __init__(self, application: Application) -> None:
        self.application = application
        mapping = application.mapping or parse_mapping({}, STATUS, None)
        self.database = Database(application.url, application.table_name, mapping)
        self.clock = Clock()
        self.clock.now = NOON
        self.events: list[Event] = []
        self.passes = 0
        self.views = MessageQueries(self.database)

    def run(self, rules: PassRules = TO_THE_APPLICATION) -> PassSummary:
        """Run a pass. Keep only its events."""
        self.passes += 1
        self.events.clear()
        me = PassIdentity(f"pass-{self.passes}", host="mill", pid=self.passes)
        return asyncio.run(runner.run_pass(self._deps(), FakeLock(), rules, me))

    def retry(self, message_id: int) -> object:
        async def attempt() -> object:
            deps = self._deps()
            async with deps.open_gateway() as gateway:
                return await attempt_through(gateway, deps, TO_THE_APPLICATION, message_id, by="anna")

        return asyncio.run(attempt())

    def reject(self, message_id: int) -> Performed:
        wanted = {message_id: OperatorAction.rejected("no", by="anna", at=self.clock.now)}
        return Acts(self.database).perform(ActionKind.REJECTED, wanted)

    def later(self, wait: timedelta) -> None:
        self.clock.now += wait

    def answer(self, message_id: int, status: str, **columns: object) -> None:
        """Set a row's status, as the application's sender does."""
        self.application.change(message_id, status=status, updated_at=naive(self.clock.now), **columns)

    def of(self, kind: type[MessageHandedOver | MessageDelivered | MessageRescheduled]) -> list[int]:
        return [event.message_id for event in self.events if isinstance(event, kind)]

    def state(self, message_id: int) -> str | None:
        row = queue_rows(self.database).get(message_id)
        return None if row is None else row["state"]

    def attempts(self, message_id: int) -> list[tuple[str, str | None]]:
        return [(row["made_by"], row["outcome"]) for row in attempt_rows(self.database, message_id)]

    @property
    def breaker(self) -> BreakerState:
        return Ledger(self.database).breaker(APPLICATION).state

    def _deps(self) -> Dependencies:
        @asynccontextmanager
        async def open_gateway() -> AsyncIterator[Gateway]:
            yield None  # type: ignore[misc]  # no message is sent

        return Dependencies(
            enrolment=Enrolment(self.database),
            database=self.database,
            claims=Claims(self.database),
            ledger=Ledger(self.database),
            repair_clock_skew=partial(repair_clock_skew, self.database),
            prune=partial(prune, self.database),
            open_gateway=open_gateway,
            emit=self.events.append,
            now=self.clock,
            sleep=self.clock.sleep,
            jitter=lambda: 0.0,
            stop_requested=lambda: False,
        )


@pytest.fixture
def desk(application: Application) -> Iterator[Desk]:
    made = Desk(application)
    yield made
    made.database.close()


# -- handing over --------------------------------------------------------------------------------------------------


def test_a_due_message_is_handed_over_and_its_attempt_stays_open(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {}])
    with desk.application.watched() as changed:
        summary = desk.run()
    assert changed == {one: {"status": "queued"}, two: {"status": "queued"}}
    assert (summary.handed_over, summary.sent, summary.reason) == (2, 0, None)
    assert desk.of(MessageHandedOver) == [one, two]
    row = queue_rows(desk.database)[one]
    assert (row["state"], row["claimed_by"], row["claim_expires_at"]) == ("handed_over", None, None)
    [attempt] = attempt_rows(desk.database, one)
    assert (attempt["outcome"], attempt["finished_at"], attempt["destination"]) == (None, None, APPLICATION)
    assert attempt["digest"] == row["digest"]


def test_a_message_that_is_handed_over_is_listed_counted_and_not_handed_over_again(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.later(TICK)
    assert desk.run().handed_over == 0
    [listed] = desk.views.messages(Filter())
    assert (listed.id, listed.state, listed.next_attempt_at) == (one, State.HANDED_OVER, None)
    assert [each.id for each in desk.views.messages(Filter(state=State.HANDED_OVER))] == [one]
    assert desk.views.count(Filter(state=State.WAITING)) == 0
    counts = QueueCounts(desk.database).counts(desk.clock.now)
    assert counts == {"waiting": 0, "due": 0, "sending": 0, "escalated": 0, "handed_over": 1}
    assert desk.attempts(one) == [("pass", None)]


@pytest.mark.parametrize(
    ("columns", "state", "status"),
    [
        ({"body": "Another text"}, "waiting", "failed"),
        ({"status": "sent"}, None, "sent"),
        ({"created_at": naive(NOON)}, None, "failed"),
    ],
    ids=["edited", "sent", "replaced"],
)
def test_a_row_that_changed_since_it_was_read_is_not_handed_over_and_gets_no_attempt(
    desk: Desk, columns: dict[str, object], state: str | None, status: str
) -> None:
    one = desk.application.add()
    enrol(desk.database, [one])
    claims = Claims(desk.database)
    claims.claim(PASS, NOON, 1)
    read = claims.results.begin(PASS, [one], made_by="pass", pass_id=None, now=NOON, fit=lambda _: False)
    desk.application.change(one, **columns)
    decisions = [Decision(one, Transition.handed_over(), message=read[0])]
    written = claims.hand_overs.hand_over(
        PASS, decisions, made_by="pass", pass_id=None, destination_of=lambda _: APPLICATION, now=NOON
    )
    assert {*written.lost, *written.changed} == {one}
    assert desk.attempts(one) == []
    assert (desk.state(one), desk.application.row(one)["status"]) == (state, status)


def test_an_invalid_row_is_escalated_and_not_handed_over(desk: Desk) -> None:
    one = desk.application.add(message_type="fax")
    assert desk.run().handed_over == 0
    assert desk.state(one) == "escalated"
    assert desk.application.row(one)["status"] == "failed"


def test_the_limit_and_the_order_of_tickets_hold(desk: Desk) -> None:
    one, two, three = desk.application.add_all([{}, {}, {"ticket_id": 12346}])
    rules = TO_THE_APPLICATION._replace(per_ticket_order=True)
    desk.run(rules)
    assert desk.of(MessageHandedOver) == [one, three]
    desk.later(TICK)
    desk.answer(one, "sent")
    desk.run(rules._replace(limit=1))
    assert desk.of(MessageHandedOver) == [two]


def test_a_route_hands_over_only_the_messages_of_its_types(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {"message_type": "customer"}])
    suppliers = frozenset({MessageType.SUPPLIER})
    routes = (Route(APPLICATION, only=suppliers), Route(RULES.destination, but=suppliers))
    desk.run(TO_THE_APPLICATION._replace(destination=RULES.destination, routes=routes, limit=0))
    assert desk.state(one) == desk.state(two) == "waiting"
    desk.run(TO_THE_APPLICATION._replace(destination=RULES.destination, routes=routes[:1]))
    assert (desk.state(one), desk.state(two)) == ("handed_over", "waiting")


# -- answers -------------------------------------------------------------------------------------------------------


def test_a_message_that_the_sender_sends_is_delivered(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.later(5 * MINUTE)
    desk.answer(one, "sent")
    desk.later(10 * MINUTE)
    with desk.application.watched() as changed:
        summary = desk.run()
    assert changed == {}
    assert summary.sent == 1
    assert desk.of(MessageDelivered) == [one]
    assert desk.state(one) is None
    [attempt] = attempt_rows(desk.database, one)
    assert (attempt["outcome"], attempt["duration_ms"]) == ("delivered", 15 * 60_000)


@on_default_table
def test_a_message_that_fails_again_uses_up_one_retry_of_retryclis_own_count(desk: Desk) -> None:
    one = desk.application.add(retry_count=3)
    desk.later(4 * HOUR)
    desk.run()
    desk.later(TICK)
    desk.answer(one, "failed", retry_count=0, last_error="550 no such user")
    summary = desk.run()
    assert (summary.rescheduled, desk.of(MessageRescheduled)) == (1, [one])
    row = desk.application.row(one)
    assert (row["status"], row["retry_count"], row["last_error"]) == ("failed", 4, "550 no such user")
    [attempt] = attempt_rows(desk.database, one)
    assert (attempt["outcome"], attempt["error"]) == ("refused", "550 no such user")
    queued = queue_rows(desk.database)[one]
    assert (queued["state"], queued["handed_over_at"]) == ("waiting", None)
    assert queued["next_attempt_at"] > desk.clock.now


@pytest.mark.parametrize("application_class", [MappedApplication], indirect=True)
def test_an_error_that_retrycli_keeps_is_deleted_when_the_sender_sends_the_message(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.later(TICK)
    desk.answer(one, "failed")
    desk.run()
    assert desk.application.row(one)["last_error"] == "the application's sender failed"
    desk.later(8 * HOUR)
    desk.run()
    desk.answer(one, "sent")
    desk.run()
    assert desk.of(MessageDelivered) == [one]
    assert desk.application.row(one)["last_error"] is None


@on_default_table
def test_the_last_retry_that_fails_again_escalates_the_message(desk: Desk) -> None:
    one = desk.application.add(retry_count=9)
    desk.later(5 * HOUR)
    desk.run()
    desk.later(TICK)
    desk.answer(one, "failed", retry_count=0, last_error="550 no such user")
    assert desk.run().escalated == 1
    row = desk.application.row(one)
    assert row["retry_count"] == 10
    assert row["last_error"] == "Max retries (10) exceeded. Manual intervention required. Last error: 550 no such user"
    desk.later(TICK)
    assert desk.run().handed_over == 0
    assert desk.state(one) == "escalated"


def test_a_row_that_was_put_back_is_unknown_and_escalated_as_changed(desk: Desk) -> None:
    one = desk.application.add()
    before = {name: value for name, value in desk.application.row(one).items() if name != "id"}
    desk.run()
    desk.answer(one, "sent")
    desk.application.change(one, **before | {"created_at": naive(NOON - HOUR), "updated_at": naive(NOON - TICK)})
    desk.later(TICK)
    assert desk.run().handed_over == 0
    assert desk.attempts(one) == [("pass", "unknown")]
    queued = queue_rows(desk.database)[one]
    assert (queued["state"], queued["escalation_reason"]) == ("escalated", "changed")
    assert "put back" in desk.application.row(one)["last_error"]


@pytest.mark.parametrize("how", ["deleted", "rejected", "replaced"])
def test_a_message_that_the_application_withdraws_leaves_the_queue_and_its_attempt_ends_as_unknown(
    desk: Desk, how: str
) -> None:
    one = desk.application.add()
    desk.run()
    if how == "deleted":
        desk.application.delete(one)
    elif how == "rejected":
        desk.answer(one, "rejected")
    else:
        desk.application.delete(one)
        later = naive(NOON + MINUTE)
        desk.application.add(id=one, created_at=later, updated_at=later)
    desk.later(TICK)
    desk.run()
    anew: list[tuple[str, str | None]] = [("pass", None)] if how == "replaced" else []
    assert desk.attempts(one) == [("pass", "unknown"), *anew]
    assert desk.state(one) == ("handed_over" if how == "replaced" else None)


def test_a_status_that_only_the_application_knows_leaves_the_message_handed_over(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.answer(one, "processing")
    desk.later(TICK)
    desk.run()
    assert desk.state(one) == "handed_over"
    assert [each.id for each in desk.views.messages(Filter())] == [one]


def test_answers_are_recorded_after_the_settings_name_another_gateway(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {}])
    desk.run()
    desk.answer(one, "sent")
    desk.answer(two, "failed")
    desk.later(TICK)
    desk.run(RULES._replace(limit=0))
    assert desk.state(one) is None
    assert desk.state(two) == "waiting"
    assert desk.attempts(one) == [("pass", "delivered")]
    assert desk.attempts(two) == [("pass", "refused")]


# -- a sender that does not answer -----------------------------------------------------------------------------------


def test_a_sender_that_answers_nothing_is_down_and_gets_nothing_more(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {}])
    desk.run()
    desk.later(HOUR)
    three = desk.application.add(created_at=naive(NOON), updated_at=naive(NOON))
    summary = desk.run()
    assert (summary.reason, summary.exit_status, summary.escalated) == ("breaker_open", 69, 0)
    assert "the application's sender has delivered nothing since" in str(summary.detail)
    assert [event.probe_at for event in desk.events if isinstance(event, BreakerOpened)] == [None]
    desk.later(5 * HOUR)
    assert desk.run().reason == "breaker_open"
    assert not [event for event in desk.events if isinstance(event, BreakerOpened)]
    assert (desk.state(one), desk.state(two), desk.state(three)) == ("handed_over", "handed_over", "waiting")


def test_a_pass_with_nothing_due_reports_a_sender_that_is_down(desk: Desk) -> None:
    desk.application.add()
    desk.run()
    desk.later(HOUR)
    assert (desk.run().reason, desk.breaker) == ("breaker_open", BreakerState.OPEN)


def test_a_sender_that_answers_again_gets_messages_and_the_others_their_time(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {}])
    desk.run()
    desk.later(6 * HOUR)
    assert desk.run().reason == "breaker_open"
    three = desk.application.add(created_at=naive(NOON), updated_at=naive(NOON))
    desk.later(TICK)
    desk.answer(one, "sent")
    summary = desk.run()
    assert (summary.reason, summary.escalated, summary.handed_over) == (None, 0, 1)
    assert [event.destination for event in desk.events if isinstance(event, BreakerClosed)] == [APPLICATION]
    assert (desk.state(two), desk.state(three)) == ("handed_over", "handed_over")


def test_the_breaker_closes_when_operators_have_taken_all_messages_back(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.later(HOUR)
    desk.run()
    desk.reject(one)
    desk.later(TICK)
    assert desk.run().reason is None
    assert desk.breaker is BreakerState.CLOSED


def left_behind(desk: Desk) -> int:
    """Hand two messages over, of which the sender sends the second. Return the first, which is escalated."""
    one, two = desk.application.add_all([{}, {}])
    desk.run()
    desk.later(5 * MINUTE)
    desk.answer(two, "sent")
    for _ in range(6):
        desk.later(TICK)
        desk.run()
    return one


def test_a_message_that_stays_while_others_are_sent_is_escalated_as_unknown(desk: Desk) -> None:
    one = left_behind(desk)
    queued = queue_rows(desk.database)[one]
    assert (queued["state"], queued["escalation_reason"]) == ("escalated", "unknown")
    assert desk.attempts(one) == [("pass", None)]
    assert desk.application.row(one)["status"] == "queued"
    assert desk.breaker is BreakerState.CLOSED
    desk.later(TICK)
    desk.run()
    [listed] = desk.views.messages(Filter(state=State.ESCALATED))
    assert (listed.id, listed.reason) == (one, "unknown")


def test_a_message_is_escalated_once_and_the_event_names_the_hand_over(desk: Desk) -> None:
    one, two = desk.application.add_all([{}, {}])
    desk.run()
    desk.later(5 * MINUTE)
    desk.answer(two, "sent")
    escalated = []
    for _ in range(10):
        desk.later(TICK)
        desk.run()
        escalated += [event for event in desk.events if isinstance(event, MessageEscalated)]
    [event] = escalated
    assert (event.message_id, event.reason) == (one, "unknown")
    assert event.problem == "handed over at 2025-03-03T12:00:00Z, and the application's sender has reported nothing"
    assert event.fingerprint == queue_rows(desk.database)[one]["fingerprint"]


def test_a_message_that_was_left_behind_and_is_sent_later_is_delivered(desk: Desk) -> None:
    one = left_behind(desk)
    desk.answer(one, "sent")
    desk.later(TICK)
    assert desk.run().sent == 1
    assert desk.attempts(one) == [("pass", "delivered")]
    assert desk.state(one) is None


def test_a_message_that_was_left_behind_and_fails_later_waits_again(desk: Desk) -> None:
    one = left_behind(desk)
    desk.answer(one, "failed", last_error="550")
    desk.later(TICK)
    assert desk.run().rescheduled == 1
    queued = queue_rows(desk.database)[one]
    assert (queued["state"], queued["escalated_at"], queued["escalation_reason"]) == ("waiting", None, None)
    assert desk.application.row(one)["retry_count"] == 1
    assert desk.attempts(one) == [("pass", "refused")]


# -- operators -----------------------------------------------------------------------------------------------------


def test_an_operator_hands_a_message_over_and_a_failure_uses_up_no_retry(desk: Desk) -> None:
    one = desk.application.add(retry_count=2)
    assert desk.retry(one) is None
    assert desk.attempts(one) == [("anna", None)]
    assert (desk.state(one), desk.application.row(one)["status"]) == ("handed_over", "queued")
    desk.later(5 * MINUTE)
    desk.answer(one, "failed", retry_count=7, last_error="550")
    desk.later(5 * MINUTE)
    desk.run()
    assert desk.application.row(one)["retry_count"] == 2
    assert desk.attempts(one)[0] == ("anna", "refused")


def test_an_escalated_message_that_an_operator_hands_over_is_escalated_again_if_it_fails(desk: Desk) -> None:
    one = desk.application.add(retry_count=10)
    desk.run()
    assert desk.state(one) == "escalated"
    desk.retry(one)
    assert desk.state(one) == "handed_over"
    desk.later(TICK)
    desk.answer(one, "failed", last_error="550")
    for _ in range(2):
        desk.run()
        desk.later(TICK)
        assert desk.state(one) == "escalated"
    assert queue_rows(desk.database)[one]["escalation_reason"] == "exhausted"


def test_a_message_that_is_handed_over_can_only_be_rejected(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    with pytest.raises(
        NotActionable,
        match=f"handed over to the application's sender; `retrycli reject {one} --reason withdrawn` takes",
    ):
        desk.retry(one)
    acts = Acts(desk.database)
    for kind in (ActionKind.MARKED_SENT, ActionKind.REQUEUED):
        assert acts.perform(kind, {one: OperatorAction(kind, "anna", NOON, due=NOON)}).lost == {one}
        assert "handed over" in str(acts.why_not(kind, [one], NOON)[one])
    done = desk.reject(one)
    assert (done.lost, done.refused) == (set(), {})
    row = desk.application.row(one)
    assert (row["status"], row["last_error"]) == ("rejected", "Rejected by anna: no")
    assert desk.attempts(one) == [("pass", "unknown")]
    assert desk.state(one) is None


def test_a_message_that_the_sender_has_taken_can_not_be_rejected(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.answer(one, "processing")
    assert desk.reject(one).lost == {one}
    assert f"its status is {desk.application.word('processing')}" in str(
        Acts(desk.database).why_not(ActionKind.REJECTED, [one], NOON)[one]
    )
    assert desk.application.row(one)["status"] == "processing"


def test_a_retry_first_records_the_failure_of_the_hand_over(desk: Desk) -> None:
    one = desk.application.add()
    desk.run()
    desk.later(MINUTE)
    desk.answer(one, "failed", last_error="550")
    assert desk.retry(one) is None
    assert desk.attempts(one) == [("pass", "refused"), ("anna", None)]
    assert desk.application.row(one)["status"] == "queued"


def test_an_escalation_of_a_message_that_was_left_behind_can_be_acknowledged(desk: Desk) -> None:
    one = left_behind(desk)
    acts = Acts(desk.database)
    acknowledged = OperatorAction(ActionKind.ACKNOWLEDGED, "anna", NOON)
    assert acts.perform(ActionKind.ACKNOWLEDGED, {one: acknowledged}).lost == set()
    assert queue_rows(desk.database)[one]["acknowledged_by"] == "anna"


def test_times_of_a_clock_that_was_ahead_do_not_keep_a_message_for_ever(desk: Desk) -> None:
    desk.clock.now = datetime(2030, 1, 1, tzinfo=UTC)
    one = desk.application.add()
    desk.run()
    desk.clock.now = NOON
    desk.run()
    assert queue_rows(desk.database)[one]["handed_over_at"] <= NOON
