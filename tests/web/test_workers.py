"""Two workers over one database and one tokens' file agree: on sessions, actions, and how far an action has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx
import pytest

from retrycli import operations
from retrycli.domain.user import Role, User
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.sessions import COOKIE
from retrycli.web.status import RecentStatus
from tests.cli.command import LONGEST, wait_until
from tests.conftest import on_both, on_sqlite
from tests.web.browser import Browser
from tests.web.conftest import HOST, PAGES
from tests.web.test_serve import add_token, is_listening, served, serving

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import ASGIApp

    from retrycli.config.settings import Settings
    from tests.cli.application import Application
    from tests.cli.command import Cli
    from tests.web.conftest import Desk

__all__ = ["served"]

pytestmark = on_both


def client_of(uds: Path) -> httpx.Client:
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(uds)),
        base_url=f"http://{HOST}",
        headers={"Sec-Fetch-Site": "same-origin"},
        timeout=LONGEST,
    )


@pytest.fixture
def workers(served: Cli, application: Application, tmp_path: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Provide clients of two processes; the first is signed in as Anna, and the second has her cookie."""
    application.fill()
    served("run-once")
    token = add_token(served)
    with ExitStack() as stack:
        clients = []
        for name in ("one", "two"):
            uds = tmp_path / f"{name}.sock"
            process = stack.enter_context(serving(served, "--uds", uds))
            wait_until(partial(is_listening, uds), process)
            clients.append(stack.enter_context(client_of(uds)))
        first, second = clients
        assert first.post(f"{PAGES}/sign-in", data={"token": token}).status_code == HTTPStatus.SEE_OTHER
        second.cookies.set(COOKIE, first.cookies[COOKIE])
        yield first, second


def test_a_session_and_its_actions_are_the_same_at_both_workers(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    page = second.get(f"{PAGES}/id/8")
    assert (page.status_code, "Sign out" in page.text) == (200, True)
    assert "Paused" not in page.text
    assert first.post(f"{PAGES}/id/8/reject", data={"reason": "tea"}).status_code == HTTPStatus.SEE_OTHER
    assert "Rejected by anna: tea" in second.get(f"{PAGES}/id/8").text
    assert second.post(f"{PAGES}/id/8/reject", data={"reason": "tea"}).status_code == HTTPStatus.CONFLICT
    assert first.post(f"{PAGES}/pause", data={"for": "1h"}).status_code == HTTPStatus.SEE_OTHER
    assert "Paused" in first.get(f"{PAGES}/").text
    wait_until(lambda: "Paused" in second.get(f"{PAGES}/").text)  # each worker keeps the status for two seconds
    first.post(f"{PAGES}/sign-out")
    for client in (first, second):  # the second still has the cookie
        assert client.get(f"{PAGES}/").status_code == HTTPStatus.SEE_OTHER


@on_sqlite
def test_an_action_on_many_messages_goes_on_at_another_worker(desk: Desk) -> None:
    """Each step is made by the other worker, which has seen none of the earlier steps."""
    desk.application.add_due(1_000, first=1_001)
    desk.application.execute("UPDATE pending_messages SET retry_count = 10")
    operations.run_pass.run_once(desk.settings)
    first, second = (Browser(worker(desk.settings), "") for _ in range(2))
    page = first.submit(first.open("/bulk?action=reject&state=escalated"), "/bulk", because="tea")
    assert "Rejected 500 messages. 500 left" in page.words
    done = second.submit(second.open(page.url), "/bulk", press="Go on with 500")
    assert "Rejected 1,000 messages." in done.words
    assert {row["status"] for row in desk.application.rows().values()} == {"rejected"}


def worker(settings: Settings) -> ASGIApp:
    """Return a console that shares nothing with another one but the files, and makes small steps."""
    access = Access.of(settings, lambda _: User("anna", Role.OPERATOR))
    return make_pages(settings, access, RecentStatus(settings), key=b"of all workers", slice_seconds=0)
