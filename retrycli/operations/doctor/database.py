"""Check the database: the application's table, retrycli's own tables, write permission, clock."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from shlex import quote

from retrycli.domain.message import OPTIONAL_COLUMNS
from retrycli.domain.passes import PassRecord
from retrycli.gateway.presets.loader import check_columns
from retrycli.operations.doctor.context import (
    CLOCK_TOLERANCE,
    Context,
    Finding,
    compared_clocks,
    failure,
    of_error,
    ok,
    warning,
)
from retrycli.operations.dry_run import LONG_AGO
from retrycli.store import own_tables, schema
from retrycli.store.application_table import FailedIndex, IndexState, check_ids
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.listing import MessageQueries
from retrycli.store.messages import column_names
from retrycli.store.passes import Ledger
from retrycli.store.write_check import check_writable, clock_ahead, journal_mode

LOOK_BACK = 10  # number of newest passes that the checks read


def table(context: Context, database: Database) -> Iterator[Finding]:
    """Check the application's table: its columns, how reliably changes are noticed, and whether the preset fits it."""
    columns = column_names(database)
    check_ids(database)
    yield ok("table", f"{context.settings.database.table} in {database.place} has all required columns")
    if "updated_at" not in columns:
        yield warning(
            "table",
            f"{context.settings.database.table} has no updated_at: each pass reads the text of every escalated "
            "message. An escalated message that fails again between two passes stays escalated if its text, "
            "retry_count and last_error are unchanged",
            # The remedy needs both parts: a newer updated_at does not by itself requeue an escalated message.
            "add updated_at, and set it with every change; let the application change retry_count or last_error when "
            "it marks a message as failed again",
        )
    for gateway in context.settings.gateway.all.values():
        check_columns(gateway, {*columns, *OPTIONAL_COLUMNS})
        if gateway.kind in {"http", "smtp"}:
            fits = ("subject", gateway.subject) if gateway.kind == "smtp" else ("preset", gateway.preset)
            yield ok(fits[0], f"{fits[1]} matches the table")


def tables(context: Context, database: Database) -> Iterator[Finding]:
    """Check that retrycli's own tables have the version that this program needs."""
    found = database.revision()
    if found == schema.HEAD:
        yield ok("tables", f"retrycli's own tables are at version {found}, which this program needs")
    elif found is None:
        yield warning(
            "tables", "retrycli's own tables do not exist yet", "run `retrycli db upgrade`, or wait for the first pass"
        )
    else:
        next_pass_upgrades = context.settings.database.auto_upgrade and own_tables.can_upgrade(found)
        yield (warning if next_pass_upgrades else failure)(
            "tables",
            f"retrycli's own tables are at version {found}, but this program needs {schema.HEAD}",
            own_tables.remedy(found),
        )


def queue(context: Context, database: Database) -> Iterator[Finding]:
    """Check that the queue belongs to the application's table, and that an operator has accepted what is sent."""
    if database.revision() == schema.HEAD:
        own_tables.check_selection(database)
        yield ok("queue", f"the queue belongs to {context.settings.database.table}")
    if (why := own_tables.objection_to(database)) is not None:
        yield of_error("queue", why)


def age(context: Context, database: Database) -> Iterator[Finding]:
    """Check the age of the oldest failed message that is not escalated."""
    oldest = MessageQueries(database).oldest()
    if oldest is None:
        return
    days = max((context.now() - oldest).days, 0)
    words = f"the oldest waiting message dates from {oldest:%Y-%m-%d}, {days:,} day{'' if days == 1 else 's'} ago"
    if timedelta(days=days) <= LONG_AGO or all(policy.expires_after for policy in context.settings.policies.values()):
        yield ok("age", words)
    else:
        yield warning(
            "age",
            words,
            "if messages this old should not be sent, set schedule.expires_after_hours: passes then escalate messages "
            "that exceed this limit",
        )


def index(context: Context, database: Database) -> Iterator[Finding]:
    """Check the index on failed rows. If it is missing, suggest it only for a table too large for one pass to read."""
    state = FailedIndex(database).state()
    table = context.settings.database.table
    if state is IndexState.THERE:
        yield ok("index", f"{table} has an index on its failed rows")
    elif state is IndexState.INVALID:
        yield warning(
            "index", f"the index on the failed rows of {table} is incomplete and unused", "`retrycli db index`"
        )
    elif Enrolment(database).goes_round():
        yield ok(
            "index",
            f"{table} is too large for one pass to read completely; `retrycli db index` creates an index that lets "
            "passes find failed rows sooner",
        )


def writing(context: Context, database: Database) -> Iterator[Finding]:
    """Check write permission, and whether SQLite's journal mode lets the application write during a pass."""
    check_writable(database, context.now(), context.settings.schedule.largest_count)
    if not database.is_sqlite:
        yield ok("writing", "the database is writable")
    elif (mode := journal_mode(database)) == "wal":
        yield ok("writing", "the database is writable and uses a write-ahead log")
    else:
        yield warning(
            "writing",
            f"the database is writable, but in journal mode {mode} the application and a pass block each other",
            "if the application supports WAL: "
            f"`sqlite3 {quote(str(context.settings.database.file))} 'PRAGMA journal_mode = WAL'`",
        )


def time(context: Context, database: Database) -> Iterator[Finding]:
    """Compare this machine's clock with the server's, and with recorded times."""
    if not database.is_sqlite:
        yield compared_clocks("the database", clock_ahead(database, context.now))
    last = next(iter(newest_passes(database)), None)
    if last is not None and last.started_at - context.now() > CLOCK_TOLERANCE:
        yield failure(
            "clock",
            f"the recorded start of the last pass, {last.started_at:%Y-%m-%dT%H:%M:%SZ}, is in the future",
            "check this machine's clock: `timedatectl`; if it is right, the next pass corrects recorded times that are "
            "more than 30 minutes ahead",
        )


def newest_passes(database: Database, *, until: datetime | None = None) -> list[PassRecord]:
    """Return the newest passes; an empty list if retrycli's tables are missing or have another version."""
    return Ledger(database).last_passes(LOOK_BACK, until=until) if database.revision() == schema.HEAD else []
