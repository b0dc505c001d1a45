"""Give numbers to messages whose table has keys that are not integers, such as UUIDs.

A message gets its number when retrycli first sees its failed row, in the order of ``created_at``. So the numbers of a
ticket's messages have the order in which the messages were written, which their keys do not have.
"""

import warnings
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, Uuid, cast, exists, func, insert, inspect, literal, select, update
from sqlalchemy.exc import SAWarning

from retrycli.domain.errors import InvalidArgument, SchemaMismatch
from retrycli.domain.message import MessageId, MessageStatus
from retrycli.store.application_table import SWEEP, TAIL, FailedIndex, IndexState
from retrycli.store.bulk import id_in
from retrycli.store.database import Queries
from retrycli.store.schema import keys, selection

SMALL_TABLE = TAIL + SWEEP  # number of rows up to which every search examines the whole table
SHORTEST_PREFIX = 8  # number of characters of the shortest prefix that may stand for a key
AT_ONCE = 1_000  # number of keys in one query

PARTIAL = {"postgresql_where", "sqlite_where"}  # SQLAlchemy's options of indexes that leave rows out
OF_NUMBERS = select(keys.c.number, keys.c.key).where(id_in(keys.c.number))
OF_KEYS = select(keys.c.number, keys.c.key).where(id_in(keys.c.key))


