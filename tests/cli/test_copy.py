"""The ``db copy`` command copies retrycli's own tables after an application has moved to another database."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine, insert, make_url, select, text

from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.config.settings import DatabaseSettings, RunSettings, Settings
from retrycli.operations import run_pass, wiring
from retrycli.operations.sandbox import Behaviour, Sandbox
from retrycli.store import schema
from retrycli.store.copy import COPIED
from retrycli.system.pass_lock import Holder, PassLock
from tests import postgresql
from tests.cli.api import BUSY, REJECTS, TAKES, Scripted
from tests.cli.command import Cli, end, wait_until
from tests.store.application import NOON, Application

NOBODY = "http://127.0.0.1:9"
TABLES = [each.name for each in COPIED]


@dataclass(frozen=True)
class Move:
    """An application's move from an old database to a new one."""

    cli: Cli
    old: Application
    new: Application

    def copy(self, *args: str) -> subprocess.CompletedProcess[str]:
        return self.cli("db", "copy", "--from", self.old.url, "--to", self.new.url, *args)

    def json(self, *args: str, code: int = 0) -> dict[str, Any]:
        return self.cli.json("db", "copy", "--from", self.old.url, "--to", self.new.url, *args, code=code)

    def refusal(self, *args: str, code: int) -> str:
        """Check that a copy is refused and writes nothing, and return its error."""
        before = all_of(self.new)
        done = self.copy(*args)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert all_of(self.new) == before
        assert done.stderr.count("\n") == 1
        return done.stderr


@contextmanager
def database(folder: Path, kind: str, template: str | None = None) -> Iterator[str]:
    """Create a database, empty or as a copy of another."""
    if kind == "postgresql":
        with postgresql.database(template) as url:
            yield url
        # The default lock file of a server's database is outside the test's folder.
        wiring.lock_path(settings_at(url, NOBODY)).unlink(missing_ok=True)
        return
    file = folder / f"{uuid.uuid4().hex}.db"
    file.touch()
    if template is not None:
        shutil.copyfile(str(make_url(template).database), file)
    yield f"sqlite:///{file}"


Templates = Mapping[tuple[str, str], str]


@pytest.fixture(scope="module")
def templates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Templates]:
    """Provide databases of each kind with the application's tables; the old ones have retrycli's tables too."""
    folder = tmp_path_factory.mktemp("templates")
    with ExitStack() as until_the_end:
        made = {}
        for kind, age in product(("sqlite", "postgresql"), ("old", "new")):
            url = until_the_end.enter_context(database(folder, kind))
            Application(url).close()
            if age == "old":
                with wiring.open_database(settings_at(url, NOBODY)):
                    pass
            made[kind, age] = url
        yield made


@contextmanager
def moving(cli: Cli, templates: Templates, old: str, new: str) -> Iterator[Move]:
    """Provide the application's tables in two databases of these kinds, and retrycli's in the old one."""
    with (
        database(cli.cwd, old, templates[old, "old"]) as old_url,
        database(cli.cwd, new, templates[new, "new"]) as new_url,
        closing(Application(old_url, made=True)) as there,
        closing(Application(new_url, made=True)) as here,
    ):
        yield Move(cli, there, here)


@pytest.fixture
def move(cli: Cli, templates: Templates) -> Iterator[Move]:
    """Provide a move from SQLite to PostgreSQL, the most common one."""
    with moving(cli, templates, "sqlite", "postgresql") as made:
        yield made


@pytest.fixture
def between_files(cli: Cli, templates: Templates) -> Iterator[Move]:
    """Provide a move between SQLite files, which is fast, for tests that do not depend on the engine."""
    with moving(cli, templates, "sqlite", "sqlite") as made:
        yield made


def move_data(old: Application, new: Application) -> None:
    """Copy the application's rows with their ids, but none of retrycli's tables."""
    engine = create_engine(old.url)
    with engine.connect() as connection:
        new.add_all([dict(row) for row in connection.execute(select(old.table)).mappings()])
    engine.dispose()


