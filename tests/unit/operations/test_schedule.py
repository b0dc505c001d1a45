"""Installing and checking cron lines on a simulated machine, which is a folder."""

from __future__ import annotations

import importlib.resources
import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname
from zoneinfo import TZPATH, available_timezones

import pytest

import retrycli
from retrycli.config.loader import Loaded, load
from retrycli.domain import cron_line
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.passes import PassRecord, StartedBy
from retrycli.operations.reliance import refuse_passing, this_python
from retrycli.operations.schedule.installation import apply, install, job, propose, remove
from retrycli.operations.schedule.next_run import Verdict, began_here, check
from retrycli.system.host import Asker, Finished, Host, system_zone
from tests.unit.domain.passes import Past
from tests.users import OURS, SHARED, THEIRS, need_own_program, need_root, open_place

USERS = {"root": 0, "desk": OURS, str(OURS): OURS, str(THEIRS): THEIRS, "me": os.geteuid()}
OTHERS = b"# caf\xe9\n0 5 * * * true\n"


@dataclass
class Programs:
    """A fake of ``crontab`` and ``systemctl``."""

    crontab: bytes | None = None
    active: set[str] = field(default_factory=lambda: {"cron.service"})
    """The active systemd units."""
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Exit codes and outputs of commands that contain a word, in place of the usual ones."""

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        for word, (code, said) in self.instead.items():
            if word in " ".join(command):
                return subprocess.CompletedProcess(command, code, b"" if code else said, said if code else b"")
        match list(command):
            case ["crontab", "-l"] if self.crontab is None:
                return subprocess.CompletedProcess(command, 1, b"", b"no crontab for ana\n")
            case ["crontab", "-l"]:
                return subprocess.CompletedProcess(command, 0, self.crontab, b"")
            case ["crontab", "-"]:
                self.crontab = given
            case ["crontab", "-r"]:
                self.crontab = None
            case ["systemctl", *words] if "is-active" in words:
                return subprocess.CompletedProcess(command, 0 if self.active & {*words} else 3, b"", b"")
        return subprocess.CompletedProcess(command, 0, b"", b"")


@dataclass
class Desk:
    """A simulated machine on which retrycli is set up. Its time is noon."""

    root: Path
    uid: int
    programs: Programs

    @property
    def host(self) -> Host:
        home = self.root / "home"
        return Host(root=self.root, home=home, uid=self.uid, run=self.programs, number=USERS.get)

    def settings(self, more: str = "", environment: dict[str, str] | None = None) -> Loaded:
        file = self.root / "retrycli.toml"
        file.write_text(more)
        return load(file, environment or {})

    def install(self, more: str = "", *, system: bool = True) -> None:
        apply(install(job(self.settings(more), self.host, user="desk", system=system), self.host))

    def check(self, *passes: PassRecord, more: str = "") -> Verdict:
        return check(self.settings(more), self.host, passes, NOON)

    def problem(self, more: str = "") -> str | None:
        found = self.check(more=more).problem
        return None if found is None else "; ".join(found)

    def remove(self) -> None:
        apply(remove(str(self.root / "retrycli.toml"), self.host))

    def files(self) -> dict[str, bytes]:
        found = {str(each.relative_to(self.root)): each for each in self.root.rglob("*") if each.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if name != "retrycli.toml"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Provide a machine with cron and systemd, used by root."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    return Desk(tmp_path, 0, Programs(OTHERS))


@pytest.mark.parametrize("system", [True, False])
def test_an_installed_cron_line_is_found_healthy_and_removable(desk: Desk, *, system: bool) -> None:
    """A second installation changes nothing, and other lines are kept in any encoding."""
    (desk.root / "etc/cron.d").mkdir()
    (desk.root / "etc/cron.d/retrycli").write_bytes(b"MAILTO=ana\r\n" + OTHERS)
    before = (desk.files(), desk.programs.crontab)
    desk.install(system=system)
    assert (desk.root / "etc/cron.d/retrycli").stat().st_mode & 0o777 == 0o644
    found = desk.check()
    assert ([block.user for block in found.blocks], found.problem) == (["desk" if system else "root"], None)
    assert install(job(desk.settings(), desk.host, user="desk", system=system), desk.host) == []
    by_another = remove(str(desk.root / "retrycli.toml"), replace(desk.host, uid=4711))
    assert bool(by_another) is not system, "only root may change the system's crontab"
    desk.remove()
    assert (desk.files(), desk.programs.crontab) == before
    assert desk.problem() == "nothing is known to start passes; run `retrycli cron install`"


NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def made(minutes_ago: float, by: StartedBy = StartedBy.CRON, host: str = "barn") -> PassRecord:
    at = NOON - minutes_ago * MINUTE
    return Past(started_at=at, finished_at=at, started_by=by, host=host)


def test_passes_that_come_from_elsewhere_are_named_and_are_no_problem(desk: Desk) -> None:
    passes = [made(1), made(3, StartedBy.TIMER, gethostname()), made(5, StartedBy.PERSON), made(90, StartedBy.LIBRARY)]
    found = desk.check(*passes)
    assert found.problem is None
    assert found.elsewhere == [
        "passes come from cron on barn, not from a block of retrycli's",
        f"passes come from a timer on {gethostname()}, not from a block of retrycli's",
    ]
    desk.install()
    beside = desk.check(made(1, host=gethostname()), *passes)
    assert (beside.problem, beside.elsewhere) == (
        None,
        ["passes also come from cron on barn", f"passes also come from a timer on {gethostname()}"],
    )


def test_two_passes_of_a_host_at_one_tick_are_a_warning(desk: Desk) -> None:
    [(problem, remedy)] = desk.check(made(1), made(1.05, StartedBy.TIMER)).warnings
    assert f"{problem}; {remedy}" == (
        "two passes began on barn within a minute, at 2026-03-02T11:59:03Z (by cron and timer), so two "
        "schedulers start passes there; keep only one of them"
    )
    for other in (made(1.05, host="mill"), made(1.05, StartedBy.PERSON), made(16)):
        assert not desk.check(made(1), other).warnings


def test_install_names_the_passes_that_begin_here_already(desk: Desk) -> None:
    here, settings = gethostname(), desk.settings().settings
    passes = [made(2, StartedBy.TIMER, here), made(3, StartedBy.PERSON, here), made(16, StartedBy.CRON, here), made(31)]
    found = str(began_here(settings, desk.host, passes, NOON))
    assert "not from this cron line: 2026-03-02T11:58:03Z (timer), 2026-03-02T11:44:03Z (cron). Unless" in found
    assert began_here(settings, desk.host, [made(31, host=here)], NOON) is None
    desk.install()
    assert "(cron)" not in str(began_here(settings, desk.host, passes, NOON))
    assert began_here(settings, desk.host, passes[1:], NOON) is None


def test_the_systems_zone_is_read_from_its_file(tmp_path: Path) -> None:
    """If the file is missing, as in many containers, or invalid, the zone is UTC."""
    assert system_zone(tmp_path) is UTC
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/localtime").write_bytes(b"no zone")
    assert system_zone(tmp_path) is UTC
    if "Asia/Kathmandu" in available_timezones():
        (tmp_path / "etc/localtime").write_bytes(b"".join(zone_file("Asia/Kathmandu")))
        assert NOON.astimezone(system_zone(tmp_path)).strftime("%H:%M") == "17:45"


def zone_file(name: str) -> Iterator[bytes]:
    """Yield the contents of a time zone's file, from the system or from the package tzdata."""
    for folder in TZPATH:
        if (path := Path(folder, name)).exists():
            yield path.read_bytes()
            return
    yield (importlib.resources.files("tzdata") / "zoneinfo" / name).read_bytes()


