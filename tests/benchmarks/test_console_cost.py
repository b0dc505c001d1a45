"""A page of the console, or an endpoint of the API, costs little more than the operations behind it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from starlette.routing import Route

import retrycli.web
from retrycli.web.status import RecentStatus
from tests.benchmarks import console, databases, desk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from starlette.routing import BaseRoute

MOST = 1.5
"""The maximum ratio of a page to its operations."""
ROUNDS = 7
SETTINGS = console.settings_for("sqlite:////nowhere")


def gets(routes: Sequence[BaseRoute]) -> set[str]:
    """Return the paths of all routes for GET."""
    return {route.path for route in routes if isinstance(route, Route) and "GET" in (route.methods or ())}


def test_every_page_and_endpoint_is_measured() -> None:
    """Add the case of a new page to `page_cases`, and that of a new endpoint to `api_cases`."""
    nobody = retrycli.web.pages(SETTINGS, user=lambda _: None)
    assert gets(nobody.routes) == console.page_cases(SETTINGS, RecentStatus(SETTINGS)).keys()
    assert gets(retrycli.web.api(SETTINGS, user=lambda _: None).routes) == console.api_cases(SETTINGS).keys()


@pytest.fixture
def small() -> Iterator[str]:
    """Provide a desk with 400 failed messages."""
    with databases.sqlite() as files, files.database() as url:
        desk.make(url, desk.Desk(datetime.now(UTC), failed=400))
        yield url


def test_the_cost_of_each_page_is_reported(small: str) -> None:
    costs = console.measure(small, rounds=1)
    lines = console.report("SQLite", costs, rounds=1).splitlines()
    assert len(lines) == 4 + len(costs)
    assert lines[4].startswith("| /api/messages ")


@pytest.mark.long
@pytest.mark.parametrize("engine", [*databases.ENGINES])
def test_with_100_000_failed_messages_no_page_takes_over_1_5_times_its_operations(engine: str) -> None:
    with databases.ENGINES[engine]() as provided, provided.database() as url:
        desk.make(url, desk.Desk(datetime.now(UTC)))
        costs = console.measure(url, ROUNDS)
    print(console.report(engine, costs, ROUNDS))
    assert {cost.path: cost.ratio for cost in costs if cost.ratio > MOST} == {}
