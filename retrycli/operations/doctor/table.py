"""Check how the settings describe the application's table: expressions, statuses, tickets, privileges.

`table check`, `config check` and `doctor` report the findings. No finding quotes a customer.
"""

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import chain

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, RetrycliError, SchemaMismatch
from retrycli.domain.incidents import utc
from retrycli.domain.message import MessageStatus, MessageType
from retrycli.domain.table_mapping import AS_IT_IS
from retrycli.gateway.presets.loader import preset_columns
from retrycli.operations.doctor.context import Context, Finding, Level, failed, of_error, ok, warning
from retrycli.operations.presets import example_url
from retrycli.operations.wiring import connect, utc_now
from retrycli.operations.words import counted_rows, tally
from retrycli.operations.words import left_out as left_out_in_words
from retrycli.store import catalogue, mapping_check, own_tables, schema
from retrycli.store.application_table import check_ids
from retrycli.store.catalogue import StatusCount, TableFacts
from retrycli.store.database import Database
from retrycli.store.keys import SMALL_TABLE, Keys
from retrycli.store.write_check import check_writable

READ_AGAIN_SECONDS = 1.1  # longer than the resolution of a clock that counts seconds


def check(settings: Settings) -> list[Finding]:
    """Check the application's table, and rehearse the changes that a pass makes in a transaction that is rolled back.

    Raises:
        DatabaseUnavailable: the database can't be opened.
        ConfigurationError: the database's URL is not valid.
    """
    with closing(connect(settings)) as database:
        findings = list(findings_of(settings, database))
        if not failed(findings):
            findings += [
                *_all_of("identity", stable(database)),
                *_all_of("writing", write_findings(settings, database), RetrycliError),
                *_all_of("accepted", acceptance(database)),
            ]
        return findings


def mapping(context: Context, database: Database) -> Iterator[Finding]:
    """Check how the settings describe the application's table."""
    return findings_of(context.settings, database)


def findings_of(settings: Settings, database: Database) -> Iterator[Finding]:
    """Yield what the checks find, except for the rehearsal. After a failure, skip the other checks.

    Raises:
        DatabaseUnavailable: the database can't be read.
    """
    facts = TableFacts(database)
    for name, found in (
        ("columns", columns(settings, database)),
        ("status", statuses(database, facts)),
        ("rows", readable(database)),
        ("where", left_out(database)),
        ("index", order(database)),
        ("ticket", ticket(settings, database, facts)),
        ("not sent", missed(settings, database, facts)),
    ):
        part = _all_of(name, found)
        yield from part
        if failed(part):
            return


def _all_of(name: str, findings: Iterator[Finding], caught: type[RetrycliError] = ConfigurationError) -> list[Finding]:
    found: list[Finding] = []
    try:
        found.extend(findings)
    except caught as error:
        found.append(of_error(name, str(error)))
    return found


def columns(settings: Settings, database: Database) -> Iterator[Finding]:
    """Check that every column exists, that the expressions can be evaluated, and that the ids identify messages."""
    mapping_check.check_expressions(database)
    mapping_check.check_values(database)
    mapping_check.check_count(database, settings.schedule.largest_count)
    check_ids(database)
    if database.mapping is not None:
        yield ok("columns", f"{settings.database.table} has every column that [database.columns] names")


def stable(database: Database) -> Iterator[Finding]:
    """Check that a row keeps its identity from read to read.

    Raises:
        SchemaMismatch: it does not.
    """
    is_view = TableFacts(database).known.kind.endswith("view")
    mapping_check.check_stable(database, is_view=is_view, wait=lambda: time.sleep(READ_AGAIN_SECONDS))
    yield from ()


def statuses(database: Database, facts: TableFacts) -> Iterator[Finding]:
    """Check the values of statuses, and whether rows have the value for failed messages."""
    mapping_check.check_statuses(database)
    found = facts.count_statuses()
    if found is None or not found.sample.rows:
        return
    mapping, words = database.mapping or AS_IT_IS, status_words(found)
    value = mapping.value(MessageStatus.FAILED)
    named = {_folded(each): each for _, each in mapping.status}
    if alike := [each for each in found.unnamed if _folded(each) in named]:
        yield warning(
            "status",
            f"the status {_shown(alike[0])} looks like {_shown(named[_folded(alike[0])])}, but the database says that "
            f"they differ, so passes leave its rows out; {words}",
            "write the value in [database.status] as the column has it, or let the application write one form",
        )
        return
    if found.failed or not (found.unnamed or found.shown.hidden):
        yield ok("status", words)
        return
    yield warning(
        "status",
        f"no row has the status {_shown(value)}, which means failed; {words}",
        "if one of these values means failed, set database.status.failed to it; otherwise name the other values in "
        "[database.status], or ignore this",
    )


