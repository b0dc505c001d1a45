"""What the checks say, each of a machine on which one thing is wrong: a folder with a real database in it."""

from __future__ import annotations

import os
import pwd
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname

import pytest

from retrycli.config.loader import Loaded, load
from retrycli.domain.passes import PassResult, PassSummary
from retrycli.operations.doctor import database, examine
from retrycli.operations.doctor import host as machine
from retrycli.operations.doctor import notifications as people
from retrycli.operations.doctor import scheduler as calling
from retrycli.operations.doctor.context import Context as Case
from retrycli.operations.doctor.context import Finding, Level, failed
from retrycli.operations.wiring import STATE_FOLDER, open_database
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.system.host import Finished, Host
from retrycli.system.pass_lock import Holder, PassLock
from tests.users import OURS, SHARED, THEIRS, as_user, need_root, open_place

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONFIG = '[database]\nurl = "sqlite:///agent.db"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n'
LINE = "*/15 * * * * desk retrycli run-once\n"


@dataclass
class Desk:
    """A machine with retrycli set up on it, at noon."""

    root: Path
    crontab: str = ""
    uid: int = 0

    @property
    def config(self) -> Path:
        return self.root / "retrycli.toml"

    @property
    def host(self) -> Host:
        return Host(root=self.root, home=self.root / "home", uid=self.uid, run=self._run)

    def case(self, *, more: str = "", environment: dict[str, str] | None = None) -> Case:
        self.config.write_text(CONFIG + more)
        return Case(load(self.config, environment or {}), self.host, lambda: NOON, program=(self.root / "program",))

    def loaded(self) -> Loaded:
        return self.case().loaded

    def with_passes(self, *begun: timedelta) -> None:
        """Passes that began so long ago."""
        with open_database(self.loaded().settings) as opened:
            for number, ago in enumerate(begun):
                ledger = Ledger(opened)
                ledger.start_pass(f"p{number}", host="box", pid=1, now=NOON - ago)
                ledger.finish_pass(PassSummary(f"p{number}", PassResult.COMPLETED), NOON - ago)

    def in_database(self, check: Callable[[Case, Database], Iterable[Finding]], *, more: str = "") -> list[Finding]:
        case = self.case(more=more)
        opened = Database(case.settings.database.url, case.settings.database.table, patience=0)
        try:
            return list(check(case, opened))
        finally:
            opened.close()

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.root / "agent.db")) as connection, connection:
            connection.execute(statement)

    def _run(self, command: Sequence[str], _given: bytes) -> Finished:
        return subprocess.CompletedProcess(command, 0, self.crontab.encode(), b"")


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    made = Desk(tmp_path)
    made.execute(
        "CREATE TABLE pending_messages (id INTEGER PRIMARY KEY, ticket_id TEXT, message_type TEXT, "
        "subject TEXT, body TEXT, status TEXT, retry_count INTEGER, last_error TEXT, updated_at TEXT)"
    )
    (tmp_path / "agent.db").chmod(0o600)
    made.config.touch(0o600)
    (tmp_path / "etc/cron.d").mkdir(parents=True)
    for number, name in enumerate(("init", "cron"), 1):
        (tmp_path / f"proc/{number}").mkdir(parents=True)
        (tmp_path / f"proc/{number}/status").write_text(f"Name:\t{name}\nNSpid:\t{number}\n")
    return made


@pytest.mark.parametrize(
    ("made", "more", "level"),
    [
        ("2023-05-06 07:08:09", "", Level.WARNING),
        ("2023-05-06 07:08:09", "[schedule]\nexpires_after_hours = 48\n", Level.OK),
        ("2026-03-01 07:08:09", "", Level.OK),
    ],
)
def test_the_age_of_the_oldest_failed_message_is_told(desk: Desk, made: str, more: str, level: Level) -> None:
    """Rows of years ago would go out without a word. A sent one is not counted, nor an escalated one."""
    assert desk.in_database(database.age) == []
    desk.execute("ALTER TABLE pending_messages ADD COLUMN created_at TEXT")
    desk.with_passes()
    rows = {1: ("failed", made), 2: ("sent", "2019-01-01"), 3: ("failed", "2020-01-01"), 4: ("failed", "2026-03-02")}
    for number, (status, at) in rows.items():
        desk.execute(f"INSERT INTO pending_messages (id, status, created_at) VALUES ({number}, '{status}', '{at}')")
    desk.execute(
        "INSERT INTO retrycli_queue (message_id, state, delivery_key, first_failed_at, unknown_count) "
        "VALUES (3, 'escalated', 'k', '2026-01-01 00:00:00.000000', 0)"
    )
    found = only(desk.in_database(database.age, more=more), level, "age")
    assert made[:10] in found.found
    assert level is Level.OK or "schedule.expires_after_hours" in str(found.remedy)


