"""The laws: what must hold after every step in the life of messages.

They compare snapshots of the database (`Picture`) and the requests that the ticketing API received (`Book`). Except for
the parsing of rows, they share no logic with retrycli, so that they do not repeat its errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from retrycli.domain.errors import InvalidMessage
from retrycli.domain.identity import UNSTABLE
from retrycli.domain.message import Message
from tests.fakes import START
from tests.model.book import CHARGED, MAX_RETRIES, is_still, name_of
from tests.model.habit_laws import HabitLaws
from tests.model.picture import Picture, time_of
from tests.model.step import Step, has_been, is_put_right, is_the_same, told_truly

if TYPE_CHECKING:
    from tests.model.server import Server

WRITTEN = {"status", "retry_count", "last_error", "sent_at"}
"""The columns of a message that retrycli may write."""
EDITED = {"subject", "body", "recipient_email"}
"""The columns that an operator may also change with `edit`."""
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
"""The longest wait, and the longest Retry-After that a pass obeys."""
A_WHILE = timedelta(minutes=5)
"""Only rescheduling causes a wait that is longer than this."""
WRITES = {"delivered", "refused", "permanent"}
"""Outcomes that a pass also writes to the application's row, if the row has a count and an error."""


class Broken(AssertionError):
    """Raised if the database or a request breaks a law."""


def is_readable(row: Mapping[str, object]) -> bool:
    """Return whether retrycli can parse a row as a message."""
    try:
        Message.from_row(row)
    except InvalidMessage:
        return False
    return True