def status_words(found: StatusCount) -> str:
    """List the values of the status column, and say which rows were counted."""
    counted = [f"{_shown(value)} ×{rows:,}" for value, rows in found.shown.counts if rows]
    if found.shown.empty:
        counted.append(f"null ×{found.shown.empty:,}")
    if found.shown.hidden:
        counted.append(f"other values, not shown because they may be customers' words ×{found.shown.hidden:,}")
    return f"the statuses of {counted_rows(found.sample)}: {', '.join(counted)}"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) and value.lstrip("-").isdecimal() else str(value)


def _folded(value: object) -> str:
    return str(int(value) if isinstance(value, bool) else value).strip().casefold()


def readable(database: Database) -> Iterator[Finding]:
    """Report rows that a pass would escalate as invalid, because it can't read them. A wrong description concerns many
    rows. Single rows of a table that needs no description are reported when they are escalated.
    """
    rows, problems = mapping_check.unreadable(database)
    if not problems or (problems.total() < rows and database.mapping is None):
        return
    reasons = tally(problems)
    remedy = "describe the column in [database.columns], for example by unix, sql or none"
    if problems.total() == rows:
        raise SchemaMismatch(
            f"a pass would escalate the newest rows as invalid, whatever their status: {reasons}; {remedy}"
        )
    yield warning("rows", f"a pass would escalate {problems.total()} of {rows} rows as invalid: {reasons}", remedy)


def left_out(database: Database) -> Iterator[Finding]:
    """Count the failed rows that do not meet the condition in the settings."""
    if (found := mapping_check.count_left_out(database)) > 0:
        yield ok("where", left_out_in_words(found))


def order(database: Database) -> Iterator[Finding]:
    """Check that new rows can be found although their ids do not show which rows are new."""
    if database.table.key is not None and Keys(database).needs_index():
        yield warning(
            "index",
            f"the ids of {database.table.written.fullname} do not show which rows are new; once it has more than "
            f"{SMALL_TABLE:,} rows, passes will stop with an error",
            "`retrycli db index`, or let the application create an index on the status or on created_at",
        )


def ticket(settings: Settings, database: Database, facts: TableFacts) -> Iterator[Finding]:
    """Report a ticket column that refers to another table, with an example of what would be requested."""
    found = facts.ticket_reference()
    if found is None:
        return
    table, told = found.key.table, f"{found.key.column} refers to {found.key.table}.{found.key.target}"
    if found.ticket is not None:
        url = example_url(settings, found.ticket, MessageType.CUSTOMER)
        told += f"; message {found.message_id} would go to {url or f'ticket {found.ticket}'}"
    if found.key.target == found.key.column or database.accepted is not None:
        yield ok("ticket", told)
        return
    yield warning(
        "ticket",
        told,
        f"if the API knows this ticket by another column of {table}, set database.columns.ticket_id to an expression "
        "that reads it (see `retrycli manual your-own-table`); otherwise ignore this",
    )


def missed(settings: Settings, database: Database, facts: TableFacts) -> Iterator[Finding]:
    """List the columns with data that a recipient would miss, because no setting names them."""
    if database.mapping is None:
        return
    used = {name for gateway in settings.gateway.all.values() for name in preset_columns(gateway)}
    if names := facts.missed_columns(used):
        yield ok("not sent", f"columns that hold data and that no setting names: {', '.join(names)}")


def write_findings(settings: Settings, database: Database) -> Iterator[Finding]:
    """Rehearse the changes that a pass makes, and list the columns that it writes."""
    check_writable(database, utc_now(), settings.schedule.largest_count)
    names, grant = catalogue.required_privileges(database)
    yield ok("writing", f"the database accepts changes of {', '.join(names)}" + (f"; {grant}" if grant else ""))


def acceptance(database: Database) -> Iterator[Finding]:
    """Report whether an operator must accept which messages the settings select."""
    if database.revision() == schema.HEAD:
        own_tables.check_selection(database)
    if (why := own_tables.objection_to(database)) is not None:
        found, _, remedy = why.partition("; ")
        yield warning("accepted", found, remedy)
    elif database.accepted is not None:
        by, at = database.accepted.by, database.accepted.at
        yield ok("accepted", f"{by} accepted at {utc(at)} which messages the settings select")


def facts_of(settings: Settings, database: Database) -> dict[str, str]:
    """Return the facts that `config check` shows: for the default table in a file, only those that need attention.

    Raises:
        ConfigurationError: a check has failed.
    """
    shown: dict[str, str] = {}
    for finding in chain(findings_of(settings, database), acceptance(database)):
        if finding.level is Level.FAILURE:
            raise ConfigurationError("; ".join(filter(None, (finding.found, finding.remedy))))
        if database.mapping is not None or finding.level is Level.WARNING or finding.name == "ticket":
            shown[finding.name.capitalize()] = "; ".join(filter(None, (finding.found, finding.remedy)))
    if database.mapping is not None or not database.is_sqlite:
        names, grant = catalogue.required_privileges(database)
        shown["Writes"] = ", ".join(names)
        if grant is not None:
            shown["Grant"] = grant
    return shown
