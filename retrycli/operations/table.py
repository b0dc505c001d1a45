"""Describe the tables of a database, so that an operator can write the settings; show what the next pass would send by
them, and let an operator accept it. Guess nothing.

Views are described too, because a view that takes updates can be the application's table.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from itertools import islice

from pydantic import ValidationError

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, InvalidMessage, RetrycliError, SchemaMismatch
from retrycli.domain.known_table import LONGEST, KnownTable, Sample, TableColumn, ValueKind, shown_values
from retrycli.domain.listing import ListedMessage
from retrycli.domain.message import utc_time
from retrycli.domain.sanitize import masked_url
from retrycli.domain.table_mapping import Acceptance, Scalar, selection_parts, states_differ
from retrycli.operations import dry_run
from retrycli.operations.doctor.context import Finding, failed
from retrycli.operations.doctor.table import findings_of, stable
from retrycli.operations.presets import example_url
from retrycli.operations.wiring import clock, connect, open_database, pass_rules, utc_now
from retrycli.store import own_tables
from retrycli.store.catalogue import list_tables
from retrycli.store.database import Database
from retrycli.store.table_sample import TableSample
from retrycli.store.transitions import see_again
from retrycli.system.process import login_name


def _with_url(settings: Settings, url: str) -> Settings:
    """Return settings with another ``database.url``.

    Raises:
        ConfigurationError: the URL is not valid. The error names the option.
    """
    try:
        database = settings.database.model_validate({**settings.database.model_dump(), "url": url})
    except ValidationError as error:
        reasons = "; ".join(
            problem["msg"].removeprefix("Value error, ") for problem in error.errors(include_input=False)
        )
        raise ConfigurationError(f"{OPTION}: {reasons}") from None
    return settings.model_copy(update={"database": database})


@contextmanager
def _naming_option(url: str | None) -> Iterator[None]:
    """In errors, replace the name of the setting database.url with the option, if a URL overrides the setting."""
    try:
        yield
    except RetrycliError as error:
        if url is None:
            raise
        raise type(error)(re.sub(r"database\.url( \(RETRYCLI_DATABASE__URL\))?", OPTION, str(error))) from error


FEW = 12  # maximum number of values of a column with few values
TEXTS = frozenset({ValueKind.TEXT, ValueKind.JSON, ValueKind.ANY})
COUNTED = frozenset({ValueKind.TEXT, ValueKind.INTEGER, ValueKind.BOOLEAN, ValueKind.ENUM, ValueKind.ANY})
OPTION = "--url"


@dataclass(frozen=True, slots=True)
class ValueCount:
    """The rows with one value of a column, or with any value that may be a customer's words."""

    column: str
    value: Scalar | None
    rows: int
    newest: datetime | None = None
    older: bool = False  # none of the newest rows has the value
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class DescribedTable:
    """A table, and what was counted in some of its rows, or why they could not be read."""

    known: KnownTable
    sample: Sample = Sample()  # noqa: RUF009  it is immutable
    few: tuple[str, ...] = ()  # the columns that are not unique and have few values
    time: str | None = None  # the column with most different times
    values: tuple[ValueCount, ...] = ()
    problem: str | None = None

    @property
    def rows(self) -> str | None:
        """Return the number of rows that were read, with a sign + if there are more; None if none could be read."""
        return None if self.problem else f"{self.sample.rows}{'' if self.sample.is_whole else '+'}"

    @property
    def texts(self) -> tuple[str, ...]:
        """Return the names of the columns with text."""
        return tuple(each.name for each in self.known.columns if each.kind in TEXTS)


@dataclass(frozen=True, slots=True)
class Description:
    """The tables that are described, the number of all tables, the database, and ``database.url`` if it is new."""

    tables: tuple[DescribedTable, ...]
    examined: int
    place: str
    url: str | None


def describe(settings: Settings, *, url: str | None = None, name: str | None = None) -> Description:
    """Describe a table. Without a name, list the tables with a text column and another column with few values.

    Tables that have no rows, or can't be read, are listed if they have a text column. The table that the settings name
    need not exist.

    Raises:
        DatabaseUnavailable: the database can't be opened or read.
        ConfigurationError: the URL is not valid, or there is no such table.
    """
    chosen = settings if url is None else _with_url(settings, url)
    with _naming_option(url), closing(connect(chosen)) as database:
        tables = [each for each in list_tables(database) if not each.relation.startswith("retrycli_")]
        if name is None:
            found = tuple(filter(_may_hold_messages, (_describe(database, each) for each in tables)))
        else:
            found = (_describe(database, _find(tables, name, database.place), with_values=True),)
        return Description(found, len(tables), database.place, url and _as_setting(chosen))


def _may_hold_messages(found: DescribedTable) -> bool:
    pairs = ((text, other) for text in found.texts for other in found.few)
    return any(text != other for text, other in pairs) or (not found.sample.rows and bool(found.texts))


