"""Remember which incidents each target knows: those that notifications go to, the dead-man switch, and the log."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from datetime import datetime

from sqlalchemy import delete, insert, select

from retrycli.domain.incidents import Memory, Told, Topic
from retrycli.store.database import Queries
from retrycli.store.schema import told

EVERYBODY, UNDER_WAY = "everybody", "under way"
RESERVATION = (told.c.target == EVERYBODY, told.c.topic == UNDER_WAY)
"""The row that reserves notifying for one pass: passes of several hosts must not send the same."""


def target_name(text: str) -> str:
    """Return the name of a target in the database, which does not reveal the text, such as a URL."""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


class Targets(Queries):
    """Read and store what targets know."""

    def begin_telling(self, now: datetime, until: datetime) -> bool:
        """Reserve notifying for this pass until `end_telling` or a time; return False if another pass has it."""
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            taken_until = connection.execute(select(told.c.told_at).where(*RESERVATION)).scalar()
            if taken_until is not None and now < taken_until:
                return False
            connection.execute(delete(told).where(*RESERVATION))
            row = {"since": now, "told_at": until, "ended": False, "times": 0}
            connection.execute(insert(told).values(target=EVERYBODY, topic=UNDER_WAY, **row))
        return True

    def end_telling(self) -> None:
        """Release the reservation."""
        with self._database.write() as connection:
            connection.execute(delete(told).where(*RESERVATION))

    def memory(self, target: str) -> Memory:
        """Return what one target knows; topics of a newer program are left out."""
        known = select(told).where(told.c.target == target, told.c.topic.in_([topic.value for topic in Topic]))
        with self._database.read() as connection:
            return {
                Topic(row.topic): Told(row.since, row.told_at, row.ended, row.times)
                for row in connection.execute(known)
            }

    def remember(self, target: str, before: Memory, after: Memory) -> None:
        """Store what a target knows; leave unchanged topics, which another pass may have set."""
        changed = [topic for topic in Topic if before.get(topic) != after.get(topic)]
        if not changed:
            return
        with self._database.write() as connection:
            self._database.advisory_lock(connection)
            connection.execute(
                delete(told).where(told.c.target == target, told.c.topic.in_([topic.value for topic in changed]))
            )
            for topic in changed:
                if (now := after.get(topic)) is not None:
                    connection.execute(insert(told).values(target=target, topic=topic.value, **asdict(now)))
