"""Compare each page of the console and each endpoint of the HTTP API with the operations behind it.

`console.py URL ROUNDS` prints a table. The database is one that `desk.py` has filled. A page and its operations are
called in turns in this process, both in a worker thread of one event loop, and the ratio of each pair is taken: so the
load of the machine and the changes of threads affect both.
On SQLite, the times are CPU times. On a server they are elapsed times, because the server does most of the work.

The operations are those that the handler calls, with the same arguments, each once. Pages show the scheduler's status,
which is kept for two seconds; so it is kept here, too, and not among the operations.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from statistics import median, quantiles
from typing import TYPE_CHECKING

from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI

from retrycli import operations
from retrycli.config.gateway import RoutedGatewaySettings
from retrycli.config.settings import DatabaseSettings, Settings
from retrycli.domain.delivery_stats import GroupBy
from retrycli.domain.listing import Filter
from retrycli.domain.message import EscalationReason, MessageType, State
from retrycli.domain.user import Role, User
from retrycli.operations.bulk import BulkAction, BulkRequest
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.http_api import make_api
from retrycli.web.status import KEPT_SECONDS, RecentStatistics, RecentStatus
from tests.benchmarks.desk import DESTINATION, example
from tests.benchmarks.tables import table

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal
    from starlette.types import ASGIApp, Message

API, PAGES = "/api/messages", "/messages"
DAY = timedelta(days=1)
QUIET, BUSY = example(100), example(0)  # a message with seven attempts, and one with a thousand more
LONG = 0.4  # seconds; what takes less is measured more often, because the load of the machine affects it more
MOST_OFTEN = 20
ESCALATED = Filter(state=State.ESCALATED)


@dataclass(frozen=True, slots=True)
class Case:
    """One address, and the operations behind it; None if the handler calls no operation."""

    path: str
    operation: Callable[[], object] | None


@dataclass(frozen=True, slots=True)
class Cost:
    """What a page and the operations behind it took: the medians in seconds, and the ratios of the pairs."""

    path: str
    page: float
    operation: float
    ratios: Sequence[float]

    @property
    def ratio(self) -> float:
        return median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """Return the quartiles of the ratios."""
        low, _, high = quantiles(self.ratios, n=4) if len(self.ratios) > 1 else [*self.ratios] * 3
        return low, high


def settings_for(url: str) -> Settings:
    gateway = RoutedGatewaySettings(base_url=DESTINATION)
    return Settings(database=DatabaseSettings(url=url), gateway=gateway)


def api_cases(settings: Settings) -> Mapping[str, Sequence[Case]]:
    """Return the cases of each route of the HTTP API."""
    listing, status = operations.listing, operations.status
    return {
        "": [
            Case("", lambda: listing.page(settings)),
            Case("?state=escalated", lambda: listing.page(settings, ESCALATED)),
            Case("?sort=id&type=supplier", lambda: listing.page(settings, _OF_SUPPLIERS, sort="id")),
            Case("?error=locked", lambda: listing.page(settings, Filter(error="locked"))),
        ],
        "/{message_id}": [Case(f"/{each}", partial(listing.show, settings, each)) for each in (QUIET, BUSY)],
        "/{message_id}/explain": [Case(f"/{QUIET}/explain", lambda: operations.explain.explain(settings, QUIET))],
        "/scheduler/status": [Case("/scheduler/status", lambda: status.status(settings))],
        "/scheduler/overview": [Case("/scheduler/overview", lambda: status.status(settings))],
        "/scheduler/passes": [Case("/scheduler/passes", lambda: status.passes(settings, limit=50))],
        "/scheduler/escalations": [
            Case(
                "/scheduler/escalations",
                lambda: (listing.page(settings, ESCALATED, sort="id"), listing.escalations(settings)),
            )
        ],
        "/scheduler/stats": [
            Case("/scheduler/stats", lambda: listing.stats(settings, GroupBy.OUTCOME, span=7 * DAY, limit=1000))
        ],
        "/openapi.json": [Case("/openapi.json", None)],
    }


_OF_SUPPLIERS = Filter(message_type=MessageType.SUPPLIER)


def page_cases(settings: Settings, status: RecentStatus) -> Mapping[str, Sequence[Case]]:
    """Return the cases of each page."""
    listing, now = operations.listing, operations.wiring.utc_now

    def shown(*calls: Callable[[], object]) -> Callable[[], object]:
        """Return the operations of a page with the state line."""
        return lambda: ([call() for call in calls], operations.report.recent_passes(settings, until=now()))

    def message(each: int) -> Callable[[], object]:
        return shown(lambda: listing.show(settings, each), lambda: operations.explain.explain(settings, each))

    def single() -> object:
        shared = [group.fingerprint for group in listing.escalations(settings) if group.count > 1 and group.fingerprint]
        return listing.page(settings, Filter(state=State.ESCALATED, other_than=shared), sort="id", limit=100)

    def figures(days: int) -> Callable[[], object]:
        return shown(
            lambda: operations.report.report_data(
                settings, status.read(), span=days * DAY, until=now(), with_causes=False
            )
        )

    permanent = Filter(state=State.ESCALATED, reason=EscalationReason.PERMANENT)
    requeued = BulkRequest(BulkAction.REQUEUE, wanted=permanent)
    return {
        "/": [
            Case("/", shown(lambda: listing.page(settings), lambda: listing.escalations(settings))),
            Case("/?state=escalated", shown(lambda: listing.page(settings, ESCALATED))),
            Case("/?error=locked", shown(lambda: listing.page(settings, Filter(error="locked")))),
        ],
        "/id/{message_id}": [Case(f"/id/{each}", message(each)) for each in (QUIET, BUSY)],
        "/id/{message_id}/edit": [
            Case(f"/id/{QUIET}/edit", shown(lambda: operations.edit_message.read_draft(settings, QUIET)))
        ],
        "/bulk": [
            Case(
                "/bulk?action=requeue&state=escalated&reason=permanent",
                shown(lambda: operations.message_actions.preview(settings, requeued, shown=5)),
            )
        ],
        "/escalations": [Case("/escalations", shown(single))],
        "/passes": [Case("/passes", shown(lambda: operations.status.passes(settings, limit=50)))],
        "/stats": [
            Case("/stats?since=24h", figures(1)),
            Case("/stats", figures(7)),
            Case("/stats?since=30d", figures(30)),
        ],
        "/static/{name}": [Case("/static/console.css", None)],
    }


class InProcess:
    """Calls the API and the pages as a server does. The pages' status is kept, and the API's is never kept.

    Args:
        settings: the settings.
        portal: runs the event loop in a thread of its own, as long as a server would: worker threads end with it.
    """

    def __init__(self, settings: Settings, portal: BlockingPortal) -> None:
        access = Access.of(settings, lambda _: User("anna", Role.OPERATOR))
        ticks = count(1)
        self.status = RecentStatus(settings, elapsed=lambda: 0.0)
        self.status.statistics = RecentStatistics(elapsed=lambda: next(ticks) * 2 * KEPT_SECONDS)
        self._portal = portal
        self._app = FastAPI(openapi_url=None)
        api = make_api(settings, access, RecentStatus(settings, elapsed=lambda: next(ticks) * 2 * KEPT_SECONDS))
        self._app.include_router(api, prefix=API)
        self._app.mount(PAGES, make_pages(settings, access, self.status))

    def get(self, path: str) -> bytes:
        """Return the body of a response, whose status must be 200."""
        return self._portal.call(ask, self._app, path)


async def ask(app: ASGIApp, address: str) -> bytes:
    """Make a GET request without an HTTP client, which would take as long as a small page."""
    path, _, query = address.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "server": ("localhost", 80),
        "client": ("localhost", 1),
    }
    answers: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        answers.append(message)

    await app(scope, receive, send)
    body = b"".join(answer.get("body", b"") for answer in answers)
    assert answers[0]["status"] == 200, (address, body[:500])
    return body


def measure(url: str, rounds: int) -> list[Cost]:
    """Measure all pages and endpoints that call operations, each at least ``rounds`` times."""
    settings = settings_for(url)
    clock = time.process_time if settings.database.file else time.perf_counter
    found = []
    with one_core(), start_blocking_portal() as portal:
        app = InProcess(settings, portal)
        for path, called in _measured(settings, app.status):
            page, operation = partial(app.get, path), partial(portal.call, to_thread.run_sync, called)
            _pair(clock, page, operation)  # warms up: statements, templates and the kept status
            _, seconds = _pair(clock, page, operation)
            number = rounds * min(MOST_OFTEN, max(1, round(LONG / seconds)))
            pairs = [_pair(clock, page, operation, swap=bool(each % 2)) for each in range(number)]
            pages, operated = zip(*pairs, strict=True)
            found.append(Cost(path, median(pages), median(operated), [page / op for page, op in pairs]))
    return found


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this thread, and those that it starts, on one core: moving between cores would slow the shortest calls."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usual)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, usual)


def _measured(settings: Settings, status: RecentStatus) -> Iterator[tuple[str, Callable[[], object]]]:
    for prefix, routes in ((API, api_cases(settings)), (PAGES, page_cases(settings, status))):
        for case in (case for cases in routes.values() for case in cases):
            if case.operation is not None:
                yield prefix + case.path, case.operation


def _pair(
    clock: Callable[[], float], page: Callable[[], object], operation: Callable[[], object], *, swap: bool = False
) -> tuple[float, float]:
    calls = (operation, page) if swap else (page, operation)
    first, second = (_timed(clock, call) for call in calls)
    return (second, first) if swap else (first, second)


def _timed(clock: Callable[[], float], call: Callable[[], object]) -> float:
    before = clock()
    call()
    return clock() - before


def report(name: str, costs: Sequence[Cost], rounds: int) -> str:
    """Return a table of the costs."""
    rows = [
        (
            cost.path,
            f"{1000 * cost.page:,.0f}",
            f"{1000 * cost.operation:,.0f}",
            f"{cost.ratio:.2f}",
            "{:.2f} to {:.2f}".format(*cost.spread),
        )
        for cost in costs
    ]
    head = ("page or endpoint", "ms", "operations ms", "ratio", "middle half")
    return table(f"Console on {name}: medians of {rounds} rounds or more", head, rows)


def main(url: str, rounds: str) -> None:
    name = "SQLite, CPU time" if settings_for(url).database.file else "PostgreSQL"
    print(report(name, measure(url, int(rounds)), int(rounds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
