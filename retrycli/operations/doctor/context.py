"""Define what the checks receive (settings, machine, clock, program) and what they return (findings)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.operations import reliance
from retrycli.operations.wiring import utc_now
from retrycli.system.host import Host

CLOCK_TOLERANCE = timedelta(seconds=60)


class Level(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARNING = "warning"  # passes can usually run, but an operator should review the finding
    FAILURE = "failure"  # something does not work, or unauthorised users can access retrycli's data


@dataclass(frozen=True, slots=True)
class Finding:
    """One result of a check."""

    name: str
    level: Level
    found: str
    remedy: str | None = None


def ok(name: str, found: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(name, Level.OK, found)


def warning(name: str, found: str, remedy: str) -> Finding:
    """Return a finding that an operator should review."""
    return Finding(name, Level.WARNING, found, remedy)


def failure(name: str, found: str, remedy: str) -> Finding:
    """Return a finding that an operator must fix."""
    return Finding(name, Level.FAILURE, found, remedy)


def of_error(name: str, text: str) -> Finding:
    """Convert an error text of the form "problem; remedy" to a failure."""
    found, _, remedy = text.partition("; ")
    return failure(name, found, remedy or "fix this error, and run `retrycli doctor` again")


def failed(findings: list[Finding]) -> bool:
    """Return whether any finding is a failure."""
    return any(finding.level is Level.FAILURE for finding in findings)


@dataclass(frozen=True)
class Context:
    """The settings, machine, clock and program that the checks examine."""

    loaded: Loaded
    host: Host = field(default_factory=Host)
    now: Callable[[], datetime] = utc_now
    # The running program: the interpreter and its packages.
    program: tuple[Path, ...] = field(default_factory=reliance.relied_on)

    @property
    def settings(self) -> Settings:
        """Return the validated settings, without their sources."""
        return self.loaded.settings


def compared_clocks(whose: str, ahead: timedelta) -> Finding:
    """Compare another clock with this machine's. ``ahead`` is negative if the other clock is behind."""
    if abs(ahead) <= CLOCK_TOLERANCE:
        return ok("clock", f"agrees with the clock of {whose} to within {CLOCK_TOLERANCE.total_seconds():.0f} s")
    seconds = ahead.total_seconds()
    return warning(
        "clock",
        f"the clock of {whose} is {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} this machine's",
        "check this machine's clock: `timedatectl`; if it is right, the other clock is wrong",
    )
