"""The application with a table that only a mapping describes. Its tests see the table as if it were the default one.

The table has UUIDs as keys, an integer status, other names, and no columns for the retry count and the last error. A
view named `pending_messages` shows its rows with the default names, and with retrycli's number of a key as the id. The
application itself gives the numbers, so that tests know them.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from sqlalchemy import Column, ForeignKey, Integer, MetaData, Table, Text, Uuid, delete, insert, select, text, update

from retrycli.domain.identity import BY_TICKET
from retrycli.domain.message import MessageId
from retrycli.domain.table_mapping import parse_mapping
from retrycli.store.schema import keys, own_values
from tests.store.application import Application, messages_table, opened

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import Connection

NAMES = {"id": "key", "body": "text", "status": "state", "created_at": "written_at"}
OWN = ("retry_count", "last_error")
COLUMNS: dict[str, object] = {**NAMES, **{name: {"own": True} for name in OWN}}
STATUS: dict[str, object] = {"failed": 1, "sent": 2, "rejected": 3}
CODES = {**STATUS, "pending": 0, "approved": 5, "processing": 6}
"""All values of the status. The settings name only those that retrycli must know."""
OTHER = 9
"""The value for any other word."""
BIRTH = f"COALESCE(CAST(o.written_at AS TEXT), '{BY_TICKET}' || COALESCE(CAST(o.ticket_id AS TEXT), ''))"


def outbox_table(metadata: MetaData) -> Table:
    """Define the mapped table."""
    usual = messages_table(MetaData(), "pending_messages")
    others = [
        Column(NAMES.get(column.name, column.name), column.type, server_default=column.server_default)
        for column in usual.c
        if column.name not in {"id", "ticket_id", "status", *OWN}
    ]
    return Table(
        "outbox",
        metadata,
        Column("key", Text().with_variant(Uuid(as_uuid=False), "postgresql"), primary_key=True),
        Column("ticket_id", Integer, ForeignKey("ticket_states.ticket_id")),
        Column("state", Integer, nullable=False),
        *others,
    )


class MappedApplication(Application):
    """The application with the mapped table. Its methods take and return rows with the default names."""

    mapping = parse_mapping(COLUMNS, STATUS, None)
    settings = MappingProxyType({"table": "outbox", "columns": COLUMNS, "status": STATUS})

    def __init__(self, url: str, *, made: bool = False) -> None:
        self.outbox = outbox_table(MetaData())
        super().__init__(url, kind=lambda metadata, name, _: messages_table(metadata, name), made=made)
        self.table_name = self.outbox.name

    def _make(self, metadata: MetaData, schema: str) -> None:
        metadata.remove(self.table)
        outbox_table(metadata)
        super()._make(metadata, schema)

    def show(self) -> None:
        """Create the view, which needs retrycli's own tables."""
        names = [f"o.{NAMES.get(column.name, column.name)} AS {column.name}" for column in self.table.c]
        shown = {
            "id": "k.number AS id",
            "status": f"CASE o.state {_cases(CODES, 'WHEN {1} THEN {0!r}')} ELSE CAST(o.state AS TEXT) END AS status",
            "retry_count": "COALESCE(v.retry_count, 0) AS retry_count",
            "last_error": "v.last_error",
        }
        wanted = [shown.get(column.name, name) for column, name in zip(self.table.c, names, strict=True)]
        self.sql(
            f"CREATE VIEW pending_messages AS SELECT {', '.join(wanted)} FROM outbox AS o"
            " JOIN retrycli_keys AS k ON k.key = CAST(o.key AS TEXT)"
            f" LEFT JOIN retrycli_own_values AS v ON v.message_id = k.number AND COALESCE(v.birth, {BIRTH}) = {BIRTH}"
        )

    def add_all(self, rows: Iterable[Mapping[str, object]]) -> list[int]:
        """Add many messages at once; return their ids. A row whose id was used keeps the values that retrycli keeps."""
        given = list(rows)
        made = [self._row(row) for row in given]
        ids = [int(row["id"]) for row in made]
        with self._engine.begin() as connection:
            known = set(connection.scalars(select(keys.c.number)))
            if fresh := [{"number": number, "key": key_of(number)} for number in ids if number not in known]:
                connection.execute(insert(keys), fresh)
            if made:
                connection.execute(insert(self.outbox), [_mapped(row) for row in made])
            for number, row in zip(ids, given, strict=True):
                if number not in known:
                    self._keep(connection, number, {name: row[name] for name in OWN if row.get(name)})
        return ids

    def change(self, message_id: int, **values: object) -> None:
        with self._engine.begin() as connection:
            if mapped := _mapped(values):
                its = self.outbox.c.key == key_of(message_id)
                connection.execute(update(self.outbox).where(its).values(mapped))
            self._keep(connection, message_id, {name: values[name] for name in OWN if name in values})

    def delete(self, *ids: int) -> None:
        statement = delete(self.outbox)
        self._execute(statement.where(self.outbox.c.key.in_(map(key_of, ids))) if ids else statement)

    def id_of(self, number: int) -> int:
        return MessageId(number, key_of(number))

    def number_of(self, shown: str) -> int:
        [found] = self.asked(f"SELECT number FROM retrycli_keys WHERE key = '{shown}'")
        return int(found["number"])

    def word(self, status: str) -> str:
        return status if status in STATUS else str(CODES[status])

    def row_lock(self, message_id: int) -> str:
        return f"SELECT 1 FROM outbox WHERE key = '{key_of(message_id)}' FOR UPDATE"

    @staticmethod
    def _keep(connection: Connection, number: int, values: Mapping[str, object]) -> None:
        """Change a message's own values, as if they were in columns of the application's table."""
        if not values:
            return
        of_it = own_values.c.message_id == number
        shown = text("SELECT retry_count, last_error FROM pending_messages WHERE id = :number")
        now = {**connection.execute(shown, {"number": number}).mappings().one(), **values}
        now["retry_count"] = now["retry_count"] or 0
        connection.execute(delete(own_values).where(of_it))
        connection.execute(insert(own_values).values(message_id=number, **now))
        birth = f"(SELECT {BIRTH} FROM outbox AS o WHERE CAST(o.key AS TEXT) = :key)"
        connection.execute(update(own_values).where(of_it).values(birth=text(birth)), {"key": key_of(number)})


def prepare(url: str, kind: type[Application]) -> None:
    """Create the application's tables and retrycli's own tables in an empty database."""
    made = kind(url)
    with opened(made):
        if isinstance(made, MappedApplication):
            made.show()
    made.close()


def key_of(number: int) -> str:
    """Return the key of the row with this number. The order of keys is not that of their numbers."""
    return str(uuid5(NAMESPACE_URL, repr(int(number))))


def _mapped(row: Mapping[str, object]) -> dict[str, Any]:
    """Return a row of the mapped table."""
    mapped = {NAMES.get(name, name): value for name, value in row.items() if name not in OWN}
    if "key" in mapped:
        mapped["key"] = key_of(int(str(mapped["key"])))
    if "state" in mapped:
        mapped["state"] = CODES.get(str(mapped["state"]), OTHER)
    return mapped


def _cases(codes: Mapping[str, object], case: str) -> str:
    return " ".join(case.format(word, code) for word, code in codes.items())
