"""Propose the settings for a table: a source for each role, and what the operator must decide."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from retrycli.domain.known_table import ForeignKey, KnownTable, RelationKind, Sample, TableColumn, ValueKind
from retrycli.domain.message import REQUIRED_COLUMNS, MessageStatus, MessageType
from retrycli.domain.status_values import ShownValues, delivered_value, shown_values
from retrycli.domain.table_mapping import ROLES, Column, Constant, Expression, Own, Scalar, Source, Split, Translated
from retrycli.domain.table_ranking import HINTS, PAYLOAD, Candidate, plain_name

DEFAULT_TABLE = "pending_messages"
TYPES = tuple(MessageType)
UNTYPED = "no column tells customer, supplier and internal apart"
KEYS_IN_JSON = {"subject": "subject", "body": "text", "recipient_email": "to", "ticket_id": "ticket"}
# Columns of another table that may be the number that a ticketing API knows.
TICKET_NAMES = ("ticket_id", "ticket_number", "number", "external_id", "ticket_key", "key", "remote_id", "reference")


@dataclass(frozen=True, slots=True)
class ProposedLine:
    """One line of ``[database.columns]``.

    Attributes:
        role: the role.
        source: the proposed source; None if the line is only a comment.
        note: why, and what to check.
        is_open: the line is a hint or an example to edit; the role does not depend on it.
    """

    role: str
    source: Source | None
    note: str = ""
    is_open: bool = False


@dataclass(frozen=True, slots=True)
class Proposal:
    """The settings that are proposed for a table.

    Attributes:
        candidate: the table and its columns.
        sample: what was counted in its rows.
        lines: the lines of ``[database.columns]``.
        unchanged: the roles whose columns have retrycli's own names, so that they need no line.
        status: the values of the status column that may be shown.
        sent: the proposed value for delivered messages, if one value is a word for it.
        has_own_statuses: the status column has retrycli's own words, so that ``[database.status]`` is not needed.
    """

    candidate: Candidate
    sample: Sample
    lines: tuple[ProposedLine, ...]
    unchanged: tuple[str, ...]
    status: ShownValues
    sent: Scalar | None
    has_own_statuses: bool

    @property
    def name(self) -> str:
        """Return the table's name as the setting ``database.table`` expects it."""
        return self.candidate.table.name

    @property
    def kind(self) -> RelationKind:
        """Return the kind of relation."""
        return self.candidate.table.kind

    @property
    def columns(self) -> dict[str, str]:
        """Return the names of the columns that look like the roles of a message, by role."""
        found = self.candidate.roles
        return {role: found[role].name for role in ROLES if role in found}

    @property
    def older(self) -> frozenset[object]:
        """Return the values of the status column that none of the newest rows has."""
        status = self.candidate.roles.get("status")
        return (
            frozenset() if status is None else frozenset(value for value, _ in self.sample.older.get(status.name, ()))
        )

    @property
    def is_conforming(self) -> bool:
        """Return whether the table needs no settings except, if it has another name, ``database.table``."""
        return self.has_own_statuses and all(line.is_open and line.role in self.unchanged for line in self.lines)


def propose(candidate: Candidate, sample: Sample, tables: Mapping[str, KnownTable], *, is_sqlite: bool) -> Proposal:
    """Propose the settings for a table. Do not propose which status means failed: the operator must know that.

    Args:
        candidate: the table and its columns.
        sample: what was counted in its rows.
        tables: the tables of the database by name, to follow foreign keys.
        is_sqlite: the database is a SQLite file.
    """
    proposing = _Proposing(candidate, sample, tables, is_sqlite=is_sqlite)
    lines = tuple(line for role in ROLES for line in proposing.lines(role))
    replaced = {line.role for line in lines if not line.is_open}
    named = {role for role, column in candidate.roles.items() if column.name == role}
    unchanged = tuple(role for role in ROLES if role in named - replaced)
    status = candidate.roles.get("status")
    shown = ShownValues() if status is None else _shown(sample, status)
    is_own = _is_own_status(status, shown) and bool(shown.values or not replaced)
    return Proposal(candidate, sample, lines, unchanged, shown, delivered_value(shown), is_own)


def _shown(sample: Sample, column: TableColumn) -> ShownValues:
    newest = sample.values.get(column.name, ())
    shown = shown_values((*newest, *sample.older.get(column.name, ())), column)
    uncounted = sample.rows - sum(rows for _, rows in newest)  # only the most frequent values were counted
    return replace(shown, hidden=shown.hidden + uncounted) if newest else shown


def _is_own_status(column: TableColumn | None, shown: ShownValues) -> bool:
    if column is None or column.name != "status" or column.kind in {ValueKind.INTEGER, ValueKind.BOOLEAN}:
        return False
    needed = {MessageStatus.FAILED, MessageStatus.SENT} if column.labels else set()
    return needed <= set(shown.values) <= set(MessageStatus) and not shown.hidden


