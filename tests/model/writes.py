"""The application's writes to its rows. The laws must know these writes, to tell them from retrycli's changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from hypothesis.stateful import RuleBasedStateMachine

from tests.model.book import name_of
from tests.model.laws import WRITES, Laws
from tests.model.picture import take
from tests.model.step import Step
from tests.store.application import TICKET, naive

if TYPE_CHECKING:
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

    def add(self, **columns: object) -> int:
        message_id = self.place.application.add(**columns)
        self._know(message_id)
        return message_id

    def change(self, message_id: int, **columns: object) -> None:
        """Change a row, and remove its protection from changes."""
        self.place.application.change(message_id, **{"draft_of": None, **columns})
        self._know(message_id)

    def keep(self, message_id: int, how: int) -> None:
        """Make a trigger block changes to a row."""
        self.change(message_id)
        self.change(message_id, draft_of=how)

    def have_back(self, step: Step, message_id: int, status: str, **columns: object) -> None:
        """Write a status to a row, even if the row already has it."""
        now = naive(self.place.clock.now)
        sent_at = now if status == "sent" else None
        self.change(message_id, **{"status": status, "updated_at": now, "sent_at": sent_at, **columns})
        self._touch(step, message_id)

    def delete(self, step: Step, message_id: int) -> None:
        self.place.application.delete(message_id)
        rows = {each: row for each, row in self.laws.before.rows.items() if each != message_id}
        self.laws.before = replace(self.laws.before, rows=rows)
        self._touch(step, message_id)

    def reuse(self, step: Step, message_id: int, **columns: object) -> None:
        """Delete a row, and insert a failed message with the same id and, except for some columns, the same content."""
        row = _again(self.laws.before.rows[message_id])
        self.delete(step, message_id)
        self.add(**{**row, "status": "failed", "retry_count": 0, "sent_at": None, "draft_of": None, **columns})

    def restore(self, step: Step, backup: Mapping[int, Row]) -> None:
        """Replace all rows with those of a backup."""
        gone = set(self.laws.before.rows) | set(backup)
        self.place.application.delete()
        self.place.application.add_all(map(_again, backup.values()))
        self.laws.before = replace(self.laws.before, rows=self.place.application.rows())
        for message_id in gone:
            self._touch(step, message_id)

    def _know(self, message_id: int) -> None:
        was, row = self.laws.before.rows.get(message_id), self.place.application.row(message_id)
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
