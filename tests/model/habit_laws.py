"""The laws on what the application does to its own rows: see `tests.model.habits`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from retrycli.domain.passes import MessageDelivered
from tests.model.book import BOUND, CHARGED, DELIVERED, MAX_RETRIES, Book, Name, name_of
from tests.model.picture import DROPS, Picture, Row
from tests.model.step import Step

RENEWALS = 3
"""The number of passes in a row that find another creation time before a message is escalated."""
NOT_SENT = {"unreachable", "throttled", "unauthorized", "invalid"}
"""Outcomes of attempts that do not count towards `BOUND`."""


@dataclass
class HabitLaws:
    """The laws, and the state that they need.

    Args:
        book: the requests to the ticketing API.
        counts_are_own: the application's table has no column for the retry count.
    """

    book: Book
    counts_are_own: bool
    _renewed: dict[int, tuple[int, Name]] = field(default_factory=dict)
    """The number of passes in a row that found another creation time but the same text, with the newest row's name."""

    def broken(self, before: Picture, after: Picture, step: Step) -> Iterator[str]:
        """Yield the violations in a step."""
        yield from self._dropped(before, after)
        yield from self._told(before, after, step)
        yield from self._marked(before, after, step)
        yield from self._exhausted(before, after)
        yield from self._born_again(before, after, step)

    def _dropped(self, before: Picture, after: Picture) -> Iterator[str]:
        """Check that only a delivery makes a table drop a row, and that the queue drops the message with it."""
        for message_id in before.rows.keys() - after.rows.keys():
            row = before.rows[message_id]
            if row["draft_of"] != DROPS:
                yield f"row {message_id} of the application's is gone"
            elif not self.book.was_delivered(row, after):
                yield f"message {message_id} was dropped, and its text is not recorded as delivered: {dict(row)}"
            elif message_id in after.queue:
                yield f"message {message_id} was delivered and dropped, and is queued"

    def _told(self, before: Picture, after: Picture, step: Step) -> Iterator[str]:
        """Check that a pass counts a message as sent if it has delivered it and the row is marked, whoever marked it,
        or is gone because it was marked.
        """
        if not step.alone or step.killed:
            return
        told = {event.message_id for event in step.events if isinstance(event, MessageDelivered)}
        for message_id, rows in after.finished_since(before).items():
            begun = [row for row in rows if row["id"] not in before.attempts and row["made_by"] == "pass"]
            is_done = message_id not in after.failed | step.touched
            if is_done and any(row["outcome"] == DELIVERED for row in begun) and message_id not in told:
                yield f"message {message_id} was delivered, and the pass reported {step.events}"

    @staticmethod
    def _marked(before: Picture, after: Picture, step: Step) -> Iterator[str]:
        """Check that retrycli adds nothing to a count that the sender has changed during the request."""
        for message_id in (step.marked & after.failed) - step.touched:
            was, now = before.rows[message_id]["retry_count"], after.rows[message_id]["retry_count"]
            if was != now:
                yield f"the sender of message {message_id} made its count {was}, and it is {now}"

    def _exhausted(self, before: Picture, after: Picture) -> Iterator[str]:
        """Check that a text is not exhausted by the retries of other texts, if retrycli keeps the count itself."""
        for message_id in after.in_state("escalated") if self.counts_are_own else ():
            was, queued = before.queue.get(message_id), after.queue[message_id]
            if queued["escalation_reason"] != "exhausted" or (was is not None and was["escalated_at"] is not None):
                continue
            tries = [row for row in after.attempts_of(message_id) if self._counts(row)]
            charged = sum(row["outcome"] in CHARGED and row["delivery_key"] == queued["delivery_key"] for row in tries)
            sent = sum(row["outcome"] not in NOT_SENT for row in tries)
            if charged < MAX_RETRIES and sent < BOUND:
                yield f"message {message_id} is exhausted after {charged} attempts at its text, {sent} in all"

    def counts(self, before: Picture, message_id: int) -> Counter[str]:
        """Count the attempts that used up retries, by delivery key. Probes mostly use none."""
        tries = [row for row in before.attempts_of(message_id) if self._counts(row) and not row["probe"]]
        return Counter(row["delivery_key"] for row in tries if row["outcome"] in CHARGED)

    def _counts(self, attempt: Row) -> bool:
        """Return whether an attempt may use up a retry: it is a pass's, and was made after the last `requeue`."""
        return bool(attempt["made_by"] == "pass" and attempt["id"] > self.book.requeued_after(attempt["message_id"]))

    def _born_again(self, before: Picture, after: Picture, step: Step) -> Iterator[str]:
        """Check that a message with another creation time but the same text at three passes in a row is escalated as
        invalid, and that none is lost.
        """
        seen = step.seen_at is not None and step.alone
        waits = before.in_state("waiting", "escalated")
        renewed, self._renewed = self._renewed, {}
        for message_id in step.renewed & waits & after.failed if seen else ():
            number, known = renewed.get(message_id, (0, None))
            name, queued = name_of(after.rows[message_id]), after.queue.get(message_id)
            number = number + 1 if known is None or known.text == name.text else 1
            self._renewed[message_id] = number, name
            if queued is None:
                yield f"the queue has lost {message_id}, whose creation time has changed {number} times"
            elif number == RENEWALS and before.queue[message_id]["birth"] != "unstable" and not _is_invalid(queued):
                yield f"the creation time of message {message_id} has changed {number} times: {dict(queued)}"


def _is_invalid(queued: Row) -> bool:
    return bool(queued["escalation_reason"] == "invalid")
