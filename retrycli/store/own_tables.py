"""Create, upgrade and check retrycli's own tables.

The checks cover the tables' version, the application's table to which the queue belongs, and recorded times in the
future. The queue identifies messages by id, and other tables may have the same ids. A pass over the wrong table would
drop every queued message that has no failed row in that table.
"""

import json
from array import array
from collections.abc import Mapping
from datetime import datetime, timedelta
from threading import Lock
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.exc import DBAPIError

from retrycli.domain.errors import ConfigurationError, LockHeld, SchemaMismatch
from retrycli.domain.identity import OF_ANY_TICKET, TEXT_COLUMNS, UNSTABLE, birth_of, digest_of
from retrycli.domain.message import OPTIONAL_COLUMNS, MessageStatus, State
from retrycli.domain.passes import StartedBy
from retrycli.domain.sanitize import as_utf8
from retrycli.store.bulk import id_in
from retrycli.store.database import Database
from retrycli.store.identity import birth_text, identifying
from retrycli.store.messages import has_status, rows_of
from retrycli.store.reflection import MessageTable
from retrycli.store.schema import FIRST, HEAD, acts, attempts, holds, keys, own_values, passes, queue, selection

IN_POSTGRESQL = text("""
SELECT CAST(n.nspname AS text) || '.' || CAST(c.relname AS text)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = CAST(pg_catalog.to_regclass(:name) AS oid)
""")
# The schemas with queues that this role may read. Reading a table can run its owner's code, so only those of this role
# and of the owner of the application's table.
QUEUES_IN_POSTGRESQL = text("""
SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_class m ON m.oid = CAST(pg_catalog.to_regclass(:name) AS oid)
JOIN pg_catalog.pg_roles me ON me.rolname = CAST(CURRENT_USER AS name)
WHERE c.relname = CAST('retrycli_selection' AS name) AND c.relkind = CAST('r' AS "char")
AND (c.relowner = m.relowner OR c.relowner = me.oid)
AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
""")
UPGRADING = Lock()  # Alembic keeps the current upgrade in module globals, so a process upgrades one database at a time

# Recorded times may lie this far in the future, because hosts' clocks differ slightly. Such times are not repaired, so
# a message may wait up to this much longer.
LEEWAY = timedelta(minutes=30)

# Number of newest passes whose heartbeats are checked. One pass is not enough, because a clock may have jumped ahead
# after an earlier pass recorded its start.
NEWEST_PASSES = 10
NEWEST = select(passes.c.heartbeat_at).order_by(passes.c.started_at.desc()).limit(NEWEST_PASSES).subquery()
LATEST = select(
    select(func.max(NEWEST.c.heartbeat_at, type_=passes.c.heartbeat_at.type)).scalar_subquery(),
    # Operators' attempts and actions may be newer than the last pass.
    select(attempts.c.started_at).order_by(attempts.c.id.desc()).limit(1).scalar_subquery(),
    select(acts.c.at).order_by(acts.c.id.desc()).limit(1).scalar_subquery(),
)

SELECTION = select(
    *selection.c,
    exists(select(keys.c.number)).label("has_keys"),
    or_(
        exists(select(queue.c.message_id)),
        exists(select(attempts.c.message_id)),
        exists(select(acts.c.message_id).where(acts.c.message_id.is_not(None))),  # a pause concerns no message
    ).label("has_records"),
)


def ensure_tables(database: Database, *, upgrade: bool) -> None:
    """Create retrycli's own tables, or upgrade them if ``upgrade`` is set. Check that the queue belongs to the
    application's table.

    Raises:
        ConfigurationError: the tables are newer than this program, are older and can't be upgraded or ``upgrade`` is
            not set, or the queue belongs to another table.
    """
    ensure_version(database, upgrade=upgrade)
    check_selection(database)


def ensure_version(database: Database, *, upgrade: bool) -> None:
    """Create retrycli's own tables if they do not exist, and upgrade old tables if ``upgrade`` is set.

    Raises:
        ConfigurationError: the tables are newer than this program, or are older and can't be upgraded or ``upgrade`` is
            not set; or another schema has the queue.
    """
    found = database.revision()
    if found == HEAD:
        return
    if found is not None and not (upgrade and can_upgrade(found)):
        raise ConfigurationError(
            f"retrycli's tables in {database.place} are at version {found}, but this program needs {HEAD}; "
            + remedy(found)
        )
    upgrade_tables(database)


