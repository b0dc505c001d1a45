"""Facts about the application's table that help an operator to check the settings. Customers' texts stay in it."""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Select, Text, and_, case, cast, column, select
from sqlalchemy import table as table_clause

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.known_table import KnownTable, Sample, TableColumn, ValueKind, plain_name
from retrycli.domain.message import MessageStatus
from retrycli.domain.status_values import ShownValues, shown_values
from retrycli.domain.table_mapping import AS_IT_IS, Expression, Scalar, Split, TableMapping, Translated
from retrycli.domain.ticket_reference import TicketReference, is_ticket, ticket_columns
from retrycli.store.catalogue import list_tables
from retrycli.store.database import Database
from retrycli.store.table_sample import ROWS, TableSample, read_only

WRITTEN = ("status", "retry_count", "last_error", "sent_at")
EDITED = ("subject", "body", "recipient_email")

# Names of columns whose values a recipient of the message would miss.
MISSED = re.compile(r".*html.*|(.*_)?(from|sender|reply_to|cc|bcc|headers?)(_.*)?|.*(attach|file)s?.*|.*attachments?.*")
EMPTY = ("", "[]", "{}", "null", "\\x")


class StatusCount(NamedTuple):
    """The values of the status column in the newest rows.

    Attributes:
        sample: which rows were counted.
        shown: the values that may be shown, with the numbers of their rows.
        failed: the number of rows with the value for failed messages, or at least one if only older rows have it.
        unnamed: the values that the settings do not name.
    """

    sample: Sample
    shown: ShownValues
    failed: int
    unnamed: Sequence[Scalar]


