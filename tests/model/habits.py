"""The habits of the application in one life: what it does to its own rows without being asked.

Most lives have none. The names of the habits say what real applications do: job queues that delete what they have sent,
services whose senders write their own rows, and programs that render a row anew each time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st

from tests.model.picture import DROPS, REFUSES, SKIPS
from tests.store.application import Application, is_sqlite, naive

HALF_A_SECOND = timedelta(seconds=0.5)


@dataclass(frozen=True)
class Habits:
    """The habits of one life's application."""

    drops: bool = False
    """Its table drops a row that is marked as sent."""
    marks: bool = False
    """Its sender marks the rows that it has delivered as sent."""
    counts: int = 0
    """Its sender adds this number to the count of a row that it could not deliver."""
    renders: bool = False
    """It renders a new text, and begins to count anew, whenever an attempt at the last text has failed."""
    renews: bool = False
    """It writes another creation time to some failed rows before each pass."""
    whole_seconds: bool = False
    """Its clock shows whole seconds, and a second is enough for two requests."""

    @property
    def usual(self) -> int | None:
        """Return the value of ``draft_of`` in a row that takes changes."""
        return DROPS if self.drops else None

    @property
    def duration(self) -> timedelta:
        """Return how long a request takes."""
        return HALF_A_SECOND if self.whole_seconds else timedelta(seconds=1)

    def time(self, now: datetime) -> datetime:
        """Return a time as the application writes it."""
        return naive(now.replace(microsecond=0) if self.whole_seconds else now)


ORDINARY = Habits()
ONE_HABIT = (
    Habits(drops=True),
    Habits(marks=True),
    Habits(counts=1),
    Habits(renders=True),
    Habits(renews=True),
    Habits(whole_seconds=True),
)
SOME_HABITS = st.builds(
    Habits,
    drops=st.booleans(),
    marks=st.booleans(),
    counts=st.integers(0, 2),
    renders=st.booleans(),
    renews=st.booleans(),
    whole_seconds=st.booleans(),
)
HABITS = st.just(ORDINARY) | st.sampled_from(ONE_HABIT) | SOME_HABITS


def own_triggers(application: Application) -> tuple[str, ...]:
    """Return the SQL of the triggers of the application's table: `SKIPS`, `REFUSES` and `DROPS`."""
    table, mapped = application.table_name, application.mapping is not None
    key, is_sent = ("key", "NEW.state = 2") if mapped else ("id", "NEW.status = 'sent'")
    drop = f"DELETE FROM {table} WHERE {key} = OLD.{key};"
    drops, stays = f"OLD.draft_of = {DROPS} AND {is_sent}", "NEW.draft_of = OLD.draft_of"
    if is_sqlite(application.url):
        return (
            f"CREATE TRIGGER IF NOT EXISTS stubborn BEFORE UPDATE ON {table} WHEN {stays} BEGIN"
            f" SELECT CASE OLD.draft_of WHEN {SKIPS} THEN RAISE(IGNORE)"
            f" WHEN {REFUSES} THEN RAISE(ABORT, 'it is closed') END; END",
            f"CREATE TRIGGER IF NOT EXISTS dropping BEFORE UPDATE ON {table} WHEN {drops}"
            f" BEGIN {drop} SELECT RAISE(IGNORE); END",
        )
    return (
        "CREATE OR REPLACE FUNCTION stubborn() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF {stays} AND OLD.draft_of = {REFUSES} THEN RAISE EXCEPTION 'it is closed'; END IF;"
        f" IF {stays} AND OLD.draft_of = {SKIPS} THEN RETURN NULL; END IF;"
        f" IF {drops} THEN {drop} RETURN NULL; END IF;"
        " RETURN NEW; END $$",
        f"CREATE OR REPLACE TRIGGER stubborn BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION stubborn()",
    )
