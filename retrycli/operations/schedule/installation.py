"""Add and remove the cron lines that start passes."""

from collections.abc import Sequence

from retrycli.domain import cron_line
from retrycli.domain.errors import ConfigurationError
from retrycli.operations.schedule.proposal import FileChange, SchedulePlace
from retrycli.system import crontab
from retrycli.system.host import Host


def install(place: SchedulePlace, wanted: cron_line.Job, host: Host) -> list[FileChange]:
    """Return the changes that schedule a pass; an empty list if the wanted cron line is already installed.

    Raises:
        ConfigurationError: another crontab has a block for the same settings; cron is not installed, or can't express
            the interval; or a path can't be written in a crontab.
    """
    title = place.target(host).title
    for block in crontab.blocks(host, wanted.config, []):
        if block.title != title:
            raise ConfigurationError(
                f"{block.title} already starts passes with these settings at {block.when or 'its own times'}; keep it "
                "(check it with `retrycli cron check`), or first run `retrycli cron remove`"
            )
    if not crontab.has_cron(host):
        raise ConfigurationError(
            "cron is not installed on this machine; install it, or use a systemd timer: see `retrycli manual cron`"
        )
    return _changes(place, wanted.config, cron_line.block(wanted, system=place.is_system), host)


def remove(places: Sequence[SchedulePlace], config: str, host: Host) -> list[FileChange]:
    """Return the changes that remove what `cron install` wrote for a settings file.

    Raises:
        ConfigurationError: a crontab can't be read, or the end of retrycli's block in it is missing.
    """
    return [change for place in places for change in _changes(place, config, "", host)]


def apply(changes: Sequence[FileChange]) -> None:
    """Write the confirmed changes.

    Raises:
        ConfigurationError: a crontab has changed since it was read, or can't be written.
    """
    for change in changes:
        if change.target.read() != change.before:
            raise ConfigurationError(
                f"{change.target.title} was modified in the meantime, so it was not overwritten. Run this command again"
            )
    for change in changes:
        change.target.write(change.after)


def _changes(place: SchedulePlace, config: str, text: str, host: Host) -> list[FileChange]:
    target = place.target(host)
    before = target.read()
    after = cron_line.with_block(before, config, text)
    return [] if before == after else [FileChange(target, before, after)]