def all_of(application: Application) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows that `db copy` copies, sorted, by table; omit missing tables."""
    engine = create_engine(application.url)
    with closing(engine.connect()) as connection:
        there = {name for name in TABLES if engine.dialect.has_table(connection, name)}
        found = {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in COPIED
            if table.name in there
        }
    engine.dispose()
    return found


def count(application: Application, name: str) -> int:
    return len(all_of(application).get(name, ()))


def put(application: Application, name: str, *rows: dict[str, Any]) -> None:
    engine = create_engine(application.url)
    with engine.begin() as connection:
        connection.execute(insert(schema.metadata.tables[name]), list(rows))
    engine.dispose()


def settings_at(url: str, api: str) -> Settings:
    """Return settings for one request at a time, so that a scripted API knows which message it answers."""
    return Settings(
        database=DatabaseSettings(url=url), gateway=RoutedGatewaySettings(base_url=api), run=RunSettings(concurrency=1)
    )


HOURS_AGO = datetime.now(UTC) - timedelta(hours=3)
PROCESS_DIED = timedelta(minutes=13)


def fill(application: Application) -> None:
    """Run a pass whose clock is three hours behind, and add two more messages.

    The pass sent message 1, escalated 2, and rescheduled 3 and 4. A host died while it sent 5. No pass has seen 6 yet.
    """
    with Scripted(TAKES, REJECTS, BUSY) as api:
        application.add_all([{}, {}, {}, {}])
        here = replace(wiring.DEFAULT_RUNTIME, now=lambda: HOURS_AGO)
        run_pass.run_once(settings_at(application.url, api.url), runtime=here)
    application.add()
    queued = {
        "message_id": 5,
        "state": "sending",
        "next_attempt_at": HOURS_AGO,
        "delivery_key": "the key of 5",
        "claimed_by": "a host that died",
        "claim_expires_at": HOURS_AGO + PROCESS_DIED,
        "first_failed_at": HOURS_AGO,
        "unknown_count": 0,
    }
    put(application, "retrycli_queue", queued)
    put(application, "retrycli_attempts", {"message_id": 5, "number": 1, "made_by": "pass", "started_at": HOURS_AGO})
    application.add()
    put(application, "retrycli_acts", {"message_id": 2, "at": HOURS_AGO, "by": "ana", "act": "acknowledge"})


# -- the move ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("sqlite", "postgresql"),
        ("postgresql", "sqlite"),
        pytest.param("sqlite", "sqlite", marks=pytest.mark.long),
        pytest.param("postgresql", "postgresql", marks=pytest.mark.long),
    ],
)
def test_the_next_pass_continues_in_the_other_database(cli: Cli, templates: Templates, old: str, new: str) -> None:
    """After the manual's steps, the next pass sends due messages with their old keys, and repeats no delivery."""
    with moving(cli, templates, old, new) as move, Sandbox(Behaviour(), rng=Random(0)) as api:
        fill(move.old)
        before = all_of(move.old)
        keys = {queued[0]: queued[3] for queued in before["retrycli_queue"]}
        at_old = cli.having({"RETRYCLI_DATABASE__URL": move.old.url, "RETRYCLI_GATEWAY__BASE_URL": api.url})
        at_new = at_old.having({"RETRYCLI_DATABASE__URL": move.new.url})
        assert at_old("pause", "--reason", "we move").returncode == 0
        move_data(move.old, move.new)
        done = at_old.json("db", "copy", "--to", move.new.url)
        assert (done["verified"], done["paused"]) == (True, True)
        assert [table["table"] for table in done["tables"]] == TABLES
        assert all_of(move.new) == all_of(move.old)

        assert at_new.json("run-once")["result"] == "paused"
        assert at_new("resume").returncode == 0
        # The outcome of message 5 is unknown, so it waits for its next attempt.
        first = at_new.json("run-once")
        assert (first["sent"], first["unknown"], first["escalated"]) == (3, 1, 0)
        assert at_new.json("run-once")["sent"] == 0
        statuses = {message_id: row["status"] for message_id, row in move.new.rows().items()}
        assert statuses == {1: "sent", 2: "failed", 3: "sent", 4: "sent", 5: "failed", 6: "sent"}
        assert Counter(request.key for request in api.received).most_common(1)[0][1] == 1
        assert {keys[3], keys[4]} < {request.key for request in api.received}
        assert next(key for id_, _, _, key, *_ in all_of(move.new)["retrycli_queue"] if id_ == 5) == "the key of 5"
        [told] = at_new.json("show", "2")["acts"]
        assert (told["by"], told["act"]) == ("ana", "acknowledge")