def _describe(database: Database, known: KnownTable, *, with_values: bool = False) -> DescribedTable:
    if not known.is_readable:
        name = ".".join(map(database.quoted, known.name.split(".")))
        return DescribedTable(known, problem=f"the role may not read it; run GRANT SELECT ON {name} TO the role")
    if known.runs_code_of is not None and not with_values:
        return DescribedTable(
            known, problem=f"reading it may run code of the role {known.runs_code_of}; to read it, give its name"
        )
    keys = {names[0] for names in (known.primary, *known.unique) if len(names) == 1}
    columns = [each for each in known.columns if each.kind in COUNTED and each.name not in keys]
    times = [each for each in known.columns if each.kind is ValueKind.TIME]
    numbers = [each for each in known.columns if each.kind is ValueKind.INTEGER and each.name in keys]
    rows = TableSample(database, known, [*numbers, *times])
    try:
        different = rows.count_distinct([*columns, *times])
        few = [each for each in columns if different[each.name] <= FEW and rows.sample.rows]
        time = max(times, key=lambda each: different[each.name], default=None)
        values = tuple(value for each in few if with_values for value in _values(rows, each, time))
        return DescribedTable(known, rows.sample, tuple(each.name for each in few), time.name if time else None, values)
    except RetrycliError:  # its text may quote a row, for example if a view converts values
        return DescribedTable(known, problem="its rows could not be read, or only in more than a few seconds")


def _values(rows: TableSample, wanted: TableColumn, time: TableColumn | None) -> Iterator[ValueCount]:
    newest, older = rows.count_values(wanted)
    length = re.search(r"char.*\((\d+)\)", wanted.type, re.IGNORECASE)
    is_code = length is not None and int(length[1]) <= LONGEST  # too short for free text
    shown = shown_values((*newest, *older), wanted, is_status=is_code)
    times = {} if time is None else rows.newest_times(wanted, time)
    for value, number in shown.counts:
        yield ValueCount(wanted.name, value, number, _time(times.get(value)), value in dict(older))
    if shown.empty:
        yield ValueCount(wanted.name, None, shown.empty, _time(times.get(None)))
    if shown.hidden:
        yield ValueCount(wanted.name, None, shown.hidden, hidden=True)


def _time(value: object) -> datetime | None:
    with suppress(InvalidMessage):  # SQLite stores any text
        return utc_time("newest", value)
    return None


def _as_setting(settings: Settings) -> str:
    file, url = settings.database.file, settings.database.url
    # The settings file may be in another folder, and a relative path is resolved against that folder.
    return masked_url(url) if file is None or "?" in url else f"sqlite:///{file}"


def _find(tables: Sequence[KnownTable], name: str, place: str) -> KnownTable:
    known = {f"{each.home}.{each.relation}": each for each in tables if each.home} | {
        each.name: each for each in tables
    }
    same = [name] if name in known else [each for each in known if each.lower() == name.lower()]
    if len(same) == 1:
        return known[same[0]]
    alike = same or get_close_matches(name, known)
    hint = f"did you mean {' or '.join(alike)}?" if alike else "`retrycli table describe` lists tables"
    raise SchemaMismatch(f"no table {name} in {place}; {hint}")


SHOWN = 3  # number of messages that are shown


@dataclass(frozen=True, slots=True)
class Selected:
    """What the settings select."""

    parts: dict[str, object] | None  # as `selection_parts` names them; None if the table needs no acceptance
    accepted: Acceptance | None  # what an operator has accepted last, if anything
    unaccepted: str | None  # why passes send nothing; None if they may send, because this selection is accepted


@dataclass(frozen=True, slots=True)
class NextPass:
    """What the next pass would send."""

    findings: Sequence[Finding]  # of the checks of the table
    number: int  # number of messages that it would send
    escalated: Counter[str]  # why it would escalate messages without sending them, with the numbers of messages
    oldest: datetime | None  # the earliest creation time of a message; None if none has one
    first: Sequence[tuple[ListedMessage, str | None]]  # each with the URL to which it would be sent; None for a mail


def selected(settings: Settings) -> Selected:
    """Return what the settings select, and whether an operator has accepted it.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        why = own_tables.objection_to(database)
        if database.mapping is None and why is None and database.accepted is None:
            return Selected(None, None, None)
        parts = selection_parts(own_tables.full_name(database), database.mapping)
        return Selected(parts, database.accepted, why)


def next_pass(settings: Settings) -> NextPass:
    """Check the table, and predict what the next pass would send. Change nothing.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used, or a check fails.
    """
    with closing(connect(settings)) as database:
        findings = [*findings_of(settings, database)]
        if not failed(findings):
            findings += stable(database)
    if failed(findings):
        raise ConfigurationError("; ".join(filter(None, (findings[-1].found, findings[-1].remedy))))
    with dry_run.preview(settings, despite_outages=True) as foreseen:
        listed = foreseen.messages
        first = [(message, _url(settings, message)) for message in islice(listed, SHOWN)]
        for _ in listed:
            pass  # reading a message counts it
        return NextPass(findings, foreseen.totals.number, foreseen.escalated, foreseen.totals.oldest, first)


def _url(settings: Settings, message: ListedMessage) -> str | None:
    ticket = message.ticket_id
    return example_url(settings, ticket, message.message_type) if isinstance(ticket, int | str) else None


def accept(settings: Settings, *, by: str | None = None, at: datetime | None = None) -> None:
    """Record that an operator accepts which messages the settings select.

    Raises:
        LockHeld: a pass runs, or a message is being sent.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database, database.transaction():
        own_tables.require_idle(database, clock(database, utc_now)(), pass_rules(settings, to_send=False).lease)
        known = own_tables.full_name(database), database.mapping, database.accepted
        own_tables.accept_selection(database, by or login_name(), at or utc_now())
        if states_differ(*known):
            see_again(database)
