"""What the checks examine: the settings, the machine, the time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path

from retrycli.config.loader import Loaded
from retrycli.config.settings import Settings
from retrycli.operations.doctor.finding import Finding, warning, well
from retrycli.operations.schedule import proposal
from retrycli.operations.wiring import utc_now
from retrycli.system.host import Host

CLOCK_TOLERANCE = timedelta(seconds=60)


@dataclass(frozen=True)
class Context:
    """The settings, machine and clock under examination."""

    loaded: Loaded
    host: Host = field(default_factory=Host)
    now: Callable[[], datetime] = utc_now
    program: tuple[Path, ...] = field(default_factory=proposal.relied_on)
    """The running program: the interpreter and its packages."""

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.loaded.settings

    @property
    def interval(self) -> timedelta:
        """How often a pass should begin."""
        return timedelta(minutes=self.settings.schedule.retry_interval_minutes)

    @property
    def database_file(self) -> Path | None:
        """The SQLite file; None for a server."""
        return self.settings.database.file

    @cached_property
    def mounts(self) -> str:
        """The mounted file systems, as far as the system shows them."""
        try:
            return (self.host.root / "proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return ""


def compared_clocks(whose: str, ahead: timedelta) -> Finding:
    """Return a finding that compares another clock with this machine's."""
    if abs(ahead) <= CLOCK_TOLERANCE:
        return well("clock", f"as that of {whose}, within {CLOCK_TOLERANCE.total_seconds():.0f} s")
    seconds = ahead.total_seconds()
    words = f"the clock of {whose} is {abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'} ours"
    return warning("clock", words, "check the time of both machines: `timedatectl`")
