"""Write and read systemd units that run passes: see systemd.service(5) and systemd.timer(5)."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from retrycli.domain.cron_line import Caller, Job, named_config, names_pass, schedule
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.passes import StartedBy
from retrycli.system.host import TIMED_OUT, Finished, Host, checked, decoded, files_in, read_text

SERVICE, TIMER = "retrycli.service", "retrycli.timer"
NOT_ACTIVE = (3, 4)  # exit statuses of ``systemctl is-active`` for a unit that is inactive or missing
SYSTEM_UNITS = "etc/systemd/system"
UNIT_FOLDERS = (SYSTEM_UNITS, "run/systemd/system", "usr/lib/systemd/system", "lib/systemd/system")
STOP_SECONDS = 45  # time that a pass has after SIGTERM to finish its requests in flight


HOMES, TEMPORARY = ("/home", "/root", "/run/user"), ("/tmp", "/var/tmp")  # noqa: S108  compared, never opened
# Restrictions on a pass. The file cron/retrycli.service explains them.
CONFINEMENT = """\
PrivateDevices=true
NoNewPrivileges=true
CapabilityBoundingSet=
RestrictSUIDSGID=true
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=true
RestrictRealtime=true
LockPersonality=true
MemoryDenyWriteExecute=true
ProtectClock=true
ProtectControlGroups=true
ProtectHostname=true
ProtectKernelLogs=true
ProtectKernelModules=true
ProtectKernelTunables=true
ProtectProc=invisible
ProcSubset=pid
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

MARK = "# Written by `retrycli cron install --systemd`, for "


def is_marked(text: str, config: str = "") -> bool:
    """Return whether `cron install` wrote a unit for the settings file `config`; for any file if `config` is empty."""
    first = text.partition("\n")[0]
    return first == MARK + config if config else first.startswith(MARK)


def service(job: Job, *, system: bool) -> str:
    """Return the text of the service that runs one pass.

    Args:
        job: the pass.
        system: write a system unit, which names its user, instead of a user's own unit.
    """
    user = f"User={job.user}\n" if system else ""
    own = "" if system else " --user"
    return f"""\
{MARK}{job.config}
# Remove this unit with `retrycli cron remove{own} --systemd`. Change it with `systemctl{own} edit {SERVICE}`.
[Unit]
Description=Deliver failed ticket messages (one pass of retrycli)
Wants=network-online.target
After=network-online.target

[Service]
Type=oneshot
{user}ExecStart={command(job)}
# 75: another pass holds the lock. 143: stopped by SIGTERM.
SuccessExitStatus=75 143
TimeoutStartSec={job.longest.total_seconds():.0f}
KillSignal=SIGTERM
TimeoutStopSec={STOP_SECONDS}
UMask=0077
{_confinement(job) if system else "NoNewPrivileges=true"}
"""


def _confinement(job: Job) -> str:
    """Return the restrictions of a system service. A user's systemd may be unable to apply them."""
    used = [job.interpreter, job.config, *job.reads, *job.writes]
    writes = " ".join(f'"-{_escaped(path)}"' for path in job.writes)
    lines = [
        "ProtectSystem=strict",
        *([f"ReadWritePaths={writes}"] if writes else []),
        "StateDirectory=retrycli",
        "StateDirectoryMode=0700",
        "LogsDirectory=retrycli",
        "LogsDirectoryMode=0750",
        f"ProtectHome={'read-only' if _any_in(used, HOMES) else 'true'}",
        f"PrivateTmp={'false' if _any_in(used, TEMPORARY) else 'true'}",
    ]
    return "\n".join([*lines, CONFINEMENT.rstrip()])


def _any_in(paths: Iterable[str], folders: tuple[str, ...]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for path in paths for folder in folders)


def timer(job: Job) -> str:
    """Return the text of the timer. If cron can express the interval, the timer starts passes at the same times as
    cron, otherwise one interval after the last start.
    """
    when = "\n".join(f"{key}={value}" for key, value in _when(job.interval).items())
    return f"""\
{MARK}{job.config}
[Unit]
Description=A pass of retrycli every {job.interval / timedelta(minutes=1):g} min

[Timer]
{when}
AccuracySec=1s

[Install]
WantedBy=timers.target
"""


def command(job: Job) -> str:
    """Return a job's command line for ``ExecStart=``.

    Raises:
        ConfigurationError: one of the paths can't be written in a unit.
    """
    for path in (job.interpreter, job.config, *job.writes):
        if not path.isprintable():
            raise ConfigurationError(
                f"{path!r} can't be used in a systemd unit; use a path without unprintable characters"
            )
    return " ".join(map(_quoted, job.arguments(StartedBy.TIMER, "--log-level", "INFO")))


def when(interval: timedelta) -> str:
    """Describe when the timer for an interval starts passes."""
    return " ".join(value for key, value in _when(interval).items() if key.startswith("On") and value != "0")