def test_a_second_block_is_refused(desk: Desk) -> None:
    desk.install()
    before = desk.files()
    with pytest.raises(ConfigurationError, match=r"already starts passes .*first run `retrycli cron remove`"):
        desk.install(system=False)
    assert desk.files() == before
    desk.programs.crontab = OTHERS + cron_line.block(job(desk.settings(), desk.host, system=False)).encode()
    assert str(desk.problem()).endswith(" both start passes; keep one: `retrycli cron remove` removes both")


def test_check_reports_a_changed_interval_and_install_corrects_it(desk: Desk) -> None:
    desk.install()
    other = "[schedule]\nretry_interval_minutes = 30\n"
    assert "starts passes at */15 * * * *, but schedule.retry_interval_minutes requires */30 * * * *; run" in str(
        desk.problem(other)
    )
    desk.install(other)
    assert desk.problem(other) is None
    file = desk.root / "etc/cron.d/retrycli"
    file.write_text(file.read_text().replace("umask 077; ", ""))
    assert "its command should be: umask 077; exec " in str(desk.problem(other))
    assert "cron supports only intervals" in str(desk.problem(other.replace("30", "7")))
    file.write_text(file.read_text().replace("# retrycli: end", ""))
    assert re.match(r"line 1 of the crontab, .* has no matching end", str(desk.check().unread))


