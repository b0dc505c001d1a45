"""How an application's table holds messages: `[database.columns]`, `[database.status]` and `database.where`.

A role, such as ``body``, is what retrycli needs from the table. By default, the column of the same name has the role.

A wrong setting here may send what was never meant to be sent, or send it to others. Therefore an operator accepts once
which rows are sent, to which tickets and recipients, before a pass sends by them. Other settings may change without
acceptance.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

from retrycli.domain.identity import TEXT_COLUMNS
from retrycli.domain.message import OPTIONAL_COLUMNS, REQUIRED_COLUMNS, MessageStatus

QUERY = re.compile(r"(SELECT|WITH|VALUES)\b", re.IGNORECASE)


def query_of(sql: str) -> str | None:
    """Return the query of which an expression with balanced parentheses consists, without them; None if it is anything
    else.
    """
    text = sql.strip()
    while _is_enclosed(_blanked(text)):
        text = text[1:-1].strip()
    return text if QUERY.match(_blanked(text).lstrip()) else None


def _blanked(sql: str) -> str:
    """Replace strings, quoted names and comments by spaces."""
    return QUOTED.sub(lambda found: " " * len(found[0]), sql)


def _is_enclosed(sql: str) -> bool:
    """Return whether the first character opens the parenthesis that the last one closes."""
    depth = 0
    for position, char in enumerate(sql):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return position > 0 and position == len(sql) - 1
    return False


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
    """A column with the time since 1970-01-01 UTC, in seconds, milli-, micro- or nanoseconds. It is only read."""

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

    def renders(self, roles: Collection[str]) -> bool:
        """Return whether an SQL expression is the source of one of the roles."""
        return any(isinstance(source, Expression) and role in roles for role, source in self.columns)

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
            if "localtime" in sql.lower():
                raise ValueError(
                    f"{key}: localtime depends on the time zone of the process, so cron and an operator may read "
                    "different messages; write the time in UTC"
                )
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
        # Two words that differ only in case may be equal in the database. A false is a 0 there, and a "1" may be a 1.
        as_compared = value.strip().lower() if isinstance(value, str) else str(int(value))
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


# The settings of which the selection consists, by the names of its parts in `retrycli_selection.accepted`.
SETTINGS = {
    "table": "database.table",
    "key": "database.columns.id",
    "where": "database.where",
    "failed": "database.status.failed",
    "ticket": "database.columns.ticket_id",
    "recipient": "database.columns.recipient_email",
    "created": "database.columns.created_at",
    "text": "the text in database.columns",
    "count": "database.columns.retry_count",
    "error": "database.columns.last_error",
}


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The selection that an operator has accepted, with the operator and the time."""

    parts: Mapping[str, object]
    by: str
    at: datetime


def selection_parts(table: str, mapping: TableMapping | None) -> dict[str, object]:
    """Return the parts of the selection that the settings describe. No mapping: the default columns and statuses."""
    used = mapping or AS_IT_IS
    sources = dict(used.columns)

    def setting(role: str) -> object:
        return "" if (source := sources.get(role)) is None else as_setting(source)

    return {
        "table": table,
        "key": as_setting(used.source("id")),
        "where": used.where,
        "failed": used.value(MessageStatus.FAILED),
        "ticket": as_setting(used.source("ticket_id")),
        "recipient": as_setting(used.source("recipient_email")),
        "created": setting("created_at"),
        "text": {
            role: text
            for role, source in used.columns
            if role in TEXT_COLUMNS and role != "recipient_email" and (text := as_setting(source)) != role
        }
        or "",
        "count": setting("retry_count"),
        "error": setting("last_error"),
    }


def text_as_accepted(mapping: TableMapping | None, accepted: Acceptance | None) -> TableMapping:
    """Return the mapping with the sources of text and recipients that were accepted last, by default its own names."""
    used = mapping or AS_IT_IS
    columns = {role: as_setting(source) for role, source in used.columns if role not in TEXT_COLUMNS}
    parts = accepted.parts if accepted else {}
    text = parts.get("text") or {}
    assert isinstance(text, Mapping)  # noqa: S101  for the type checker
    before = parse_mapping({**columns, **text, "recipient_email": parts.get("recipient", "recipient_email")}, {}, None)
    return replace(before, status=used.status, where=used.where)


def births_differ(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> bool:
    """Return whether the settings read births (``created_at`` or the ticket) of the same rows from another source. The
    rows of a table that the application has renamed are the same.
    """
    return _is_of_others(table, mapping, accepted, {"created", "ticket"})


def digests_differ(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> bool:
    """Return whether the settings read the text or the recipients of the same rows from another source."""
    return _is_of_others(table, mapping, accepted, {"text", "recipient"})


def states_differ(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> bool:
    """Return whether the settings read the retry counts or the errors of the same rows from another source."""
    return _is_of_others(table, mapping, accepted, {"count", "error"})


def _is_of_others(table: str, mapping: TableMapping | None, accepted: Acceptance | None, parts: set[str]) -> bool:
    here, before = selection_parts(table, mapping), accepted.parts if accepted else selection_parts(table, None)
    changed = {part for part in SETTINGS if here[part] != before.get(part, "")}
    return not changed.isdisjoint(parts) and "key" not in changed


def objection(table: str, mapping: TableMapping | None, accepted: Acceptance | None) -> str | None:
    """Return why passes must not send by the settings; None if they may. The default columns and statuses (no mapping)
    need no acceptance, unless an operator has accepted others.
    """
    if accepted is None:
        if mapping is None:
            return None
        return (
            f"nobody has accepted which rows of {table} these settings select, so nothing is sent; "
            "run `retrycli table check`, then `retrycli table accept`"
        )
    others = list(_differences(selection_parts(table, mapping), accepted.parts))
    if not others:
        return None
    return (
        f"these settings select other messages than {accepted.by} accepted at "
        f"{accepted.at.astimezone(UTC):%Y-%m-%d %H:%M} UTC, so nothing is sent: {', '.join(others)}; correct the "
        "settings of this host, or run `retrycli table check`, then `retrycli table accept`"
    )


def _differences(here: Mapping[str, object], accepted: Mapping[str, object]) -> Iterator[str]:
    for part, setting in SETTINGS.items():
        if here[part] != (then := accepted.get(part, "")):
            yield f"{setting} is {_in_words(here[part])}, but {_in_words(then)} was accepted"


def _in_words(value: object) -> str:
    return "not set" if value in (None, "") else json.dumps(value, ensure_ascii=False)
