"""Installing and finding schedules on a simulated machine, which is a folder."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from socket import gethostname
from zoneinfo import TZPATH, available_timezones

import pytest

import retrycli
from retrycli.config.loader import Loaded, load
from retrycli.domain.cron_line import Caller
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.passes import PassRecord, PassResult, StartedBy
from retrycli.operations.schedule.callers import callers_of, check, ticks_of, why_not_scheduled
from retrycli.operations.schedule.installation import apply, install, remove, texts
from retrycli.operations.schedule.proposal import SchedulePlace, job, propose, reachable, relied_on, this_python
from retrycli.system import systemd
from retrycli.system.host import Asker, Finished, Host, system_zone
from tests.users import OURS, SHARED, THEIRS, need_own_program, need_root, open_place

USERS = {"root": 0, "desk": OURS, str(OURS): OURS, str(THEIRS): THEIRS, "me": os.geteuid()}
OTHERS = b"# caf\xe9\n0 5 * * * true\n"


@dataclass
class Programs:
    """A fake of ``crontab`` and ``systemctl``."""

    crontab: bytes | None = None
    asked: list[str] = field(default_factory=list)
    active: set[str] = field(default_factory=lambda: {"cron.service"})
    """The active systemd units."""
    instead: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    """Exit codes and outputs of commands that contain a word, in place of the usual ones."""

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        self.asked.append(line := " ".join(command))
        for word, (code, said) in self.instead.items():
            if word in line:
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
            case ["systemctl", *words, unit] if "--now" in words:
                self.active = self.active | {unit} if "enable" in words else self.active - {unit}
        return subprocess.CompletedProcess(command, 0, b"", b"")


@dataclass
class Desk:
    """A simulated machine on which retrycli is set up."""

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

    def install(self, place: SchedulePlace, more: str = "") -> None:
        apply(place, install(place, job(self.settings(more), self.host, user="desk"), self.host), self.host)

    def check(self, more: str = "") -> tuple[int, str | None]:
        verdict = check(self.settings(more), self.host)
        return len(verdict.callers), verdict.objection

    def remove(self) -> None:
        for place, changes in remove(reachable(self.host), str(self.root / "retrycli.toml"), self.host).items():
            apply(place, changes, self.host)

    def files(self) -> dict[str, bytes]:
        found = {str(each.relative_to(self.root)): each for each in self.root.rglob("*") if each.is_file()}
        return {name: path.read_bytes() for name, path in found.items() if name != "retrycli.toml"}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Provide a machine with cron and systemd, used by root."""
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/crontab").write_text("17 * * * * root run-parts /etc/cron.hourly\n")
    return Desk(tmp_path, 0, Programs(OTHERS))


@pytest.mark.parametrize("place", list(SchedulePlace))
def test_an_installed_schedule_is_found_healthy_and_removable(desk: Desk, place: SchedulePlace) -> None:
    """A second installation changes nothing. A timer counts only after systemd has enabled it."""
    before = (desk.files(), desk.programs.crontab)
    desk.install(place)
    if place.is_timer:
        assert desk.programs.asked[-2:] == [
            f"systemctl{'' if place.is_system else ' --user'} {command}"
            for command in ("daemon-reload", "enable --now retrycli.timer")
        ]
        [folder] = {(desk.root / path).parent for path in desk.files() if path.endswith(".timer")}
        (folder / "timers.target.wants").mkdir()
        (folder / "timers.target.wants/retrycli.timer").symlink_to(folder / "retrycli.timer")
    assert desk.check() == (1, None)
    assert install(place, job(desk.settings(), desk.host, user="desk"), desk.host) == []
    desk.remove()
    for link in desk.root.rglob("timers.target.wants/*"):
        link.unlink()
    assert (desk.files(), desk.programs.crontab) == before
    assert desk.check() == (0, "no cron line or timer that starts passes was found; run `retrycli cron install`")


