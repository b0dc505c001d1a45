"""Recognise a ticket column that holds the key of another table instead of the number that a ticketing API knows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from retrycli.domain.known_table import ForeignKey, KnownTable, TableColumn, ValueKind, plain_name

MOST = 3  # maximum number of columns that are shown
# Columns of another table that may be the number that a ticketing API knows.
TICKET_NAMES = ("ticket_id", "ticket_number", "number", "external_id", "ticket_key", "key", "remote_id", "reference")
# Words in the names of columns that may hold the number or key of a ticket. Other columns may hold customers' words.
TICKET_WORDS = frozenset({"ticket", "number", "case", "issue", "external", "remote", "reference", "ref", "key"})
KINDS = frozenset({ValueKind.INTEGER, ValueKind.TEXT, ValueKind.UUID, ValueKind.ANY})
# A number, or a text such as ``DESK-4705``.
TICKET = re.compile(r"[A-Za-z]{0,12}[-#_/]?[0-9][0-9A-Za-z_./-]{0,35}")


@dataclass(frozen=True, slots=True)
class TicketReference:
    """The row of another table to which the ticket column of a message refers.

    Attributes:
        column: the ticket column.
        table: the other table.
        target: the column to which the ticket column refers.
        message_id: the message of the example; None if the table has no message with a ticket.
        ticket: the value of its ticket column.
        values: values of other columns in the row to which it refers, which may be the API's number, by column.
        sql: for each of these columns, an expression that reads it.
    """

    column: str
    table: str
    target: str
    message_id: int | str | None
    ticket: int | str | None
    values: Mapping[str, int | str]
    sql: Mapping[str, str]


def ticket_columns(other: KnownTable, reference: ForeignKey) -> list[TableColumn]:
    """Return the columns of another table that may hold the number that a ticketing API knows, the most likely first.

    Args:
        other: the table to which the ticket column refers.
        reference: the foreign key.
    """
    references = {each.column for each in other.references}
    found = [
        column
        for column in other.columns
        if column.name not in {reference.target, *references} and column.kind in KINDS and _is_named_so(column)
    ]
    return sorted(found, key=_rank)[:MOST]


def _is_named_so(column: TableColumn) -> bool:
    name = plain_name(column.name)
    return name in TICKET_NAMES or not TICKET_WORDS.isdisjoint(name.split("_"))


def _rank(column: TableColumn) -> int:
    name = plain_name(column.name)
    return TICKET_NAMES.index(name) if name in TICKET_NAMES else len(TICKET_NAMES)


def is_ticket(value: object) -> bool:
    """Return whether a value looks like the number or key of a ticket, so that it may be shown."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and TICKET.fullmatch(value) is not None
    )


def reference_of(
    table: KnownTable, reference: ForeignKey, other: KnownTable, example: Mapping[str, object] | None
) -> TicketReference:
    """Describe a ticket column that refers to another table.

    Args:
        table: the table with the messages.
        reference: the foreign key of its ticket column.
        other: the table to which it refers.
        example: ``retrycli_id`` and ``retrycli_ticket`` of a message, and values of the other row by column; None if
            there is no message.
    """
    columns = ticket_columns(other, reference)
    row = example or {}
    shown = {each.name: row[each.name] for each in columns if is_ticket(row.get(each.name))}
    return TicketReference(
        reference.column,
        reference.table,
        reference.target,
        _plain(row.get("retrycli_id")),
        _plain(row.get("retrycli_ticket")),
        {name: value for name, value in shown.items() if isinstance(value, int | str)},
        {each.name: _sub_select(table, reference, other, each.sql) for each in columns},
    )


def _sub_select(table: KnownTable, reference: ForeignKey, other: KnownTable, wanted: str) -> str:
    """Return an expression that reads a column of the row to which a foreign key refers. It is for the operator."""
    here = {column.name: column.sql for column in table.columns}[reference.column]
    there = {column.name: column.sql for column in other.columns}[reference.target]
    return f"(SELECT t.{wanted} FROM {other.sql} t WHERE t.{there} = {table.alias}.{here})"  # noqa: S608  not executed


def _plain(value: object) -> int | str | None:
    return value if value is None or isinstance(value, int) else str(value)
