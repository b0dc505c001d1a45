"""The page of the statistics: the report's charts."""

from enum import StrEnum
from typing import Any

from starlette.responses import Response

from retrycli import operations
from retrycli.domain.duration import duration
from retrycli.domain.user import Right
from retrycli.views.report.page import offset_of, values
from retrycli.web.console.context import Pages, Visit
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import page


class ReportPeriod(StrEnum):
    """The periods that the page offers."""

    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"


class StatisticsQuery(Form):
    """The period that the page covers."""

    since: ReportPeriod = ReportPeriod.WEEK


class StatisticsPages(Pages):
    """The statistics."""

    @page("GET", "/stats", Right.READ, StatisticsQuery)
    def statistics(self, visit: Visit, query: StatisticsQuery) -> Response:
        """Show outcomes of attempts, waits, passes, and errors."""
        console = self._console
        found = console.status.statistics.read(
            query.since,
            lambda: operations.report.report_data(
                self._settings,
                console.status.read(),
                span=duration(query.since),
                until=operations.wiring.utc_now(),
                with_causes=False,
            ),
        )
        shown: dict[str, Any] = values(found, offset_of(found))
        return self._console.show(
            visit,
            "stats.html",
            **{name: value for name, value in shown.items() if name != "last_pass"},
            with_causes=False,
            period=query.since,
            periods=[*ReportPeriod],
        )
