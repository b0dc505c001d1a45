"""Two workers over one database and one tokens' file agree on sessions and actions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from http import HTTPStatus
from typing import TYPE_CHECKING

import httpx
import pytest

from retrycli.web.sessions import COOKIE
from tests.cli.command import wait_until
from tests.conftest import on_both
from tests.web.conftest import PAGES
from tests.web.test_serve import add_token, listening, over, served

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.application import Application
    from tests.cli.command import Cli

__all__ = ["served"]

pytestmark = on_both


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
            stack.enter_context(listening(served, uds))
            clients.append(stack.enter_context(over(uds, **{"Sec-Fetch-Site": "same-origin"})))
        first, second = clients
        assert first.post(f"{PAGES}/sign-in", data={"token": token}).status_code == HTTPStatus.SEE_OTHER
        second.cookies.set(COOKIE, first.cookies[COOKIE])
        yield first, second


def test_a_session_and_its_actions_are_the_same_at_both_workers(workers: tuple[httpx.Client, httpx.Client]) -> None:
    first, second = workers
    page = second.get(f"{PAGES}/id/8")
    assert (page.status_code, "Sign out" in page.text) == (200, True)
    assert "Paused" not in page.text
    rejection = {"reason": "tea", "seen": page.text.partition('name="seen" value="')[2].partition('"')[0]}
    assert first.post(f"{PAGES}/id/8/reject", data=rejection).status_code == HTTPStatus.SEE_OTHER
    assert "Rejected by anna: tea" in second.get(f"{PAGES}/id/8").text
    assert second.post(f"{PAGES}/id/8/reject", data=rejection).status_code == HTTPStatus.CONFLICT
    assert first.post(f"{PAGES}/pause", data={"for": "1h"}).status_code == HTTPStatus.SEE_OTHER
    assert "Paused" in first.get(f"{PAGES}/").text
    wait_until(lambda: "Paused" in second.get(f"{PAGES}/").text)  # each worker keeps the status for two seconds
    first.post(f"{PAGES}/sign-out")
    for client in (first, second):  # the second still has the cookie
        assert client.get(f"{PAGES}/").status_code == HTTPStatus.SEE_OTHER
