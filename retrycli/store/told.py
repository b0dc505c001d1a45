"""What each target of notifications has been told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, insert, select

from retrycli.notices import Told, Topic
from retrycli.schema import told

if TYPE_CHECKING:
    from retrycli.notices import Memory
    from retrycli.store.database import Database


class Targets:
    """The memories of all targets.

    Args:
        database: where they are kept.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def memory(self, target: str) -> Memory:
        """What one target knows; topics of a newer program are left out."""
        known = select(told).where(told.c.target == target, told.c.topic.in_([each.value for each in Topic]))
        with self._database.read() as connection:
            return {
                Topic(row.topic): Told(row.since, row.told_at, row.ended, row.times)
                for row in connection.execute(known)
            }

    def remember(self, target: str, before: Memory, after: Memory) -> None:
        """Keep what a target knows now; topics that did not change are left as another pass may have set them."""
        changed = [topic for topic in Topic if before.get(topic) != after.get(topic)]
        if not changed:
            return
        with self._database.write() as connection:
            self._database.one_at_a_time(connection)
            connection.execute(
                delete(told).where(told.c.target == target, told.c.topic.in_([each.value for each in changed]))
            )
            for topic in changed:
                if (now := after.get(topic)) is not None:
                    connection.execute(
                        insert(told).values(
                            target=target,
                            topic=topic.value,
                            since=now.since,
                            told_at=now.told_at,
                            ended=now.ended,
                            times=now.times,
                        )
                    )
