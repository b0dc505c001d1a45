"""What must be true after each step in the life of messages, whatever the step was.

The laws are read from pictures of the database and from the book of the ticketing API; no code of retrycli's is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import Message
from tests.fakes import START
from tests.model.book import MAX_RETRIES, name_of
from tests.model.picture import Picture, time_of
from tests.model.step import Step, has_been, is_put_right, is_the_same, told_truly

if TYPE_CHECKING:
    from tests.model.server import Server

WRITTEN = {"status", "retry_count", "last_error", "sent_at"}
"""What retrycli may write of a message."""
EDITED = {"subject", "body", "recipient_email"}
"""And what a person may who edits it."""
END_OF_ATTEMPT = {
    "finished_at",
    "outcome",
    "status_code",
    "error",
    "retry_after_s",
    "duration_ms",
    "external_id",
    "deliveries",
}
LONGEST_WAIT = timedelta(hours=6)
"""No wait is longer, nor a Retry-After that is heeded."""
A_WHILE = timedelta(minutes=5)
"""No wait that a pass sets is shorter."""
WRITES = {"delivered", "refused", "permanent"}
"""Outcomes of which something is written to the row."""
CHARGED = {"refused", "transient", "unreachable", "unknown"}
"""Outcomes that count; all but the first only while the destination is not known to be down."""


class Broken(AssertionError):
    """A law does not hold."""


def is_readable(row: Mapping[str, object]) -> bool:
    """Return whether a message can be made of a row."""
    try:
        Message.from_row(row)
    except InvalidMessage:
        return False
    return True


@dataclass
class Laws:
    """The laws, and what must be remembered to hold them.

    Args:
        server: the book of the ticketing API.
    """

    server: Server
    before: Picture = field(default_factory=Picture)
    """The picture after the last step, with what the application has changed since."""
    seen: set[int] = field(default_factory=set)
    """Messages that a pass has seen, since the application had them last."""
    stirred: set[int] = field(default_factory=set)
    """Messages that the application wrote to, since a pass has seen them last."""
    unwritten: set[int] = field(default_factory=set)
    """Messages whose rows were held: their results may be written by a later step."""
    dead: set[str] = field(default_factory=set)
    """Whose claims nobody gives back."""
    births: dict[str, str] = field(default_factory=dict)
    """Of the messages to which delivery keys belong."""
    latest: datetime = START
    """The latest that the clock has shown."""

    def hold(self, after: Picture, step: Step) -> None:
        """Hold the laws to what a step has changed.

        Raises:
            Broken: one does not hold.
        """
        self.latest = max(step.latest or self.latest, self.server.clock.now)
        self.seen -= step.touched
        self.stirred |= step.touched | step.written
        self.unwritten |= step.held
        claimants = {row["claimed_by"] for row in after.queue.values() if row["claimed_by"] is not None}
        if step.killed or step.held:
            self.dead |= claimants
        for law in (
            self._requests,
            self._answers,
            self._application,
            self._fates,
            self._tries,
            self._queue,
            self._steadiness,
            self._after_a_pass,
            self._history,
            self._numbers,
            self._outcomes,
        ):
            for complaint in law(after, step):
                raise Broken(f"{step.name}: {complaint}")
        if loose := claimants - self.dead:
            raise Broken(f"{step.name}: claims are held by {loose}, who are done")
        if step.seen_at is not None:
            self.seen |= after.failed - step.touched
            self.stirred &= step.touched | step.written | after.in_state("sending")
        self.seen = (self.seen | after.queue.keys() - self.stirred) & after.failed
        self.unwritten &= after.failed & after.queue.keys()
        self.before = after

    def _requests(self, _after: Picture, _step: Step) -> Iterator[str]:
        """What the ticketing API saw that must not be."""
        yield from self.server.broken

    def _answers(self, after: Picture, _step: Step) -> Iterator[str]:
        """Record an answer that a living sender had as what it was, whatever the application holds or skips."""
        yield from self.server.book.dropped(after)

    def _application(self, after: Picture, step: Step) -> Iterator[str]:
        """What is the application's stays as it is."""
        if after.tickets != self.before.tickets:
            yield "another table of the application's was changed"
        if after.rows.keys() != self.before.rows.keys():
            yield "a row of the application's came or went"
        for each, row in after.rows.items():
            was = self.before.rows[each]
            changed = {name for name, value in row.items() if value != was[name]}
            allowed = WRITTEN | EDITED if each == step.acts.get("edited") else WRITTEN
            taken_back = was["status"] == "rejected" and each == step.acts.get("requeued")
            if changed and was["status"] != "failed" and not taken_back:
                yield f"row {each} was {was['status']}, and its {changed} changed"
            if not changed <= allowed:
                yield f"of message {each}, {changed - allowed} changed"

    def _fates(self, after: Picture, step: Step) -> Iterator[str]:
        """Mark exactly what was delivered as sent, and exactly what an operator gave up as rejected."""
        finished = after.finished_since(self.before)
        for each, row in after.rows.items():
            was, status = self.before.rows[each], row["status"]
            delivered = any(one["outcome"] == "delivered" for one in finished.get(each, []))
            if was["status"] == "failed" and (status == "rejected") != (each == step.acts.get("rejected")):
                yield f"message {each} is {status}"
            if was["status"] == status:
                excused = each in step.touched | self.unwritten | after.stubborn or self.server.book.has_moved(row)
                if status == "failed" and delivered and not excused:
                    yield f"message {each} was delivered, and is failed"
                if row["sent_at"] != was["sent_at"]:
                    yield f"message {each} is {status}, and its sent_at was changed"
            elif status == "sent" and not self.server.book.was_delivered(row, after):
                yield f"message {each} is sent, and its text is not recorded as delivered: {dict(row)}"
            elif status == "sent" and (row["sent_at"] is None or each in after.queue):
                yield f"message {each} is sent, at {row['sent_at']}, and is it queued? {each in after.queue}"
            elif status not in {"sent", "rejected"} and each != step.acts.get("requeued"):
                yield f"message {each} is {status}"

    def _tries(self, after: Picture, step: Step) -> Iterator[str]:
        """Each failed attempt of a pass counts, but where the destination is down; only ``requeue`` gives back."""
        exact = not (self.before.is_down or after.is_down) and step.alone
        finished = after.finished_since(self.before)
        for each in after.failed - step.touched:
            tries = after.rows[each]["retry_count"] or 0
            if each == step.acts.get("requeued"):
                if tries:
                    yield f"message {each} was requeued with {tries} tries used up"
                continue
            made = tries - (self.before.rows[each]["retry_count"] or 0)
            by_passes = [one["outcome"] for one in finished.get(each, []) if one["made_by"] == "pass"]
            most = sum(one in CHARGED for one in by_passes)
            least = most if exact else by_passes.count("refused")
            moved = self.server.book.has_moved(after.rows[each])
            if moved or each in self.stirred | self.unwritten | after.stubborn:
                least, most = 0, most if each not in self.unwritten else MAX_RETRIES
            if not least <= made <= most:
                yield f"message {each} has {made} more tries used up, after {by_passes}"

    def _queue(self, after: Picture, step: Step) -> Iterator[str]:
        """A message is waiting with a time, being sent under a claim, or in a person's hands."""
        if lost := (self.seen & after.failed) - after.queue.keys():
            yield f"the queue has lost {lost}"
        for each, row in after.queue.items():
            claimed = row["claimed_by"] is not None and row["claim_expires_at"] is not None
            claimless = row["claimed_by"] is None and row["claim_expires_at"] is None
            escalated = row["escalated_at"] is not None and row["escalation_reason"] is not None
            never = row["escalated_at"] is None and row["escalation_reason"] is None
            timed = row["next_attempt_at"] is not None
            right = {
                "waiting": timed and claimless and never,
                "sending": claimed and (timed, never) == (not escalated, not escalated),
                "escalated": escalated and claimless and not timed,
            }
            if not right[row["state"]]:
                yield f"the queue's row is neither one nor the other: {dict(row)}"
            if timed and time_of(row["next_attempt_at"]) > self.latest + LONGEST_WAIT:
                yield f"message {each} waits until {row['next_attempt_at']}"

    def _steadiness(self, after: Picture, step: Step) -> Iterator[str]:
        """Keep the time of what nobody tried, and the escalation of what neither application nor operator touched."""
        finished = after.finished_since(self.before)
        left_alone = (after.queue.keys() & self.before.queue.keys()) - self.stirred - self.unwritten
        for each in left_alone - {step.acts.get("requeued")}:
            was, row = self.before.queue[each], after.queue[each]
            if was["escalated_at"] is not None and row["escalated_at"] is None:
                yield f"message {each} was escalated, and is not any more"
            tried = any(one["made_by"] == "pass" for one in finished.get(each, []))
            if tried and step.put_right_at is not None and self._waits_since_then(each, step.put_right_at):
                yield f"message {each} was to wait for a while, and was tried as soon as the clock was put right"
            same = row["next_attempt_at"] == was["next_attempt_at"] or is_put_right(was, row, step)
            if not tried and row["escalated_at"] is None and not same:
                yield f"message {each} was not tried, and waits until {row['next_attempt_at']}"
            if row["unknown_count"] < was["unknown_count"] and row["delivery_key"] == was["delivery_key"]:
                yield f"message {each} has fewer unknown outcomes than before"

    def _waits_since_then(self, message_id: int, now: datetime) -> bool:
        """Whether a pass of a time that is still to come has tried a message, and has it wait."""
        due = self.before.queue[message_id]["next_attempt_at"]
        by_passes = [row["finished_at"] for row in self.before.attempts_of(message_id) if row["made_by"] == "pass"]
        ended = max((time_of(each) for each in by_passes if each is not None), default=now)
        return due is not None and ended > now and time_of(due) - ended > A_WHILE

    def _after_a_pass(self, after: Picture, step: Step) -> Iterator[str]:
        """A pass has seen all messages, and taken back what the dead had."""
        if step.seen_at is None:
            return
        if missed := after.failed - step.touched - after.queue.keys():
            yield f"a pass did not take in {missed}"
        for each in (after.failed - step.touched - step.written) & after.in_state("waiting", "escalated"):
            birth, key = name_of(after.rows[each]).birth, after.queue[each]["delivery_key"]
            if self.births.setdefault(key, birth) != birth:
                yield f"message {each} has the delivery key of the message that had its id before"
        lapsed = {
            each for each in after.in_state("sending") if time_of(after.queue[each]["claim_expires_at"]) <= step.seen_at
        }
        if lapsed:
            yield f"a pass left {lapsed} with the dead"
        unwritable = {
            each
            for each, rows in after.finished_since(self.before).items()
            if each in after.stubborn - step.touched
            and any(row["outcome"] in WRITES and not after.is_taken_for_ours(row) for row in rows)
        }
        if repeated := unwritable - after.in_state("escalated"):
            yield f"the rows of {repeated} take no change, and a pass did not escalate them"
        if strays := after.queue.keys() - after.failed - after.in_state("sending") - step.touched:
            yield f"a pass did not let go of {strays}"

    def _history(self, after: Picture, step: Step) -> Iterator[str]:
        """What has ended is never rewritten, and each act is written down once. What was to come has just been."""
        for each, row in self.before.attempts.items():
            now = after.attempts.get(each)
            fixed = set(row) if row["outcome"] is not None else set(row) - END_OF_ATTEMPT
            if now is None or any(has_been(now, name, step) != has_been(row, name, step) for name in fixed):
                yield f"attempt {dict(row)} became {now}"
        for each, row in self.before.acts.items():
            if not is_the_same(row, after.acts.get(each), step):
                yield f"act {dict(row)} became {after.acts.get(each)}"
        made = [row for each, row in after.acts.items() if each not in self.before.acts]
        new = {row["act"]: row["message_id"] for row in made if row["message_id"] is not None}  # a pause has none
        if new != step.acts:
            yield f"written down are the acts {new}, and done were {step.acts}"
        for which, row in self.before.passes.items():
            if row["finished_at"] is not None and not is_the_same(row, after.passes.get(which), step):
                yield f"pass {dict(row)} became {after.passes.get(which)}"

    def _numbers(self, after: Picture, _step: Step) -> Iterator[str]:
        """Number the attempts of a message from 1; an attempt without an end has somebody who is sending."""
        last: dict[int, int] = {}
        for row in after.attempts.values():
            if (row["outcome"] is None) != (row["finished_at"] is None):
                yield f"attempt {dict(row)} has half an end"
            if row["outcome"] is None and row["message_id"] not in after.in_state("sending"):
                yield f"attempt {dict(row)} is under way, and nobody is sending"
            most = last.get(row["message_id"], 0)
            last[row["message_id"]] = max(most, row["number"])
            if not 1 <= row["number"] <= most + 1:  # another message with the same id may count by itself
                yield f"message {row['message_id']} has attempt {row['number']} after {most}"

    def _outcomes(self, after: Picture, step: Step) -> Iterator[str]:
        """Write of an attempt what the ticketing API answered, or that it is not known."""
        requests = {each.attempt: each for each in self.server.book.requests}
        if gone := requests.keys() - after.attempts.keys():
            yield f"of requests {gone} there is no attempt"
        for rows in after.finished_since(self.before).values():
            for row in rows:
                yield from told_truly(
                    row, requests.get(row["id"]), step, begun_before=row["id"] in self.before.attempts
                )
