"""The checks of `doctor`, on a simulated machine: a folder with a real database and, in most tests, one problem."""

from __future__ import annotations

import os
import pwd
import socket
import sqlite3
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from retrycli.config.loader import Loaded, load
from retrycli.domain import cron_line
from retrycli.domain.passes import PassResult, PassSummary
from retrycli.operations.doctor import database, examine, machine, network
from retrycli.operations.doctor import scheduler as calling
from retrycli.operations.doctor.context import Context as Case
from retrycli.operations.doctor.context import Finding, Level
from retrycli.operations.schedule.installation import job
from retrycli.operations.wiring import STATE_FOLDER, open_database, scheduler_lock_path
from retrycli.store.database import Database
from retrycli.store.passes import Ledger
from retrycli.system.host import Finished, Host
from retrycli.system.pass_lock import Holder, PassLock
from tests.gateway.mail_server import MailServer
from tests.users import OURS, SHARED, THEIRS, as_user, need_root, open_place

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
CONFIG = '[database]\nurl = "sqlite:///agent.db"\n[gateway]\nbase_url = "http://127.0.0.1:9"\n'


@dataclass
class Desk:
    """A simulated machine on which retrycli is set up. Its time is noon."""

    root: Path
    uid: int = 0

    @property
    def config(self) -> Path:
        return self.root / "retrycli.toml"

    @property
    def host(self) -> Host:
        return Host(
            root=self.root, home=self.root / "home", uid=self.uid, run=self._run, uptime=lambda: timedelta(days=9)
        )

    def case(self, *, more: str = "", environment: dict[str, str] | None = None) -> Case:
        self.config.write_text(CONFIG + more)
        return Case(load(self.config, environment or {}), self.host, lambda: NOON, program=(self.root / "program",))

    def loaded(self) -> Loaded:
        return self.case().loaded

    def schedule(self, user: str = "desk", *, above: str = "", written: timedelta = timedelta(days=1)) -> Path:
        """Write retrycli's own block to /etc/cron.d, and return that file."""
        file = self.root / "etc/cron.d/retrycli"
        file.write_text(above + cron_line.block(job(self.loaded(), self.host, user=user)))
        os.utime(file, ((NOON - written).timestamp(),) * 2)
        return file

    def with_passes(self, *begun: timedelta) -> None:
        """Record passes that began this long before now."""
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
        return subprocess.CompletedProcess(command, 0, b"", b"")


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
def test_reports_the_age_of_the_oldest_failed_message(desk: Desk, made: str, more: str, level: Level) -> None:
    """A pass would still send messages from years ago. Sent and escalated messages do not count."""
    assert desk.in_database(database.age) == []
    desk.execute("ALTER TABLE pending_messages ADD COLUMN created_at TEXT")
    desk.with_passes()
    rows = {1: ("failed", made), 2: ("sent", "2019-01-01"), 3: ("failed", "2020-01-01"), 4: ("failed", "2026-03-02")}
    for number, (status, at) in rows.items():
        desk.execute(f"INSERT INTO pending_messages (id, status, created_at) VALUES ({number}, '{status}', '{at}')")
    desk.execute(
        "INSERT INTO retrycli_queue (message_id, state, delivery_key, first_failed_at, unknown_count, birth) "
        "VALUES (3, 'escalated', 'k', '2026-01-01 00:00:00.000000', 0, '2020-01-01')"
    )
    found = only(desk.in_database(database.age, more=more), level, "age")
    assert made[:10] in found.found
    assert level is Level.OK or "schedule.expires_after_hours" in str(found.remedy)


def only(findings: Iterable[Finding], level: Level, name: str) -> Finding:
    """Return the only finding, after a check of its level, name and remedy."""
    [found] = findings
    assert (found.level, found.name) == (level, name)
    assert (found.remedy is None) is (level is Level.OK)
    return found


def test_settings_from_a_file_are_ok_and_those_from_the_environment_are_lost_on_cron(desk: Desk) -> None:
    only(machine.settings(desk.case()), Level.OK, "settings")
    case = desk.case(environment={"RETRYCLI_RUN__LIMIT": "5"})
    found = only(machine.settings(case), Level.WARNING, "settings")
    assert "sets run.limit, which cron does not pass on" in found.found