class Keys(Queries):
    """The numbers of messages whose table has keys that are not integers."""

    def number_newest(self) -> None:
        """Give numbers to failed rows: to all of them if they can be found quickly, otherwise to the newest ones.

        Raises:
            SchemaMismatch: the table is large, and nothing shows which of its rows are new or failed.
        """
        if self._finds_all:
            self._number()
        elif self._database.scalar(select(selection.c.numbered_to)) is None:
            # The first search begins at the oldest row, so that the numbers have the order of the times.
            self.number_older(all_of_them=True)
        elif (oldest := self._time_at(TAIL - 1, newest=True)) is not None:
            self._number(self._created_at >= oldest)

    def number_older(self, *, all_of_them: bool) -> None:
        """Give numbers to failed rows among the next `SWEEP` older rows (or all), which begin where the last call
        ended, and to those without a creation time.
        """
        if self._finds_all:
            return
        self._number(self._created_at.is_(None))
        after = "" if all_of_them else self._database.scalar(select(selection.c.numbered_to)) or ""
        while True:
            upto = self._time_at(SWEEP - 1, after=after)
            self._number(*self._after(after), *(() if upto is None else (self._created_at <= upto,)))
            after = "" if upto is None else str(upto)
            if not after or not all_of_them:
                break
        with self._database.write() as connection:
            connection.execute(update(selection).values(numbered_to=after))

    def find(self, texts: Collection[str]) -> dict[str, MessageId]:
        """Return messages by the texts that an operator wrote: their keys, or prefixes of keys that are UUIDs. A row
        that was never failed gets its number now. A UUID may be written in any of its forms.

        Raises:
            InvalidArgument: a prefix is ambiguous.
        """
        key_of = {text: _as_uuid(text) if self._has_uuids else text for text in texts}
        wanted = [key for key in key_of.values() if key is not None]
        known = {message_id.key: message_id for message_id in self._known(OF_KEYS, wanted)}
        if unknown := [key for key in wanted if key not in known]:
            self._number(self._database.table.column("id").in_(self._as_values(unknown)), failed=False)
            known |= {message_id.key: message_id for message_id in self._known(OF_KEYS, unknown)}
        found = ((text, known.get(key or "") or self._beginning(text)) for text, key in key_of.items())
        return {text: message_id for text, message_id in found if message_id is not None}

    @property
    def _has_uuids(self) -> bool:
        return isinstance(self._database.table.key, Uuid)

    def _as_values(self, texts: Collection[str]) -> Collection[ColumnElement[Any] | str]:
        key = self._database.table.key
        # A UUID is compared as such, because the index of the key has no texts.
        return [cast(text, key) for text in texts] if isinstance(key, Uuid) else texts

    def named(self, numbers: Iterable[int]) -> list[int]:
        """Return the ids of messages with their keys, in the given order. Ids that are unknown stay numbers."""
        wanted = list(numbers)
        known = {int(message_id): message_id for message_id in self._known(OF_NUMBERS, wanted)}
        return [known.get(number, number) for number in wanted]

    def _known(self, query: Select[int, str], ids: Collection[int] | Collection[str]) -> list[MessageId]:
        wanted, found = list(ids), []
        with self._database.read() as connection:
            for first in range(0, len(wanted), AT_ONCE):
                rows = connection.execute(query, {"ids": wanted[first : first + AT_ONCE]})
                found += [MessageId(number, key) for number, key in rows]
        return found

    def _beginning(self, text: str) -> MessageId | None:
        start = text.lower() if self._has_uuids else text
        if len(start) < SHORTEST_PREFIX:
            return None
        # In SQLite, LIKE ignores the case of letters.
        is_start = func.substr(keys.c.key, 1, len(start)) == start
        begins = select(keys.c.number, keys.c.key).where(keys.c.key.startswith(start, autoescape=True), is_start)
        # Another text that an operator wrote may be a whole key, of a row that is gone.
        rows = [row for row in self._database.rows(begins.limit(2)) if _as_uuid(row.key) is not None]
        if len(rows) > 1:
            raise InvalidArgument(f"{text} is ambiguous, because several ids begin with it; write the whole id")
        return MessageId(rows[0].number, rows[0].key) if rows else None

    def _number(self, *conditions: ColumnElement[bool], failed: bool = True) -> None:
        table = self._database.table
        key = table.key_text
        is_new = ~exists().where(keys.c.key == key)
        wanted = select(key).where(table.column("id").is_not(None), *table.condition, *conditions, is_new)
        if failed:
            wanted = wanted.where(table.has_status(MessageStatus.FAILED))
        order = [self._created_at] if "created_at" in table.names else []
        if self._database.scalar(wanted.limit(1)) is None:
            return
        with self._database.write() as connection:
            self._database.take_turn(connection)
            ordered = wanted.order_by(*order, table.column("id"))
            connection.execute(insert(keys).from_select(["key"], ordered, include_defaults=False))

    @property
    def _created_at(self) -> ColumnElement[Any]:
        return self._database.table.column("created_at")

    def _after(self, time: str) -> list[ColumnElement[bool]]:
        if not time:
            return []
        kind = self._database.columns[self._database.table.names["created_at"]]["type"]
        return [self._created_at > (literal(time) if self._database.is_sqlite else cast(literal(time), kind))]

    def _time_at(self, position: int, *, after: str = "", newest: bool = False) -> object:
        time = self._created_at
        ordered = select(time).where(time.is_not(None), *self._after(after)).order_by(time.desc() if newest else time)
        return self._database.scalar(ordered.offset(position).limit(1))

    @cached_property
    def _finds_all(self) -> bool:
        """Whether all failed rows can be found quickly.

        Raises:
            SchemaMismatch: they can't, and neither can the newest rows.
        """
        table = self._database.table
        if FailedIndex(self._database).state() is IndexState.THERE:
            return True
        rows = select(literal(1)).select_from(table.written).limit(SMALL_TABLE + 1).subquery()
        if (self._database.scalar(select(func.count()).select_from(rows)) or 0) <= SMALL_TABLE:
            return True
        if table.names["status"] in self._indexed:
            return True
        if table.names.get("created_at", "") in self._indexed:
            return False
        raise SchemaMismatch(
            f"{self._database.named_place} has more than {SMALL_TABLE:,} rows, and its "
            f"{table.names['id']} does not show which of them are new; run `retrycli db index`, or let the application "
            "create an index on created_at"
        )

    @cached_property
    def _indexed(self) -> set[str | None]:
        """The first columns of the table's indexes; None for an expression."""
        with self._database.read() as connection, warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # SQLAlchemy leaves out indexes on expressions
            found = inspect(connection).get_indexes(self._database.table_name, self._database.schema_name)
        whole = (index for index in found if not PARTIAL & index.get("dialect_options", {}).keys())
        return {index["column_names"][0] for index in whole}

    def needs_index(self) -> bool:
        """Return whether new rows can be found only as long as the table is small.

        Raises:
            SchemaMismatch: the table is larger already.
        """
        names = self._database.table.names
        if not self._finds_all or FailedIndex(self._database).state() is IndexState.THERE:
            return False
        return self._indexed.isdisjoint({names["status"], names.get("created_at", "")})


def _as_uuid(text: str) -> str | None:
    """Return a UUID as the databases write it; None if a text is no UUID."""
    try:
        return str(UUID(text))
    except ValueError:
        return None