def called(text: str) -> tuple[str, str | None] | None:
    """Return a service's command that runs a pass, and the settings file that it names; None if the service runs no
    pass.
    """
    for value in values(text).get("ExecStart", []):
        try:
            words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(value)]
        except ValueError:
            words = value.split()
        if names_pass(words):
            return value, named_config(words)
    return None


def times(text: str) -> str:
    """Describe when a timer starts its service."""
    found = values(text)
    keys = ("OnCalendar", "OnUnitActiveSec", "OnUnitInactiveSec")
    return ", ".join(value for key in keys for value in found.get(key, []))


def as_cron(when: str) -> str | None:
    """Return a calendar event (systemd.time(7)) as a cron schedule; None if its form is not supported."""
    if when in {"minutely", "hourly", "daily", "weekly", "monthly"}:
        return "* * * * *" if when == "minutely" else f"@{when}"
    found = re.fullmatch(r"(?:\*-\*-\* )?([\d*/,.]+):([\d*/,.]+)(?::\d+)?", when)
    if found is None:
        return None
    hour, minute = (
        re.sub(r"\b(\d+)/", rf"\1-{most}/", found[place].replace("..", "-")) for place, most in ((1, 23), (2, 59))
    )
    return f"{minute} {hour} * * *"


def span(when: str) -> timedelta | None:
    """Parse a timer's interval, such as ``15min``. Return None if it is zero, or not a number with an optional unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|sec|min|m|h|hr)?", when)
    if found is None:
        return None
    unit = {"m": 60, "min": 60, "h": 3600, "hr": 3600}.get(found[2] or "s", 1)
    return timedelta(seconds=float(found[1]) * unit) or None


def values(text: str) -> Mapping[str, list[str]]:
    """Return the values in a unit, by key."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if assignment := re.match(r"(\w+)\s*=\s*(.*\S)", line):
            found.setdefault(assignment[1], []).append(assignment[2])
    return found


def _when(interval: timedelta) -> dict[str, str]:
    try:
        minute, hour, *_ = schedule(interval).split()
    except ConfigurationError:
        return {"OnActiveSec": "0", "OnUnitActiveSec": f"{interval.total_seconds():g}s"}
    at = {"*": "*:*", "0": f"{_step(hour)}:00"}.get(minute, f"*:{_step(minute)}")
    return {"OnCalendar": at, "Persistent": "true"}


def _step(field: str) -> str:
    return field.replace("*/", "0/")


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")


def _quoted(word: str) -> str:
    text = _escaped(word).replace("$", "$$")
    return f'"{text}"' if re.search(r"[^\w@%+=:,./-]", text, re.ASCII) else text


# -- the timers of this machine --------------------------------------------------------------------------------


def has_systemd(host: Host) -> bool:
    """Return whether systemd is running on this machine, and not only installed."""
    return (host.root / "run/systemd/system").is_dir()


def _systemctl(host: Host, *words: str, own: bool) -> Finished:
    return host.run(["systemctl", *(["--user"] if own else []), *words], b"")


def is_active(host: Host, *units: str, own: bool) -> bool | None:
    """Return whether any of these units is active; None if systemd does not report it."""
    code = _systemctl(host, "is-active", "--quiet", *units, own=own).returncode
    return None if code and code not in NOT_ACTIVE else not code


def systemctl(host: Host, *words: str, own: bool) -> None:
    """Run a systemctl command, for the user's own instance of systemd if ``own``, otherwise for the system.

    Raises:
        ConfigurationError: the command failed.
    """
    done = _systemctl(host, *words, own=own)
    checked(done, " ".join(done.args))


def timers(host: Host, unread: dict[str, str]) -> Iterator[Caller]:
    """Find the enabled or active timers that run a pass."""
    folders = [(host.root / folder, False) for folder in UNIT_FOLDERS] + [(host.unit_folder, True)]
    seen = set()
    for folder, own in folders:
        for path in files_in(folder, r".+\.timer", unread):
            found = _timer(path, host.login if own else "root", unread)
            if found is not None and path.resolve() not in seen and _is_on(host, path, unread, own=own):
                seen.add(path.resolve())
                yield found


def _timer(path: Path, owner: str, unread: dict[str, str]) -> Caller | None:
    text = read_text(path, unread)
    named = values(text).get("Unit", [path.with_suffix(".service").name])[-1]
    service = read_text(path.with_name(named), unread)
    found = called(service)
    if found is None:
        return None
    user = next(iter(values(service).get("User", [])), None)
    return Caller("timer", str(path), None, times(text), *found, user, is_marked(text), owner)


def _is_on(host: Host, timer: Path, unread: dict[str, str], *, own: bool) -> bool:
    enabled = host.unit_folder if own else host.root / SYSTEM_UNITS
    with suppress(OSError):
        if any(link.name == timer.name for link in enabled.glob("*.wants/*.timer")):
            return True
    if not has_systemd(host):
        return False
    done = _systemctl(host, "is-active", "--quiet", timer.name, own=own)
    if done.returncode == TIMED_OUT:
        unread[str(timer)] = f"systemctl: {decoded(done.stderr)}"
    return done.returncode == 0