def test_reports_the_result_for_each_table_and_the_next_step(move: Move) -> None:
    fill(move.old)
    move_data(move.old, move.new)
    screen = move.cli.on_terminal("db", "copy", "--from", move.old.url, "--to", move.new.url)
    assert screen.returncode == 0
    lines = [line.split() for line in screen.text.splitlines()]
    assert ["retrycli_queue", "4", "4", "4", "0", "0", "verified"] in lines
    assert max(map(len, screen.text.splitlines())) <= 80
    assert "Run no more passes on the old database" in screen.words
    piped = move.copy()
    assert "retrycli_queue\t4\t4\t0\t0\t0\tverified\n" in piped.stdout
    assert len(piped.stdout.splitlines()) == len(TABLES)
    assert piped.stderr == ""


def test_a_second_copy_writes_only_new_rows(move: Move) -> None:
    fill(move.old)
    move_data(move.old, move.new)
    move.json()
    assert {table[kind] for table in move.json()["tables"] for kind in ("added", "changed", "removed")} == {0}
    assert move.cli("pause", env={"RETRYCLI_DATABASE__URL": move.old.url}).returncode == 0
    again = {table["table"]: table for table in move.json()["tables"]}
    assert again["retrycli_pause"]["added"] == 1
    assert all_of(move.new) == all_of(move.old)
    held = move.cli("pause", "--ticket", "4711", "--type", "customer", env={"RETRYCLI_DATABASE__URL": move.old.url})
    assert held.returncode == 0
    again = {table["table"]: table for table in move.json()["tables"]}
    assert again["retrycli_holds"]["added"] == 2
    assert all_of(move.new) == all_of(move.old)


@pytest.mark.parametrize("named", ["--from", "--to"])
def test_the_settings_may_name_one_of_the_two_databases(between_files: Move, named: str) -> None:
    """The suggested next step depends on which of the two databases the settings name."""
    fill(between_files.old)
    move_data(between_files.old, between_files.new)
    given, set_ = between_files.old.url, between_files.new.url
    if named == "--to":
        given, set_ = set_, given
    known = between_files.cli.having({"RETRYCLI_DATABASE__URL": set_})
    screen = known.on_terminal("db", "copy", named, given)
    assert screen.returncode == 0
    assert all_of(between_files.new) == all_of(between_files.old)
    change = "" if named == "--from" else "set database.url to the value of --to, then "
    assert screen.text.endswith(f"\nNext: {change}`retrycli doctor`\n")


def test_the_new_table_may_be_in_a_schema(cli: Cli, templates: Templates) -> None:
    """A SQLite file has no schemas, so the old table must be found without the schema in its name."""
    with moving(cli, templates, "sqlite", "postgresql") as move:
        fill(move.old)
        there = Application(move.new.url, "helpdesk.pending_messages")
        known = cli.having({"RETRYCLI_DATABASE__TABLE": "helpdesk.pending_messages"})
        args = ("db", "copy", "--from", move.old.url, "--to", move.new.url)
        assert "helpdesk.pending_messages in postgresql" in known(*args).stderr
        move_data(move.old, there)
        assert known.json(*args)["verified"]
        there.close()


def selected(application: Application) -> list[str]:
    engine = create_engine(application.url)
    with closing(engine.connect()) as connection:
        found = [*connection.execute(select(schema.selection.c.table_name)).scalars()]
    engine.dispose()
    return found