def only(findings: Iterable[Finding], level: Level, name: str) -> Finding:
    """The one finding, which is of that level."""
    [found] = findings
    assert (found.level, found.name) == (level, name)
    assert (found.remedy is None) is (level is Level.OK)
    return found


# The settings and the files.


def test_settings_from_a_file_are_well_and_those_of_the_environment_are_lost_on_cron(desk: Desk) -> None:
    only(machine.settings(desk.case()), Level.OK, "settings")
    case = desk.case(environment={"RETRYCLI_RUN__LIMIT": "5"})
    found = only(machine.settings(case), Level.WARNING, "settings")
    assert "sets run.limit, which cron does not pass on" in found.found


def test_an_unknown_variable_is_a_finding_and_the_doctor_does_not_die_of_it(desk: Desk) -> None:
    desk.case()
    found = only(examine(desk.config, {"RETRYCLI_GATEWAY__TOKNE": "s3cret"}), Level.FAILURE, "settings")
    assert found.found == "gateway.tokne (environment RETRYCLI_GATEWAY__TOKNE): no such setting"


def test_closed_files_are_well(desk: Desk) -> None:
    (desk.root / "token").touch(0o600)
    (desk.root / "token").write_text("s3cret")
    only(machine.files(desk.case(more='auth = "bearer"\ntoken_file = "token"\n')), Level.OK, "files")


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ('token = "s3cret"\n', "retrycli.toml"),
        ('password = "s3cret"\n', "retrycli.toml"),
        ('token_file = "token"\n', "token"),
        ('[notify]\nurls = ["mailto://ana:s3cret@mail.example.com"]\n', "retrycli.toml"),
    ],
)
def test_a_secret_that_every_user_may_read_is_a_failure(desk: Desk, more: str, path: str) -> None:
    (desk.root / "token").touch(0o640)
    (desk.root / "token").write_text("s3cret")
    case = desk.case(more=more)
    only(machine.files(case), Level.OK, "files")
    (desk.root / path).chmod(0o644)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert found.remedy == f"`chmod o-rwx {desk.root / path}`"
    assert "s3cret" not in found.found


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("postgresql://ana:s3cret@db/desk", Level.FAILURE),
        ("postgresql://ana@corp:s3cret@db/desk", Level.FAILURE),
        ("postgresql://ana@db/desk?password=s3cret", Level.FAILURE),
        ("postgresql://ana@db/desk?sslmode=require&sslpassword=s3cret", Level.FAILURE),
        ("postgresql://ana@db:5432/desk?passfile=pass", Level.OK),
    ],
)
def test_a_password_in_a_databases_url_is_a_secret(desk: Desk, url: str, level: Level) -> None:
    desk.config.write_text(CONFIG.replace("sqlite:///agent.db", url) + '[run]\nlock_file = "lock"\n')
    desk.config.chmod(0o644)
    only(machine.files(Case(load(desk.config, {}), desk.host, lambda: NOON, program=())), level, "files")


def test_a_config_without_a_secret_may_be_read(desk: Desk) -> None:
    desk.config.chmod(0o644)
    only(machine.files(desk.case(more='username = "agent"\n')), Level.OK, "files")


OURS_ALONE = ("retrycli.toml", "token", "own.toml", "ca.pem", "program")
SHARED_WITH_THE_APPLICATION = ("agent.db", "agent.db.retrycli.lock", "attachments")
RELIES_ON_ALL = (
    'auth = "bearer"\ntoken_file = "token"\npreset = "own.toml"\nca_file = "ca.pem"\nattachments_dir = "attachments"\n'
)


def relying_on_all(desk: Desk) -> Case:
    """A case that relies on each kind of file, all of them root's."""
    for name in ("token", "own.toml", "ca.pem", "program", "agent.db.retrycli.lock"):
        (desk.root / name).touch(0o600)
    (desk.root / "token").write_text("s3cret")
    (desk.root / "attachments").mkdir()
    return desk.case(more=RELIES_ON_ALL)


@pytest.mark.parametrize("name", [*OURS_ALONE, *SHARED_WITH_THE_APPLICATION])
def test_a_file_that_every_user_may_change_is_a_failure(desk: Desk, name: str) -> None:
    case, path = relying_on_all(desk), desk.root / name
    only(machine.files(case), Level.OK, "files")
    path.chmod(path.stat().st_mode | 0o002)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert (found.found, found.remedy) == (f"{path} is writable by every user", f"`chmod o-w {path}`")


@pytest.mark.parametrize("name", [*OURS_ALONE[1:], *SHARED_WITH_THE_APPLICATION[1:]])
def test_another_users_file_is_told(desk: Desk, name: str) -> None:
    """Of what the application writes too it is a warning: it may well be that user, who must stay its owner."""
    need_root()
    case, path = relying_on_all(desk), desk.root / name
    os.chown(path, THEIRS, 0)
    found = only(machine.files(case), Level.FAILURE if name in OURS_ALONE else Level.WARNING, "files")
    assert found.found == f"{path} belongs to {THEIRS}"
    assert found.remedy == (
        f"`chown root {path}`" if name in OURS_ALONE else "run doctor as the user who runs the passes"
    )


