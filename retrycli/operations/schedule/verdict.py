"""Compare what calls the passes with what `install` would write."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from retrycli.config.loader import Loaded
from retrycli.domain import cron_line
from retrycli.domain.cron_line import Job
from retrycli.operations.schedule.callers import callers_of, stopped, to_install, to_read, unread
from retrycli.operations.schedule.places import SchedulePlace, targets
from retrycli.operations.schedule.proposal import job
from retrycli.system import systemd
from retrycli.system.host import Caller, File, Host


@dataclass(frozen=True, slots=True)
class Checked:
    """A caller of passes, and how it differs from what `install` would write."""

    caller: Caller
    objection: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """The callers of passes, and the problem with them as a whole."""

    callers: list[Checked]
    objection: str | None
    unread: str | None = None
    """The unreadable places from which a pass may be called."""


def check(loaded: Loaded, host: Host, *, only: SchedulePlace | None = None) -> Verdict:
    """Return what calls a pass with these settings, if it is only one caller, and how it differs from what `install`
    writes.

    Args:
        loaded: the settings and their sources.
        host: the machine.
        only: examine only this place.

    Raises:
        ConfigurationError: a scheduler would not find these settings.
    """
    wanted = job(loaded, host)
    titles = None if only is None else {target.title for target in targets(only, host)}
    found = [caller for caller in callers_of(loaded, host) if titles is None or caller.title in titles]
    checked = [Checked(caller, _objection(caller, wanted)) for caller in found]
    missed = unread(host, titles)
    if missed is not None and not checked:
        remedy = to_read(loaded, host, "cron check")
        return Verdict([], f"nothing that can be read calls the passes; {missed}; {remedy}", missed)
    if not checked:
        return Verdict([], f"nothing calls the passes; have them called: {to_install(loaded, host)}")
    return Verdict(checked, _verdict(checked), missed)


def _verdict(found: list[Checked]) -> str | None:
    match found:
        case [one] if (still := stopped(one.caller)) is not None:
            return f"{one.caller.place}: {still[0]}; {still[1]}"
        case [one] if one.objection:
            first = "" if one.caller.installed else "edit it, or remove it, and "
            return f"{one.caller.place}: {one.objection}; {first}`retrycli cron install` fixes it"
        case [_]:
            return None
        case _:
            places = ", ".join(checked.caller.place for checked in found)
            return f"two schedulers get in each other's way; keep one of: {places}"


def _objection(caller: Caller, wanted: Job) -> str | None:
    """Return how a caller differs from what `install` would write."""
    if caller.kind == "cron":
        when, command = cron_line.schedule(wanted.interval), cron_line.command(wanted)
    else:
        when, command = systemd.when(wanted.interval), systemd.command(wanted)
    if caller.when != when:
        return f"it calls at {caller.when}; schedule.retry_interval_minutes makes that {when}"
    if caller.command != command:
        return f"the command would be: {command}"
    if caller.kind == "timer" and caller.installed:
        system = caller.user is not None
        service = Path(caller.title).with_suffix(".service")
        if File(service).read() != systemd.service(replace(wanted, user=caller.user or wanted.user), system=system):
            return f"{service} is not as it would be written now"
    return None