def test_each_sides_queue_belongs_to_its_own_table(move: Move) -> None:
    """On PostgreSQL the table's full name includes its schema, so the two names differ."""
    fill(move.old)
    move_data(move.old, move.new)
    assert move.json()["verified"]
    assert (selected(move.old), selected(move.new)) == (["pending_messages"], ["public.pending_messages"])


@pytest.mark.parametrize("end", ["old", "new"])
def test_refuses_a_database_whose_queue_belongs_to_another_table(between_files: Move, end: str) -> None:
    fill(between_files.old)
    move_data(between_files.old, between_files.new)
    between_files.json()
    side = between_files.old if end == "old" else between_files.new
    side.sql("UPDATE retrycli_selection SET table_name = 'outbox'")
    refused = between_files.refusal(code=78)
    assert "belongs to the table outbox, but database.table is pending_messages" in refused
    assert side.url.removeprefix("sqlite:///") in refused


RIGHTS = "SELECT, UPDATE (status, retry_count, last_error, sent_at, subject, body, recipient_email)"


def test_the_role_of_the_passes_is_sufficient(move: Move, sandbox: Sandbox) -> None:
    """With the manual's rights the role can create retrycli's tables, fill them, and advance their id sequences."""
    fill(move.old)
    move_data(move.old, move.new)
    name = f"retrycli_{uuid.uuid4().hex[:12]}"
    for statement in (
        f"CREATE ROLE {name} LOGIN",
        f"GRANT {RIGHTS} ON pending_messages TO {name}",
        f"GRANT USAGE, CREATE ON SCHEMA public TO {name}",
    ):
        move.new.sql(statement)
    try:
        url = make_url(move.new.url).set(username=name).render_as_string(hide_password=False)
        cli = move.cli.having({"RETRYCLI_RUN__LOCK_FILE": str(move.cli.cwd / "retrycli.lock")})
        assert cli.json("db", "copy", "--from", move.old.url, "--to", url)["verified"]
        known = cli.having({"RETRYCLI_DATABASE__URL": url, "RETRYCLI_GATEWAY__BASE_URL": sandbox.url})
        assert known.json("run-once")["sent"] == 3
    finally:
        move.new.sql(f"DROP OWNED BY {name}")
        move.new.sql(f"DROP ROLE {name}")


# -- cut short, and large ----------------------------------------------------------------------------------------------


def many(application: Application, attempts: int, *, error: str = "HTTP 503") -> None:
    """Add attempts for messages that were sent long ago."""
    application.sql(
        "INSERT INTO retrycli_attempts (id, message_id, number, made_by, started_at, finished_at, outcome, error) "
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number) "
        "SELECT i, i, 1, 'pass', '2025-01-02 03:04:05.000000', '2025-01-02 03:04:06.000000', 'transient', :error "
        "FROM n",
        number=attempts,
        error=error,
    )


def begun(application: Application) -> int:
    """Return the number of copied attempts that other connections can see."""
    engine = create_engine(application.url)
    with closing(engine.connect()) as connection:
        there = engine.dialect.has_table(connection, "retrycli_attempts")
        found = connection.execute(text("SELECT count(*) FROM retrycli_attempts")).scalar_one() if there else 0
    engine.dispose()
    return int(found)


ATTEMPTS = 30_000


@pytest.mark.parametrize("new", ["postgresql", pytest.param("sqlite", marks=pytest.mark.long)])
def test_a_killed_copy_can_be_repeated(cli: Cli, templates: Templates, new: str) -> None:
    """The copy is killed twice, and the last run writes only the missing rows."""
    with moving(cli, templates, "sqlite", new) as move:
        fill(move.old)
        move.old.sql("DELETE FROM retrycli_attempts")
        many(move.old, ATTEMPTS)
        move_data(move.old, move.new)
        arrived = 0
        for _ in range(2):
            process = cli.start("db", "copy", "--from", move.old.url, "--to", move.new.url)
            wait_until(lambda: begun(move.new) > arrived, process)  # noqa: B023  the lambda is called at once
            process.send_signal(signal.SIGKILL)
            assert end(process).returncode == -signal.SIGKILL
            arrived = begun(move.new)
        assert 0 < arrived < ATTEMPTS
        done = move.json()
        [attempts] = [table for table in done["tables"] if table["table"] == "retrycli_attempts"]
        assert (attempts["added"], attempts["changed"], attempts["removed"]) == (ATTEMPTS - arrived, 0, 0)
        assert done["verified"]
        assert all_of(move.new) == all_of(move.old)