def test_root_who_looks_trusts_the_owner_of_config_and_database(desk: Desk) -> None:
    """The manual's set-up, before there is a schedule."""
    need_root()
    case = relying_on_all(desk)
    for path in (desk.root, desk.config, desk.root / "agent.db"):
        os.chown(path, OURS, OURS)
    only(machine.files(case), Level.OK, "files")


def test_root_who_looks_trusts_whom_a_crontab_of_their_own_names(desk: Desk) -> None:
    need_root()
    daemon = pwd.getpwnam("daemon")
    relying_on_all(desk)
    case = desk.case()
    os.chown(desk.config, 0, daemon.pw_gid)
    desk.config.chmod(0o640)
    os.chown(desk.root / "program", daemon.pw_uid, 0)
    only(machine.files(case), Level.FAILURE, "files")
    desk.crontab = LINE.replace("desk ", "")
    (desk.root / "var/spool/cron/crontabs").mkdir(parents=True)
    (desk.root / "var/spool/cron/crontabs/daemon").touch()
    only(machine.files(case), Level.OK, "files")


def test_nobody_is_told_to_give_the_database_away(desk: Desk) -> None:
    """Neither root nor who makes the passes looks: the application would lose its file."""
    need_root()
    (desk.root / "program").touch(0o600)
    os.chown(desk.root / "agent.db", OURS, OURS)
    case = replace(desk.case(), host=replace(desk.host, uid=THEIRS))
    found = only(machine.files(case), Level.WARNING, "files")
    assert (found.found, found.remedy) == (
        f"{desk.root}/agent.db belongs to {OURS}",
        "run doctor as the user who runs the passes",
    )


@pytest.mark.parametrize("name", [*OURS_ALONE, *SHARED_WITH_THE_APPLICATION])
def test_a_file_that_a_group_may_change_is_told(desk: Desk, name: str) -> None:
    need_root()
    case, path = relying_on_all(desk), desk.root / name
    os.chown(path, 0, SHARED)
    path.chmod(0o770 if path.is_dir() else 0o620)
    found = only(machine.files(case), Level.FAILURE if name in OURS_ALONE else Level.WARNING, "files")
    assert (found.found, found.remedy) == (f"{path} is writable by the group {SHARED}", f"`chmod g-w {path}`")


def test_a_folder_by_which_several_files_can_be_exchanged_is_told_once(desk: Desk) -> None:
    need_root()
    case = relying_on_all(desk)
    os.chown(desk.root, THEIRS, 0)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert found.found == f"{desk.root} belongs to {THEIRS}, which exposes {desk.config}"
    assert found.remedy == "move the file to its own folder, or run doctor as the user who runs the passes"


def test_a_secret_that_a_shared_group_may_read_is_a_warning(desk: Desk) -> None:
    """Operators may share a group on purpose. One of a single user's own is no group that is shared."""
    need_root()
    case = relying_on_all(desk)
    os.chown(desk.root / "token", 0, SHARED)
    (desk.root / "token").chmod(0o640)
    found = only(machine.files(case), Level.WARNING, "files")
    assert found.found == f"{desk.root}/token contains a secret, but the group {SHARED} can read it"
    os.chown(desk.root / "token", 0, 0)
    only(machine.files(case), Level.OK, "files")


IN_POSTGRESQL = CONFIG.replace("sqlite:///agent.db", "postgresql://ana@db/desk")


def test_a_lock_that_others_could_make_first_is_a_warning() -> None:
    """Without a home it is in /tmp."""
    need_root()
    if STATE_FOLDER.is_dir():
        pytest.skip(f"this machine has {STATE_FOLDER}")
    with open_place() as place:
        desk = Desk(place)
        desk.config.write_text(IN_POSTGRESQL)
        desk.config.chmod(0o644)
        case = Case(load(desk.config, {}), desk.host, lambda: NOON, program=())
        found = only(as_user(OURS, lambda: list(machine.files(case))), Level.WARNING, "files")
    assert "could take the lock retrycli-" in found.found
    assert found.remedy == f"as root: `install -d -m 700 -o {desk.host.login} {STATE_FOLDER}`"


def test_a_lock_in_a_home_is_well_before_its_folder_is_made(desk: Desk) -> None:
    desk.config.write_text(IN_POSTGRESQL)
    case = Case(load(desk.config, {}), desk.host, lambda: NOON, program=())
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if STATE_FOLDER.is_dir() or (home / ".local/state/retrycli").exists() or not os.access(home, os.W_OK):
        pytest.skip(f"this machine has {STATE_FOLDER}, or a lock in {home}, or that can't be written")
    found = only(machine.lock(case), Level.OK, "lock")
    assert found.found.startswith(f"{home}/.local/state/retrycli/")
    assert not (home / ".local/state/retrycli").exists()


