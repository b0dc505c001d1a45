"""Random lives of messages: Hypothesis chooses the events, and the laws are checked after each step.

If a law is broken, the tests print the shortest life that Hypothesis found to break it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from retrycli.domain.errors import InvalidMessage, NoSuchMessage, NotActionable
from retrycli.domain.passes import HoldKind, HoldTarget
from retrycli.domain.transition import ActionKind
from tests.model.book import MAX_RETRIES
from tests.model.death import Fate
from tests.model.habits import HABITS, Habits
from tests.model.picture import STUBBORN, Row
from tests.model.place import Place, Script
from tests.model.server import Answer
from tests.model.steps import BY_THE_APPLICATION, Meanwhile, Steps
from tests.model.writes import TICKETS as NUMBER_OF_TICKETS
from tests.model.writes import next_ticket
from tests.store.application import HOUR, MINUTE, TICKET

STEPS_OF_A_LIFE = 50
MANY = 8
"""`fail` adds no messages while this many are failed, to leave time for the other steps."""
BAD_DATA: tuple[dict[str, object], ...] = (
    {"message_type": "pigeon"},
    {"cc_emails": "boss@example.com"},
    {"ticket_id": None},
    {"body": None},
)
REPAIRED: dict[str, object] = {
    "message_type": "supplier",
    "cc_emails": "[]",
    "ticket_id": TICKET,
    "body": "Where is it?",
}
TYPES = st.sampled_from(["customer", "supplier", "internal"])
TICKETS = st.integers(TICKET, TICKET + NUMBER_OF_TICKETS - 1)
TICKS = 15
OFTEN = (Answer.TAKEN, Answer.TAKEN, Answer.TAKEN, Answer.TAKEN_AND_LOST, Answer.NOT_FOUND)
ANSWERS = st.lists(st.sampled_from([*Answer, *OFTEN]), min_size=1, max_size=6)
LIMITS = st.sampled_from([None, None, 1, 3])
SOME = st.integers(0, 31)
"""The index of a message, modulo the number of messages."""
MINUTES = st.sampled_from([0, 2, 15, 15, 60, 480, 480, 4000, -1, -30])
"""Minutes by which the clock advances before a pass. Negative numbers set it back."""
BY_OTHERS = [event for event in Meanwhile if event not in BY_THE_APPLICATION]
CALLS = st.integers(1, 8)
"""The number of calls that retrycli makes to its ports while the application holds a lock."""
TEXTS = st.sampled_from(["a", "b"])
AGAIN: tuple[dict[str, object], ...] = ({}, {}, {"last_error": "HTTP 500, again"}, {"retry_count": 0}, {"body": "b"})
"""The possible changes to other columns when the application marks a row as failed again."""
WAYS = ("gives the count back", "writes a new error", "withdraws it and fails it again", "renders it")
MONTH = timedelta(days=30)
FATES = st.builds(Fate, st.integers(1, 45), st.booleans())


class Life(Steps):
    """The events in the lives of failed messages, as rules of a Hypothesis state machine."""

    @initialize(
        per_ticket_order=st.booleans(),
        kinds=st.lists(TYPES, min_size=3, max_size=6),
        clock_goes_wrong=st.booleans(),
        insists=st.sampled_from([False, False, False, True]),
        habits=HABITS,
    )
    def begin_with(
        self, kinds: list[str], habits: Habits, *, per_ticket_order: bool, clock_goes_wrong: bool, insists: bool
    ) -> None:
        self.per_ticket_order, self.clock_goes_wrong, self.insists = per_ticket_order, clock_goes_wrong, insists
        self.adopt(habits)
        self.backup: Mapping[int, Row] = {}
        self.begin("begin_with")
        for number, kind in enumerate(kinds):
            self.add(message_type=kind, ticket_id=TICKET + number % 2)

    # -- the application --------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.laws.before.failed) < MANY)
    @rule(
        kinds=st.lists(TYPES, min_size=1, max_size=4),
        ticket=TICKETS,
        tries=st.sampled_from([0, 0, 1, None, MAX_RETRIES]),
        dated=st.booleans(),
        spoilt=st.sampled_from([{}, {}, {}, {"retry_count": -1}, *BAD_DATA]),
    )
    def fail(self, kinds: list[str], ticket: int, tries: int | None, spoilt: dict[str, object], *, dated: bool) -> None:
        made_at = self.now if dated else None
        usual = {"ticket_id": ticket, "retry_count": tries, "created_at": made_at, "updated_at": made_at}
        self.begin("fail")
        for kind in kinds:
            self.add(**{**usual, "message_type": kind, **spoilt})

    @precondition(lambda self: self.laws.before.rows)
    @rule(
        some=SOME,
        what=st.sampled_from(["failed", "sent", "rejected", "pending", "approved", "deleted", *BAD_DATA, REPAIRED]),
    )
    def write_row(self, some: int, what: str | dict[str, object]) -> None:
        """Change a row's status as the application, damage or fix its data, or delete it."""
        step, each = self.begin("write_row"), self.one(some)
        if isinstance(what, dict):
            self.change(each, **what)
        elif what == "deleted":
            self.delete(step, each)
        else:
            self.have_back(step, each, what)

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, left=st.booleans(), shown=st.sampled_from(AGAIN))
    def fail_again(self, some: int, shown: dict[str, object], *, left: bool) -> None:
        """Mark a row as failed again between two passes, like an application that also retries messages itself."""
        step, each = self.begin("fail_again"), self.one(some)
        if left:
            self.have_back(step, each, "approved")
        self.have_back(step, each, "failed", **shown)

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, body=TEXTS)
    def edit_row(self, some: int, body: str) -> None:
        """Write one of two texts as the application, so that an earlier text often returns."""
        self.begin("edit_row")
        self.change(self.one(some), body=body)

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, at_once=st.booleans(), other_ticket=st.booleans(), body=st.none() | TEXTS)
    def reuse_id(self, some: int, body: str | None, *, at_once: bool, other_ticket: bool) -> None:
        step, each = self.begin("reuse_id"), self.one(some)
        changes: dict[str, object] = {} if body is None else {"body": body}
        if not at_once:
            changes["created_at"] = self.now
        if other_ticket:
            changes["ticket_id"] = next_ticket(self.laws.before.rows[each]["ticket_id"])
        self.reuse(step, each, **changes)

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME)
    def merge_tickets(self, some: int) -> None:
        """Move all messages of a ticket to another ticket."""
        self.begin("merge_tickets")
        ticket = self.laws.before.rows[self.one(some)]["ticket_id"]
        for message_id, row in list(self.laws.before.rows.items()):
            if row["ticket_id"] == ticket:
                self.change(message_id, ticket_id=next_ticket(ticket))

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, how=st.sampled_from(sorted(STUBBORN)))
    def keep_from_changes(self, some: int, how: int) -> None:
        """Make a trigger block changes to a row until the application writes to it."""
        self.begin("keep_from_changes")
        self.keep(self.one(some), how)

    @rule()
    def back_up(self) -> None:
        self.begin("back_up")
        self.backup = self.laws.before.rows

    @precondition(lambda self: self.backup)
    @rule()
    def restore_backup(self) -> None:
        self.restore(self.begin("restore_backup"), self.backup)

    @precondition(lambda self: self.insists and self.laws.before.failed)
    @rule(answer=st.sampled_from([Answer.REFUSED, Answer.NOT_FOUND, Answer.TAKEN_AND_LOST]), how=st.sampled_from(WAYS))
    def write_at_every_tick(self, answer: Answer, how: str) -> None:
        """Write to every failed message as the application, before each of many passes."""
        for number in range(TICKS):
            step, failed = self.begin("write_at_every_tick"), sorted(self.laws.before.failed)
            self.wait(300)
            if how.startswith("withdraws"):
                for status in ("approved", "failed"):
                    for message_id in failed:
                        self.have_back(step, message_id, status)
                    self.make_pass(step, self.place.first, Script([answer]))
                    self.end()
                    step = self.begin("write_at_every_tick")
                self.wait(300)  # a failure that a pass sees for the first time is not due at once
            else:
                changes = {"retry_count": 0} if "count" in how else {"last_error": f"HTTP 500, {number}"}
                for message_id in failed:
                    self.render(message_id) if "renders" in how else self.change(message_id, **changes)
            self.make_pass(step, self.place.first, Script([answer]))
            self.end()

    # -- passes -----------------------------------------------------------------------------------------------

    @rule(minutes=MINUTES, answers=ANSWERS, on_second=st.booleans(), limit=LIMITS)
    def tick(self, minutes: int, answers: list[Answer], limit: int | None, *, on_second: bool) -> None:
        self.wait(minutes)
        host = self.place.second if on_second else self.place.first
        self.make_pass(self.begin("tick"), host, Script(answers), limit)

    @precondition(lambda self: self.laws.before.rows)
    @rule(minutes=MINUTES, answers=ANSWERS, fate=FATES)
    def tick_and_die(self, minutes: int, answers: list[Answer], fate: Fate) -> None:
        self.wait(minutes)
        step = self.begin("tick_and_die", alone=False)
        self.make_pass(step, self.place.first, Script(answers, replace(fate)))

    @precondition(lambda self: self.clock_goes_wrong)
    @rule(minutes=st.sampled_from([2, 15, 60]), answers=ANSWERS, fate=st.none() | FATES)
    def tick_a_month_ahead(self, minutes: int, answers: list[Answer], fate: Fate | None) -> None:
        """Run one pass with a clock that is a month ahead, and the next pass with the corrected clock."""
        right, latest = self.place.clock.now, self.laws.latest
        self.place.clock.now += MONTH
        step = self.begin("tick_a_month_ahead", alone=fate is None)
        self.make_pass(step, self.place.first, Script(answers, fate and replace(fate)))
        self.end()
        self.place.clock.now = right + minutes * MINUTE
        step = self.begin("tick_put_right")
        step.put_right_at, step.latest = self.place.clock.now, latest
        self.make_pass(step, self.place.first, Script(answers))

    @precondition(lambda self: self.laws.before.rows)
    @rule(
        minutes=MINUTES,
        answers=ANSWERS,
        what=st.sampled_from([*BY_OTHERS, Meanwhile.CLAIM_EXPIRED_BEFORE_SEND, Meanwhile.HELD]),
        behind=st.booleans(),
        calls=CALLS,
    )
    def tick_while_others_work(
        self, minutes: int, answers: list[Answer], what: Meanwhile, calls: int, *, behind: bool
    ) -> None:
        self.wait(minutes)
        step = self.begin("tick_while_others_work", alone=False)
        script = Script(answers, interfere=lambda each: self.interfere(step, each, what, behind=behind, calls=calls))
        self.make_pass(step, self.place.first, script)

    @precondition(lambda self: self.laws.before.rows)
    @rule(
        minutes=st.sampled_from([15, 480]),
        answers=ANSWERS,
        what=st.sampled_from(sorted(BY_THE_APPLICATION, key=lambda each: each.name)),
        behind=st.booleans(),
    )
    def tick_while_the_application_writes(
        self, minutes: int, answers: list[Answer], what: Meanwhile, *, behind: bool
    ) -> None:
        self.wait(minutes)
        step = self.begin("tick_while_the_application_writes", alone=False)
        script = Script(answers, interfere=lambda each: self.interfere(step, each, what, behind=behind, calls=0))
        self.make_pass(step, self.place.first, script)

    # -- operators --------------------------------------------------------------------------------------------

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, answers=ANSWERS, fate=st.none() | FATES)
    def retry(self, some: int, answers: list[Answer], fate: Fate | None) -> None:
        step = self.begin("retry", alone=fate is None)
        try:
            self.try_by_hand(step, self.one(some), Script(answers, fate and replace(fate)))
        except (NoSuchMessage, NotActionable, InvalidMessage):
            step.killed = False

    @precondition(lambda self: self.laws.before.rows)
    @rule(
        some=SOME,
        kind=st.sampled_from([ActionKind.EDITED, ActionKind.REJECTED, ActionKind.REQUEUED, ActionKind.ACKNOWLEDGED]),
    )
    def act_on(self, some: int, kind: ActionKind) -> None:
        self.act(self.begin(kind.value), kind, self.one(some))

    @precondition(lambda self: self.laws.before.in_state("escalated"))
    @rule(some=SOME)
    def requeue(self, some: int) -> None:
        escalated = sorted(self.laws.before.in_state("escalated"))
        self.act(self.begin("requeue"), ActionKind.REQUEUED, escalated[some % len(escalated)])

    @precondition(lambda self: self.laws.before.rows)
    @rule(length=st.sampled_from([10 * MINUTE, 10 * MINUTE, 10 * MINUTE, HOUR, None]))
    def pause_or_resume(self, length: timedelta | None) -> None:
        self.begin("pause_or_resume")
        if self.place.is_paused:
            self.place.resume()
        else:
            self.place.pause(length)

    @precondition(lambda self: self.laws.before.rows)
    @rule(some=SOME, kind=st.sampled_from([*HoldKind][:3]), length=st.sampled_from([HOUR, HOUR, None]))
    def hold_or_resume(self, some: int, kind: HoldKind, length: timedelta | None) -> None:
        """End the active hold, or hold a message, its ticket or its type."""
        step = self.begin("hold_or_resume")
        if self.end_holds(step):
            return
        message_id = self.one(some)
        row = self.laws.before.rows[message_id]
        name = self.place.application.id_of(message_id)
        text = {HoldKind.MESSAGE: name, HoldKind.TICKET: row["ticket_id"]}.get(kind, row["message_type"])
        with suppress(NotActionable):
            self.place.hold_part(HoldTarget(kind, str(text)), length)
            step.acts |= {"held": message_id} if kind is HoldKind.MESSAGE else {}

    # -- the laws ---------------------------------------------------------------------------------------------

    @invariant()
    def laws_hold(self) -> None:
        self.end()

    def teardown(self) -> None:
        if self.step is None:  # otherwise the last step has failed, and a drain would hide its error
            self.drain()


RULES = {name for name, rule_ in vars(Life).items() if hasattr(rule_, "hypothesis_stateful_rule")}


def live(
    place: Place, number: int, *, phases: tuple[Phase, ...], derandomize: bool = False, steps: Collection[str] = ()
) -> Counter[str]:
    """Run this number of lives; return the number of times that each step was taken.

    If ``steps`` are given, the lives have only these of the `RULES`.

    Raises:
        Broken: a law does not hold in one of them.
    """
    counted: Counter[str] = Counter()
    how = settings(
        max_examples=number,
        stateful_step_count=STEPS_OF_A_LIFE,
        derandomize=derandomize,
        phases=phases,
        database=None,
        deadline=None,  # `python -m tests.model` loads no profile
        suppress_health_check=list(HealthCheck),
    )

    class LifeHere(Life):
        def __init__(self) -> None:
            super().__init__(place, counted)

    for other in RULES.difference(steps) if steps else ():
        setattr(LifeHere, other, None)
    run_state_machine_as_test(LifeHere, settings=how)
    return counted