NOON = datetime(2026, 3, 2, 12, 0, 3, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def made(minutes_ago: int, starter: StartedBy) -> PassRecord:
    at = NOON - minutes_ago * MINUTE
    return PassRecord("p", "box", 1, at, at, PassResult.COMPLETED, None, None, 0, 0, 0, 0, 0, starter)


def test_the_next_run_comes_from_the_schedule_or_past_passes_or_the_clock(desk: Desk) -> None:
    """Manual passes do not show when the next scheduled pass begins."""
    by_hand, elsewhere = made(6, StartedBy.PERSON), made(8, StartedBy.CRON)

    def minute(*passes: PassRecord) -> int:
        callers = callers_of(desk.settings(), desk.host)
        return ticks_of(callers, passes, 15 * MINUTE, NOON).next(NOON).minute

    assert minute(by_hand) == 15
    assert minute(by_hand, elsewhere) == 7
    (desk.root / "etc/crontab").write_text("*/10 * * * * desk retrycli run-once\n")
    assert minute(by_hand, elsewhere) == 10
    desk.programs.crontab = b"9 * * * * retrycli run-once\n"
    assert minute(by_hand, elsewhere) == 9, "the first of several"
    desk.programs.crontab = b"@reboot retrycli run-once\n"
    (desk.root / "etc/crontab").unlink()
    assert minute(by_hand, elsewhere) == 7


def test_the_next_run_of_an_application_comes_from_the_clock() -> None:
    """Its passes begin some seconds after the tick, and never the same number of seconds."""
    for starter, expected in (
        (StartedBy.APPLICATION, NOON.replace(minute=15, second=0)),
        (StartedBy.CRON, 7 * MINUTE + NOON),
    ):
        passes = [made(1, StartedBy.PERSON), made(8, starter)]
        assert ticks_of([], passes, 15 * MINUTE, NOON, UTC).next(NOON) == expected


def test_an_application_is_gone_when_its_newest_pass_is_late_and_no_other_passes_are_made() -> None:
    application, person = StartedBy.APPLICATION, made(1, StartedBy.PERSON)

    def reason(*passes: PassRecord, callers: list[Caller] | None = None) -> str:
        return "; ".join(why_not_scheduled(callers, passes, 15 * MINUTE, NOON) or ())

    gone = (
        "the application that made the passes (pid 1 on box, last pass at 2026-03-02T11:25:03Z) has stopped making them"
    )
    assert reason(person, made(35, application), made(50, StartedBy.CRON)) == f"{gone}; restart the application"
    assert reason(made(35, application), callers=[]) == f"{gone}; restart the application"
    assert reason(made(34, application)) == reason(made(34, application), callers=[]) == ""
    assert reason(made(5, StartedBy.LIBRARY), made(35, application)) == ""


def test_only_manual_passes_show_that_nothing_schedules_them() -> None:
    """Passes of another host, a library or an unknown starter come from places that were not checked."""

    def told(*passes: PassRecord) -> bool:
        return why_not_scheduled([], passes, 15 * MINUTE, NOON) is not None

    person, long_ago = StartedBy.PERSON, made(600, StartedBy.CRON)
    assert told(made(1, person))
    assert told(made(1, person), made(34, person), long_ago), "as they came then"
    assert told(made(600, person))
    assert told(), "none has come yet"
    assert not told(long_ago, made(601, person)), "that they have stopped coming is another matter"
    for starter in set(StartedBy) - {person}:
        assert not told(made(1, person), made(34, starter))
    assert why_not_scheduled(None, [made(1, person)], 15 * MINUTE, NOON) is None


def test_root_detects_that_the_line_of_past_cron_passes_is_gone() -> None:
    """Root sees all crontabs. A user's timer, a library and another host may still start passes."""

    def told(*passes: PassRecord) -> bool:
        return why_not_scheduled([], passes, 15 * MINUTE, NOON, none_hidden=True) is not None

    by_cron = replace(made(1, StartedBy.CRON), host=gethostname())
    assert told(by_cron)
    assert not told(replace(by_cron, host="elsewhere"))
    for starter in {StartedBy.TIMER, StartedBy.LIBRARY, StartedBy.UNKNOWN}:
        assert not told(by_cron, replace(by_cron, started_by=starter))


@pytest.mark.parametrize(
    ("version", "expected"),
    [(b"cronie 1.5.7\n", (21, 15)), (b"", (3, 0)), (b"crontab: invalid option -- 'V'\n", (3, 0))],
)
def test_a_line_uses_the_systems_zone_or_with_cronie_its_own(
    desk: Desk, version: bytes, expected: tuple[int, int]
) -> None:
    """Debian's cron ignores CRON_TZ, and cronie obeys it. Kathmandu is 5 h 45 min ahead of UTC."""
    desk.programs.instead["crontab -V"] = (0 if version.startswith(b"cronie") else 1, version)
    desk.programs.crontab = b"CRON_TZ=Asia/Kathmandu\n0 3 * * * retrycli run-once\n"
    callers = callers_of(desk.settings(), desk.host)
    found = ticks_of(callers, [], 15 * MINUTE, NOON, UTC).next(NOON)
    assert (found.hour, found.minute) == expected
    nowhere = [replace(caller, zone="No/Where") for caller in callers]
    assert ticks_of(nowhere, [], 15 * MINUTE, NOON, UTC).next(NOON).hour == 3


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


def test_a_counting_timer_uses_the_last_pass_that_it_started(desk: Desk) -> None:
    folder = desk.root / "etc/systemd/system"
    (folder / "timers.target.wants").mkdir(parents=True)
    (folder / "retrycli.service").write_text("[Service]\nExecStart=/x/retrycli run-once\n")
    (folder / "timers.target.wants/retrycli.timer").symlink_to(folder / "retrycli.timer")
    (folder / "retrycli.timer").write_text("[Timer]\nOnUnitActiveSec=420s\n")
    desk.programs.active.add("retrycli.timer")
    callers = callers_of(desk.settings(), desk.host)
    passes = [made(1, StartedBy.PERSON), made(5, StartedBy.TIMER)]
    assert ticks_of(callers, passes, 7 * MINUTE, NOON).next(NOON) == NOON + 2 * MINUTE
    (folder / "retrycli.timer").write_text("[Timer]\nOnCalendar=*:3/5\n")
    callers = callers_of(desk.settings(), desk.host)
    assert ticks_of(callers, passes, 7 * MINUTE, NOON).next(NOON).minute == 3


CRONTABS = (SchedulePlace.OWN_CRONTAB, SchedulePlace.SYSTEM_CRONTAB)


@pytest.mark.parametrize(("first", "second"), [(a, b) for a in CRONTABS for b in SchedulePlace if a is not b])
def test_a_second_scheduler_is_refused(desk: Desk, first: SchedulePlace, second: SchedulePlace) -> None:
    desk.install(first)
    before = desk.files()
    with pytest.raises(ConfigurationError, match=r"already started by .*first run `retrycli cron remove`"):
        desk.install(second)
    assert desk.files() == before


def test_the_first_scheduler_is_removed_by_its_owner(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    host = replace(desk.host, uid=OURS)
    with pytest.raises(ConfigurationError, match=rf"first run `sudo retrycli --config {desk.root}/\S+ cron remove`$"):
        install(SchedulePlace.OWN_CRONTAB, job(desk.settings(), host, user="desk"), host)
    desk.remove()
    spool = desk.root / "var/spool/cron/crontabs"
    spool.mkdir(parents=True)
    (spool / "desk").touch()
    [(_, block)] = texts(SchedulePlace.OWN_CRONTAB, job(desk.settings(), desk.host), desk.host)
    desk.programs.instead["crontab -u"] = (0, block.encode())
    with pytest.raises(ConfigurationError, match=r"first run `sudo -u desk retrycli --config \S+ cron remove`$"):
        desk.install(SchedulePlace.SYSTEM_CRONTAB)


def test_cron_is_refused_if_a_timer_is_active(desk: Desk) -> None:
    """The timer was installed manually, and was started but not enabled."""
    folder = desk.root / "usr/lib/systemd/system"
    folder.mkdir(parents=True)
    (folder / "desk.timer").write_text("[Timer]\nOnCalendar=hourly\nUnit=delivery.service\n")
    (folder / "delivery.service").write_text("[Service]\nExecStart=/x/retrycli run-once\n")
    assert desk.check()[0] == 0
    desk.programs.active.add("desk.timer")
    with pytest.raises(ConfigurationError, match=r"desk\.timer \(hourly\)"):
        desk.install(SchedulePlace.SYSTEM_CRONTAB)


def test_another_installation_with_other_settings_is_not_a_second_scheduler(desk: Desk) -> None:
    (desk.root / "etc/crontab").write_text("* * * * * root retrycli --config /srv/other.toml run-once\n")
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    assert desk.check() == (1, None)


def test_check_reports_a_changed_interval_and_install_corrects_it(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    other = "[schedule]\nretry_interval_minutes = 30\n"
    _, objection = desk.check(other)
    assert objection is not None
    assert "starts passes at */15 * * * *, but schedule.retry_interval_minutes requires */30 * * * *" in objection
    desk.install(SchedulePlace.SYSTEM_CRONTAB, other)
    assert desk.check(other) == (1, None)


def test_a_manual_line_equal_to_the_generated_one_is_healthy(desk: Desk) -> None:
    [(_, block)] = texts(SchedulePlace.OWN_CRONTAB, job(desk.settings(), desk.host), desk.host)
    line = block.splitlines()[-2]
    desk.programs.crontab = OTHERS + f"{line}\n".encode()
    assert desk.check() == (1, None)
    desk.programs.crontab += f"{line}\n".encode()
    assert desk.check()[0] == 2
    desk.remove()
    assert desk.check()[0] == 2, "what was written by hand is taken away by hand"


def test_a_file_that_cron_ignores_schedules_nothing(desk: Desk) -> None:
    """Cron ignores files in cron.d whose names contain a dot."""
    (desk.root / "etc/cron.d").mkdir()
    (desk.root / "etc/cron.d/retrycli.cron.d").write_text("* * * * * root retrycli run-once\n")
    assert desk.check()[0] == 0
    (desk.root / "etc/cron.d/retrycli-desk").write_text("* * * * * root retrycli run-once\n")
    assert desk.check()[0] == 1


def test_a_crontab_that_changed_during_the_question_is_left_alone(desk: Desk) -> None:
    changes = install(SchedulePlace.OWN_CRONTAB, job(desk.settings(), desk.host), desk.host)
    desk.programs.crontab = b"0 0 * * * new\n"
    with pytest.raises(ConfigurationError, match="was modified in the meantime"):
        apply(SchedulePlace.OWN_CRONTAB, changes, desk.host)
    assert desk.programs.crontab == b"0 0 * * * new\n"


def test_lines_added_to_our_system_file_are_kept_in_any_encoding(desk: Desk) -> None:
    (desk.root / "etc/cron.d").mkdir()
    file = desk.root / "etc/cron.d/retrycli"
    file.write_bytes(b"MAILTO=ana\r\n" + OTHERS)
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    assert file.read_bytes().startswith(b"MAILTO=ana\r\n" + OTHERS)
    assert file.stat().st_mode & 0o777 == 0o644
    desk.remove()
    assert file.read_bytes() == b"MAILTO=ana\r\n" + OTHERS


def test_another_owners_units_with_our_name_are_not_overwritten(desk: Desk) -> None:
    folder = desk.root / "etc/systemd/system"
    folder.mkdir(parents=True)
    (folder / "retrycli.timer").write_text("[Timer]\n")
    with pytest.raises(ConfigurationError, match="already exists"):
        desk.install(SchedulePlace.SYSTEM_TIMER)


@pytest.mark.parametrize("place", [SchedulePlace.SYSTEM_CRONTAB, SchedulePlace.SYSTEM_TIMER])
@pytest.mark.parametrize("user", ["nobody-here", "desk; true", "desk\n* * * * * root true"])
def test_the_user_of_the_passes_must_exist(desk: Desk, place: SchedulePlace, user: str) -> None:
    """Cron ignores a crontab with an unknown user, and a name with a line break could add a line."""
    with pytest.raises(ConfigurationError, match="does not exist"):
        install(place, job(desk.settings(), desk.host, user=user), desk.host)


def test_an_unwritable_place_is_named_and_nothing_is_left_behind(desk: Desk) -> None:
    (desk.root / "etc/cron.d").touch()
    before = desk.files()
    with pytest.raises(ConfigurationError, match=r"can't (read|write) .*/etc/cron.d/retrycli"):
        desk.install(SchedulePlace.SYSTEM_CRONTAB)
    assert desk.files() == before


def test_a_timer_is_refused_without_a_running_systemd(desk: Desk) -> None:
    (desk.root / "run/systemd/system").rmdir()
    with pytest.raises(ConfigurationError, match="systemd is not running"):
        desk.install(SchedulePlace.SYSTEM_TIMER)
    assert not (desk.root / "etc/systemd").exists()


def test_only_root_can_choose_the_user(desk: Desk) -> None:
    root, other = desk.host, Desk(desk.root, 4711, desk.programs).host
    assert SchedulePlace.of(root, user=False, systemd=False) is SchedulePlace.SYSTEM_CRONTAB
    assert SchedulePlace.of(root, user=True, systemd=True) is SchedulePlace.OWN_TIMER
    assert SchedulePlace.of(other, user=False, systemd=False) is SchedulePlace.OWN_CRONTAB
    assert SchedulePlace.of(other, user=False, systemd=True) is SchedulePlace.OWN_TIMER
    assert reachable(other) == [SchedulePlace.OWN_CRONTAB, SchedulePlace.OWN_TIMER]


@pytest.mark.parametrize("place", CRONTABS)
def test_cron_is_refused_if_it_is_not_installed(desk: Desk, place: SchedulePlace) -> None:
    """Some machines have a folder /etc/cron.d and no cron."""
    (desk.root / "etc/cron.d").mkdir()
    desk.programs.instead[""] = (127, b"No such file or directory")
    with pytest.raises(ConfigurationError, match="cron is not installed"):
        desk.install(place)


def test_a_forbidden_crontab_is_named(desk: Desk) -> None:
    desk.programs.instead["crontab"] = (1, b"You (ana) are not allowed to use this program\n")
    with pytest.raises(ConfigurationError, match=r"You \(ana\) are not allowed to use this program; .* --systemd"):
        desk.install(SchedulePlace.OWN_CRONTAB)


def test_a_disabled_timer_is_enabled_again(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_TIMER)
    desk.programs.asked.clear()
    desk.programs.active.discard("retrycli.timer")
    changes = install(SchedulePlace.SYSTEM_TIMER, job(desk.settings(), desk.host, user="desk"), desk.host)
    assert all(change.diff.endswith("will be enabled") for change in changes)
    apply(SchedulePlace.SYSTEM_TIMER, changes, desk.host)
    assert "systemctl enable --now retrycli.timer" in desk.programs.asked


def test_remains_of_a_timer_are_removed_too(desk: Desk) -> None:
    """The timer's unit no longer exists, so there is nothing to disable."""
    desk.install(SchedulePlace.SYSTEM_TIMER)
    (desk.root / "etc/systemd/system/retrycli.timer").unlink()
    desk.programs.asked.clear()
    desk.remove()
    assert not (desk.root / "etc/systemd/system/retrycli.service").exists()
    assert not any("disable" in call for call in desk.programs.asked)


def processes(desk: Desk, *names: str, elsewhere: str = "nginx") -> None:
    """Create the machine's processes, and one process of a container on the machine."""
    for number, name in enumerate(("init", *names, elsewhere), 1):
        (desk.root / f"proc/{number}").mkdir(parents=True)
        inside = "\t1" if name == elsewhere else ""
        (desk.root / f"proc/{number}/status").write_text(f"Name:\t{name}\nNSpid:\t{number}{inside}\n")


@pytest.mark.parametrize("daemon", ["cron", "crond"])
def test_a_running_cron_is_detected_with_or_without_systemd(desk: Desk, daemon: str) -> None:
    desk.programs.active.clear()
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    found = "cron is not running on this machine; start it: `sudo systemctl enable --now cron`"
    assert desk.check()[1] == f"{desk.root}/etc/cron.d/retrycli, line 5: {found}"
    (desk.root / "run/systemd/system").rmdir()
    processes(desk, "sshd", elsewhere="cron")
    assert str(desk.check()[1]).endswith(found), "the cron of a container is not this machine's"
    processes(desk := Desk(desk.root / "other", 0, desk.programs), "sshd", daemon)
    (desk.root / "etc/cron.d").mkdir(parents=True)
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    assert desk.check() == (1, None)


def test_a_zombie_cron_is_not_running(desk: Desk) -> None:
    """In a container whose first process does not reap children, a dead cron stays a zombie."""
    (desk.root / "run/systemd/system").rmdir()
    desk.install(SchedulePlace.SYSTEM_CRONTAB)
    processes(desk, "cron")
    assert desk.check() == (1, None)
    shutil.copy("/bin/true", daemon := desk.root / "cron")
    process = os.posix_spawn(daemon, ["cron"], {})
    os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    (desk.root / "proc/2/status").write_bytes(Path(f"/proc/{process}/status").read_bytes())
    os.waitpid(process, 0)
    assert "cron is not running on this machine" in str(desk.check()[1])


def test_whether_cron_runs_is_unknown_if_processes_are_hidden(desk: Desk) -> None:
    """Other users' processes are hidden (hidepid), and systemd does not answer or does not exist."""
    desk.install(SchedulePlace.OWN_CRONTAB)
    desk.programs.instead["is-active"] = (1, b"no bus\n")
    for host in (desk.host, replace(desk.host, root=desk.root / "elsewhere")):
        [found] = callers_of(desk.settings(), host)
        assert found.running is None
        assert check(desk.settings(), host).objection is None


def test_an_unreadable_crontab_is_reported_and_not_treated_as_empty(desk: Desk) -> None:
    """The unreadable crontab may start passes. With --user, only the user's own crontab matters."""
    desk.programs.instead["crontab"] = (1, b"you are not allowed\n")
    (desk.root / "etc/crontab").unlink()
    (desk.root / "etc/crontab").mkdir()
    host = desk.host
    as_root = f"run as root: `sudo retrycli --config {desk.root}/retrycli.toml cron check`"
    for uid, remedy in ((0, "fix the cause, then run `retrycli cron check`"), (1, as_root)):
        own = f"the crontab of {replace(host, uid=uid).login} (`crontab` failed: you are not allowed)"
        found = check(desk.settings(), replace(host, uid=uid))
        assert found.unread == f"can't read {own}, {desk.root}/etc/crontab (Is a directory)"
        said = str(found.objection)
        assert said.startswith(f"no readable cron line or timer starts passes; {found.unread}; ")
        assert said.endswith(remedy)
        assert (
            check(desk.settings(), replace(host, uid=uid), only=SchedulePlace.OWN_CRONTAB).unread == f"can't read {own}"
        )
    desk.programs.instead.clear()
    assert check(desk.settings(), desk.host, only=SchedulePlace.OWN_CRONTAB).unread is None


@pytest.mark.parametrize("place", list(SchedulePlace))
def test_nothing_is_installed_while_a_relevant_crontab_is_unreadable(desk: Desk, place: SchedulePlace) -> None:
    """The unreadable crontab may already start passes. Crontabs of unrelated users do not matter."""
    spool = desk.root / "var/spool/cron/crontabs"
    spool.mkdir(parents=True)
    for user in ("stranger", "desk"):
        (spool / user).touch()
    desk.programs.instead["crontab -u stranger"] = (1, b"disk error\n")
    assert install(place, job(desk.settings(), desk.host, user="desk"), desk.host)
    desk.programs.instead["crontab -u desk"] = (1, b"disk error\n")
    with pytest.raises(ConfigurationError) as caught:
        desk.install(place)
    assert str(caught.value) == (
        "can't read the crontab of desk (`crontab` failed: disk error), which may already start passes; nothing "
        "was changed. Fix the cause, then run `retrycli cron install`"
    )
    desk.programs.instead.clear()
    (desk.root / "etc/crontab").unlink()
    (desk.root / "etc/crontab").mkdir()
    desk.uid = 1
    with pytest.raises(ConfigurationError, match=r"crontab \(Is a directory\), .* as root: `sudo retrycli --config"):
        desk.install(place)


def test_a_user_who_may_not_use_cron_installs_a_timer(desk: Desk) -> None:
    desk.programs.instead["crontab"] = (1, b"you are not allowed\n")
    desk.uid = 1
    assert install(SchedulePlace.OWN_TIMER, job(desk.settings(), desk.host), desk.host)


def test_an_unresponsive_program_is_awaited_once(tmp_path: Path) -> None:
    """Root reads the crontab of each user with the same program, so repeated waits would add up."""
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


def test_a_timer_of_unknown_state_is_reported(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_TIMER)
    desk.programs.instead["systemctl"] = (124, b"no response within 3 s")
    found = check(desk.settings(), desk.host)
    timer = desk.root / "etc/systemd/system/retrycli.timer"
    assert found.unread == f"can't read {timer} (systemctl: no response within 3 s)"


def test_a_missing_crontab_counts_as_readable(desk: Desk) -> None:
    """Debian's cron and cronie print the same error, and busybox prints another."""
    for said in (b"no crontab for ana\n", b"crontab: can't open 'ana': No such file or directory\n"):
        desk.programs.instead["crontab"] = (1, said)
        assert check(desk.settings(), desk.host).unread is None


def test_a_stopped_timer_schedules_nothing_though_it_is_enabled(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_TIMER)
    folder = desk.root / "etc/systemd/system"
    (folder / "timers.target.wants").mkdir()
    (folder / "timers.target.wants/retrycli.timer").symlink_to(folder / "retrycli.timer")
    desk.programs.active.discard("retrycli.timer")
    assert "retrycli.timer is stopped; start it: `systemctl" in str(desk.check()[1])
    desk.programs.active.add("retrycli.timer")
    assert desk.check() == (1, None)


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


def proposed(
    desk: Desk, settings: str, run_as: str | None = None, place: SchedulePlace = SchedulePlace.SYSTEM_CRONTAB
) -> str:
    """Return the user that would run the passes."""
    return propose(place, desk.settings(settings), desk.host, run_as=run_as).user


def test_a_config_of_the_databases_owner_is_accepted_too(shared_desk: Desk) -> None:
    shared_desk.settings(DATA)
    os.chown(shared_desk.root / "retrycli.toml", OURS, OURS)
    (shared_desk.root / "retrycli.toml").chmod(0o660)
    assert proposed(shared_desk, DATA) == str(OURS)


@pytest.mark.parametrize(
    "place",
    [SchedulePlace.SYSTEM_CRONTAB, SchedulePlace.SYSTEM_TIMER, SchedulePlace.OWN_CRONTAB, SchedulePlace.OWN_TIMER],
)
def test_root_makes_passes_only_if_root_is_named(shared_desk: Desk, place: SchedulePlace) -> None:
    """A database server has no file whose owner could run passes, and root's own schedule always runs as root."""
    with pytest.raises(ConfigurationError, match=r"passes would run as root; .*--run-as USER"):
        proposed(shared_desk, IN_POSTGRESQL, place=place)
    assert proposed(shared_desk, IN_POSTGRESQL, "root", place) == "root"


RELIED_ON = ("retrycli.toml", "own.toml", "ca.pem", "own_waits.py")
RELIES = DATA + (
    '[gateway]\npreset = "own.toml"\nca_file = "ca.pem"\n[schedule]\nbackoff = "python"\ncall = "own_waits:next_wait"\n'
)


@pytest.mark.parametrize("name", [*RELIED_ON, "."])
@pytest.mark.parametrize(("owner", "group", "mode"), [(THEIRS, 0, 0o700), (0, SHARED, 0o770), (0, 0, 0o707)])
def test_no_pass_depends_on_files_that_another_user_may_write(
    shared_desk: Desk, name: str, owner: int, group: int, mode: int
) -> None:
    shared_desk.settings(RELIES)
    for path in RELIED_ON[1:]:
        (shared_desk.root / path).touch()
    assert proposed(shared_desk, RELIES) == str(OURS)
    os.chown(shared_desk.root / name, owner, group)
    (shared_desk.root / name).chmod(mode)
    with pytest.raises(
        ConfigurationError, match=rf"and passes run by {OURS} would rely on it; (`ch(own|mod) |use a folder)"
    ):
        proposed(shared_desk, RELIES)


def test_the_environments_packages_are_checked_too(shared_desk: Desk) -> None:
    """A user who can write to the packages could make a pass run any code."""
    loaded = shared_desk.settings(DATA)
    site = shared_desk.root / "site-packages"
    site.mkdir()
    program = (Path(this_python()), site)
    assert propose(SchedulePlace.SYSTEM_CRONTAB, loaded, shared_desk.host, program=program).user == str(OURS)
    os.chown(site, THEIRS, 0)
    with pytest.raises(ConfigurationError, match=rf"site-packages belongs to {THEIRS}, and passes run by {OURS}"):
        propose(SchedulePlace.SYSTEM_CRONTAB, loaded, shared_desk.host, program=program)
    assert {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")} <= {*relied_on()}
    assert {Path(this_python()), Path(retrycli.__file__)} <= {*relied_on()}


def test_a_users_own_schedule_runs_as_that_user(desk: Desk) -> None:
    need_own_program()
    desk.uid = os.geteuid()
    login = desk.host.login
    host = replace(desk.host, number={login: os.geteuid()}.get)
    run_as = login if desk.uid == 0 else None
    assert propose(SchedulePlace.OWN_CRONTAB, desk.settings(), host, run_as=run_as).user == login


def test_the_system_service_may_write_only_where_a_pass_writes(desk: Desk) -> None:
    text = '[database]\nurl = "sqlite:////srv/a b/100%/agent.db"\n[metrics]\npath = "/var/lib/node/retrycli.prom"\n'
    wanted = replace(job(desk.settings(text), desk.host, user="desk"), config="/etc/retrycli.toml", reads=())
    found = systemd.service(replace(wanted, interpreter="/opt/retrycli/bin/python3"), system=True)
    assert 'ReadWritePaths="-/srv/a b/100%%" "-/var/lib/node"\n' in found
    assert "ProtectHome=true\nPrivateTmp=true\n" in found
    for path, expected in (("/home/ana/x", "ProtectHome=read-only"), ("/tmp/x", "PrivateTmp=false")):
        assert expected in systemd.service(replace(wanted, reads=(path,)), system=True)


@pytest.mark.parametrize(
    ("more", "expected"), [("", []), ('[run]\nlock_file = "/srv/locks/desk.lock"\n', ['"-/srv/locks"'])]
)
def test_with_a_server_the_lock_is_in_the_state_directory_before_it_exists(
    desk: Desk, more: str, expected: list[str]
) -> None:
    """The unit must not change when the first pass creates the directory, or `check` would report a difference."""
    wanted = job(desk.settings(IN_POSTGRESQL + more), desk.host, user="desk")
    wanted = replace(wanted, config="/etc/retrycli.toml", interpreter="/opt/bin/python3", reads=())
    found = systemd.values(systemd.service(wanted, system=True))
    assert found.get("ReadWritePaths", []) == expected
    assert (found["StateDirectory"], found["PrivateTmp"]) == (["retrycli"], ["true"])


def test_a_less_confined_unit_of_an_earlier_version_is_renewed(desk: Desk) -> None:
    desk.install(SchedulePlace.SYSTEM_TIMER)
    folder = desk.root / "etc/systemd/system"
    (folder / "timers.target.wants").mkdir()
    (folder / "timers.target.wants/retrycli.timer").symlink_to(folder / "retrycli.timer")
    assert desk.check() == (1, None)
    service = folder / "retrycli.service"
    service.write_text(service.read_text().replace("ProtectSystem=strict\n", ""))
    _, objection = desk.check()
    assert objection is not None
    assert f"{service} differs from what `cron install` would write" in objection
    desk.install(SchedulePlace.SYSTEM_TIMER)
    assert desk.check() == (1, None)