def test_root_who_looks_trusts_whom_roots_schedule_names_and_no_other(desk: Desk) -> None:
    """A config of root's that one user may read, with a program of that user's, is how it may be."""
    need_root()
    nobody = pwd.getpwuid(65534)
    (desk.root / "program").touch(0o600)
    os.chown(desk.root / "program", nobody.pw_uid, 0)
    only(machine.files(desk.case()), Level.FAILURE, "files")
    (desk.root / "etc/cron.d/retrycli").write_text(LINE.replace("desk", nobody.pw_name))
    only(machine.files(desk.case()), Level.OK, "files")


def test_sqlite_on_a_network_file_system_is_a_failure(desk: Desk) -> None:
    """And so is the lock: both are beside each other."""
    (desk.root / "proc/self").mkdir()
    mounts = desk.root / "proc/self/mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\n")
    assert only(machine.file_system(desk.case()), Level.OK, "file system").found == "the database is on ext4"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/ {desk.root} nfs4 rw 0 0\n")
    levels = [(each.level, each.found.partition(" /")[0]) for each in machine.file_system(desk.case())]
    assert levels == [(Level.FAILURE, "the database"), (Level.FAILURE, "the lock")]


# Whom passes tell.


@pytest.fixture
def listener() -> Iterator[int]:
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_each_target_is_reached_for_and_nothing_of_it_is_shown_but_its_scheme(desk: Desk, listener: int) -> None:
    urls = [
        f"mailto://ana:s3cret@example.com:{listener}?smtp=127.0.0.1",
        f"json://ana:s3cret@127.0.0.1:{closed_port()}",
        "slack://s3cret",
    ]
    case = desk.case(more=f"[notify]\nurls = {urls}\n")
    found = list(people.notifications(case))
    assert [each.level for each in found] == [Level.OK, Level.FAILURE, Level.FAILURE]
    assert [each.found.partition(")")[0] for each in found] == [
        f"target {number} ({scheme}" for number, scheme in ((1, "mailto"), (2, "json"), (3, "slack"))
    ]
    assert not any(word in str(found) for word in ("s3cret", "127.0.0.1", "ana", "example"))


def test_trouble_that_only_a_service_users_mailbox_is_told_of_is_a_warning(desk: Desk) -> None:
    """Not if nothing here calls the passes: another host's crontab can't be seen."""
    assert list(people.notifications(desk.case())) == []
    file = desk.root / "etc/cron.d/retrycli"
    file.write_text(LINE)
    found = only(people.notifications(desk.case()), Level.WARNING, "notifications")
    assert found.found == f"cron mails problems to desk: notify.urls is not set, and {file} has no MAILTO"
    assert found.remedy == f"set notify.urls, or put MAILTO=you@example.com at the top of {file}"
    file.write_text(f'MAILTO=""\n{LINE}')
    found = only(people.notifications(desk.case()), Level.WARNING, "notifications")
    assert found.found == f"no operator is notified of problems: notify.urls is not set, and MAILTO is empty in {file}"
    file.write_text(f"MAILTO=ops@example.com\n{LINE}")
    assert list(people.notifications(desk.case())) == []
    file.unlink()
    desk.crontab = LINE.replace("desk ", "")
    found = only(people.notifications(desk.case()), Level.WARNING, "notifications")
    assert f"cron mails problems to {desk.host.login}: " in found.found
    assert found.remedy == "set notify.urls, or put MAILTO=you@example.com at the top of the crontab of " + (
        f"{desk.host.login}"
    )


def test_the_dead_man_switch_is_reached_for_and_not_pinged(desk: Desk, listener: int) -> None:
    assert list(people.ping(desk.case())) == []
    only(people.ping(desk.case(more=f'[notify]\nping_url = "http://127.0.0.1:{listener}/s3cret"\n')), Level.OK, "ping")
    shut = desk.case(more=f'[notify]\nping_url = "http://127.0.0.1:{closed_port()}/s3cret"\n')
    found = only(people.ping(shut), Level.FAILURE, "ping")
    assert found.found == "the dead-man switch can't be reached: Connection refused"


# What passes write.


@pytest.mark.parametrize(("section", "name"), [("metrics", "retrycli.prom"), ("report", "report.html")])
def test_what_each_pass_writes_needs_a_folder(desk: Desk, section: str, name: str) -> None:
    assert list(machine.outputs(desk.case())) == []
    more = f'[{section}]\npath = "{desk.root}/out/{name}"\n'
    found = only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")
    assert found.remedy == f"`mkdir {desk.root}/out`, or fix {section}.path"
    (desk.root / "out").mkdir()
    only(machine.outputs(desk.case(more=more)), Level.OK, "outputs")
    assert list((desk.root / "out").iterdir()) == []
    (desk.root / "out" / name).mkdir()
    assert "which is a folder" in only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs").found


