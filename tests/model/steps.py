"""The steps in the life of messages, and reports to the laws about the changes that each step permits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from retrycli.domain.errors import DatabaseUnavailable, NotActionable, RetrycliError
from retrycli.domain.passes import HoldKind, PassResult
from retrycli.domain.transition import ActionKind
from retrycli.operations import edit_message, message_actions
from tests.model.laws import Broken, is_readable
from tests.model.picture import STUBBORN, take, time_of
from tests.model.place import OPERATOR, Host, Place, Script
from tests.model.step import Step
from tests.model.writes import Writes, next_ticket
from tests.store.application import MINUTE

if TYPE_CHECKING:
    from retrycli.operations.retry import ActionResult

LAST_CALLS = 4
"""The number of passes, each after the longest wait, that deliver all messages if nothing interferes."""
LONGEST_WAIT = timedelta(hours=7)
A_LITTLE = timedelta(minutes=30)


class Meanwhile(Enum):
    """An event during a request."""

    SENT = "the application sends its message itself"
    REJECTED = "the application rejects it"
    TAKEN_BACK = "the application has it back"
    FAILED_ANEW = "the application has it back, and fails again"
    DELETED = "the application deletes it"
    ACTED_ON = "a person tries all that is refused while a message is being sent"
    OTHER_PASS = "the other host makes a pass"
    CLAIM_EXPIRED_BEFORE_SEND = "the sender stands still until its claims have lapsed, and the other host makes a pass"
    EDITED = "the application writes another text"
    EDITED_AND_BACK = "the application writes another text, and the old one again"
    WRITTEN = "the application writes another error and count"
    MOVED = "the application merges its ticket into another"
    REUSED = "the application deletes it, and its id goes to a message of another time"
    REUSED_AT_ONCE = "the same, for another ticket within the same second"
    HELD = "the application holds its row, or the file, for a while"


BY_THE_APPLICATION = {
    Meanwhile.EDITED,
    Meanwhile.EDITED_AND_BACK,
    Meanwhile.WRITTEN,
    Meanwhile.MOVED,
    Meanwhile.REUSED,
    Meanwhile.REUSED_AT_ONCE,
}
"""The events that `_write_meanwhile` causes: the application rewrites or replaces a row during a request."""


class Steps(Writes):
    """The part of the state machine that takes steps and checks the laws.

    Args:
        place: its data is deleted first.
        counted: counts the steps by their names.
    """

    def __init__(self, place: Place, counted: Counter[str]) -> None:
        super().__init__(place)
        self.counted = counted
        self.per_ticket_order = False
        self.clock_goes_wrong = False
        """True if the clock may go wrong in this life."""
        self.insists = False
        """True if the application may write before every pass of a step. Such a step is slow, so few lives have it."""

    def begin(self, name: str, *, alone: bool = True) -> Step:
        """Count a step, and make it the current one."""
        self.counted[name] += 1
        self.place.events = []
        self.step = Step(name, alone=alone, events=self.place.events)
        return self.step

    def end(self) -> None:
        """Check the laws after the step.

        Raises:
            Broken: a law does not hold.
        """
        self.place.hold.release()
        if self.step is not None:
            after = take(self.place.application)
            self.free |= self.laws.before.rows.keys() - after.rows.keys()
            self.laws.hold(after, self.step)
            self.step = None

    def drain(self) -> None:
        """Check that a few passes deliver or escalate all messages if the ticketing API accepts everything.

        Raises:
            Broken: a message is still queued, and not escalated.
        """
        self.place.resume()
        self.end_holds(self.begin("last calls"))
        self.end()
        for _ in range(LAST_CALLS):
            self.place.clock.now += LONGEST_WAIT
            self.make_pass(self.begin("last calls"), self.place.first, Script())
            self.end()
        if stuck := self.laws.before.queue.keys() - self.laws.before.in_state("escalated"):
            raise Broken(f"last calls: {stuck} are stuck")

    def one(self, some: int) -> int:
        """Return the id of the row with this index, modulo the number of rows."""
        return _pick(self.laws.before.rows, some)

    def wait(self, minutes: int) -> None:
        """Move the clock. It is never more than `A_LITTLE` behind the latest time that it has shown."""
        clock = self.place.clock
        clock.now = max(clock.now + minutes * MINUTE, self.laws.latest - A_LITTLE)

    # -- passes and attempts by hand --------------------------------------------------------------------------

    def make_pass(self, step: Step, host: Host, script: Script, limit: int | None = None) -> None:
        self.write_before_pass(step)
        began_at, paused = self.place.clock.now, self.place.is_paused
        try:
            summary = self.place.make_pass(host, script, limit=limit, per_ticket_order=self.per_ticket_order)
        except DatabaseUnavailable as error:
            raise Broken(f"{step.name}: a pass ended because the application held a lock: {error}") from error
        step.killed = summary is None
        if summary is None:
            return
        if paused != (summary.result == PassResult.PAUSED):
            raise Broken(f"{step.name}: the pass is {summary.result}, and deliveries are paused: {paused}")
        if not paused:
            step.seen_at = began_at

    def try_by_hand(self, step: Step, message_id: int, script: Script) -> None:
        step.killed = self.place.try_by_hand(message_id, script) is None

    def interfere(self, step: Step, message_id: int, what: Meanwhile, *, behind: bool, calls: int) -> None:
        """Cause an event during a request, for its message or for another claimed message.

        Args:
            step: this step.
            message_id: the message of the request.
            what: the event.
            behind: whether to choose another claimed message.
            calls: how many calls retrycli makes to its ports while a lock is held.
        """
        if behind:
            claimed = take(self.place.application).in_state("sending")
            message_id = max(claimed, default=message_id)
        match what:
            case Meanwhile.SENT | Meanwhile.REJECTED:
                self.have_back(step, message_id, what.name.lower())
            case Meanwhile.TAKEN_BACK:
                self.have_back(step, message_id, "pending")
            case Meanwhile.FAILED_ANEW:
                self.have_back(step, message_id, "failed")
            case Meanwhile.DELETED:
                self.delete(step, message_id)
            case Meanwhile.ACTED_ON:
                self._act_in_vain(message_id)
            case Meanwhile.OTHER_PASS:
                self.place.make_pass_meanwhile(per_ticket_order=self.per_ticket_order)
            case Meanwhile.CLAIM_EXPIRED_BEFORE_SEND:
                self.place.server.book.stood_still()
                self.wait(2)
                self.place.make_pass_meanwhile(per_ticket_order=self.per_ticket_order)
            case Meanwhile.HELD:
                self.hold(step, message_id, calls)
            case _:
                self._write_meanwhile(step, message_id, what)

    def _write_meanwhile(self, step: Step, message_id: int, what: Meanwhile) -> None:
        """Write to a message as the application during a request."""
        row = self.laws.before.rows[message_id]
        match what:
            case Meanwhile.EDITED:
                self.change(message_id, body=f"{row['body']} It is urgent.")
            case Meanwhile.EDITED_AND_BACK:
                self.change(message_id, body=f"{row['body']} It is urgent.")
                self.change(message_id, body=row["body"])
            case Meanwhile.WRITTEN:
                self.change(message_id, last_error=f"HTTP 500 at {self.place.clock.now}", retry_count=0)
            case Meanwhile.MOVED:
                self.change(message_id, ticket_id=next_ticket(row["ticket_id"]))
            case Meanwhile.REUSED:
                self.reuse(step, message_id, created_at=self.now)
            case Meanwhile.REUSED_AT_ONCE:
                self.reuse(step, message_id, ticket_id=next_ticket(row["ticket_id"]))
            case _:
                raise AssertionError(what)
        self._touch(step, message_id)

    def hold(self, step: Step, message_id: int, calls: int) -> None:
        """Make the application lock a row (in SQLite, the whole file) during some of retrycli's calls."""
        self.place.hold.take(message_id, calls)
        step.held |= {message_id} if self.place.kind == "postgresql" else set(self.laws.before.rows)

    # -- operators --------------------------------------------------------------------------------------------

    def act(self, step: Step, kind: ActionKind, message_id: int) -> None:
        """Act on a message, and compare the result with a prediction from the rows."""
        before = self.laws.before
        queued = before.queue.get(message_id, {"state": None, "acknowledged_at": None})
        able = (
            message_id in before.failed
            and {
                ActionKind.EDITED: queued["state"] != "sending",
                ActionKind.REJECTED: queued["state"] != "sending",
                ActionKind.REQUEUED: queued["state"] == "escalated" and self._is_wanted(message_id),
                ActionKind.ACKNOWLEDGED: queued["state"] == "escalated" and queued["acknowledged_at"] is None,
            }[kind]
        )
        if kind is ActionKind.REQUEUED and before.was_rejected_by(OPERATOR, message_id):
            able = self._is_wanted(message_id) and before.rows[message_id]["draft_of"] not in STUBBORN
        done = self._perform(kind, message_id)
        if message_id in before.stubborn and kind is not ActionKind.ACKNOWLEDGED:
            able = able and done and kind is not ActionKind.EDITED  # `requeue` succeeds if it has nothing to write
        elif message_id in self.laws.stirred or (able and before.rows[message_id]["created_at"] is None):
            able = done  # no prediction: the id may be reused, or only attempts show the message's age
        if done != able:
            raise Broken(f"{step.name}: message {message_id} was {'' if done else 'not '}{kind}, and was {queued}")
        if not done:
            return
        step.acts[kind] = message_id
        if kind is ActionKind.REQUEUED:
            self.place.server.book.requeued(message_id)

    def end_holds(self, step: Step) -> bool:
        """End the active hold, and return whether there was one."""
        ended = self.place.end_holds()
        number_of = self.place.application.number_of
        step.acts |= [("resumed", number_of(hold.target)) for hold in ended if hold.kind is HoldKind.MESSAGE]
        return bool(ended)

    def _is_wanted(self, message_id: int) -> bool:
        """Return whether a message is valid, and the next pass would not escalate it as expired."""
        row, queued = self.laws.before.rows[message_id], self.laws.before.queue.get(message_id)
        if not is_readable(row):
            return False
        policy = next(p for kind, p in self.place.settings.policies.items() if kind == row["message_type"])
        made = row["created_at"] or (queued and queued["first_failed_at"])
        return (
            policy.expires_after is None or made is None or time_of(made) + policy.expires_after >= self.place.clock.now
        )

    def _perform(self, kind: ActionKind, message_id: int) -> bool:
        settings, here = self.place.settings, self.place.runtime
        ids = [self.place.application.id_of(message_id)]
        done: ActionResult
        match kind:
            case ActionKind.EDITED:
                return self._edit(ids[0])
            case ActionKind.REJECTED:
                done = message_actions.reject(settings, ids, "no longer true", by=OPERATOR, runtime=here)
            case ActionKind.REQUEUED:
                done = message_actions.requeue(settings, ids, by=OPERATOR, runtime=here)
            case _:
                done = message_actions.acknowledge(settings, ids, by=OPERATOR, runtime=here)
        return done.done == 1

    def _edit(self, message_id: int) -> bool:
        settings, here = self.place.settings, self.place.runtime
        try:
            found, draft = edit_message.read_draft(settings, message_id, runtime=here)
            wanted = replace(draft, subject=f"{draft.subject}, and once more")
            return bool(edit_message.write_draft(settings, found, wanted, by=OPERATOR, runtime=here))
        except RetrycliError:
            return False

    def _act_in_vain(self, message_id: int) -> None:
        for kind in (ActionKind.EDITED, ActionKind.REJECTED, ActionKind.REQUEUED, ActionKind.ACKNOWLEDGED):
            if self._perform(kind, message_id):
                raise Broken(f"message {message_id} was {kind} while it was being sent")
        try:
            self.place.try_by_hand_meanwhile(message_id)
        except NotActionable:
            return
        raise Broken(f"message {message_id} was tried by hand while it was being sent")


def _pick(among: Iterable[int], some: int) -> int:
    ordered = sorted(among)
    return ordered[some % len(ordered)]