def test_no_pass_runs_during_the_copy(cli: Cli, templates: Templates) -> None:
    """Passes on both databases are skipped. The old database records its skipped pass, which is copied too."""
    attempt = {"message_id": 1, "number": 1, "made_by": "pass", "started_at": NOON, "finished_at": NOON}
    with moving(cli, templates, "postgresql", "postgresql") as move:
        put(move.old, "retrycli_attempts", *([attempt] * 10_000))
        known = cli.having({"RETRYCLI_GATEWAY__BASE_URL": NOBODY, "RETRYCLI_RUN__WAIT_LOCK_SECONDS": "0"})
        process = cli.start("db", "copy", "--from", move.old.url, "--to", move.new.url)
        wait_until(lambda: begun(move.new) > 0, process)
        process.send_signal(signal.SIGSTOP)
        skipped = [known("run-once", env={"RETRYCLI_DATABASE__URL": side.url}) for side in (move.old, move.new)]
        process.send_signal(signal.SIGCONT)
        assert end(process).returncode == 0
        assert [result.returncode for result in skipped] == [75, 75]
        assert f"pid {process.pid} on" in skipped[0].stderr
        assert count(move.old, "retrycli_passes") == 1
        assert all_of(move.new) == all_of(move.old)


MOST_MEMORY = 1.2
TELLS_ITS_PEAK = """
import atexit, sys
from retrycli.__main__ import main
atexit.register(lambda: print(open("/proc/self/status").read(), file=sys.stderr))
main()
"""


@pytest.mark.slow
@pytest.mark.long
def test_memory_does_not_grow_with_the_tables(cli: Cli, templates: Templates) -> None:
    """Copying 100,000 attempts must take hardly more memory than copying 4,000."""
    told = replace(cli, program=(sys.executable, "-c", TELLS_ITS_PEAK))
    peaks: list[int] = []
    for attempts in (4_000, 100_000):
        with moving(told, templates, "sqlite", "postgresql") as move:
            many(move.old, attempts, error="x" * 1000)
            done = move.copy()
            assert done.returncode == 0, done.stderr
            assert begun(move.new) == attempts
            peaks += map(int, re.findall(r"VmHWM:\s+(\d+) kB", done.stderr))
    small, large = peaks
    assert large <= MOST_MEMORY * small, peaks


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_requires_one_of_the_two_databases(cli: Cli) -> None:
    done = cli("db", "copy")
    assert done.returncode == 2
    assert "database.url" in done.stderr


def test_refuses_to_copy_a_database_to_itself(between_files: Move) -> None:
    """A symbolic link is a second name for the same file."""
    link = between_files.cli.cwd / "link.db"
    link.symlink_to(str(make_url(between_files.old.url).database))
    before = all_of(between_files.old)
    done = between_files.cli("db", "copy", "--from", between_files.old.url, "--to", "sqlite:///link.db")
    assert done.returncode == 78
    assert (
        done.stderr
        == "retrycli: --from and --to (by default database.url) are the same database, link.db; change one of them\n"
    )
    assert all_of(between_files.old) == before


def test_recognises_the_same_server_under_different_urls(cli: Cli, templates: Templates) -> None:
    with moving(cli, templates, "postgresql", "sqlite") as move:
        again = move.old.url.replace("postgresql+psycopg://", "postgresql://")
        done = cli("db", "copy", "--from", move.old.url, "--to", again)
        assert done.returncode == 78
        assert "are the same database, postgresql://" in done.stderr


def test_refuses_a_source_without_retrycli_tables(between_files: Move) -> None:
    swapped = replace(between_files, old=between_files.new, new=between_files.old)
    assert swapped.refusal(code=78) == (
        f"retrycli: {make_url(between_files.new.url).database} has no retrycli tables to copy; check --from\n"
    )