def test_a_crontab_that_changed_during_the_question_is_left_alone(desk: Desk) -> None:
    changes = install(job(desk.settings(), desk.host, system=False), desk.host)
    desk.programs.crontab = b"0 0 * * * new\n"
    with pytest.raises(ConfigurationError, match="was modified in the meantime"):
        apply(changes)
    assert desk.programs.crontab == b"0 0 * * * new\n"


@pytest.mark.parametrize(
    ("answers", "system", "error"),
    [
        ({"": (127, b"No such file or directory")}, True, "cron is not installed"),
        ({"": (127, b"No such file or directory")}, False, "cron is not installed"),
        (
            {"crontab": (1, b"You (ana) are not allowed\n")},
            False,
            r"`crontab` failed: You \(ana\) are not allowed; check",
        ),
        ({}, True, r"can't (read|write) .*/etc/cron.d/retrycli"),
    ],
)
def test_a_place_that_cannot_be_used_is_named(
    desk: Desk, answers: dict[str, tuple[int, bytes]], error: str, *, system: bool
) -> None:
    """Some machines have a folder /etc/cron.d and no cron. An unreadable crontab does not count as empty."""
    if answers:
        (desk.root / "etc/cron.d").mkdir()
    else:
        (desk.root / "etc/cron.d").touch()
    before, desk.programs.instead = desk.files(), answers
    with pytest.raises(ConfigurationError, match=error):
        desk.install(system=system)
    assert desk.files() == before
    if "crontab" in answers:
        assert desk.check().unread == "`crontab` failed: You (ana) are not allowed"
        with pytest.raises(ConfigurationError, match=error):
            desk.remove()


@pytest.mark.parametrize(
    ("systemd", "active", "listed", "running"),
    [
        (True, {"cron.service"}, {}, True),
        (True, set(), {}, False),
        (True, None, {}, None),  # systemd does not answer, and other users' processes are hidden (hidepid)
        (False, set(), {}, None),
        (False, set(), {"init": "", "cron": ""}, True),
        (False, set(), {"init": "", "crond": "NSpid:\t2\n"}, True),
        (False, set(), {"init": "", "cron": "NSpid:\t2\t1\n"}, False),  # in a container
        (False, set(), {"init": "", "cron": "State:\tZ (zombie)\n"}, False),  # no parent has reaped it
    ],
)
def test_a_running_cron_is_detected_with_or_without_systemd(
    desk: Desk, active: set[str] | None, listed: dict[str, str], *, systemd: bool, running: bool | None
) -> None:
    if not systemd:
        (desk.root / "run/systemd/system").rmdir()
    for number, (name, more) in enumerate(listed.items(), 1):
        (desk.root / f"proc/{number}").mkdir(parents=True)
        (desk.root / f"proc/{number}/status").write_text(f"Name:\t{name}\n{more}")
    desk.programs.active = active or set()
    if active is None:
        desk.programs.instead["is-active"] = (1, b"no bus\n")
    desk.install()
    found = desk.check()
    assert found.running is running
    assert (found.problem is None) is (running is not False)


def test_an_unresponsive_program_is_awaited_once(tmp_path: Path) -> None:
    """Repeated waits would add up."""
    hung, asked = tmp_path / "hung", tmp_path / "asked"
    hung.write_text(f"#!/bin/sh\necho >> {asked}\nexec sleep 600\n")
    hung.chmod(0o755)
    asker = Asker(seconds=0.2)
    for _ in range(3):
        done = asker([str(hung)], b"")
        assert (done.returncode, done.stderr) == (124, b"no response within 0.2 s")
    assert asked.read_text() == "\n"
    assert {*asker.silent} == {str(hung)}
    assert asker(["true"], b"").returncode == 0
    assert {*asker.silent} == {str(hung)}


def test_a_missing_crontab_counts_as_readable(desk: Desk) -> None:
    """Debian's cron and cronie print the same error, and busybox prints another."""
    for said in (b"no crontab for ana\n", b"crontab: can't open 'ana': No such file or directory\n"):
        desk.programs.instead["crontab"] = (1, said)
        assert desk.check().unread is None


@pytest.fixture
def shared_desk() -> Iterator[Desk]:
    """Provide a machine that every user may read. Root owns the config, and the passes' user owns the database."""
    need_root()
    need_own_program()
    with open_place() as root:
        (root / "run/systemd/system").mkdir(parents=True)
        (root / "data").mkdir()
        (root / "data/agent.db").touch()
        for name in ("data", "data/agent.db"):
            os.chown(root / name, OURS, OURS)
        yield Desk(root, 0, Programs(OTHERS))


