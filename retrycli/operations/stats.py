"""Delivery statistics of the last days."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.delivery_stats import DeliveryStats, Group
from retrycli.domain.grouping import GroupBy
from retrycli.operations.wiring import open_database, utc_now
from retrycli.store.delivery_stats import Statistics


def stats(
    settings: Settings, by: GroupBy, *, span: timedelta, limit: int, now: Callable[[], datetime] = utc_now
) -> tuple[DeliveryStats, list[Group]]:
    """What came of the attempts of the last days: all figures, and the attempts by what they have in common.

    Errors have no groups of their own: `DeliveryStats.troubles` are just that.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    until = now()
    with open_database(settings) as database:
        statistics = Statistics(database)
        figures = statistics.figures(until - span, until)
        return figures, [] if by is GroupBy.ERROR else statistics.groups(by, until - span, limit=limit)