TOKENS = '[web]\ntokens_file = "tokens.json"\n'


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ('token = "s3cret"\n', "retrycli.toml"),
        ('token_file = "token"\n', "token"),
        ('[notify]\nurls = ["mailto://ana:s3cret@mail.example.com"]\n', "retrycli.toml"),
        (TOKENS, "tokens.json"),
        (TOKENS, "tokens.json.key"),
    ],
)
def test_a_secret_readable_by_every_user_is_a_failure(desk: Desk, more: str, path: str) -> None:
    for file in ("token", "tokens.json", "tokens.json.key"):
        (desk.root / file).touch(0o640)
        (desk.root / file).write_text("s3cret")
    case = desk.case(more=more)
    only(machine.files(case), Level.OK, "files")
    (desk.root / path).chmod(0o644)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert found.found == f"{desk.root / path} contains a secret, but every user can read it"
    assert found.remedy == f"`chmod o-rwx {desk.root / path}`"


@pytest.mark.parametrize(
    ("url", "level"),
    [
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


OURS_ALONE = ("retrycli.toml", "token", "own.toml", "ca.pem", "program")
SHARED_WITH_THE_APPLICATION = ("agent.db", "agent.db.retrycli.lock", "attachments")
RELIES_ON_ALL = (
    'auth = "bearer"\ntoken_file = "token"\npreset = "own.toml"\nca_file = "ca.pem"\nattachments_dir = "attachments"\n'
)


def relying_on_all(desk: Desk) -> Case:
    """Return the context of a check, with each kind of file that a pass depends on. Root owns all files."""
    for name in ("token", "own.toml", "ca.pem", "program", "agent.db.retrycli.lock"):
        (desk.root / name).touch(0o600)
    (desk.root / "token").write_text("s3cret")
    (desk.root / "attachments").mkdir()
    return desk.case(more=RELIES_ON_ALL)


@pytest.mark.parametrize("name", [*OURS_ALONE, *SHARED_WITH_THE_APPLICATION])
def test_a_file_that_another_user_can_change_is_reported(desk: Desk, name: str) -> None:
    """If the application also writes the file, its owner and its group may be the rightful ones: a warning."""
    case, path = relying_on_all(desk), desk.root / name
    level = Level.FAILURE if name in OURS_ALONE else Level.WARNING
    only(machine.files(case), Level.OK, "files")
    before = path.stat().st_mode
    path.chmod(before | 0o002)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert (found.found, found.remedy) == (f"{path} is writable by every user", f"`chmod o-w {path}`")
    need_root()
    path.chmod(before | 0o020)
    os.chown(path, 0, SHARED)
    found = only(machine.files(case), level, "files")
    assert (found.found, found.remedy) == (f"{path} is writable by the group {SHARED}", f"`chmod g-w {path}`")
    path.chmod(before)
    if name in {"retrycli.toml", "agent.db"}:  # their owner is trusted
        return
    os.chown(path, THEIRS, 0)
    found = only(machine.files(case), level, "files")
    assert found.found == f"{path} belongs to {THEIRS}"
    assert found.remedy == (
        f"`chown root {path}`" if name in OURS_ALONE else "run doctor as the user who runs the passes"
    )


def test_for_root_the_owner_of_config_and_database_is_trusted(desk: Desk) -> None:
    """No schedule names the passes' user yet. The manual describes this setup."""
    need_root()
    case = relying_on_all(desk)
    for path in (desk.root, desk.config, desk.root / "agent.db"):
        os.chown(path, OURS, OURS)
    only(machine.files(case), Level.OK, "files")


def test_suggests_no_change_of_the_databases_owner(desk: Desk) -> None:
    """The current user is neither root nor the passes' user. A new owner would lock the application out."""
    need_root()
    (desk.root / "program").touch(0o600)
    os.chown(desk.root / "agent.db", OURS, OURS)
    case = replace(desk.case(), host=replace(desk.host, uid=THEIRS))
    found = only(machine.files(case), Level.WARNING, "files")
    assert (found.found, found.remedy) == (
        f"{desk.root}/agent.db belongs to {OURS}",
        "run doctor as the user who runs the passes",
    )


def test_a_directory_in_which_several_files_can_be_exchanged_is_reported_once(desk: Desk) -> None:
    need_root()
    case = relying_on_all(desk)
    os.chown(desk.root, THEIRS, 0)
    found = only(machine.files(case), Level.FAILURE, "files")
    assert found.found == f"{desk.root} belongs to {THEIRS}, which exposes {desk.config}"
    assert found.remedy == "use a folder that other users can't write to, or run doctor as the user who runs the passes"


def test_a_secret_readable_by_a_shared_group_is_a_warning(desk: Desk) -> None:
    """Operators may share a group on purpose. A user's private group is not shared."""
    need_root()
    case = relying_on_all(desk)
    os.chown(desk.root / "token", 0, SHARED)
    (desk.root / "token").chmod(0o640)
    found = only(machine.files(case), Level.WARNING, "files")
    assert found.found == f"{desk.root}/token contains a secret, but the group {SHARED} can read it"
    os.chown(desk.root / "token", 0, 0)
    only(machine.files(case), Level.OK, "files")


IN_POSTGRESQL = CONFIG.replace("sqlite:///agent.db", "postgresql://ana@db/desk")


def test_a_lock_that_others_could_create_first_is_a_warning() -> None:
    """Without a home directory, the lock is in /tmp, where any user can create files."""
    need_root()
    if STATE_FOLDER.is_dir():
        pytest.skip(f"this machine has {STATE_FOLDER}")
    with open_place() as place:
        desk = Desk(place)
        desk.config.write_text(IN_POSTGRESQL)
        desk.config.chmod(0o644)
        case = Case(load(desk.config, {}), desk.host, lambda: NOON, program=())
        found = only(as_user(OURS, lambda: list(machine.files(case))), Level.WARNING, "files")
    assert "could acquire the lock retrycli-" in found.found
    assert found.remedy == f"as root: `install -d -m 700 -o {desk.host.login} {STATE_FOLDER}`"


def test_a_lock_in_a_home_directory_is_ok_before_its_directory_exists(desk: Desk) -> None:
    desk.config.write_text(IN_POSTGRESQL)
    case = Case(load(desk.config, {}), desk.host, lambda: NOON, program=())
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    if STATE_FOLDER.is_dir() or (home / ".local/state/retrycli").exists() or not os.access(home, os.W_OK):
        pytest.skip(f"this machine has {STATE_FOLDER}, or a lock in {home}, or that can't be written")
    found = only(machine.lock(case), Level.OK, "lock")
    assert found.found.startswith(f"{home}/.local/state/retrycli/")
    assert not (home / ".local/state/retrycli").exists()


def test_for_root_only_the_user_in_roots_schedule_is_trusted(desk: Desk) -> None:
    """The user in root's schedule runs the passes, and may therefore own the program."""
    need_root()
    nobody = pwd.getpwuid(65534)
    (desk.root / "program").touch(0o600)
    os.chown(desk.root / "program", nobody.pw_uid, 0)
    only(machine.files(desk.case()), Level.FAILURE, "files")
    desk.schedule(nobody.pw_name)
    only(machine.files(desk.case()), Level.OK, "files")


def test_sqlite_on_a_network_file_system_is_a_failure(desk: Desk) -> None:
    """The lock is reported too, because it is in the same folder as the database."""
    (desk.root / "proc/self").mkdir()
    mounts = desk.root / "proc/self/mounts"
    mounts.write_text("/dev/vda / ext4 rw 0 0\n")
    assert only(machine.file_system(desk.case()), Level.OK, "file system").found == "the database is on ext4"
    mounts.write_text(f"/dev/vda / ext4 rw 0 0\nserver:/ {desk.root} nfs4 rw 0 0\n")
    levels = [(finding.level, finding.found.partition(" /")[0]) for finding in machine.file_system(desk.case())]
    assert levels == [(Level.FAILURE, "the database"), (Level.FAILURE, "the lock")]


OPENLY = {"STARTTLS": "false"}
LOGIN = OPENLY | {"USERNAME": "desk", "PASSWORD": "s3cret"}


@pytest.mark.parametrize(
    ("host", "settings", "answers", "expected"),
    [
        ("127.0.0.2", OPENLY, {}, ["ok smtp: … responds"]),
        ("127.0.0.1", LOGIN, {}, ["ok smtp: … responds and accepts the login"]),
        (
            "127.0.0.2",
            LOGIN,
            {},
            ["ok smtp: … responds and accepts the login", "warning smtp: the password is sent to … unencrypted"],
        ),
        ("127.0.0.1", LOGIN, {"AUTH": "535 no"}, ["failure smtp: … rejects the login: AUTH: SMTP 535 no"]),
        ("127.0.0.1", OPENLY, {"greeting": "421 busy"}, ["warning smtp: … has a problem: greeting: SMTP 421 busy"]),
        (
            "127.0.0.1",
            {},
            {},
            ["failure smtp: can't connect securely or log in to …: STARTTLS: the server does not offer STARTTLS"],
        ),
    ],
)
def test_a_mail_server_is_asked_without_sending_a_mail(
    desk: Desk, host: str, settings: dict[str, str], answers: dict[str, Any], expected: list[str]
) -> None:
    with MailServer(extensions=["AUTH PLAIN"], host=host, **answers) as server:
        its = {"KIND": "smtp", "BASE_URL": server.url, "SENDER": "desk@example.com"} | settings
        case = desk.case(environment={f"RETRYCLI_GATEWAY__{name}": value for name, value in its.items()})
        said = [f"{each.level} {each.name}: {each.found.replace(server.url, '…')}" for each in network.api(case, None)]
    assert [each.partition("; ")[0].partition(", so")[0] for each in said] == expected
    assert server.mails == []


@pytest.fixture
def listener() -> Iterator[int]:
    """Provide a port with a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def closed_port() -> int:
    """Return a port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_each_target_is_contacted_and_only_its_scheme_is_shown(desk: Desk, listener: int) -> None:
    urls = [
        f"mailto://ana:s3cret@example.com:{listener}?smtp=127.0.0.1",
        f"json://ana:s3cret@127.0.0.1:{closed_port()}",
        "slack://s3cret",
    ]
    case = desk.case(more=f"[notify]\nurls = {urls}\n")
    found = list(network.notifications(case))
    assert [finding.level for finding in found] == [Level.OK, Level.FAILURE, Level.FAILURE]
    assert [finding.found.partition(")")[0] for finding in found] == [
        f"target {number} ({scheme}" for number, scheme in ((1, "mailto"), (2, "json"), (3, "slack"))
    ]
    assert not any(word in str(found) for word in ("s3cret", "127.0.0.1", "ana", "example"))


def test_incidents_reported_only_to_a_service_users_mailbox_are_a_warning(desk: Desk) -> None:
    """Without a schedule on this machine there is no warning, because another host's crontab may set MAILTO."""
    assert list(network.notifications(desk.case())) == []
    file = desk.schedule()
    found = only(network.notifications(desk.case()), Level.WARNING, "notifications")
    assert (
        found.found
        == f"cron mails warnings only to the local user desk: notify.urls is not set, and {file} has no MAILTO"
    )
    assert found.remedy == f"set notify.urls, or set MAILTO=you@example.com at the top of {file}"
    desk.schedule(above='MAILTO=""\n')
    found = only(network.notifications(desk.case()), Level.WARNING, "notifications")
    assert (
        found.found == f"warnings from passes reach no operator: notify.urls is not set, and MAILTO is empty in {file}"
    )
    desk.schedule(above="MAILTO=ops@example.com\n")
    assert list(network.notifications(desk.case())) == []


def test_the_dead_man_switch_is_contacted_and_not_pinged(desk: Desk, listener: int) -> None:
    assert list(network.ping(desk.case())) == []
    only(network.ping(desk.case(more=f'[notify]\nping_url = "http://127.0.0.1:{listener}/s3cret"\n')), Level.OK, "ping")
    shut = desk.case(more=f'[notify]\nping_url = "http://127.0.0.1:{closed_port()}/s3cret"\n')
    found = only(network.ping(shut), Level.FAILURE, "ping")
    assert found.found == "the dead-man switch can't be reached: Connection refused"


@pytest.mark.parametrize(("scheme", "port"), [("https", 443), ("http", 80)])
def test_the_dead_man_switch_is_contacted_at_the_usual_port(desk: Desk, scheme: str, port: int) -> None:
    need_root()  # to listen there
    host = f"127.0.{os.getpid() % 255}.3"  # another run of this test may use the port of another address
    with ExitStack() as stack:
        with suppress(OSError):  # then a web server of this machine listens on all addresses
            stack.enter_context(socket.create_server((host, port)))
        only(network.ping(desk.case(more=f'[notify]\nping_url = "{scheme}://{host}/"\n')), Level.OK, "ping")


@pytest.mark.parametrize(("section", "name"), [("metrics", "retrycli.prom"), ("report", "report.html")])
def test_each_output_of_a_pass_needs_a_directory(desk: Desk, section: str, name: str) -> None:
    assert list(machine.outputs(desk.case())) == []
    more = f'[{section}]\npath = "{desk.root}/out/{name}"\n'
    found = only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs")
    assert found.remedy == f"`mkdir {desk.root}/out`, or fix {section}.path"
    (desk.root / "out").mkdir()
    only(machine.outputs(desk.case(more=more)), Level.OK, "outputs")
    assert list((desk.root / "out").iterdir()) == []
    (desk.root / "out" / name).mkdir()
    assert "which is a folder" in only(machine.outputs(desk.case(more=more)), Level.FAILURE, "outputs").found


def test_a_log_path_that_cannot_be_a_file_is_a_failure(desk: Desk) -> None:
    log, case = desk.root / "logs/retrycli.log", desk.case(more='[logging]\nfile = "logs/retrycli.log"\n')
    only(machine.outputs(case), Level.FAILURE, "outputs")
    log.parent.mkdir()
    only(machine.outputs(case), Level.OK, "outputs")
    log.symlink_to(desk.config)
    only(machine.outputs(case), Level.FAILURE, "outputs")
    log.unlink()
    log.hardlink_to(desk.config)
    only(machine.outputs(case), Level.OK, "outputs")
    log.parent.chmod(0o777)
    assert f"{log} has more than one hard link" in only(machine.outputs(case), Level.FAILURE, "outputs").found


@contextmanager
def held(path: Path, since: datetime) -> Iterator[None]:
    lock = PassLock(path)
    lock.acquire(Holder(4711, "box", since), wait_seconds=0, now=lambda: NOON, sleep=lambda _: None)
    try:
        yield
    finally:
        lock.release()


def test_a_free_lock_is_ok_and_not_created(desk: Desk) -> None:
    """If root's check created the lock file, no other user could open it."""
    only(machine.lock(desk.case()), Level.OK, "lock")
    assert not (desk.root / "agent.db.retrycli.lock").exists()
    only(machine.lock(desk.case(more='[run]\nlock_file = "none/lock"\n')), Level.FAILURE, "lock")


def test_a_lock_held_longer_than_a_pass_may_last_is_reported(desk: Desk) -> None:
    path = desk.root / "agent.db.retrycli.lock"
    with held(path, NOON - 5 * MINUTE):
        assert "pid 4711 on box, for 300 s" in only(machine.lock(desk.case()), Level.OK, "lock").found
    with held(path, NOON - 30 * MINUTE):
        only(machine.lock(desk.case()), Level.WARNING, "lock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_lock_of_another_user_than_the_databases_owner_is_a_warning(desk: Desk) -> None:
    """After a trial pass by root, cron's passes, which run as another user, could not open the lock."""
    path = desk.root / "agent.db.retrycli.lock"
    path.touch(0o600)
    os.chown(desk.root / "agent.db", 12345, -1)
    found, _ = machine.lock(desk.case())
    assert (
        only([found], Level.WARNING, "lock").remedy == f"`chown -h 12345 {path}`; also run retrycli's commands as 12345"
    )


def test_a_healthy_database_is_ok(desk: Desk) -> None:
    """The write-ahead log is recommended, and not enabled."""
    desk.with_passes()
    for _ in range(2):
        found = only(desk.in_database(database.writing), Level.WARNING, "writing")
    assert str(found.remedy).endswith("'PRAGMA journal_mode = WAL'`")
    desk.execute("PRAGMA journal_mode = WAL")
    for check in (database.table, database.tables, database.writing, database.time):
        assert {finding.level for finding in desk.in_database(check)} <= {Level.OK}


@pytest.mark.parametrize(
    ("version", "level"), [("0008", Level.FAILURE), ("9999", Level.FAILURE), (None, Level.WARNING)]
)
def test_tables_of_another_version_are_reported(desk: Desk, version: str | None, level: Level) -> None:
    """The check upgrades and creates nothing."""
    if version is not None:
        desk.with_passes()
        desk.execute(f"UPDATE retrycli_version SET version_num = '{version}'")
    before = _schema(desk)
    found = only(desk.in_database(database.tables), level, "tables").found
    assert version is None or f"are at version {version}, but this program " in found
    with closing(Database(desk.loaded().settings.database.url)) as opened:
        assert database.newest_passes(opened) == []
    assert _schema(desk) == before


def _schema(desk: Desk) -> list[str]:
    with closing(sqlite3.connect(desk.root / "agent.db")) as connection:
        return list(connection.iterdump())


def test_the_index_of_failed_rows_is_recommended_if_it_would_help(desk: Desk) -> None:
    """The index helps only if the table has more rows than a pass reads."""
    rows = "WITH RECURSIVE n (i) AS (SELECT {0} UNION ALL SELECT i + 1 FROM n WHERE i < {1}) SELECT i, 'sent' FROM n"
    desk.execute("INSERT INTO pending_messages (id, status) " + rows.format(1, 15_000))
    assert desk.in_database(database.index) == []
    desk.execute("INSERT INTO pending_messages (id, status) " + rows.format(15_001, 15_001))
    assert "`retrycli db index` creates" in only(desk.in_database(database.index), Level.OK, "index").found
    desk.execute("CREATE INDEX retrycli_failed ON pending_messages (id) WHERE status = 'failed'")
    assert "has an index on its failed rows" in only(desk.in_database(database.index), Level.OK, "index").found


def test_a_pass_in_the_future_reveals_a_wrong_clock(desk: Desk) -> None:
    desk.with_passes(timedelta(seconds=-30))
    assert desk.in_database(database.time) == []
    desk.with_passes()
    desk.execute("UPDATE retrycli_passes SET started_at = '2026-03-02 13:00:00'")
    assert "2026-03-02T13:00:00Z" in only(desk.in_database(database.time), Level.FAILURE, "clock").found


OK, FAILURE = Level.OK, Level.FAILURE
ELSEWHERE = (OK, "passes come from an unknown scheduler on box, not from a block of retrycli's")
NOBODY = (FAILURE, "nothing is known to start passes")
PASSES: dict[str, tuple[list[float], tuple[Level, str], tuple[Level, str]]] = {
    "no pass": ([], NOBODY, (Level.WARNING, "no pass has run yet")),
    "one pass": ([29], ELSEWHERE, (OK, "the last one began 29 min ago; there should be one every 15 min")),
    "one old pass": ([35], NOBODY, (FAILURE, "a pass should begin every 15 minutes; none since 2026-03-02T11:25:00Z")),
    "one is missing": (
        [20.1, 35, 50, 65],
        ELSEWHERE,
        (FAILURE, "passes came every 15 minutes; none since 2026-03-02T11:39:54Z"),
    ),
    "every hour, as nobody configured": (
        [36, 96, 156, 216],
        ELSEWHERE,
        (Level.WARNING, "the last one began 36 min ago, but there should be one every 15 min"),
    ),
    # If the pass that a wrong clock dated a month ahead counted, the check would not notice a dead cron.
    "one in the future": (
        [-30 * 24 * 60, 75, 90],
        NOBODY,
        (FAILURE, "a pass should begin every 15 minutes; none since 2026-03-02T10:45:00Z"),
    ),
}


@pytest.mark.parametrize("name", PASSES)
def test_the_scheduler_is_judged_by_the_passes_that_have_started(desk: Desk, name: str) -> None:
    ago, scheduler, cadence = PASSES[name]
    desk.with_passes(*(minutes * MINUTE for minutes in ago))
    found = desk.in_database(calling.calling)
    assert [(each.name, each.level, each.found) for each in found] == [("scheduler", *scheduler), ("passes", *cadence)]


def test_manual_passes_do_not_show_a_scheduler(desk: Desk) -> None:
    desk.with_passes(5 * MINUTE, 20 * MINUTE)
    desk.execute("UPDATE retrycli_passes SET started_by = 'person'")
    assert [(each.level, each.found) for each in desk.in_database(calling.calling)] == [NOBODY, NOBODY]


def test_the_cron_line_is_reported_with_its_place_and_its_user(desk: Desk) -> None:
    """Root may read everything, so root's findings say little about another user's passes."""
    file = desk.schedule()
    scheduler, user, _ = desk.in_database(calling.calling)
    assert only([scheduler], OK, "scheduler").found == f"cron starts passes at */15 * * * * as desk: {file}"
    assert only([user], Level.WARNING, "user").remedy == f"`sudo -u desk retrycli --config {desk.config} doctor`"
    desk.schedule(desk.host.login)
    assert [finding.name for finding in desk.in_database(calling.calling)] == ["scheduler", "passes"]


def test_a_cron_that_does_not_run_is_a_failure(desk: Desk) -> None:
    file = desk.schedule()
    (desk.root / "proc/2/status").write_text("Name:\tsshd\nNSpid:\t2\n")
    found = only(desk.in_database(calling.calling)[:1], FAILURE, "scheduler")
    assert found.found.endswith(f"{file}; but cron is not running on this machine")
    assert found.remedy == "start the service `cron` or `crond`"
    (desk.root / "proc/1/status").unlink()
    assert "can't tell" in only(desk.in_database(calling.calling)[:1], Level.WARNING, "scheduler").found


def test_two_schedulers_of_a_host_are_a_warning(desk: Desk) -> None:
    desk.with_passes(5 * MINUTE, 5.1 * MINUTE, 20 * MINUTE)
    found = only(desk.in_database(calling.calling)[1:2], Level.WARNING, "scheduler")
    assert found.found.startswith("two passes began on box within a minute, at 2026-03-02T11:55:00Z")


def test_a_missed_tick_of_the_cron_line_is_a_failure_though_no_pass_has_run(desk: Desk) -> None:
    desk.schedule(written=21 * MINUTE)
    found = only(desk.in_database(calling.calling)[-1:], FAILURE, "passes")
    assert found.found == "no pass has begun yet; cron should have started one at 2026-03-02T11:45:00Z"
    desk.schedule(written=9 * MINUTE)
    only(desk.in_database(calling.calling)[-1:], Level.WARNING, "passes")


def test_an_application_that_has_made_no_pass_yet_is_a_failure(desk: Desk) -> None:
    with held(scheduler_lock_path(desk.loaded().settings), NOON - 21 * MINUTE):
        found = only(desk.in_database(calling.calling)[-1:], FAILURE, "passes")
    assert found.found == "a pass should begin every 15 minutes; none yet"


def test_a_failed_check_does_not_stop_others(desk: Desk) -> None:
    desk.case(more='preset = "none.toml"\n')
    (desk.root / "agent.db.retrycli.lock").mkdir()
    desk.execute("ALTER TABLE pending_messages RENAME TO stored")
    desk.execute("CREATE VIEW pending_messages AS SELECT * FROM stored")
    found = {finding.name: finding for finding in examine(desk.config, {}, host=desk.host, now=lambda: NOON)}
    assert {"settings", "files", "lock", "api", "table", "tables", "writing", "scheduler", "passes"} <= found.keys()
    assert {found[name].level for name in ("lock", "api", "table", "writing")} == {Level.FAILURE}


def test_a_missing_database_does_not_stop_the_check_of_the_scheduler(desk: Desk) -> None:
    (desk.root / "agent.db").unlink()
    for url, said, remedy in (
        ("sqlite:///agent.db", f"no database at {desk.root}/agent.db", "check database.url (RETRYCLI_DATABASE__URL)"),
        (
            "postgresql://db:port/desk",
            "database.url is not a valid database URL",
            "check its port and its percent-encoding",
        ),
    ):
        desk.config.write_text(CONFIG.replace("sqlite:///agent.db", url))
        found = {finding.name: finding for finding in examine(desk.config, {}, host=desk.host, now=lambda: NOON)}
        assert (found["database"].level, found["database"].found) == (Level.FAILURE, said)
        assert found["database"].remedy == remedy
        assert found["scheduler"].level is Level.FAILURE
    assert not (desk.root / "agent.db").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", []),
        ('[schedule]\nwindows = ["Mon 08:00-08:15"]\n', [Level.OK]),
        ('[schedule]\nwindows = ["Mon 08:00-08:14"]\n', [Level.WARNING]),
        ('[schedule]\nretry_interval_minutes = 60\nwindows = ["Mon 08:00-08:59"]\n', [Level.WARNING]),
        ('[schedule.types.supplier]\nwindows = ["daily 06:00-22:00", "Sun 23:00-23:05"]\n', [Level.WARNING]),
    ],
)
def test_a_delivery_window_that_passes_may_miss_is_a_warning(desk: Desk, more: str, expected: list[Level]) -> None:
    assert [finding.level for finding in calling.windows(desk.case(more=more))] == expected
