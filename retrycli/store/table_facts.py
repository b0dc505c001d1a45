"""Facts about the application's table that help an operator to check the settings. Customers' texts stay in it."""

import re
from collections.abc import Collection, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Text, case, cast, column, literal_column, or_, select

from retrycli.domain.errors import DatabaseUnavailable
from retrycli.domain.known_table import (
    ForeignKey,
    KnownTable,
    Sample,
    ShownValues,
    TableColumn,
    ValueKind,
    plain_name,
    shown_values,
)
from retrycli.domain.message import MessageStatus
from retrycli.domain.table_mapping import AS_IT_IS, WRITTEN_ROLES, Expression, Scalar, TableMapping
from retrycli.store.catalogue import list_tables
from retrycli.store.database import Database
from retrycli.store.table_sample import ROWS, TableSample, read_only

EDITED = ("subject", "body", "recipient_email")

# Names of columns whose values a recipient of the message would miss.
MISSED = re.compile(r".*html.*|(.*_)?(from|sender|reply_to|cc|bcc|headers?)(_.*)?|.*(attach|file)s?.*|.*attachments?.*")
EMPTY = ("", "[]", "{}", "null", "\\x")


class StatusCount(NamedTuple):
    """The values of the status column in the newest rows."""

    sample: Sample
    shown: ShownValues
    failed: int  # the rows with the value for failed messages; at least one if only older rows have it
    unnamed: Sequence[Scalar]  # the values that the settings do not name


class TicketReference(NamedTuple):
    """The key of another table to which the ticket column refers, and a message as an example."""

    key: ForeignKey
    message_id: object  # None if the table has no message with a ticket, or can't be read in some seconds
    ticket: int | str | None


class TableFacts:
    """Reads facts about the application's table. Each method reads a limited number of rows."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._mapping: TableMapping = database.mapping or AS_IT_IS

    @cached_property
    def known(self) -> KnownTable:
        """Return the table as the catalogue describes it; a table without columns if the catalogue does not list it."""
        name, schema = self._database.table_name, self._database.schema_name
        for each in list_tables(self._database, name):
            if self._database.is_sqlite or (each.home if schema else each.schema) == schema:
                return each
        return KnownTable(name, schema, "table", ())

    def count_statuses(self) -> StatusCount | None:
        """Count the values of the status column in the newest rows; None if the rows can't be read in some seconds."""
        status = self._column("status")
        if status is None:
            return None
        labels: Collection[str] | None = getattr(self._database.columns[status.name]["type"], "enums", None)
        # The database compares, because it may not find equal what looks equal: 1 and '1', or two cases of a word.
        literals: dict[str, ColumnElement[Any]] = {
            word: literal_column(each)
            for word, each in self._database.table.literals.items()
            if labels is None or each.strip("'") in labels  # an enumeration can't be compared with other words
        }
        try:
            sample, (newest, older) = self._rows.sample, self._rows.count_values(status)
            is_failed = literals.get(MessageStatus.FAILED)
            failed = 0 if is_failed is None else self._rows.count_if(column(status.name) == is_failed)
            named = self._rows.values_if(status, or_(*(column(status.name) == each for each in literals.values())))
            stored = {word: self._rows.find(status, each) for word, each in literals.items()} if older else {}
        except DatabaseUnavailable:
            return None
        failed += sum(number for value, number in older if value == stored.get(MessageStatus.FAILED))
        named |= {*stored.values()}
        shown = shown_values((*newest, *older), status)
        unnamed = [value for value, number in shown.counts if number and value not in named]
        return StatusCount(sample, shown, failed, unnamed)

    def missed_columns(self, used: Collection[str]) -> list[str]:
        """Return the columns that no setting names, that no preset uses, and that hold data for the recipient."""
        names = [each.name for each in self.known.columns if MISSED.fullmatch(plain_name(each.name))]
        unused = [name for name in names if name not in used and not self._is_used(name)]
        with suppress(DatabaseUnavailable):
            return [name for name in unused if self._rows.count_if(cast(column(name), Text).not_in(EMPTY))]
        return []

    def ticket_reference(self) -> TicketReference | None:
        """Return the table to which the ticket column refers; None if it is not a foreign key."""
        key, table = self.known.reference(self._database.table.names.get("ticket_id", "")), self._database.table
        if key is None:
            return None
        newest = (
            select(
                table.column("id").label("id"),
                table.column("ticket_id").label("ticket"),
                case((table.has_status(MessageStatus.FAILED), 1), else_=0).label("is_failed"),
            )
            .order_by(table.newest_by.desc())
            .limit(ROWS)
            .subquery()
            .c
        )
        example = select(newest.id, newest.ticket).where(newest.ticket.is_not(None))
        message_id = ticket = None
        with suppress(DatabaseUnavailable), read_only(self._database) as connection:  # it may take too long
            ordered = example.order_by(newest.is_failed.desc(), newest.id.desc()).limit(1)
            message_id, ticket = connection.execute(ordered).first() or (None, None)
        return TicketReference(key, message_id, ticket if isinstance(ticket, int | None) else str(ticket))

    def _column(self, role: str) -> TableColumn | None:
        name = self._database.table.names.get(role)
        return next((each for each in self.known.columns if each.name == name), None)

    @cached_property
    def _rows(self) -> TableSample:
        ordered, kinds = (self._column("id"), self._column("created_at")), {ValueKind.INTEGER, ValueKind.TIME}
        return TableSample(self._database, self.known, [each for each in ordered if each and each.kind in kinds])

    def _is_used(self, name: str) -> bool:
        sources = (source for _, source in self._mapping.columns)
        texts = [each.sql if isinstance(each, Expression) else getattr(each, "name", "") for each in sources]
        all_of_them = "\n".join((*self._database.table.names.values(), *texts, self._mapping.where))
        return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", all_of_them, re.IGNORECASE) is not None


def required_privileges(database: Database) -> tuple[list[str], str | None]:
    """Return the columns that retrycli writes, and on a server the statement that grants the privileges for them."""
    names = database.table.names
    written, edited = ([names[role] for role in roles if role in names] for roles in (WRITTEN_ROLES, EDITED))
    if database.is_sqlite:
        return written, None
    with database.read() as connection:
        role = connection.exec_driver_sql("SELECT current_user").scalar_one()
    columns = ", ".join(database.quoted(name) for name in (*written, *edited))
    return written, f"GRANT SELECT, UPDATE ({columns}) ON {database.qualified_table} TO {database.quoted(str(role))}"
