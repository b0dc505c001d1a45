"""How an application's table holds messages: `[database.columns]`, `[database.status]` and `database.where`.

A role, such as ``body``, is what retrycli needs from the table. By default, the column of the same name has the role.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, MessageStatus

ROLES = (*REQUIRED_COLUMNS, *OPTIONAL_COLUMNS)
# What the keys of `[database.columns]` and `[database.status]` mean. The manual has the same texts.
ROLE_MEANINGS: Mapping[str, str] = {
    "id": "identifies the message; unique, not null",
    "ticket_id": "the ticket, as the ticketing API knows it",
    "message_type": "customer, supplier or internal",
    "subject": "the subject",
    "body": "the text",
    "status": "the status; its values are in [database.status]",
    "retry_count": "the number of retries so far",
    "last_error": "the last error",
    "created_at": "optional: when the message was created",
    "updated_at": "optional: when the row was last changed",
    "sent_at": "optional: when the message was delivered",
    "recipient_email": "optional: the recipient's e-mail address",
    "cc_emails": "optional: addresses for copies, as a JSON list",
    "bcc_emails": "optional: addresses for blind copies, as a JSON list",
    "attachments": "optional: names of attachments, as a JSON list",
}
STATUS_MEANINGS: Mapping[str, str] = {
    "failed": "the message could not be delivered, and is retried",
    "sent": "the message was delivered",
    "rejected": "optional: without it, `reject` is refused",
    "pending": "optional: the message waits for approval",
    "approved": "optional: the message is approved, but not sent yet",
}

# Roles that retrycli writes. They can't be constants or expressions, unless retrycli keeps them itself.
WRITTEN_ROLES = ("status", "retry_count", "last_error", "sent_at")
OWN_ROLES = ("retry_count", "last_error")  # roles that retrycli can keep in its own tables
TIME_ROLES = ("created_at", "updated_at")  # times that retrycli only reads

Scalar: TypeAlias = str | int | bool


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table. retrycli may write it."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A constant, the same for all messages."""

    value: Scalar


@dataclass(frozen=True, slots=True)
class Expression:
    """An SQL expression over the table's row. It is only read."""

    sql: str


@dataclass(frozen=True, slots=True)
class Translated:
    """A column whose values are translated, such as ``mail`` to ``customer``. It is only read."""

    name: str
    words: tuple[tuple[Scalar, str], ...]


@dataclass(frozen=True, slots=True)
class Split:
    """A column with a list of e-mail addresses: the first is the recipient, the others get copies. It is only read."""

    name: str
    separator: str


@dataclass(frozen=True, slots=True)
class Own:
    """A value that the table does not have, and that retrycli keeps in its own tables."""


@dataclass(frozen=True, slots=True)
class UnixTime:
    """A column with the seconds or milliseconds since 1970-01-01 UTC. It is only read."""

    name: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """No column has the role, even if one has its name."""


Source: TypeAlias = Column | Constant | Expression | Translated | Split | Own | UnixTime | Nothing

SHAPES = (
    'a column\'s name, or { value = … }, { sql = "…" }, { from = "…", map = { … } }, { from = "…", split = "," }, '
    '{ unix = "…" }, { own = true } or { none = true }'
)


def as_setting(source: Source) -> object:
    """Return the value in ``[database.columns]`` that describes a source."""
    match source:
        case Column(name):
            return name
        case Constant(value):
            return {"value": value}
        case Expression(sql):
            return {"sql": sql}
        case Translated(name, words):
            return {"from": name, "map": {str(value): word for value, word in words}}
        case Split(name, separator):
            return {"from": name, "split": separator}
        case Own():
            return {"own": True}
        case UnixTime(name):
            return {"unix": name}
        case Nothing():
            return {"none": True}


@dataclass(frozen=True, slots=True)
class TableMapping:
    """How an application's table holds messages.

    Attributes:
        columns: the sources of the roles that are not columns of the same name.
        status: the values of the status column, by status. Statuses that are left out do not exist in the table.
        where: an SQL condition; only rows that meet it are messages. Empty for all rows.
    """

    columns: tuple[tuple[str, Source], ...] = ()
    status: tuple[tuple[str, Scalar], ...] = tuple((each.value, each.value) for each in MessageStatus)
    where: str = ""

    def source(self, role: str) -> Source:
        """Return the source of a role."""
        return dict(self.columns).get(role, Column(role))

    def column(self, role: str) -> str | None:
        """Return the name of the column that has a role; None if the role is not one plain column."""
        found = self.source(role)
        return found.name if isinstance(found, Column) else None

    def value(self, status: str) -> Scalar | None:
        """Return the value of the status column for a status; None if the table has no such status."""
        return dict(self.status).get(status)


AS_IT_IS = TableMapping()  # the mapping of a table that needs no settings


def parse_mapping(columns: Mapping[str, object], status: Mapping[str, object], where: str | None) -> TableMapping:
    """Return the mapping that ``[database.columns]``, ``[database.status]`` (empty for retrycli's own words) and
    ``database.where`` describe.

    Raises:
        ValueError: a value is not valid. The error names its key within the settings' section ``[database]``.
    """
    sources = tuple((role, _source(role, value)) for role, value in sorted(columns.items()))
    used = tuple(sorted(_checked_status(status).items())) if status else AS_IT_IS.status
    condition = "" if where is None else _checked_sql("database.where", where)
    return TableMapping(tuple(each for each in sources if each[1] != Column(each[0])), used, condition)


