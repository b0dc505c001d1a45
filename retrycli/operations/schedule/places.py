"""Where a schedule can be installed, and the change to its text."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import unified_diff
from enum import Enum

from retrycli.system import crontab, systemd
from retrycli.system.crontab import UserCrontab
from retrycli.system.host import File, Host, Target


@dataclass(frozen=True, slots=True)
class FileChange:
    """The change of one text; ``after`` is empty if the text goes."""

    target: Target
    before: str
    after: str

    @property
    def diff(self) -> str:
        """The change as a unified diff."""
        if self.before == self.after:
            return f"{self.target.title} is to be switched on"
        titles = (self.target.title, self.target.title)
        before, after = (text.removesuffix("\n").split("\n") for text in (self.before, self.after))
        return "\n".join(unified_diff(before if self.before else [], after if self.after else [], *titles, lineterm=""))


class SchedulePlace(Enum):
    """A place for a schedule."""

    OWN_CRONTAB = "own crontab"
    SYSTEM_CRONTAB = "system crontab"
    OWN_TIMER = "own timer"
    SYSTEM_TIMER = "system timer"

    @classmethod
    def of(cls, host: Host, *, user: bool, systemd: bool) -> SchedulePlace:
        """Return the place that two options select; only root can choose between the system's schedule and its own."""
        own = user or host.uid != 0
        if systemd:
            return cls.OWN_TIMER if own else cls.SYSTEM_TIMER
        return cls.OWN_CRONTAB if own else cls.SYSTEM_CRONTAB

    @property
    def is_system(self) -> bool:
        """Return whether it is root's, and names a user."""
        return self in {SchedulePlace.SYSTEM_CRONTAB, SchedulePlace.SYSTEM_TIMER}

    @property
    def is_timer(self) -> bool:
        """Return whether it is systemd's."""
        return self in {SchedulePlace.OWN_TIMER, SchedulePlace.SYSTEM_TIMER}


def reachable(host: Host) -> list[SchedulePlace]:
    """Return the places that the current user may change."""
    return [place for place in SchedulePlace if host.uid == 0 or not place.is_system]


def targets(place: SchedulePlace, host: Host) -> list[Target]:
    """Return the texts of a schedule in a place."""
    match place:
        case SchedulePlace.OWN_CRONTAB:
            return [UserCrontab(host)]
        case SchedulePlace.SYSTEM_CRONTAB:
            return [File(host.root / crontab.SYSTEM_FILE)]
        case SchedulePlace.OWN_TIMER:
            folder = host.unit_folder
        case SchedulePlace.SYSTEM_TIMER:
            folder = host.root / systemd.SYSTEM_UNITS
    return [File(folder / systemd.SERVICE), File(folder / systemd.TIMER)]
