"""This machine's schedulers: the crontabs and timers that call a pass, and the files in which `cron install` puts one.

Where they are, and how programs are run, is `Host`'s to say: tests give another one.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Literal, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from retrycli.domain import cron_line
from retrycli.domain.errors import ConfigurationError
from retrycli.system import atomic, systemd
from retrycli.system.trust import user_name, user_number

DAEMONS = frozenset({"cron", "crond", "fcron", "dcron"})
DAEMON_UNITS = ("cron.service", "crond.service", "cronie.service", "fcron.service", "dcron.service", "cron.target")
"""Under any of these names systemd starts a cron; the last one is systemd-cron's, which has no daemon."""
DEFUNCT = ("Z", "X")
"""The states of a process that has ended, and that its parent has not reaped yet (proc(5))."""
NOT_ACTIVE = (3, 4)
"""What ``systemctl is-active`` says of a unit that is not at work, or not there."""
NOT_THERE = 127
"""What a shell says of a program that it can't find."""
NO_CRONTAB = (b"no crontab for", b"No such file or directory")
"""What ``crontab -l`` says if there is none; the second one is busybox's."""
TIMED_OUT = 124
"""What timeout(1) says of a program that has not ended in time."""
SECONDS = 120
"""After which a program of this machine has failed."""
ANSWER_SECONDS = 3
"""So long a command that only reads waits for one."""
SYSTEM_FILE = "etc/cron.d/retrycli"
SYSTEM_UNITS = "etc/systemd/system"
UNIT_FOLDERS = (SYSTEM_UNITS, "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
START_TIME = 19
"""The place of a process's start in its stat file, counted after the name (proc(5): the 22nd field)."""
CRON_LOGS = ("var/log/syslog", "var/log/cron", "var/log/messages")
SPOOLS = ("var/spool/cron/crontabs", "var/spool/cron")

Finished = subprocess.CompletedProcess[bytes]
Runner = Callable[[Sequence[str], bytes], Finished]


def run(command: Sequence[str], given: bytes = b"", *, seconds: float = SECONDS) -> Finished:
    """Run a program of this machine; one that is not there, or does not end, has failed."""
    try:
        return subprocess.run(  # noqa: S603  our own words and paths, and no shell
            command,
            input=given,
            capture_output=True,
            check=False,
            timeout=seconds,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as error:
        return subprocess.CompletedProcess(command, NOT_THERE, b"", (error.strerror or "can't be run").encode())
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, TIMED_OUT, b"", f"no answer within {seconds:g} s".encode())


class Asker:
    """Asks programs of this machine for a command that only reads: waits a little, and for a silent one only once.

    Args:
        seconds: after which a program has failed.
    """

    def __init__(self, seconds: float = ANSWER_SECONDS) -> None:
        self._seconds = seconds
        self._unanswered: dict[str, Finished] = {}

    @property
    def silent(self) -> set[str]:
        """The programs that gave no answer."""
        return {*self._unanswered}

    def __call__(self, command: Sequence[str], given: bytes) -> Finished:
        """Run a program, unless it has kept silent before."""
        program = command[0]
        if program in self._unanswered:
            return self._unanswered[program]
        done = run(command, given, seconds=self._seconds)
        if done.returncode == TIMED_OUT:
            self._unanswered[program] = done
        return done


def _home() -> str:
    """Where cron begins a job: what the system says, and not $HOME, which sudo may leave at another's."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


@dataclass(frozen=True, slots=True)
class Host:
    """The machine, and who is at work on it."""

    root: Path = Path("/")
    home: Path = field(default_factory=lambda: Path(_home()))
    uid: int = field(default_factory=os.getuid)
    run: Runner = run
    number: Callable[[str], int | None] = user_number
    """The number of the user of that name; None if there is no such user."""

    @property
    def login(self) -> str:
        """The name of who is at work."""
        return user_name(self.uid)

    @property
    def unit_folder(self) -> Path:
        """Where the user's own units are."""
        return self.home / ".config/systemd/user"


@dataclass(frozen=True, slots=True)
class Caller:
    """Something on this machine that calls a pass."""

    kind: Literal["cron", "timer"]
    title: str
    """The title of the `Target` that it stands in."""
    line: int | None
    when: str
    command: str
    config: str | None
    """The settings' file that it names; None where it names none."""
    user: str | None
    """Whose it is, where that is written beside it."""
    installed: bool
    """Whether `cron install` wrote it."""
    owner: str = "root"
    """Who wrote it, as far as that shows in where it is."""
    running: bool | None = None
    """Whether the daemon or timer that heeds it is at work; None where that was not looked at, or can't be seen."""
    mail_to: str | None = None
    """To whom cron mails what it prints; None if that is the line's user, and nothing if it is thrown away."""
    zone: str | None = None
    """The time zone that it goes by; None if that is the system's."""
    since: datetime | None = None
    """When cron began to heed it as it is, because cron or the line is no older; None if that can't be seen."""

    @property
    def place(self) -> str:
        """Where it is written, for people."""
        return self.title if self.line is None else f"{self.title}, line {self.line}"


class Target(Protocol):
    """A text of the machine's in which a pass is called."""

    @property
    def title(self) -> str:
        """What it is, for people."""

    def read(self) -> str:
        """What it holds; nothing where there is none."""

    def write(self, text: str) -> None:
        """Put another text in its place; it is taken away when nothing is left."""


@dataclass(frozen=True, slots=True)
class UserCrontab:
    """A user's own crontab, which only the command ``crontab`` may touch."""

    host: Host
    user: str | None = None
    """Whose; by default who is at work. Root may name another."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        return f"the crontab of {self.user or self.host.login}"

    def read(self) -> str:
        """What it holds.

        Raises:
            ConfigurationError: there is no cron, or it does not serve this user.
        """
        done = self.host.run(["crontab", *self._whose, "-l"], b"")
        if done.returncode == NOT_THERE or (done.returncode and any(each in done.stderr for each in NO_CRONTAB)):
            return ""
        return _decoded(self._checked(done).stdout)

    def write(self, text: str) -> None:
        """Put another in its place.

        Raises:
            ConfigurationError: cron would not have it.
        """
        if text:
            self._checked(self.host.run(["crontab", *self._whose, "-"], _encoded(text)))
        else:
            self._checked(self.host.run(["crontab", *self._whose, "-r"], b""))

    @property
    def _whose(self) -> list[str]:
        return ["-u", self.user] if self.user else []

    def _checked(self, done: Finished) -> Finished:
        if done.returncode:
            said = " ".join(_decoded(done.stderr).split())
            raise ConfigurationError(
                f"`crontab` failed: {said}; is cron installed, and may {self.host.login} use it? "
                "`retrycli cron install --systemd` does without"
            )
        return done


@dataclass(frozen=True, slots=True)
class File:
    """A file of root's, or of the user's own: a crontab of /etc, a unit, or the settings."""

    path: Path
    keeps_mode: bool = False
    """Whether it keeps its mode and owner; else everybody may read it."""

    @property
    def title(self) -> str:
        """What it is, for people."""
        return str(self.path)

    def read(self) -> str:
        """What it holds; nothing where there is none.

        Raises:
            ConfigurationError: it can't be read.
        """
        try:
            return _decoded(self.path.read_bytes())
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise ConfigurationError(f"can't read {self.path}: {error.strerror}") from error

    def write(self, text: str) -> None:
        """Put another in its place, whole or not at all: cron may read it at any moment.

        Raises:
            ConfigurationError: it can't be written.
        """
        try:
            if text:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                like = self.path.stat() if self.keeps_mode else None
                atomic.replace(self.path, text, errors="surrogateescape", like=like)  # by a name that cron passes over
            else:
                self.path.unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"can't write {self.path}: {error.strerror}; as root, or with --user for a schedule of your own"
            ) from error


def callers(host: Host, unread: dict[str, str] | None = None) -> list[Caller]:
    """Find everything on this machine that calls a pass, as far as who is at work may read it.

    Args:
        host: the machine.
        unread: takes the titles of what can't be read, and why. Other users' crontabs are root's alone to read.
    """
    missed = {} if unread is None else unread
    found = [*_in_crontabs(host, missed), *_in_timers(host, missed)]
    if any(each.zone is not None for each in found) and not is_cronie(host):
        found = [replace(each, zone=None) for each in found]
    return found


def has_cron(host: Host) -> bool:
    """Whether a cron is installed here; a folder /etc/cron.d is no sign of one."""
    return host.run(["crontab", "-l"], b"").returncode != NOT_THERE


def is_cronie(host: Host) -> bool:
    """Whether cron is cronie, the only one that heeds CRON_TZ."""
    return b"cronie" in host.run(["crontab", "-V"], b"").stdout


def system_zone(root: Path = Path("/")) -> tzinfo:
    """Return the system's time zone, which cron and timers go by; that of ``$TZ`` is an operator's own."""
    try:
        with (root / "etc/localtime").open("rb") as file:
            return ZoneInfo.from_file(file)
    except (OSError, ValueError):
        return UTC


def named_zone(name: str | None) -> tzinfo | None:
    """Return the time zone of that name; None if there is no such zone here."""
    with suppress(OSError, ValueError, ZoneInfoNotFoundError):
        return None if name is None else ZoneInfo(name)
    return None


def has_systemd(host: Host) -> bool:
    """Whether systemd is at work here, and not merely installed."""
    return (host.root / "run/systemd/system").is_dir()


def is_running(host: Host, caller: Caller) -> bool | None:
    """Return whether the daemon or timer that heeds a caller is at work; None if that can't be seen."""
    if caller.kind == "timer":
        own = Path(caller.title).is_relative_to(host.unit_folder)
        return _is_active(host, Path(caller.title).name, own=own) if has_systemd(host) else False
    return cron_is_running(host)


def cron_is_running(host: Host) -> bool | None:
    """Return whether cron's daemon is at work; None if that can't be seen."""
    names = [name for _, name in _processes(host.root / "proc")]
    if not DAEMONS.isdisjoint(names):
        return True
    if has_systemd(host) and (active := _is_active(host, *DAEMON_UNITS, own=False)) is not None:
        return active
    return False if names else None


def heeded_since(host: Host, caller: Caller) -> datetime | None:
    """Return since when cron heeds a line as it is; None if that can't be seen, or if a timer calls."""
    if caller.kind != "cron":
        return None
    known = [each for each in (_cron_began(host.root / "proc"), *_written(host, caller)) if each is not None]
    return max(known, default=None)


def _written(host: Host, caller: Caller) -> Iterator[datetime]:
    """Yield when the file was written that a line is in. A user's own is often for root alone to look at."""
    own = [host.root / spool / caller.owner for spool in SPOOLS]
    for path in own if caller.title == UserCrontab(host, caller.owner).title else [Path(caller.title)]:
        with suppress(OSError):
            yield datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _cron_began(proc: Path) -> datetime | None:
    """Return when cron's daemon began: the oldest process of its name, as jobs begin as its copies (proc(5))."""
    daemons = [path for path, name in _processes(proc) if name in DAEMONS]
    try:
        boot = re.search(r"^btime (\d+)$", (proc / "stat").read_text(), re.MULTILINE)
        began = [int((each / "stat").read_text().rpartition(")")[2].split()[START_TIME]) for each in daemons]
    except (OSError, ValueError, IndexError):
        return None
    if boot is None or not began:
        return None
    return datetime.fromtimestamp(int(boot[1]) + min(began) / os.sysconf("SC_CLK_TCK"), UTC)


def daemon_commands(host: Host) -> dict[str, str]:
    """Return what to call on this machine in place of the commands about cron that a text suggests.

    Without systemd they are others, cron has another name on some systems, and `service` is often outside a user's
    search path. Root needs no sudo, which may not be installed.
    """
    is_crond = not (host.root / "usr/sbin/cron").exists() and (host.root / "usr/sbin/crond").exists()
    name, sudo = "crond" if is_crond else "cron", "" if host.uid == 0 else "sudo "
    status, start, log = f"systemctl status {name}", f"systemctl enable --now {name}", f"journalctl -u {name}"
    if not has_systemd(host):
        service = "service" if shutil.which("service") else "/usr/sbin/service"
        logs = [f"/{each}" for each in CRON_LOGS if (host.root / each).exists()]
        status, start = f"{service} {name} status", f"{service} {name} start"
        log = f"grep -i cron {logs[0] if logs else '/' + CRON_LOGS[0]}"
    return {
        "systemctl status cron": status,
        "sudo systemctl enable --now cron": sudo + start,
        "journalctl -u cron": log,
    }


def _is_active(host: Host, *units: str, own: bool) -> bool | None:
    """Return whether any of these units is at work; None if systemd does not say."""
    code = host.run(["systemctl", *(["--user"] if own else []), "is-active", "--quiet", *units], b"").returncode
    return None if code and code not in NOT_ACTIVE else not code


def _processes(proc: Path) -> Iterator[tuple[Path, str]]:
    """Yield the folder and name of each live process of this machine, but for those in its containers.

    There is none if those of others are hidden.
    """
    if not (proc / "1/status").exists():
        return
    for path in proc.glob("[0-9]*/status"):
        with suppress(OSError):
            status = dict(re.findall(r"^(Name|State|NSpid):\t(.*)$", path.read_text(errors="replace"), re.MULTILINE))
            has_ended = status.get("State", "")[:1] in DEFUNCT
            if not has_ended and len(status.get("NSpid", "").split()) <= 1:
                yield path.parent, status.get("Name", "")


def under_cron(host: Host, command: Sequence[str]) -> Finished:
    """Run a program as cron would: in the user's home, with hardly anything in its environment."""
    variables = ["PATH=/usr/bin:/bin", f"HOME={host.home}", f"LOGNAME={host.login}", "SHELL=/bin/sh"]
    return host.run(["env", "-i", *variables, "sh", "-c", 'cd && exec "$@"', "sh", *command], b"")


def systemctl(host: Host, *words: str, own: bool) -> None:
    """Have systemd do something, or the user's own instance of it.

    Raises:
        ConfigurationError: it would not.
    """
    command = ["systemctl", *(["--user"] if own else []), *words]
    done = host.run(command, b"")
    if done.returncode:
        said = " ".join(_decoded(done.stderr).split())
        raise ConfigurationError(f"`{' '.join(command)}` failed: {said}")


def _in_crontabs(host: Host, unread: dict[str, str]) -> Iterator[Caller]:
    spools = SPOOLS if host.uid == 0 else ()
    users = {path.name for spool in spools for path in _files(host.root / spool, r"[^.]+", unread)} - {host.login}
    for each in (UserCrontab(host), *(UserCrontab(host, name) for name in sorted(users))):
        try:
            yield from _calls(each.title, each.read(), user=each.user, owner=each.user or host.login)
        except ConfigurationError as error:
            unread[each.title] = str(error).partition(";")[0]
    # cron reads no other names
    for path in [host.root / "etc/crontab", *_files(host.root / "etc/cron.d", r"[\w-]+", unread)]:
        yield from _calls(str(path), _text(path, unread), system=True)


def _calls(
    title: str, text: str, *, user: str | None = None, owner: str = "root", system: bool = False
) -> Iterator[Caller]:
    for each in cron_line.calls(text, system=system):
        whose = each.user or user
        found = (title, each.number, each.schedule, each.command, each.config, whose, each.installed, owner)
        yield Caller("cron", *found, mail_to=each.mail_to, zone=each.zone)


def _in_timers(host: Host, unread: dict[str, str]) -> Iterator[Caller]:
    folders = [(host.root / each, False) for each in UNIT_FOLDERS] + [(host.unit_folder, True)]
    seen = set()
    for folder, own in folders:
        for path in _files(folder, r".+\.timer", unread):
            found = _timer(path, host.login if own else "root", unread)
            if found is not None and path.resolve() not in seen and _is_on(host, path, unread, own=own):
                seen.add(path.resolve())
                yield found


def _timer(path: Path, owner: str, unread: dict[str, str]) -> Caller | None:
    text = _text(path, unread)
    named = systemd.values(text).get("Unit", [path.with_suffix(".service").name])[-1]
    service = _text(path.with_name(named), unread)
    found = systemd.called(service)
    if found is None:
        return None
    user = next(iter(systemd.values(service).get("User", [])), None)
    return Caller("timer", str(path), None, systemd.times(text), *found, user, systemd.is_marked(text), owner)


def _is_on(host: Host, timer: Path, unread: dict[str, str], *, own: bool) -> bool:
    """Whether a timer is switched on: at each boot, or just now."""
    enabled = host.unit_folder if own else host.root / SYSTEM_UNITS
    with suppress(OSError):
        if any(each.name == timer.name for each in enabled.glob("*.wants/*.timer")):
            return True
    if not has_systemd(host):
        return False
    done = host.run(["systemctl", *(["--user"] if own else []), "is-active", "--quiet", timer.name], b"")
    if done.returncode == TIMED_OUT:
        unread[str(timer)] = f"systemctl: {_decoded(done.stderr)}"
    return done.returncode == 0


def _files(folder: Path, name: str, unread: dict[str, str]) -> list[Path]:
    """Return a folder's plain files with such names; none if it can't be read."""
    try:
        found = sorted(each for each in folder.iterdir() if re.fullmatch(name, each.name))
        return [each for each in found if each.is_file()]
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(folder)] = error.strerror or str(error)
    return []


def _text(path: Path, unread: dict[str, str]) -> str:
    try:
        return _decoded(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        unread[str(path)] = error.strerror or str(error)
    return ""


def _decoded(text: bytes) -> str:
    """A text of whatever encoding, so that it can be written back as it was."""
    return text.decode("utf-8", "surrogateescape")


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