@pytest.mark.parametrize(
    ("version", "remedy"),
    [("0001", "run `retrycli db upgrade` on that database"), ("9999", "install a newer retrycli")],
)
def test_refuses_a_source_of_another_version(between_files: Move, version: str, remedy: str) -> None:
    between_files.old.sql(f"UPDATE retrycli_version SET version_num = '{version}'")
    words = between_files.refusal(code=78)
    assert words.endswith(f"are at version {version}, but this program needs {schema.HEAD}; {remedy}\n")


def test_refuses_a_target_of_a_newer_version(between_files: Move) -> None:
    between_files.json()
    between_files.new.sql("UPDATE retrycli_version SET version_num = '9999'")
    assert "version 9999" in between_files.refusal(code=78)


def test_creates_no_tables_in_a_target_without_the_applications_table(cli: Cli, between_files: Move) -> None:
    with database(cli.cwd, "postgresql") as url:
        done = cli("db", "copy", "--from", between_files.old.url, "--to", url)
        assert done.returncode == 78
        assert done.stderr.endswith(
            "check --to and database.table. If the application's data is not there yet, move it first\n"
        )
        engine = create_engine(url)
        with engine.connect() as connection:
            assert engine.dialect.get_table_names(connection) == []
        engine.dispose()


def test_counts_messages_that_were_not_moved(move: Move) -> None:
    """A pass on the new database would treat the missing messages as deleted, so nothing is copied."""
    fill(move.old)
    move_data(move.old, move.new)
    move.new.delete(3, 5)
    words = move.refusal(code=78)
    assert "(2 in total, the first has id 3)" in words
    assert "are missing from pending_messages in postgresql" in words
    assert "move all of the application's data first" in words
    assert count(move.new, "retrycli_queue") == 0


@pytest.mark.parametrize("side", ["old", "new"])
def test_refuses_while_messages_are_being_sent(between_files: Move, side: str) -> None:
    """The lock does not show a pass on another host or a manual attempt, but a claim does."""
    fill(between_files.old)
    move_data(between_files.old, between_files.new)
    between_files.json()
    until = (datetime.now(UTC) + timedelta(minutes=5)).replace(microsecond=0)
    held = getattr(between_files, side)
    held.sql(
        "UPDATE retrycli_queue SET state = 'sending', claim_expires_at = :until WHERE message_id = 3",
        until=until.replace(tzinfo=None).isoformat(sep=" ", timespec="microseconds"),
    )
    words = between_files.refusal(code=75)
    assert f"messages in {make_url(held.url).database} are claimed" in words
    assert f"expires at {until:%Y-%m-%dT%H:%M:%SZ}" in words
    assert "`retrycli pause`" in words


def test_refuses_while_a_pass_holds_the_lock(between_files: Move) -> None:
    lock = PassLock(wiring.lock_path(settings_at(between_files.old.url, NOBODY)))
    lock.acquire(Holder(4711, "mill", NOON), wait_seconds=0, now=lambda: NOON, sleep=lambda _: None)
    patient = replace(between_files, cli=between_files.cli.having({"RETRYCLI_RUN__WAIT_LOCK_SECONDS": "0"}))
    assert "another pass holds the lock" in patient.refusal(code=75)
    lock.release()
    between_files.json()


def test_both_databases_may_share_one_lock(between_files: Move) -> None:
    lock = {"RETRYCLI_RUN__LOCK_FILE": str(between_files.cli.cwd / "retrycli.lock")}
    assert replace(between_files, cli=between_files.cli.having(lock)).json()["verified"]