class _Proposing:
    def __init__(
        self, candidate: Candidate, sample: Sample, tables: Mapping[str, KnownTable], *, is_sqlite: bool
    ) -> None:
        self._table, self._roles, self._sample = candidate.table, candidate.roles, sample
        self._tables, self._is_sqlite = tables, is_sqlite

    def lines(self, role: str) -> Iterator[ProposedLine]:
        """Yield the lines for a role; none if the column of the same name has it, or if it is optional and missing."""
        column = self._roles.get(role)
        match role:
            case "id":
                yield from self._id(column)
            case "status" if column is None:
                yield ProposedLine(
                    role, None, "no column looks like a status; create a view that has one and takes updates"
                )
            case "ticket_id":
                yield from self._ticket(column)
            case "message_type":
                yield from self._type(column)
            case "recipient_email" if self._sample.lists and column is not None:
                yield self._recipients(column)
            case "body" | "subject" | "recipient_email" if column is None or self._is_json(role):
                yield from self._text(role)
            case "retry_count" | "last_error" if column is None:
                yield ProposedLine(role, Own(), "no such column: retrycli keeps it in its own tables")
            case _ if column is not None and column.name != role:
                yield ProposedLine(role, Column(column.name))

    def _id(self, column: TableColumn | None) -> Iterator[ProposedLine]:
        if column is None:
            yield ProposedLine("id", None, "no column is unique on its own; retrycli needs such a column")
        elif column.name not in self._table.keys:
            note = f"no index shows that {column.name} is unique; check that it is, and never null"
            own = column.name == "id"
            yield ProposedLine("id", None if own else Column(column.name), note, is_open=own)
        elif column.name != "id":
            yield ProposedLine("id", Column(column.name))

    def _ticket(self, column: TableColumn | None) -> Iterator[ProposedLine]:
        key = self._roles.get("id")
        if column is None:
            yield from self._from_json("ticket_id")
            if key is not None:
                yield ProposedLine(
                    "ticket_id", Column(key.name), "no column looks like a ticket; the key stands for it"
                )
            return
        if column.name != "ticket_id":
            yield ProposedLine("ticket_id", Column(column.name), "check that it is the ticket that the API knows")
        reference = self._table.reference(column.name)
        other = None if reference is None else self._tables.get(reference.table)
        if reference is not None and other is not None:
            names = [name for name in TICKET_NAMES if name != reference.target]
            found = next((each for name in names for each in other.columns if plain_name(each.name) == name), None)
            note = f"{column.name} refers to {reference.table}.{reference.target}; to read another column there:"
            sql = self._sub_select(reference, other, "COLUMN" if found is None else found.sql)
            yield ProposedLine("ticket_id", Expression(sql), note, is_open=True)

    def _type(self, column: TableColumn | None) -> Iterator[ProposedLine]:
        constant = Constant(MessageType.CUSTOMER.value)
        if column is None:
            yield ProposedLine("message_type", constant, UNTYPED)
            return
        shown = _shown(self._sample, column)
        if set(shown.values) <= set(TYPES) and not shown.hidden and (shown.values or column.name == "message_type"):
            if column.name != "message_type":
                yield ProposedLine("message_type", Column(column.name))
            return
        yield ProposedLine("message_type", constant, UNTYPED)
        words = tuple((value, MessageType.CUSTOMER.value) for value in shown.values if isinstance(value, str))
        if words:
            note = f"to translate {column.name} instead, write customer, supplier or internal for each value:"
            yield ProposedLine("message_type", Translated(column.name, words), note, is_open=True)

    def _recipients(self, column: TableColumn) -> ProposedLine:
        separator, rows = max(self._sample.lists.items(), key=lambda each: each[1])
        return ProposedLine(
            "recipient_email", Split(column.name, separator), f"{rows} of the rows counted have several addresses"
        )

    def _is_json(self, role: str) -> bool:
        return role == "body" and self._sample.json_bodies > self._sample.rows / 2

    def _text(self, role: str) -> Iterator[ProposedLine]:
        is_in_payload = PAYLOAD in self._roles and "body" not in self._roles
        if is_in_payload or self._is_json("body"):
            yield from self._from_json(role)
            return
        for reference in self._table.references:
            other = self._tables.get(reference.table)
            names = HINTS[role].names.split()[:3]
            columns = () if other is None else other.columns
            found = next((each for each in columns if plain_name(each.name) in names), None)
            if other is not None and found is not None:
                yield ProposedLine(
                    role, Expression(self._sub_select(reference, other, found.sql)), f"read from {other.name}"
                )
                return
        if role == "subject":
            yield ProposedLine(role, Constant(""), "no column looks like a subject")
        elif role in REQUIRED_COLUMNS:
            yield ProposedLine(role, None, "no column looks like the text of a message; name one")

    def _from_json(self, role: str) -> Iterator[ProposedLine]:
        payload = self._roles.get("body" if self._is_json("body") else PAYLOAD)
        if payload is None:
            return
        text, key = payload.sql, KEYS_IN_JSON[role]
        if payload.kind is ValueKind.BYTES:
            text = f"CAST({text} AS text)" if self._is_sqlite else f"convert_from({text}, 'UTF8')"
        if payload.kind is not ValueKind.JSON and not self._is_sqlite:
            text = f"CAST({text} AS jsonb)"
        is_json = payload.kind is ValueKind.JSON or self._is_json("body")
        certain = f"{payload.name} is JSON;" if is_json else f"if {payload.name} is JSON,"
        note = f"{certain} write the key of the {role.partition('_')[0]}:"
        yield ProposedLine(role, Expression(f"{text} ->> '{key}'"), note, is_open=True)

    def _sub_select(self, reference: ForeignKey, other: KnownTable, wanted: str) -> str:
        return sub_select(self._table, reference, other, wanted)


def sub_select(table: KnownTable, reference: ForeignKey, other: KnownTable, wanted: str) -> str:
    """Return an expression that reads a column of the row to which a foreign key refers. It is for the operator.

    Args:
        table: the table with the foreign key.
        reference: the foreign key.
        other: the table to which it refers.
        wanted: the column to read, quoted for SQL.
    """
    here = {column.name: column.sql for column in table.columns}[reference.column]
    there = {column.name: column.sql for column in other.columns}[reference.target]
    return f"(SELECT t.{wanted} FROM {other.sql} t WHERE t.{there} = {table.alias}.{here})"  # noqa: S608  not executed
