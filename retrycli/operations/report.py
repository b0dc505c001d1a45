"""Read the report's data, render the page and write its file."""

import os
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from pathlib import Path

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, RetrycliError
from retrycli.domain.passes import PassSummary, StopReason
from retrycli.operations.status import Status, status
from retrycli.operations.wiring import open_database, utc_now
from retrycli.store.database import Database
from retrycli.store.delivery_stats import Statistics
from retrycli.store.summaries import QueueCounts, escalation_groups
from retrycli.system.host import replace_file
from retrycli.views.report.page import DOWN, ReportData, passes_since, render
from retrycli.views.report.recent import RecentPasses

DAY = timedelta(days=1)
LOOKBACK = 7 * DAY  # period of the page that a pass writes


def report(settings: Settings, *, span: timedelta, now: Callable[[], datetime] = utc_now) -> str:
    """Return the report for a period as HTML.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database, a setting or Jinja2 can't be used.
    """
    until = now()
    return render(report_data(settings, status(settings, now=lambda: until), span=span, until=until))


def report_data(
    settings: Settings, status: Status, *, span: timedelta, until: datetime, with_causes: bool = True
) -> ReportData:
    """Return everything that the report shows of the period of length ``span`` until a time.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return _data(settings, database, status.state, status.messages, span=span, until=until, with_causes=with_causes)


def _data(
    settings: Settings,
    database: Database,
    state: str,
    messages: Mapping[str, int],
    *,
    span: timedelta,
    until: datetime,
    with_causes: bool = True,
) -> ReportData:
    since, statistics = until - span, Statistics(database)
    first_pass, last_pass = statistics.first_and_last_pass()
    return ReportData(
        figures=statistics.figures(since, until),
        state=state,
        messages=messages,
        first_pass=first_pass,
        last_pass=last_pass,
        passes=statistics.passes(passes_since(since, until)),
        interval=settings.schedule.interval,
        causes=escalation_groups(database) if with_causes else (),
    )


def recent_passes(settings: Settings, *, until: datetime) -> RecentPasses:
    """Return the passes, and the outages of the ticketing API, of the last day.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    since = until - DAY
    with open_database(settings) as database:
        statistics = Statistics(database)
        first_pass, _ = statistics.first_and_last_pass()
        return RecentPasses(
            since, until, first_pass, statistics.passes(since), statistics.outages(since), settings.schedule.interval
        )


def renew(settings: Settings, database: Database, path: Path, summary: PassSummary, now: datetime) -> str | None:
    """Update the page at the end of a pass. Return the reason if this fails."""
    state = "paused" if summary.reason == StopReason.PAUSED else "down" if summary.reason in DOWN else "ok"
    try:
        messages = QueueCounts(database).counts(now)
        page = render(_data(settings, database, state, messages, span=LOOKBACK, until=now))
        write(path, page, may_wait=False)  # nobody may read a pipe that another user has put there
    except RetrycliError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001  a pass must not fail because of the report
        return f"{type(error).__name__}; run `retrycli --debug report` to see the traceback"
    return None


def write(path: Path, text: str, *, may_wait: bool = True) -> None:
    """Replace a page atomically, so that no reader sees an incomplete page. Write directly to a device of the process,
    and with ``may_wait`` to any device or pipe.

    Raises:
        ConfigurationError: the file can't be written; the old page is unchanged.
    """
    try:
        # Never replace a pipe, a device, or /dev/stdout, which may refer to a regular file.
        is_own = str(path.parent) in {"/dev", "/dev/fd"} or path.is_relative_to("/proc")
        if is_own or (may_wait and path.exists() and not path.is_file() and not path.is_dir()):
            # Keep the content of a file behind /dev/stdout. Elsewhere, follow no link, which another user may have put
            # in the place of a pipe, and do not wait for a reader.
            flags = os.O_WRONLY | os.O_APPEND | (0 if is_own else os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(os.open(path, flags), "a", encoding="utf-8") as stream:
                os.set_blocking(stream.fileno(), True)
                stream.write(text)
        else:
            replace_file(path, text)  # replaces a link, which another user may have created
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid path"
        raise ConfigurationError(
            f"can't write the report {path}: {reason}; choose a file in a folder that you can write to "
            "(--html, or report.path in the settings)"
        ) from error