@dataclass
class Laws:
    """The laws, and the state that they need.

    Args:
        server: the ticketing API, whose book records the requests.
    """

    server: Server
    counts_are_own: bool = False
    """The application's table has no column for the retry count."""
    writes: set[str] = field(default_factory=lambda: WRITES)
    """Outcomes that a pass also writes to the application's row."""
    before: Picture = field(default_factory=Picture)
    """The database after the last step, with the application's later writes."""
    seen: set[int] = field(default_factory=set)
    """Messages that a pass has seen since the application last touched them (see `Step.touched`)."""
    stirred: set[int] = field(default_factory=set)
    """Messages that the application has written to since a pass last saw them."""
    unwritten: set[int] = field(default_factory=set)
    """Messages whose rows the application had locked, so that a later step may write their results."""
    dead: set[str] = field(default_factory=set)
    """Passes whose claims may remain, because they were killed or the application had locked their rows."""
    births: dict[str, tuple[str, str]] = field(default_factory=dict)
    """The births of messages and their tickets when a pass last saw them, by delivery key."""
    latest: datetime = START
    """The latest time that the clock has shown."""

    def __post_init__(self) -> None:
        self._of_habits = HabitLaws(self.server.book, self.counts_are_own)

    def hold(self, after: Picture, step: Step) -> None:
        """Check the laws after a step.

        Raises:
            Broken: a law does not hold.
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
            partial(self._of_habits.broken, self.before),
        ):
            for complaint in law(after, step):
                raise Broken(f"{step.name}: {complaint}")
        if loose := claimants - self.dead:
            raise Broken(f"{step.name}: claims are held by {loose}, who are done")
        if step.seen_at is not None:
            # While a claim holds a message, no pass sees another message that has its id now.
            self.seen |= after.failed - step.touched - (self.stirred & after.in_state("sending"))
            self.stirred &= step.touched | step.written | after.in_state("sending")
        self.seen = (self.seen | after.queue.keys() - self.stirred) & after.failed
        self.unwritten &= after.failed & after.queue.keys()
        self.before = after

    def _requests(self, _after: Picture, _step: Step) -> Iterator[str]:
        """Check that the ticketing API received no forbidden request."""
        yield from self.server.broken

    def _answers(self, after: Picture, _step: Step) -> Iterator[str]:
        """Check that each answer to a living sender is recorded, even if its row can't be changed."""
        yield from self.server.book.dropped(after)

    def _application(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that retrycli has changed only the permitted columns of the application's data."""
        if after.tickets != self.before.tickets:
            yield "another table of the application's was changed"
        if came := after.rows.keys() - self.before.rows.keys():
            yield f"rows {came} of the application's came"
        for message_id, row in after.rows.items():
            was = self.before.rows[message_id]
            changed = {name for name, value in row.items() if value != was[name]}
            allowed = WRITTEN | EDITED if message_id == step.acts.get("edited") else WRITTEN
            if self.counts_are_own and was["status"] == "sent":
                changed -= {"last_error"}  # retrycli keeps it itself, and forgets it after a delivery
            taken_back = was["status"] == "rejected" and message_id == step.acts.get("requeued")
            if changed and was["status"] != "failed" and not taken_back:
                yield f"row {message_id} was {was['status']}, and its {changed} changed"
            if not changed <= allowed:
                yield f"of message {message_id}, {changed - allowed} changed"

    def _fates(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that exactly the delivered messages become sent, and that only operators reject messages."""
        finished = after.finished_since(self.before)
        for message_id, row in after.rows.items():
            was, status = self.before.rows[message_id], row["status"]
            delivered = any(one["outcome"] == "delivered" for one in finished.get(message_id, []))
            if was["status"] == "failed" and (status == "rejected") != (message_id == step.acts.get("rejected")):
                yield f"message {message_id} is {status}"
            if was["status"] == status:
                excused = message_id in step.touched | self.unwritten | after.stubborn or self.server.book.has_moved(
                    row
                )
                if status == "failed" and delivered and not excused:
                    yield f"message {message_id} was delivered, and is failed"
                if row["sent_at"] != was["sent_at"]:
                    yield f"message {message_id} is {status}, and its sent_at was changed"
            elif status == "sent" and not self.server.book.was_delivered(row, after):
                yield f"message {message_id} is sent, and its text is not recorded as delivered: {dict(row)}"
            elif status == "sent" and (row["sent_at"] is None or message_id in after.queue):
                yield f"message {message_id} is sent, at {row['sent_at']}, and queued: {message_id in after.queue}"
            elif status not in {"sent", "rejected"} and message_id != step.acts.get("requeued"):
                yield f"message {message_id} is {status}"

    def _tries(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that the attempts of passes use up retries according to their outcomes (see `CHARGED`).

        Only ``requeue`` resets the count. A count that retrycli keeps itself is that of the text attempted last.
        """
        exact = not (self.before.is_down or after.is_down) and step.alone
        finished = after.finished_since(self.before)
        for message_id in after.failed - step.touched:
            tries = after.rows[message_id]["retry_count"] or 0
            if message_id == step.acts.get("requeued"):
                if tries:
                    yield f"message {message_id} was requeued with {tries} tries used up"
                continue
            was = self.before.rows[message_id]["retry_count"] or 0
            by_passes = [one["outcome"] for one in finished.get(message_id, []) if one["made_by"] == "pass"]
            if self.counts_are_own:
                counts = self._of_habits.counts(self.before, message_id)
                if not by_passes and tries in {0, *counts.values()}:
                    continue  # a pass may have withdrawn an attempt at another text
                now, last = after.newest_text(message_id), self.before.newest_text(message_id)
                was = was if now == last else counts[str(now)]
            made = tries - was
            most = sum(one in CHARGED for one in by_passes)
            least = most if exact else by_passes.count("refused")
            moved = self.server.book.has_moved(after.rows[message_id])
            if moved or message_id in self.stirred | self.unwritten | after.stubborn:
                least, most = 0, most if message_id not in self.unwritten else MAX_RETRIES
            if not least <= made <= most:
                yield f"message {message_id} has {made} more tries used up, after {by_passes}"

    def _queue(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that each message is waiting with a time, being sent with a claim, or escalated."""
        if lost := (self.seen & after.failed) - after.queue.keys():
            yield f"the queue has lost {lost}"
        for message_id, row in after.queue.items():
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
                yield f"message {message_id} waits until {row['next_attempt_at']}"

    def _steadiness(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that only attempts and clock repairs move due times, and only the application or ``requeue`` ends an
        escalation.
        """
        finished = after.finished_since(self.before)
        left_alone = (after.queue.keys() & self.before.queue.keys()) - self.stirred - self.unwritten
        for message_id in left_alone - {step.acts.get("requeued")}:
            was, row = self.before.queue[message_id], after.queue[message_id]
            if was["escalated_at"] is not None and row["escalated_at"] is None:
                yield f"message {message_id} was escalated, and is not any more"
            tried = any(one["made_by"] == "pass" for one in finished.get(message_id, []))
            if tried and step.put_right_at is not None and self._waits_since_then(message_id, step.put_right_at):
                yield f"message {message_id} was to wait for a while, and was tried as soon as the clock was put right"
            same = row["next_attempt_at"] == was["next_attempt_at"] or is_put_right(was, row, step)
            if not tried and row["escalated_at"] is None and not same:
                yield f"message {message_id} was not tried, and waits until {row['next_attempt_at']}"
            if row["unknown_count"] < was["unknown_count"] and row["delivery_key"] == was["delivery_key"]:
                yield f"message {message_id} has fewer unknown outcomes than before"

    def _waits_since_then(self, message_id: int, now: datetime) -> bool:
        """Return whether a pass with its clock ahead has attempted a message and rescheduled it."""
        due = self.before.queue[message_id]["next_attempt_at"]
        times = [row["finished_at"] for row in self.before.attempts_of(message_id) if row["made_by"] == "pass"]
        ended = max((time_of(time) for time in times if time is not None), default=now)
        return due is not None and ended > now and time_of(due) - ended > A_WHILE

    def _after_a_pass(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that a pass has seen all messages, and recovered those of dead passes."""
        if step.seen_at is None:
            return
        if missed := after.failed - step.touched - after.queue.keys():
            yield f"a pass did not take in {missed}"
        for message_id in (after.failed - step.touched - step.written) & after.in_state("waiting", "escalated"):
            row, key = after.rows[message_id], after.queue[message_id]["delivery_key"]
            known = self.births.get(key)
            # A row whose birth was different at three passes in a row keeps the key of its text.
            births = {after.queue[message_id]["birth"], *after.births_under(key)}
            if known is not None and not is_still(*known, row) and UNSTABLE not in births:
                yield f"message {message_id} has the delivery key of the message that had its id before"
            self.births[key] = name_of(row).birth, str(row["ticket_id"])
        lapsed = {
            message_id
            for message_id in after.in_state("sending")
            if time_of(after.queue[message_id]["claim_expires_at"]) <= step.seen_at
        }
        if lapsed:
            yield f"a pass left {lapsed} with the dead"
        unwritable = {
            message_id
            for message_id, rows in after.finished_since(self.before).items()
            if message_id in after.stubborn - step.touched
            and any(row["outcome"] in self.writes and not after.is_taken_for_ours(row) for row in rows)
        }
        if repeated := unwritable - after.in_state("escalated"):
            yield f"the rows of {repeated} take no change, and a pass did not escalate them"
        if strays := after.queue.keys() - after.failed - after.in_state("sending") - step.touched:
            yield f"a pass did not let go of {strays}"

    def _history(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that finished attempts, actions and passes are never rewritten, and that each action is recorded once.

        The correction of a clock may change times in the future.
        """
        for attempt_id, row in self.before.attempts.items():
            now = after.attempts.get(attempt_id)
            fixed = set(row) if row["outcome"] is not None else set(row) - END_OF_ATTEMPT
            if now is None or any(has_been(now, name, step) != has_been(row, name, step) for name in fixed):
                yield f"attempt {dict(row)} became {now}"
        for act_id, row in self.before.acts.items():
            if not is_the_same(row, after.acts.get(act_id), step):
                yield f"act {dict(row)} became {after.acts.get(act_id)}"
        made = [row for act_id, row in after.acts.items() if act_id not in self.before.acts]
        new = {row["act"]: row["message_id"] for row in made if row["message_id"] is not None}  # a pause has no message
        if new != step.acts:
            yield f"written down are the acts {new}, and done were {step.acts}"
        for which, row in self.before.passes.items():
            if row["finished_at"] is not None and not is_the_same(row, after.passes.get(which), step):
                yield f"pass {dict(row)} became {after.passes.get(which)}"

    def _numbers(self, after: Picture, _step: Step) -> Iterator[str]:
        """Check that a message's attempts are numbered from 1, and that it is being sent if one is unfinished."""
        last: dict[int, int] = {}
        for row in after.attempts.values():
            if (row["outcome"] is None) != (row["finished_at"] is None):
                yield f"attempt {dict(row)} has half an end"
            if row["outcome"] is None and row["message_id"] not in after.in_state("sending"):
                yield f"attempt {dict(row)} is under way, and nobody is sending"
            most = last.get(row["message_id"], 0)
            last[row["message_id"]] = max(most, row["number"])
            if not 1 <= row["number"] <= most + 1:  # a new message with a reused id may start again at 1
                yield f"message {row['message_id']} has attempt {row['number']} after {most}"

    def _outcomes(self, after: Picture, step: Step) -> Iterator[str]:
        """Check that an attempt's outcome is the ticketing API's answer, or unknown."""
        requests = {request.attempt: request for request in self.server.book.requests}
        if gone := requests.keys() - after.attempts.keys():
            yield f"of requests {gone} there is no attempt"
        for rows in after.finished_since(self.before).values():
            for row in rows:
                yield from told_truly(
                    row, requests.get(row["id"]), step, begun_before=row["id"] in self.before.attempts
                )