def test_a_log_that_can_not_be_a_file_is_a_failure(desk: Desk) -> None:
    more = '[logging]\nfile = "logs/retrycli.log"\n'
    only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")
    (desk.root / "logs").mkdir()
    only(machine.outputs(desk.case(more=more)), Level.OK, "outputs")
    (desk.root / "logs/retrycli.log").symlink_to(desk.config)
    only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")
    (desk.root / "logs/retrycli.log").unlink()
    (desk.root / "logs/retrycli.log").hardlink_to(desk.config)
    only(machine.outputs(desk.case(more=more)), Level.OK, "outputs")
    (desk.root / "logs").chmod(0o777)
    found = only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")
    assert f"{desk.root}/logs/retrycli.log has a hard link" in found.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_is_a_failure(desk: Desk) -> None:
    (desk.root / "collector").mkdir(0o500)
    more = f'[metrics]\npath = "{desk.root}/collector/retrycli.prom"\n'
    only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")


# The lock.


@contextmanager
def held(path: Path, since: datetime) -> Iterator[None]:
    lock = PassLock(path)
    lock.acquire(Holder(4711, "box", since), wait_seconds=0, now=lambda: NOON, sleep=lambda _: None)
    try:
        yield
    finally:
        lock.release()


def test_a_free_lock_is_well_and_is_not_made(desk: Desk) -> None:
    """Root, who may look, would make one that shuts everybody else out."""
    only(machine.lock(desk.case()), Level.OK, "lock")
    assert not (desk.root / "agent.db.retrycli.lock").exists()