def _require_only_queue(database: Database, connection: Connection) -> None:
    """Check that no other schema has a queue for the application's table: two queues would send each message twice.

    Raises:
        ConfigurationError: another schema has one.
    """
    here = _full_name(database, connection)
    for schema in connection.execute(QUEUES_IN_POSTGRESQL, {"name": database.qualified_table}).scalars():
        there = selection.to_metadata(MetaData(), schema=schema)
        if connection.execute(select(there.c.table_name).where(there.c.table_name == here)).first() is not None:
            raise ConfigurationError(
                f"the queue of {here} in {database.place} is in the schema {schema}, which is not in this role's "
                f"search_path; run as the role that passes use, or add the schema (ALTER ROLE … SET search_path)"
            )


def can_upgrade(found: str) -> bool:
    """Return whether `upgrade_tables` leads from a version to the newest one."""
    return FIRST <= found <= HEAD


def remedy(found: str) -> str:
    """Return what to do about tables of another version."""
    if found > HEAD:
        return "install a newer retrycli"
    if found < FIRST:
        return (
            "no upgrade leads from it, because it was never released. Deliver its queue with the version that made it, "
            "then drop the tables whose names begin with retrycli_"
        )
    return "run `retrycli db upgrade`"


def upgrade_tables(database: Database) -> None:
    """Create retrycli's own tables, or upgrade them to the newest version, in one transaction. If the queue belongs to
    no table yet, assign it to the application's table.

    Raises:
        ConfigurationError: another schema has the queue.
    """
    from alembic import command, config  # imported here because Alembic loads slowly

    made = config.Config()
    made.set_main_option("script_location", "retrycli:store/migrations")
    made.set_main_option("path_separator", "os")
    _ = database.table  # raises an error, before anything is created, if the application's table can't be used
    with UPGRADING, database.write() as connection:
        # Another process may create the tables until this one has its turn.
        if not database.take_turn_to_create(connection) and not database.is_sqlite:
            _require_only_queue(database, connection)
        made.attributes["connection"] = connection
        command.upgrade(made, "head")
        if _remembered(connection) is None:
            connection.execute(insert(selection).values(table_name=_full_name(database, connection)))


class Belonging(NamedTuple):
    """The table to which the queue belongs, compared with the configured table."""

    remembered: str | None
    configured: str | None
    messages: int  # number of messages in the queue
    found: int  # number of these messages with a failed row in the configured table


def check_selection(database: Database) -> None:
    """Check that the queue belongs to the configured table. Read what an operator has accepted, and which columns the
    last pass found.

    Raises:
        ConfigurationError: the queue belongs to another table, or to messages with another kind of ids.
    """
    with database.read() as connection:
        found = connection.execute(SELECTION).first()
        remembered = found and found.table_name
        configured = remembered and _full_name(database, connection)
    if found is not None and found.accepted is not None:
        from retrycli.domain.table_mapping import Acceptance  # most tables need no acceptance

        database.accepted = Acceptance(json.loads(found.accepted), found.accepted_by, found.accepted_at)
    database.text_columns = found and found.text_columns
    if configured is not None and configured != remembered:
        raise ConfigurationError(
            f"the queue in {database.place} belongs to the table {remembered}, but database.table is {configured}; "
            f"set database.table to {remembered}, or, if the application renamed the table, run `retrycli table accept`"
        )
    if found is not None and found.has_keys != (database.table.key is not None):
        _change_kind(database, has_keys=found.has_keys, has_records=found.has_records)


def _text_columns(database: Database) -> str:
    return json.dumps([role for role in TEXT_COLUMNS if role in OPTIONAL_COLUMNS and role in database.messages.c])


def _vanished(database: Database) -> list[str]:
    """Return the columns with text or recipients that the last pass found, and that neither the table nor the settings
    have now.
    """
    described = {role for role, _ in database.mapping.columns} if database.mapping else set[str]()
    before, now = json.loads(database.text_columns or "[]"), json.loads(_text_columns(database))
    return [role for role in before if role not in now and role not in described]


