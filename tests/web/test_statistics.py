"""Statistics are read once for requests at the same time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import count
from threading import Event

from retrycli.web.routing import Pool
from retrycli.web.status import KEPT_SECONDS, RecentStatistics


def test_those_who_wait_share_the_statistics() -> None:
    statistics = RecentStatistics(elapsed=lambda: 0.0)
    begun, go_on, reads = Event(), Event(), count(1)

    def read() -> int:
        begun.set()
        assert go_on.wait(30)
        return next(reads)

    with ThreadPoolExecutor(Pool.READ) as threads:
        first = threads.submit(statistics.read, "7d", read)
        assert begun.wait(30)
        others = [threads.submit(statistics.read, "7d", read) for _ in range(Pool.READ - 1)]
        go_on.set()
        assert [each.result(30) for each in (first, *others)] == [1] * Pool.READ
    assert statistics.read("30d", read) == 2


def test_statistics_are_kept_for_a_moment() -> None:
    times = iter([0.0, 0.0, KEPT_SECONDS, KEPT_SECONDS + 1, KEPT_SECONDS + 1])
    statistics, reads = RecentStatistics(elapsed=lambda: next(times)), count()
    assert [statistics.read("7d", lambda: next(reads)) for _ in range(3)] == [0, 0, 1]