def test_refuses_a_newer_target_unless_forced(move: Move, sandbox: Sandbox) -> None:
    """A copy repeated by mistake, for example from a shell's history, would undo everything since the move."""
    fill(move.old)
    move_data(move.old, move.new)
    move.json()
    known = {"RETRYCLI_DATABASE__URL": move.new.url, "RETRYCLI_GATEWAY__BASE_URL": sandbox.url}
    assert move.cli("run-once", env=known).returncode == 0
    words = move.refusal(code=78)
    assert "would undo" in words
    assert "--overwrite" in words
    assert move.json("--overwrite")["verified"]
    assert all_of(move.new) == all_of(move.old)
    # The queue lists messages that are sent by now, and the next pass must not send them again.
    before = len(sandbox.received)
    assert move.cli.having(known).json("run-once")["sent"] == 0
    assert len(sandbox.received) == before


def test_differing_counts_are_a_failure(between_files: Move) -> None:
    """Here the target drops rows; in practice another program would be writing."""
    fill(between_files.old)
    move_data(between_files.old, between_files.new)
    assert between_files.cli("db", "upgrade", env={"RETRYCLI_DATABASE__URL": between_files.new.url}).returncode == 0
    between_files.new.sql("CREATE TRIGGER swallow BEFORE INSERT ON retrycli_acts BEGIN SELECT RAISE(IGNORE); END")
    done = between_files.copy()
    assert done.returncode == 3
    assert "retrycli_acts\t1\t0\t1\t0\t0\tdiffer\n" in done.stdout
    assert done.stderr.startswith("retrycli: the counts differ")
    tables = {table["table"]: table["verified"] for table in between_files.json(code=3)["tables"]}
    assert [name for name, verified in tables.items() if not verified] == ["retrycli_acts"]


def test_a_row_that_does_not_fit_is_named(move: Move) -> None:
    put(move.old, "retrycli_acts", {"message_id": 2, "at": NOON, "by": "ana", "act": "note", "detail": "a\0b"})
    done = move.copy()
    assert (done.returncode, done.stdout) == (78, "")
    assert 'detail contains a NUL character, where "id" = 1.' in done.stderr
    assert 'UPDATE retrycli_acts SET "detail" = \'…\' WHERE "id" = 1, and run this again\n' in done.stderr


# -- URLs and passwords ------------------------------------------------------------------------------------------------

WRONG = {
    "sqlite:///gone/agent.db": (69, "check {}"),
    "sqlite://": (78, "{} names no file"),
    "mysql://ana:hunter2@db.example.com/desk": (78, "{}: write sqlite:///FILE or postgresql://"),
    "postgresql://ana:hunter2@db.example.com:port/desk": (78, "{} is not a valid database URL"),
    "postgresql://ana:hunter2@127.0.0.1:9/desk?password=hunter2": (69, "127.0.0.1"),
}


@pytest.mark.parametrize("option", ["--from", "--to"])
@pytest.mark.parametrize("url", WRONG)
def test_an_invalid_url_is_reported_with_its_option(between_files: Move, option: str, url: str) -> None:
    good = {"--from": between_files.old.url, "--to": between_files.new.url}
    done = between_files.cli("db", "copy", *(word for pair in {**good, option: url}.items() for word in pair))
    code, words = WRONG[url]
    assert (done.returncode, done.stdout) == (code, "")
    assert words.format(option) in done.stderr
    assert "hunter2" not in done.stderr


def test_a_password_is_never_shown(move: Move) -> None:
    """A URL may contain a password before the host or in the query."""
    fill(move.old)
    move_data(move.old, move.new)
    url = make_url(move.new.url).set(password="hunter2").update_query_dict({"password": "hunter3"})
    args = ("db", "copy", "--from", move.old.url, "--to", url.render_as_string(hide_password=False))
    cli = move.cli.having({"RETRYCLI_RUN__LOCK_FILE": str(move.cli.cwd / "retrycli.lock")})
    said = [cli(*args, "--json"), cli(*args, "--from", "sqlite:///gone.db"), cli("--debug", *args)]
    assert [result.returncode for result in said] == [0, 69, 0]
    texts = [result.stdout + result.stderr for result in said] + [cli.on_terminal(*args).text]
    move.new.delete(3)
    texts.append(cli("--debug", *args).stderr)
    assert "Traceback" in texts[-1]
    assert not [text for text in texts if "hunter" in text]
