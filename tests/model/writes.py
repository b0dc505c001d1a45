"""The application's writes to its rows. The laws must know these writes, to tell them from retrycli's changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine

from retrycli.domain.outcome import OutcomeKind
from tests.fakes import START
from tests.model.book import CHARGED, name_of
from tests.model.habits import ORDINARY
from tests.model.laws import WRITES, Laws
from tests.model.picture import STUBBORN, take
from tests.model.step import Step
from tests.store.application import HOUR, TICKET, naive

if TYPE_CHECKING:
    from tests.model.book import Request
    from tests.model.habits import Habits
    from tests.model.picture import Row
    from tests.model.place import Place

TICKETS = 3


class Writes(RuleBasedStateMachine):
    """The part of the state machine that writes as the application.

    Args:
        place: its data is deleted first.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place
        place.begin_anew()
        # Without columns for the count and the error, a pass writes only that a message is sent.
        writes = WRITES if place.application.mapping is None else {"delivered"}
        self.laws = Laws(place.server, place.application.mapping is not None, writes, take(place.application))
        self.step: Step | None = None
        """The current step, until the laws have been checked for it."""
        self.habits = ORDINARY
        self._first = 0
        """The id of the first row. Ids differ from life to life, but the same choices must have the same effects."""
        self._number = 0
        """The number of rows that the application has rendered or renewed."""
        self.free: set[int] = set()
        """The ids of dropped rows. As in SQLite, the next rows get them."""

    def adopt(self, habits: Habits) -> None:
        """Give the application habits for this life."""
        self.habits = habits
        self.place.server.takes = habits.duration
        self.place.server.on_answer = self._write_result

    @property
    def now(self) -> datetime:
        """Return the current time as the application writes it."""
        return self.habits.time(self.place.clock.now)

    def add(self, **columns: object) -> int:
        self.free -= self.laws.before.rows.keys()
        known: dict[str, object] = {}
        if self.free and "id" not in columns:
            known["id"] = min(self.free)
            self.free.remove(min(self.free))
        message_id = self.place.application.add(**{"draft_of": self.habits.usual, **known, **columns})
        self._first = self._first or message_id
        self._know(message_id)
        return message_id

    def change(self, message_id: int, **columns: object) -> None:
        """Change a row, and remove its protection from changes."""
        self.place.application.change(message_id, **{"draft_of": self.habits.usual, **columns})
        self._know(message_id)

    def keep(self, message_id: int, how: int) -> None:
        """Make a trigger block changes to a row."""
        self.change(message_id)
        self.change(message_id, draft_of=how)

    def have_back(self, step: Step, message_id: int, status: str, **columns: object) -> None:
        """Write a status to a row, even if the row already has it."""
        now = self.now
        sent_at = now if status == "sent" else None
        self.change(message_id, **{"status": status, "updated_at": now, "sent_at": sent_at, **columns})
        self._touch(step, message_id)

    def delete(self, step: Step, message_id: int) -> None:
        self.place.application.delete(message_id)
        self._forget(message_id)
        self._touch(step, message_id)

    def reuse(self, step: Step, message_id: int, **columns: object) -> None:
        """Delete a row, and insert a failed message with the same id and, except for some columns, the same content."""
        row = _again(self.laws.before.rows[message_id])
        self.delete(step, message_id)
        self.add(
            **{**row, "status": "failed", "retry_count": 0, "sent_at": None, "draft_of": self.habits.usual, **columns}
        )

    def restore(self, step: Step, backup: Mapping[int, Row]) -> None:
        """Replace all rows with those of a backup."""
        gone = set(self.laws.before.rows) | set(backup)
        self.place.application.delete()
        self.place.application.add_all(map(_again, backup.values()))
        self.laws.before = replace(self.laws.before, rows=self.place.application.rows())
        for message_id in gone:
            self._touch(step, message_id)

    # -- habits -----------------------------------------------------------------------------------------------

    def _write_result(self, request: Request) -> None:
        """Write the result of a request into its row, as an application's sender with this habit does."""
        message_id, step, habits = request.name.message_id, self.step, self.habits
        row = self.laws.before.rows.get(message_id)
        if step is None or row is None or message_id in step.touched or step.held:
            return
        if row["status"] != "failed" or row["draft_of"] in STUBBORN or name_of(row) != request.name:
            return
        kind = request.answer.outcome.kind
        if kind is OutcomeKind.DELIVERED and habits.marks:
            self.change(message_id, status="sent", sent_at=self.now, updated_at=self.now)
        elif kind in CHARGED and habits.counts and not self.laws.counts_are_own:
            self.change(message_id, retry_count=(row["retry_count"] or 0) + habits.counts)
        else:
            return
        step.marked.add(message_id)

    def write_before_pass(self, step: Step) -> None:
        """Render and renew rows, as an application with these habits does between two passes."""
        for message_id in sorted(self.laws.before.failed - self.laws.before.stubborn):
            row = self.laws.before.rows[message_id]
            if self.habits.renders and self.place.server.book.has_sent(row):
                self.render(message_id)
            if self.habits.renews and (message_id - self._first) % 2 and row["created_at"] is not None:
                self._number += 1
                self.change(message_id, created_at=naive(START - HOUR + timedelta(seconds=self._number)))
                step.renewed.add(message_id)

    def render(self, message_id: int) -> None:
        """Write a new text, and begin to count anew."""
        self._number += 1
        count = {} if self.laws.counts_are_own else {"retry_count": 0}
        self.change(message_id, body=f"Rendered for the time {self._number}.", **count)

    # -- what the laws must know ------------------------------------------------------------------------------

    def _forget(self, message_id: int) -> None:
        rows = {each: row for each, row in self.laws.before.rows.items() if each != message_id}
        self.laws.before = replace(self.laws.before, rows=rows)

    def _know(self, message_id: int) -> None:
        was, row = self.laws.before.rows.get(message_id), self.place.application.rows().get(message_id)
        if row is None:  # it was marked as sent, and so dropped
            self._forget(message_id)
            if self.step is not None:
                self._touch(self.step, message_id)
            return
        self.laws.before = replace(self.laws.before, rows={**self.laws.before.rows, message_id: row})
        if self.step is not None:
            self.step.written.add(message_id)
            if was is not None and name_of(was).birth != name_of(row).birth:  # the id now belongs to another message
                self._touch(self.step, message_id)

    def _touch(self, step: Step, message_id: int) -> None:
        step.touched.add(message_id)


def _again(row: Row) -> dict[str, Any]:
    """Convert a row that was read into one that can be inserted, because SQLite returns times as text."""
    return {
        name: datetime.fromisoformat(value) if name.endswith("_at") and isinstance(value, str) else value
        for name, value in row.items()
    }


def next_ticket(ticket: object) -> int:
    """Return the ticket after this one; the first follows the last."""
    return TICKET if not isinstance(ticket, int) else TICKET + (ticket - TICKET + 1) % TICKETS
