"""A server that has answered ten thousand requests needs no more memory, descriptors or threads than after a thousand.

The requests are those of all pages and endpoints, and requests that fail for every reason.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from starlette.routing import Route

import retrycli.web
from retrycli.web.server import API, PAGES
from tests.conftest import on_sqlite
from tests.web.test_serve import add_token, listening, over, served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from retrycli.config.settings import Settings
    from tests.cli.application import Application
    from tests.cli.command import Cli

__all__ = ["served"]

pytestmark = on_sqlite

FEW, MANY = 1_000, 10_000
AT_ONCE = 4
MOST_GROWTH = 1.1
VALUES = {"{message_id}": "8", "{name}": "console.css"}
QUERIES = {"/bulk": "?action=reject&state=waiting", "/scheduler/stats": "?since=24h&by=ticket"}


@dataclass(frozen=True)
class Footprint:
    """What a process holds."""

    resident_kib: int
    threads: int
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        values = {name: value.split() for name, _, value in lines}
        open_files = [*Path(f"/proc/{pid}/fd").iterdir()]
        return cls(int(values["VmRSS"][0]), int(values["Threads"][0]), len(open_files))


@dataclass(frozen=True)
class Ask:
    """One request, and the status of its response."""

    method: str
    path: str
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


def gets(settings: Settings) -> Iterator[Ask]:
    """Yield a request for each page and each endpoint."""
    api, pages = retrycli.web.api(settings, user=lambda _: None), retrycli.web.pages(settings, user=lambda _: None)
    for prefix, routes in ((API, api.routes), (PAGES, pages.routes)):
        for route in routes:
            if isinstance(route, Route) and "GET" in (route.methods or ()):
                path = route.path
                for name, value in VALUES.items():
                    path = path.replace(name, value)
                yield Ask("GET", prefix + path + QUERIES.get(path, ""))


FAILURES = (
    Ask("GET", f"{API}/no%2Fsuch", 404),
    Ask("GET", f"{API}?limit=0", 422),
    Ask("GET", f"{API}/scheduler/status", 401, (("Authorization", "Bearer rcli_wrong"),)),
    Ask("GET", f"{API}/scheduler/status", 421, (("Host", "evil.example.com"),)),
    Ask("POST", f"{API}/99/retry", 404),
    Ask("POST", f"{API}/99/reject", 422),
    Ask("GET", f"{PAGES}/id/99", 404),
    Ask("GET", f"{PAGES}/nowhere", 404),
    Ask("GET", f"{PAGES}/?state=wrong", 422),
    Ask("GET", f"{PAGES}/sign-in?next=//evil.example.com", 303),
    Ask("POST", f"{PAGES}/pause", 403, (("Sec-Fetch-Site", "cross-site"), ("Cookie", "a=b"))),
    Ask("POST", f"{PAGES}/sign-in", 422),
)


def ask_all(client: httpx.Client, asks: list[Ask], number: int) -> None:
    """Make requests, some at once, and check their statuses."""

    def made(ask: Ask) -> tuple[Ask, int]:
        return ask, client.request(ask.method, ask.path, headers=dict(ask.headers)).status_code

    with ThreadPoolExecutor(AT_ONCE) as pool:
        wrong = {(ask, status) for ask, status in pool.map(made, islice(cycle(asks), number)) if ask.status != status}
    assert wrong == set()


@pytest.mark.long
@pytest.mark.real
def test_ten_thousand_requests_leave_nothing_behind(served: Cli, application: Application, tmp_path: Path) -> None:
    application.fill()
    served("run-once")
    token, uds = add_token(served), tmp_path / "desk.sock"
    asks = [*gets(application.settings("http://127.0.0.1:9")), *FAILURES]
    with listening(served, uds) as process, over(uds, Authorization=f"Bearer {token}") as client:
        ask_all(client, asks, FEW)
        before = Footprint.of(process.pid)
        ask_all(client, asks, MANY - FEW)
        after = Footprint.of(process.pid)
    print(before, after)
    assert after.resident_kib <= MOST_GROWTH * before.resident_kib
    assert after.threads <= before.threads
    assert after.descriptors <= before.descriptors