def _change_kind(database: Database, *, has_keys: bool, has_records: bool) -> None:
    """Begin with ids of another kind, integers or text, unless there are records of messages: retrycli would know the
    new ids as those of other messages.
    """
    known, configured = ("text", "integers") if has_keys else ("integers", "text")
    if has_records:
        its_id = database.table.names["id"]
        raise ConfigurationError(
            f"retrycli's tables in {database.place} know the messages by ids that are {known}, but "
            f"{database.table.written.fullname}.{its_id} holds {configured}; correct database.columns.id. If the "
            "application has changed its ids, first let passes deliver the queue by the old ones, then drop the tables "
            "whose names begin with retrycli_"
        )
    if has_keys:
        with database.write() as connection:
            connection.execute(delete(keys))
            connection.execute(update(selection).values(numbered_to=None))


def compare(database: Database) -> Belonging:
    """Compare the table to which the queue belongs with the configured table."""
    m = database.messages.c
    size = select(func.count()).select_from(queue)
    failed = size.join_from(queue, database.messages, m.id == queue.c.message_id)
    with database.read() as connection:
        return Belonging(
            _remembered(connection),
            _full_name(database, connection),
            connection.execute(size).scalar_one(),
            connection.execute(failed.where(has_status(m, MessageStatus.FAILED))).scalar_one(),
        )


def require_idle(database: Database, now: datetime, lease: timedelta) -> None:
    """Check, in the caller's transaction, that no pass runs and no message is being sent. Both go on with the settings
    that they have read, and the births and digests that belong to them.

    Args:
        database: the database.
        now: the current time. A pass without a heartbeat during the last ``lease`` is dead.
        lease: the duration of a claim's lease.

    Raises:
        LockHeld: a pass runs, or a message is being sent.
    """
    live = select(passes.c.host, passes.c.pid).where(
        passes.c.finished_at.is_(None), passes.c.heartbeat_at >= now - lease
    )
    sent = select(queue.c.message_id).where(queue.c.state == State.SENDING.value, queue.c.claim_expires_at >= now)
    with database.write() as connection:
        database.take_turn(connection)
        running, sending = connection.execute(live.limit(1)).first(), connection.execute(sent.limit(1)).first()
    if running is None and sending is None:
        return
    what = "a message is being sent" if running is None else f"a pass runs (host {running.host}, pid {running.pid})"
    raise LockHeld(
        f"{what}, and goes on with the settings that it has read. Run this again when that has ended; if its process "
        f"was killed, {lease.total_seconds():.0f} seconds later"
    )


def reassign(database: Database) -> None:
    """Assign the queue to the configured table, whose rows are those of the table to which it belonged. Keep what an
    operator accepted for that table, because it shows by which settings retrycli knows the messages.
    """
    with database.write() as connection:
        database.take_turn(connection)
        connection.execute(update(selection).values(table_name=_full_name(database, connection)))


def accept_selection(database: Database, by: str, at: datetime) -> None:
    """Record that an operator has accepted which messages the settings select from the configured table."""
    with database.write() as connection:
        database.take_turn(connection)
        from retrycli.domain.table_mapping import digests_differ, selection_parts

        parts = selection_parts(str(_full_name(database, connection)), database.mapping)
        before = database.accepted.parts if database.accepted else selection_parts(str(parts["table"]), None)
        if parts["key"] != before["key"]:
            _check_ids(database, connection)
        if births_differ(database):
            _give_births(database, connection)
            connection.execute(update(holds).values(birth=None))  # each covers its row, whatever the row's birth
        if digests_differ(str(parts["table"]), database.mapping, database.accepted):
            _give_digests(database, connection)
        connection.execute(
            update(selection).values(
                accepted=json.dumps(parts, ensure_ascii=False),
                accepted_by=by,
                accepted_at=at,
                text_columns=_text_columns(database),
            )
        )