def test_a_lock_is_held_for_too_long_when_no_pass_may_last_so_long(desk: Desk) -> None:
    path = desk.root / "agent.db.retrycli.lock"
    with held(path, NOON - 5 * MINUTE):
        assert "pid 4711 on box, for 300 s" in only(machine.lock(desk.case()), Level.OK, "lock").found
    with held(path, NOON - 30 * MINUTE):
        only(machine.lock(desk.case()), Level.WARNING, "lock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_that_another_than_the_databases_owner_made_is_a_warning(desk: Desk) -> None:
    """Root tries a pass out, and cron's passes, which are another user's, can't take its lock any more."""
    path = desk.root / "agent.db.retrycli.lock"
    path.touch(0o600)
    os.chown(desk.root / "agent.db", 12345, -1)
    found, _ = machine.lock(desk.case())
    assert only([found], Level.WARNING, "lock").remedy == f"`chown 12345 {path}`; also run manual commands as 12345"


def test_a_lock_in_a_folder_that_is_not_there_is_a_failure(desk: Desk) -> None:
    only(machine.lock(desk.case(more='[run]\nlock_file = "none/lock"\n')), Level.FAILURE, "lock")


# The database.


def test_a_database_in_order(desk: Desk) -> None:
    desk.with_passes()
    desk.execute("PRAGMA journal_mode = WAL")
    for check in (database.table, database.tables, database.writing, database.time):
        assert {each.level for each in desk.in_database(check)} <= {Level.OK}


def test_a_table_without_update_times_shows_less_of_what_the_application_does(desk: Desk) -> None:
    """That is no failure: the application may have a reason."""
    desk.execute("ALTER TABLE pending_messages DROP COLUMN updated_at")
    findings = desk.in_database(database.table)
    found = only([each for each in findings if each.level is not Level.OK], Level.WARNING, "table")
    assert found.found == (
        "pending_messages has no updated_at: each pass reads the text of every escalated message. If a message "
        "fails again between two passes and its text, retry_count and last_error are the same, it stays escalated"
    )
    assert found.remedy == (
        "add updated_at, and set it with every change; let the application change retry_count or last_error when "
        "it fails a "
        "message again"
    )
    assert not failed(findings)


@pytest.mark.parametrize(
    ("version", "more", "level"),
    [
        ("0000", "", Level.WARNING),
        ("0000", "auto_upgrade = false\n", Level.FAILURE),
        ("9999", "", Level.FAILURE),
        (None, "", Level.WARNING),
    ],
)
def test_tables_of_another_version(desk: Desk, version: str | None, more: str, level: Level) -> None:
    """Nothing is upgraded or made by looking."""
    if version is not None:
        desk.with_passes()
        desk.execute(f"UPDATE retrycli_version SET version_num = '{version}'")
    settings = CONFIG.replace("[gateway]", f"{more}[gateway]")
    desk.config.write_text(settings)
    case = Case(load(desk.config, {}), desk.host, lambda: NOON)
    before = _schema(desk)
    opened = Database(case.settings.database.url)
    only(database.tables(case, opened), level, "tables")
    assert database.newest_passes(opened) == []
    opened.close()
    assert _schema(desk) == before


def _schema(desk: Desk) -> list[str]:
    with closing(sqlite3.connect(desk.root / "agent.db")) as connection:
        return list(connection.iterdump())


def test_the_index_of_failed_rows_is_mentioned_where_it_would_help(desk: Desk) -> None:
    """In a table of more rows than a pass looks at, and only there."""
    rows = "WITH RECURSIVE n (i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {1}) SELECT i, 'sent' FROM n"
    desk.execute("INSERT INTO pending_messages (id, status) " + rows.format(1, 15_000))
    assert desk.in_database(database.index) == []
    desk.execute("INSERT INTO pending_messages (id, status) " + rows.format(15_001, 15_001))
    assert "`retrycli db index` creates" in only(desk.in_database(database.index), Level.OK, "index").found
    desk.execute("CREATE INDEX retrycli_failed ON pending_messages (id) WHERE status = 'failed'")
    assert "has an index on its failed rows" in only(desk.in_database(database.index), Level.OK, "index").found


def test_wal_is_recommended_and_not_set(desk: Desk) -> None:
    found = only(desk.in_database(database.writing), Level.WARNING, "writing")
    assert found.remedy is not None
    assert found.remedy.endswith("'PRAGMA journal_mode = WAL'`")
    only(desk.in_database(database.writing), Level.WARNING, "writing")


def test_a_pass_that_is_still_to_come_shows_a_wrong_clock(desk: Desk) -> None:
    desk.with_passes(timedelta(seconds=-30))
    assert desk.in_database(database.time) == []
    desk.with_passes()
    desk.execute("UPDATE retrycli_passes SET started_at = '2026-03-02 13:00:00'")
    assert "2026-03-02T13:00:00Z" in only(desk.in_database(database.time), Level.FAILURE, "clock").found


def test_whether_passes_come_is_told_by_those_that_have_begun(desk: Desk) -> None:
    """One that a wrong clock has put a month ahead would keep a dead cron from being found out."""
    desk.with_passes(timedelta(days=-30), 75 * MINUTE, 90 * MINUTE)
    found = desk.in_database(calling.calling)[-1]
    assert (found.name, found.level) == ("passes", Level.FAILURE)
    assert found.found.startswith("the last one began 1 h 15 min ago")


# What calls the passes.


def of_callers(desk: Desk, *, more: str = "") -> Finding:
    return desk.in_database(calling.calling, more=more)[0]


def of_cadence(desk: Desk, *, more: str = "") -> Finding:
    return desk.in_database(calling.calling, more=more)[-1]


def test_nothing_calls_and_nothing_comes(desk: Desk) -> None:
    found = only([of_callers(desk)], Level.FAILURE, "scheduler")
    assert found.remedy == "`retrycli cron install`"
    only([of_cadence(desk)], Level.WARNING, "passes")


def test_passes_that_come_from_elsewhere_are_well(desk: Desk) -> None:
    """An application's own scheduler, or another host's cron."""
    desk.with_passes(5 * MINUTE, 20 * MINUTE, 35 * MINUTE)
    assert "passes run; the last one ran on box" in only([of_callers(desk)], Level.OK, "scheduler").found
    only([of_cadence(desk)], Level.OK, "passes")


@pytest.mark.parametrize("begun", [[5], [5, 20], [1, 3, 5, 8]])
def test_passes_that_somebody_made_by_hand_are_no_sign_of_a_scheduler(desk: Desk, begun: list[int]) -> None:
    """Too few to tell, or further apart or closer together than a scheduler would have them."""
    desk.with_passes(*(each * MINUTE for each in begun))
    only([of_callers(desk)], Level.FAILURE, "scheduler")


def test_passes_that_come_all_the_time_are_told_of_in_words(desk: Desk) -> None:
    desk.with_passes(*(timedelta(seconds=20 * each) for each in range(1, 5)))
    found = [each for each in desk.in_database(calling.calling) if each.name == "passes"]
    assert [each.found for each in found] == [
        "they have run every 20 s, but schedule.retry_interval_minutes says 15 min"
    ]


def test_passes_from_before_the_line_was_changed_are_no_reason_to_change_it(desk: Desk) -> None:
    """One that cron starts a moment early is less than a minute after the one before it."""
    (desk.root / "etc/crontab").write_text(LINE)
    desk.with_passes(*(each * timedelta(seconds=59.98) for each in range(1, 5)))
    found = only([of_cadence(desk)], Level.WARNING, "passes")
    assert found.found == "they came 1 min apart until now, and schedule.retry_interval_minutes says 15 min"
    assert (
        found.remedy
        == "none if you have just changed the schedule: it now starts passes at */15 * * * *, as configured"
    )
    (desk.root / "etc/crontab").write_text(LINE.replace("/15", ""))
    assert (
        only([of_cadence(desk)], Level.WARNING, "passes").remedy
        == "make the schedule and the setting agree: `retrycli cron check`"
    )


def test_one_line_of_crons_is_told_with_its_place(desk: Desk) -> None:
    (desk.root / "etc/crontab").write_text(LINE)
    found = only([of_callers(desk)], Level.WARNING, "scheduler")
    assert f"cron starts passes at */15 * * * *: {desk.root}/etc/crontab, line 1; its command should be" in found.found


def test_a_cron_that_does_not_run_is_a_failure_wherever_its_line_is(desk: Desk) -> None:
    (desk.root / "etc/crontab").write_text(LINE)
    (desk.root / "proc/2/status").write_text("Name:\tsshd\nNSpid:\t2\n")
    found = only([of_callers(desk)], Level.FAILURE, "scheduler")
    assert found.found.endswith(f"{desk.root}/etc/crontab, line 1; but cron is not running on this machine")
    assert found.remedy == "start it: `sudo systemctl enable --now cron`"
    (desk.root / "proc/1/status").unlink()
    found = only([of_callers(desk)], Level.WARNING, "scheduler")
    (desk.root / "etc/crontab").unlink()
    desk.with_passes(5 * MINUTE, 20 * MINUTE, 35 * MINUTE)
    assert "cron is" not in only([of_callers(desk)], Level.OK, "scheduler").found, "the schedule is elsewhere"


def test_passes_by_hand_do_not_hide_that_the_schedulers_stay_away(desk: Desk) -> None:
    desk.with_passes(*(each * MINUTE for each in (5, 50, 65, 80)))
    only([of_cadence(desk)], Level.OK, "passes")
    desk.execute("UPDATE retrycli_passes SET started_by = 'person' WHERE id = 'p0'")
    found = only([of_cadence(desk)], Level.FAILURE, "passes").found
    assert found.startswith("the last one not started by an operator began 50 min ago")
    desk.execute("UPDATE retrycli_passes SET started_by = 'cron' WHERE id <> 'p0'")
    found = only([of_cadence(desk)], Level.FAILURE, "passes").found
    assert found.startswith("the last one that cron or a timer started began 50 min ago")


def test_who_is_not_the_one_who_makes_the_passes_is_told_so(desk: Desk) -> None:
    """Root may read everything, so what root finds says little of another's passes."""
    (desk.root / "etc/crontab").write_text(LINE)
    _, found, _ = desk.in_database(calling.calling)
    assert only([found], Level.WARNING, "user").remedy == f"`sudo -u desk retrycli --config {desk.config} doctor`"
    (desk.root / "etc/crontab").write_text(LINE.replace("desk", desk.host.login))
    assert [each.name for each in desk.in_database(calling.calling)] == ["scheduler", "passes"]


def test_a_crontab_that_can_not_be_read_is_told_and_no_other_schedule_advised(desk: Desk) -> None:
    (desk.root / "etc/crontab").mkdir()
    remedy = "make that place readable, then run `retrycli doctor`"
    unread = f"can't read {desk.root}/etc/crontab (Is a directory)"
    found = only(desk.in_database(calling.calling)[:1], Level.FAILURE, "scheduler")
    assert (found.found, found.remedy) == (f"nothing that can be read starts passes; {unread}", remedy)
    desk.crontab = LINE.replace("desk ", "")
    found = only(desk.in_database(calling.calling)[1:2], Level.WARNING, "scheduler")
    assert (found.found, found.remedy) == (f"{unread}, which may also start passes", remedy)


def test_cron_and_a_timer_at_once_are_a_warning(desk: Desk) -> None:
    (desk.root / "etc/cron.d/retrycli").write_text(LINE)
    units = desk.root / "etc/systemd/system"
    (units / "timers.target.wants").mkdir(parents=True)
    (units / "retrycli.timer").write_text("[Timer]\nOnCalendar=*:0/15\n")
    (units / "retrycli.service").write_text("[Service]\nExecStart=/x/retrycli run-once\n")
    (units / "timers.target.wants/retrycli.timer").symlink_to(units / "retrycli.timer")
    found = only([of_callers(desk)], Level.WARNING, "scheduler")
    assert found.found.startswith("both cron and a timer start passes")


def test_two_lines_are_a_warning(desk: Desk) -> None:
    desk.crontab = LINE.replace("desk ", "") * 2
    assert "2 cron entries start" in only([of_callers(desk)], Level.WARNING, "scheduler").found


def test_who_may_not_read_other_crontabs_is_told_so(desk: Desk) -> None:
    desk.uid = 4711
    assert "can't read other users' crontabs" in of_callers(desk).found


@pytest.mark.parametrize(
    ("ago", "level"),
    [
        ([16, 31, 46], Level.OK),
        ([34], Level.OK),
        ([35], Level.FAILURE),
        ([3, 8, 13, 18, 23], Level.WARNING),
        ([3, 33, 63, 93], Level.WARNING),
        ([1, 15, 30, 45], Level.OK),
        ([1, 2, 16, 31, 46, 61], Level.OK),
    ],
)
def test_passes_are_held_against_the_interval(desk: Desk, ago: list[int], level: Level) -> None:
    """One made by hand in between does no harm; two of fifteen minutes make a pass late."""
    desk.with_passes(*(each * MINUTE for each in ago))
    only([of_cadence(desk)], level, "passes")


# All of it.


def test_one_check_that_fails_keeps_no_other_from_being_made(desk: Desk) -> None:
    desk.case(more='preset = "none.toml"\n')
    (desk.root / "agent.db.retrycli.lock").mkdir()
    found = {each.name: each for each in examine(desk.config, {}, host=desk.host, now=lambda: NOON)}
    assert {"settings", "files", "lock", "api", "table", "tables", "writing", "scheduler", "passes"} <= found.keys()
    assert found["lock"].level is found["api"].level is found["table"].level is Level.FAILURE


def test_a_database_that_is_not_there_leaves_the_schedulers_to_be_looked_at(desk: Desk) -> None:
    desk.case()
    (desk.root / "agent.db").unlink()
    found = {each.name: each for each in examine(desk.config, {}, host=desk.host, now=lambda: NOON)}
    assert found["database"].level is Level.FAILURE
    assert found["database"].remedy == "check database.url (RETRYCLI_DATABASE__URL)"
    assert found["scheduler"].level is Level.FAILURE
    assert not (desk.root / "agent.db").exists()


def test_a_database_that_can_not_even_be_named_is_a_finding_too(desk: Desk) -> None:
    desk.config.write_text(CONFIG.replace("sqlite:///agent.db", "postgresql://db:port/desk"))
    found = {each.name: each for each in examine(desk.config, {}, host=desk.host, now=lambda: NOON)}
    assert found["database"].found == "database.url is not a valid database URL"
    assert found["scheduler"].level is Level.FAILURE


def test_passes_of_this_host_that_nothing_found_here_calls_are_a_warning(desk: Desk) -> None:
    """As after root's `cron remove`. Root's crontab is hidden from others; root sees that no line is left."""
    desk.with_passes(5 * MINUTE)
    desk.execute(f"UPDATE retrycli_passes SET started_by = 'cron', host = '{gethostname()}'")
    desk.uid = 4711
    found = only(desk.in_database(calling.calling)[:1], Level.WARNING, "scheduler")
    assert "4711 can't read other users' crontabs" in found.found
    assert found.remedy == f"run as root: `sudo retrycli --config {desk.config} doctor`"
    desk.uid = 0
    found = only(desk.in_database(calling.calling)[:1], Level.FAILURE, "scheduler")
    assert found.found.endswith(", from a cron line that no longer exists")
    assert found.remedy == "`retrycli cron install`"
    desk.execute("UPDATE retrycli_passes SET started_by = 'timer'")
    found = only(desk.in_database(calling.calling)[:1], Level.WARNING, "scheduler")
    assert found.remedy == "if the cron line was removed: `retrycli cron install`"
    desk.execute("UPDATE retrycli_passes SET host = 'box'")
    only(desk.in_database(calling.calling)[:1], Level.OK, "scheduler")


@pytest.mark.parametrize(("ago", "is_suspicious"), [(1, False), (15 * 60 - 1, False), (15 * 60 + 61, True)])
def test_cron_is_suspected_only_after_a_tick_since_it_and_its_line_are_there(
    desk: Desk, ago: int, *, is_suspicious: bool
) -> None:
    """NOON is a tick of its own, so a quarter of an hour has one more."""
    desk.with_passes(180 * MINUTE)
    (desk.root / "etc/crontab").write_text(LINE)
    os.utime(desk.root / "etc/crontab", (0, 0))
    began = (NOON - timedelta(seconds=ago)).timestamp() + 0.5
    (desk.root / "proc/stat").write_text(f"btime {int(began)}\n")
    daemon = next(each.parent for each in desk.root.glob("proc/*/status") if "cron" in each.read_text())
    (daemon / "stat").write_text(f"2 (cron) S {'0 ' * 18}50 0\n")
    found = only([of_cadence(desk)], Level.FAILURE, "passes").remedy
    assert found is not None
    assert ("may refuse desk" in found) is is_suspicious, found
    assert ("the first pass is at 2" in found) is not is_suspicious
    os.utime(desk.root / "etc/crontab", (NOON.timestamp() - 1,) * 2)
    assert "may refuse" not in str(of_cadence(desk).remedy), "the line is newer"
