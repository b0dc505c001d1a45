"""Find the cron lines and timers of this machine that call passes, for ``status`` and ``explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from retrycli.config.loader import Loaded
    from retrycli.system.host import Asker, Caller

LOOK_AT_CRON = "`retrycli doctor` and `systemctl status cron`"


def callers_here(loaded: Loaded, asker: Asker) -> list[Caller] | None:
    """Find the callers of passes here; None if the settings have no file, because a schedule names the file."""
    from retrycli.operations.schedule.callers import callers_of
    from retrycli.system.host import Host

    return None if loaded.file is None else callers_of(loaded, Host(run=asker))


def none_hidden(callers: list[Caller] | None, asker: Asker) -> bool:
    """Return if no crontab here calls a pass. Then the line that called the last pass from cron is gone."""
    from retrycli.operations.schedule import callers as found_here
    from retrycli.system.host import Host

    return callers == [] and found_here.none_hidden(Host(run=asker))


def complete_commands(loaded: Loaded, text: str) -> str:
    """Complete the commands in a text. Only root may be able to install the schedule."""
    from retrycli.domain import suggested
    from retrycli.operations.schedule import callers
    from retrycli.system.host import Host

    install = callers.to_install(loaded, Host())
    return suggested.quoted(text.replace("`retrycli cron install`", install))


def report_silent_programs(asker: Asker) -> None:
    """Report programs of this machine that did not answer about the schedule."""
    from retrycli.system.host import ANSWER_SECONDS
    from retrycli.views import terminal

    for program in sorted(asker.silent):
        words = f"`{program}` gave no answer within {ANSWER_SECONDS} s; a schedule that only it knows is not counted"
        terminal.complain(f"retrycli: {words}")