def _check_ids(database: Database, connection: Connection) -> None:
    """Check that the ids in another column are those by which retrycli knows the messages. A single id may be that of a
    later message. Messages that were made together have one birth, so their tickets are compared, too.

    Raises:
        ConfigurationError: they are not, so the records would become those of other messages.
    """
    m = database.table.all_rows
    same_ticket = case((cast(m.c.ticket_id, Text) == queue.c.ticket, 1), else_=0)
    known = select(queue.c.message_id, queue.c.birth, case((m.c.id.is_not(None), birth_text(m))), same_ticket)
    queued = known.join_from(queue, m, m.c.id == queue.c.message_id, isouter=True)
    same_ticket = case((cast(m.c.ticket_id, Text) == attempts.c.ticket, 1), else_=0)
    tried = select(attempts.c.message_id, attempts.c.birth, birth_text(m), same_ticket).join_from(
        attempts, m, m.c.id == attempts.c.message_id
    )
    found = [
        *connection.execute(queued.where(queue.c.birth != UNSTABLE).limit(SAMPLE)),
        *connection.execute(
            tried.where(attempts.c.id.in_(LAST_TRIED), attempts.c.birth.not_in([UNSTABLE, OF_ANY_TICKET]))
        ),
    ]
    others = [
        number
        for number, before, now, is_of_ticket in found
        if now is None or not is_of_ticket or birth_of(before) != birth_of(as_utf8(now))
    ]
    if len(others) > len(found) / 2:
        raise ConfigurationError(
            f"by {database.table.written.fullname}.{database.table.names['id']}, message {others[0]} would not be "
            "the one that retrycli knows by this id; correct database.columns.id, or accept changes of created_at and "
            "ticket_id before one of the id. If the application has changed its ids, first let passes deliver the "
            "queue by the old ones, then drop the tables whose names begin with retrycli_"
        )


SAMPLE = 1_000  # number of records of each table that are compared with the rows
LAST_TRIED = select(attempts.c.id).order_by(attempts.c.id.desc()).limit(SAMPLE)


def _give_births(database: Database, connection: Connection) -> None:
    """Give each message the birth that the settings read now, in the queue and in the history, together: otherwise it
    would be another message. An id may have belonged to an earlier message, whose attempts keep their births.
    """
    number = func.max(attempts.c.number).label("number")
    found = (
        select(attempts.c.message_id, attempts.c.birth, queue.c.birth.label("queued"), number)
        .join_from(attempts, queue, attempts.c.message_id == queue.c.message_id, isouter=True)
        .where(attempts.c.birth.not_in([UNSTABLE, OF_ANY_TICKET]))
        .group_by(attempts.c.message_id, attempts.c.birth, queue.c.birth)
        .order_by(attempts.c.message_id, number)
    )
    # Without a queue row, the newest attempt is the message's own.
    newest = {row.message_id: row for row in connection.execute(found)}
    for message_id, row in newest.items():
        if row.queued is None or birth_of(row.birth) == birth_of(row.queued):
            _give_birth(
                database, connection, attempts, attempts.c.message_id == message_id, attempts.c.birth == row.birth
            )
    connection.execute(update(queue).values(rebirths=None))
    for table in (queue, own_values):
        _give_birth(database, connection, table, table.c.birth != UNSTABLE)


def _give_birth(database: Database, connection: Connection, table: Table, *these: ColumnElement[bool]) -> None:
    m = database.table.all_rows  # a row that the settings leave out now may come back
    birth = select(birth_text(m)).where(m.c.id == table.c.message_id)
    connection.execute(update(table).where(*these, birth.exists()).values(birth=birth.scalar_subquery()))


def _give_digests(database: Database, connection: Connection) -> None:
    """Give the newest text of each message, in the queue and in the history, the digest that the settings read now.
    Otherwise a text that was delivered, or may have arrived, would be another text, and would be sent again. Leave out
    texts that the application has changed since: by the settings that were accepted before, they have another digest.
    """
    rows = _texts(database.table)
    last = select(attempts.c.message_id, attempts.c.digest).where(id_in(attempts.c.message_id))
    last = last.order_by(attempts.c.message_id, attempts.c.number)
    queued = select(queue.c.message_id, queue.c.digest).where(id_in(queue.c.message_id))
    known = select(attempts.c.message_id).union(select(queue.c.message_id))
    ids = array("q", connection.execute(known).scalars())
    for start in range(0, len(ids), BATCH):
        batch = {"ids": [*ids[start : start + BATCH]]}
        before: dict[int, str | None] = dict(connection.execute(last, batch).all())
        before |= dict(connection.execute(queued.where(queue.c.digest.is_not(None)), batch).all())
        same = _digests_before(database, connection, batch)
        changes = [
            {"of_message": row["id"], "was": was, "now": digest_of(row)}
            for row in rows_of(connection.execute(rows, batch))
            if (was := before.get(row["id"])) is not None and same.get(row["id"], was) == was
        ]
        for statement in NEW_DIGESTS if changes else ():
            connection.execute(statement, changes)