def _source(role: str, value: object) -> Source:
    key = f"database.columns.{role}"
    if role not in ROLES:
        raise ValueError(f"{key}: the role {role!r} is unknown; the roles are {', '.join(ROLES)}")
    source = Column(value) if isinstance(value, str) else _table(key, value)
    if isinstance(source, Column | Translated | Split | UnixTime) and not source.name:
        raise ValueError(f"{key}: the name of the column is empty; write {SHAPES}")
    match source:
        case Own() if role not in OWN_ROLES:
            raise ValueError(f"{key}: retrycli can keep only {' and '.join(OWN_ROLES)} itself; write {SHAPES}")
        case Split() if role != "recipient_email":
            raise ValueError(f"{key}: only recipient_email can be split; its other addresses get copies")
        case UnixTime() if role not in TIME_ROLES:
            raise ValueError(f"{key}: only {' and '.join(TIME_ROLES)} can be read as Unix times; write {SHAPES}")
        case Nothing() if role not in OPTIONAL_COLUMNS:
            raise ValueError(f"{key}: retrycli needs this role; write {SHAPES}")
        case Column() | Own() | Nothing():
            pass
        case _ if role == "id":
            raise ValueError(f"{key}: the id must be a column, because retrycli finds rows by it; write its name")
        case _ if role == "status":
            raise ValueError(
                f"{key}: the status must be a column, because retrycli writes it; write its name. For a status that "
                "is derived from other columns, create a view that takes updates, and name it as database.table"
            )
        case _ if role in OWN_ROLES:
            raise ValueError(f"{key}: retrycli must write it; write a column's name, or {{ own = true }}")
        case _ if role == "sent_at":
            raise ValueError(f"{key}: retrycli must write it; write a column's name, or {{ none = true }}")
    return source


def _table(key: str, value: object) -> Source:
    match value:
        case {"value": str() | bool() | int() as constant, **rest} if not rest:
            return Constant(constant)
        case {"sql": str() as sql, **rest} if not rest:
            return Expression(_checked_sql(key, sql))
        case {"from": str() as name, "map": dict() as words, **rest} if not rest and words:
            return Translated(name, tuple(_words(key, words)))
        case {"from": str() as name, "split": str() as separator, **rest} if not rest and len(separator) == 1:
            return Split(name, separator)
        case {"from": str() as name, **rest} if not rest:
            return Column(name)
        case {"own": True, **rest} if not rest:
            return Own()
        case {"unix": str() as name, **rest} if not rest:
            return UnixTime(name)
        case {"none": True, **rest} if not rest:
            return Nothing()
    raise ValueError(f"{key} must be {SHAPES}")


def _words(key: str, words: Mapping[str, object]) -> list[tuple[Scalar, str]]:
    wrong = [value for value, word in words.items() if not isinstance(word, str)]
    if wrong:
        raise ValueError(f"{key}: map: {wrong[0]} must be mapped to text, such as 'customer'")
    return [(value, str(word)) for value, word in words.items()]


def _checked_status(status: Mapping[str, object]) -> dict[str, Scalar]:
    known = tuple(MessageStatus)
    values: dict[str, Scalar] = {}
    for name, value in status.items():
        if name not in known:
            raise ValueError(f"database.status.{name}: this status is unknown; the statuses are {', '.join(known)}")
        match value:
            case str() | int() | bool():
                values[name] = value
            case _:
                raise ValueError(f"database.status.{name} must be text, an integer, or true or false")
    for needed in (MessageStatus.FAILED, MessageStatus.SENT):
        if needed not in values:
            raise ValueError(
                f"database.status.{needed} is missing; write the value that the table has for {needed} messages"
            )
    _reject_repeated(values)
    return values


def _reject_repeated(values: Mapping[str, Scalar]) -> None:
    names: dict[object, str] = {}
    for name, value in values.items():
        # Two words that differ only in case may be equal in the database. A false is a 0 there.
        as_compared = value.strip().lower() if isinstance(value, str) else int(value)
        if (other := names.setdefault(as_compared, name)) != name:
            raise ValueError(
                f"database.status.{name} and database.status.{other} have the same value; each status needs its own"
            )


def _checked_sql(key: str, sql: str) -> str:
    """Check that a text can stand in parentheses within a statement, and strip it. The database checks the rest."""
    if not sql.strip():
        raise ValueError(f"{key}: the SQL is empty; write an expression, or remove the key")
    if "\0" in sql or ";" in _without_quoted(sql):
        raise ValueError(f"{key}: the SQL must be one expression without a semicolon")
    if _is_unbalanced(_without_quoted(sql)):
        raise ValueError(f"{key}: the SQL has unbalanced parentheses, or a quote or comment that does not end")
    return sql.strip()


QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|--[^\n]*(?:\n|$)|/\*.*?\*/", re.DOTALL)


def _without_quoted(sql: str) -> str:
    return QUOTED.sub(" ", sql)


def _is_unbalanced(sql: str) -> bool:
    depth = 0
    for char in sql:
        depth += (char == "(") - (char == ")")
        if depth < 0:
            return True
    return depth != 0 or any(mark in sql for mark in ("'", '"', "/*", "*/"))