DATA = '[database]\nurl = "sqlite:///data/agent.db"\n'
IN_POSTGRESQL = '[database]\nurl = "postgresql://db/desk"\n'


def proposed(desk: Desk, settings: str, run_as: str | None = None, *, system: bool = True) -> str:
    """Return the user that would run the passes."""
    return propose(desk.settings(settings), desk.host, system=system, run_as=run_as).user


def test_root_makes_passes_only_if_root_is_named(shared_desk: Desk) -> None:
    """A database server has no file whose owner could run passes, and root's own schedule always runs as root."""
    for system in (True, False):
        with pytest.raises(ConfigurationError, match=r"passes would run as root; .*--run-as USER"):
            proposed(shared_desk, IN_POSTGRESQL, system=system)
        assert proposed(shared_desk, IN_POSTGRESQL, "root", system=system) == "root"


def test_no_user_chooses_another_user_for_the_passes(shared_desk: Desk) -> None:
    """The database's owner may put a link to another user's file in its place."""
    theirs = shared_desk.root / "theirs"
    theirs.touch()
    os.chown(theirs, THEIRS, THEIRS)
    assert proposed(shared_desk, DATA) == str(OURS)
    (shared_desk.root / "data/agent.db").unlink()
    (shared_desk.root / "data/agent.db").symlink_to(theirs)
    os.chown(shared_desk.root / "data/agent.db", OURS, OURS, follow_symlinks=False)
    with pytest.raises(ConfigurationError, match=r"passes would run as root; .*--run-as USER"):
        proposed(shared_desk, DATA)


RELIED_ON = ("retrycli.toml", "own.toml", "ca.pem", "own_waits.py")
RELIES = DATA + (
    '[gateway]\npreset = "own.toml"\nca_file = "ca.pem"\n[schedule]\nbackoff = "python"\ncall = "own_waits:next_wait"\n'
)


@pytest.mark.parametrize("name", [*RELIED_ON, "."])
def test_no_pass_depends_on_files_that_another_user_may_write(shared_desk: Desk, name: str) -> None:
    shared_desk.settings(RELIES)
    for path in RELIED_ON[1:]:
        (shared_desk.root / path).touch()
    assert proposed(shared_desk, RELIES) == str(OURS)
    for owner, group, mode in ((THEIRS, 0, 0o700), (0, SHARED, 0o770), (0, 0, 0o707)):
        os.chown(shared_desk.root / name, owner, group)
        (shared_desk.root / name).chmod(mode)
        with pytest.raises(
            ConfigurationError,
            match=rf"(passes run by {OURS} would rely on it|{THEIRS}|{SHARED}|every user); (`ch(own|mod) |use a |run )",
        ):
            proposed(shared_desk, RELIES)


def test_the_program_is_the_interpreter_the_package_and_all_that_python_imports_from() -> None:
    """A new process, because pytest-xdist changes `sys.path`. `tests/cli/test_cron.py` shows that no other user may
    change these files.
    """
    code = (
        "import sysconfig; from retrycli.operations.reliance import relied_on\n"
        "for name in ('purelib', 'platlib', 'stdlib'): print(sysconfig.get_path(name))\n"
        "print('', *relied_on(), sep='\\n')"
    )
    run = subprocess.run([this_python(), "-c", code], capture_output=True, text=True, check=True, timeout=30)
    packages, _, found = run.stdout.partition("\n\n")
    package = Path(retrycli.__file__).parent
    program = {this_python(), *map(str, (package, package / "views", package / "views/terminal.py"))}
    assert program | set(packages.splitlines()) <= set(found.splitlines())


def test_an_interpreter_that_may_vanish_is_refused() -> None:
    """`uvx retrycli cron install` would write a line that fails once the cache is emptied."""
    for folder in ("/opt/retrycli", "/home/ana/.local/share/uv/tools/retrycli"):
        refuse_passing(f"{folder}/bin/python3")
    for folder in ("/srv/uv-cache/archive-v0/x", "/home/ana/.local/share/pipx/.cache/x", "/tmp/venv"):
        with pytest.raises(ConfigurationError, match="`uv tool install retrycli` or in a virt"):
            refuse_passing(f"{folder}/bin/python3")


def test_the_user_of_the_passes_must_exist(desk: Desk) -> None:
    """Cron ignores a crontab with an unknown user, and a name with a line break could add a line."""
    for user in ("nobody-here", "desk\n* * * * * root true"):
        with pytest.raises(ConfigurationError, match="does not exist"):
            propose(desk.settings(), desk.host, system=True, run_as=user)