def _texts(table: MessageTable) -> Select[Any]:
    m = table.all_rows
    return select(m.c.id, *identifying(m)).where(id_in(m.c.id))


def _digests_before(database: Database, connection: Connection, batch: Mapping[str, object]) -> dict[int, str]:
    """Return the digests that the settings read which were accepted before; none if they can't read the table now."""
    from retrycli.domain.table_mapping import text_as_accepted
    from retrycli.store.mapped_table import mapped_table

    try:
        rows = _texts(mapped_table(database, text_as_accepted(database.mapping, database.accepted)))
        with connection.begin_nested():
            return {row["id"]: digest_of(row) for row in rows_of(connection.execute(rows, batch))}
    except (SchemaMismatch, DBAPIError):
        return {}


BATCH = 500  # number of messages whose texts are read at a time
NEW_DIGESTS = [
    update(table)
    .where(table.c.message_id == bindparam("of_message"), table.c.digest == bindparam("was"))
    .values(digest=bindparam("now"))
    for table in (attempts, queue)
]


def births_differ(database: Database) -> bool:
    """Return whether the settings read births from another source than those in retrycli's own tables."""
    from retrycli.domain.table_mapping import births_differ

    return births_differ(full_name(database), database.mapping, database.accepted)


def full_name(database: Database) -> str:
    """Return the full name of the configured table."""
    with database.read() as connection:
        return str(_full_name(database, connection))


def require_accepted(database: Database) -> None:
    """Check that an operator has accepted which messages the settings select, if they need to be accepted. Other
    settings may have been accepted since the database was opened. Remember the columns with text or recipients.

    Raises:
        ConfigurationError: nobody has accepted them, other ones were accepted, or such a column has vanished.
    """
    check_selection(database)
    if (why := objection_to(database)) is not None:
        raise ConfigurationError(why)
    if (found := _text_columns(database)) != database.text_columns:
        with database.write() as connection:
            connection.execute(update(selection).values(text_columns=found))


def objection_to(database: Database) -> str | None:
    """Return why passes must not send by the settings; None if they may. Call `check_selection` first."""
    if database.mapping is not None or database.accepted is not None:
        from retrycli.domain.table_mapping import objection  # most tables need no acceptance

        if (why := objection(full_name(database), database.mapping, database.accepted)) is not None:
            return why
    if not (gone := _vanished(database)):
        return None
    return (
        f"{database.named_place} no longer has the column {' and '.join(gone)}, so messages would be sent without it. "
        f"If the application has renamed it, set database.columns.{gone[0]}; if it is no longer needed, run "
        "`retrycli table accept`"
    )


def _full_name(database: Database, connection: Connection) -> str | None:
    if not database.is_sqlite:
        return connection.execute(IN_POSTGRESQL, {"name": database.qualified_table}).scalar()
    # A SQLite file has one schema, `main`. In its table names, the case of ASCII letters does not matter.
    return "".join([letter.lower() if letter.isascii() else letter for letter in database.table_name])


def _remembered(connection: Connection) -> str | None:
    return connection.execute(select(selection.c.table_name)).scalar()


def is_clock_ahead(database: Database, now: datetime) -> bool:
    """Return whether a recorded time lies more than `LEEWAY` in the future."""
    with database.read() as connection:
        return time_ahead(connection, now) > LEEWAY


def time_ahead(connection: Connection, now: datetime) -> timedelta:
    """Return how far the latest recorded time lies in the future; negative if it lies in the past."""
    return max((time - now for time in connection.execute(LATEST).one() if time is not None), default=timedelta(0))


def has_live_pass(database: Database, beat_since: datetime) -> bool:
    """Return whether a pass that no operator started is unfinished, and has had a heartbeat since a given time."""
    by_scheduler = or_(passes.c.started_by.is_(None), passes.c.started_by != StartedBy.PERSON.value)
    live = select(passes.c.id).where(passes.c.finished_at.is_(None), passes.c.heartbeat_at >= beat_since, by_scheduler)
    return database.scalar(live.limit(1)) is not None
