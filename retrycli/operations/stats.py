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
    """Return the statistics of all attempts of a span, and the attempts grouped by a property.

    Errors need no groups: `DeliveryStats.troubles` has them.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    until = now()
    with open_database(settings) as database:
        statistics = Statistics(database)
        figures = statistics.figures(until - span, until)
        return figures, [] if by is GroupBy.ERROR else statistics.groups(by, until - span, limit=limit)