class TableFacts:
    """Reads facts about the application's table. Each method reads a limited number of rows.

    Args:
        database: the database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mapping: TableMapping = database.mapping or AS_IT_IS

    @cached_property
    def known(self) -> KnownTable | None:
        """Return the table as the catalogue describes it; None if the catalogue does not list it."""
        schema, found = self._database.schema_name, list_tables(self._database, self._database.table_name)
        if self._database.is_sqlite:
            return next(iter(found), None)
        return next((each for each in found if (each.home if schema else each.schema) == schema), None)

    def count_statuses(self) -> StatusCount | None:
        """Count the values of the status column in the newest rows; None if the rows can't be read in some seconds."""
        known, status = self.known, self._column("status")
        if known is None or status is None:
            return None
        rows = self._rows(known)
        try:
            sample = rows.count_values([status])
            failed = rows.count_if(column(status.name) == self._database.table.literal(MessageStatus.FAILED))
        except DatabaseUnavailable:
            return None
        newest, older = sample.values[status.name], sample.older.get(status.name, ())
        wanted = self._mapping.value(MessageStatus.FAILED)
        failed += sum(number for value, number in older if _is_same(value, wanted))
        shown = shown_values((*newest, *older), status)
        named = [value for _, value in self._mapping.status]
        counted = [value for value, number in shown.counts if number]
        unnamed = [value for value in counted if not any(_is_same(value, each) for each in named)]
        return StatusCount(sample, shown, failed, unnamed)

    def missed_columns(self, used: Collection[str]) -> list[str]:
        """Return the columns that no setting names and that hold data for the recipient, such as an HTML text.

        Args:
            used: the columns that presets use.
        """
        known = self.known
        if known is None:
            return []
        wanted = [each for each in known.columns if each.name not in used and not self._is_used(each)]
        rows = self._rows(known)
        try:
            return [
                each.name
                for each in wanted
                if MISSED.fullmatch(plain_name(each.name)) and rows.count_if(_is_filled(each))
            ]
        except DatabaseUnavailable:
            return []

    def ticket_reference(self) -> TicketReference | None:
        """Return the table to which the ticket column refers; None if it is not a foreign key."""
        known, ticket = self.known, self._column("ticket_id")
        key = None if known is None or ticket is None else known.reference(ticket.name)
        if known is None or key is None:
            return None
        found = list_tables(self._database, key.table.rpartition(".")[2])
        other = next((each for each in found if each.name == key.table), None)
        if other is None:
            return None
        wanted, row, quoted = ticket_columns(other, key), None, self._database.quoted
        # It may take too long, or the role may not read the other table.
        with suppress(DatabaseUnavailable), read_only(self._database) as connection:
            row = connection.execute(self._example(other, key.target, wanted)).first()
        message_id, number, *values = row or (None, None)
        there, here = ".".join(map(quoted, key.table.split("."))), f"{quoted(known.relation)}.{quoted(key.column)}"
        return TicketReference(
            key,
            message_id,
            number if number is None or isinstance(number, int) else str(number),
            {name: value for name, value in zip(wanted, values, strict=False) if is_ticket(value)},
            {
                name: f"(SELECT t.{quoted(name)} FROM {there} t WHERE t.{quoted(key.target)} = {here})"  # noqa: S608
                for name in wanted
            },
        )

    def _example(self, other: KnownTable, target: str, wanted: Sequence[str]) -> Select[Any]:
        """Select a message among the newest rows, a failed one if there is one, and the row to which it refers."""
        table = self._database.table
        newest = (
            select(
                table.column("id").label("retrycli_id"),
                table.column("ticket_id").label("retrycli_ticket"),
                case((table.has_status(MessageStatus.FAILED), 1), else_=0).label("is_failed"),
            )
            .order_by(table.newest_by.desc())
            .limit(ROWS)
            .subquery()
        )
        key, ticket = newest.c.retrycli_id, newest.c.retrycli_ticket
        best = select(key, ticket).where(ticket.is_not(None)).order_by(newest.c.is_failed.desc(), key.desc())
        message = best.limit(1).subquery()
        there = table_clause(other.relation, *map(column, (target, *wanted)), schema=other.schema)
        joined = message.join(there, there.c[target] == message.c.retrycli_ticket)
        return select(*message.c, *(there.c[name] for name in wanted)).select_from(joined)

    def _column(self, role: str) -> TableColumn | None:
        name = self._database.table.names.get(role)
        columns = () if self.known is None else self.known.columns
        return next((each for each in columns if each.name == name), None)

    def _rows(self, known: KnownTable) -> TableSample:
        ordered = (self._column("id"), self._column("created_at"))
        kinds = {ValueKind.INTEGER, ValueKind.TIME}
        return TableSample(self._database, known, [each for each in ordered if each is not None and each.kind in kinds])

    def _is_used(self, wanted: TableColumn) -> bool:
        if wanted.name in self._database.table.names.values():
            return True
        word = re.compile(rf"(?<!\w){re.escape(wanted.name)}(?!\w)", re.IGNORECASE)
        texts = [source.sql for _, source in self._mapping.columns if isinstance(source, Expression)]
        names = [source.name for _, source in self._mapping.columns if isinstance(source, Split | Translated)]
        return wanted.name in names or any(map(word.search, [*texts, self._mapping.where]))


def _is_same(value: object, literal: Scalar | None) -> bool:
    if isinstance(value, bool) or isinstance(literal, bool):
        return value in {0, 1} and bool(value) == literal
    return str(value) == str(literal)


def _is_filled(wanted: TableColumn) -> ColumnElement[bool]:
    value: ColumnElement[Any] = column(wanted.name)
    return and_(value.is_not(None), cast(value, Text).not_in(EMPTY))


def required_privileges(database: Database) -> tuple[list[str], str | None]:
    """Return the columns that retrycli writes, and on a server the statement that grants the privileges for them."""
    names = database.table.names
    written, edited = ([names[role] for role in roles if role in names] for roles in (WRITTEN, EDITED))
    if database.is_sqlite:
        return written, None
    with database.read() as connection:
        role = connection.exec_driver_sql("SELECT current_user").scalar_one()
    columns = ", ".join(database.quoted(name) for name in (*written, *edited))
    return written, f"GRANT SELECT, UPDATE ({columns}) ON {database.qualified_table} TO {database.quoted(str(role))}"
