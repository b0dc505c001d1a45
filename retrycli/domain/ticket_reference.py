"""Recognise a ticket column that holds the key of another table instead of the number that a ticketing API knows."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from retrycli.domain.known_table import ForeignKey, KnownTable, ValueKind, plain_name

MOST = 3  # maximum number of columns that are shown
# Columns of another table that are most likely the number that a ticketing API knows.
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
        key: the foreign key of the ticket column.
        message_id: the message of the example; None if the table has no message with a ticket.
        ticket: the value of its ticket column.
        values: values of other columns in the row to which it refers, which may be the API's number, by column.
        sql: for each of these columns, an expression that reads it. It is for the operator.
    """

    key: ForeignKey
    message_id: object
    ticket: int | str | None
    values: Mapping[str, object]
    sql: Mapping[str, str]


def ticket_columns(other: KnownTable, reference: ForeignKey) -> list[str]:
    """Return the columns of another table that may hold the number that a ticketing API knows, the most likely first.

    Args:
        other: the table to which the ticket column refers.
        reference: the foreign key.
    """
    no_numbers = {reference.target, *(each.column for each in other.references)}
    found = [each.name for each in other.columns if each.name not in no_numbers and each.kind in KINDS]
    named = [name for name in found if not TICKET_WORDS.isdisjoint(plain_name(name).split("_"))]
    return sorted(named, key=lambda name: [*TICKET_NAMES, plain_name(name)].index(plain_name(name)))[:MOST]


def is_ticket(value: object) -> bool:
    """Return whether a value looks like the number or key of a ticket, so that it may be shown."""
    return (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and TICKET.fullmatch(value) is not None
    )
