"""An open page polls itself for its live regions, without keeping the server busy. In a real Chromium."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from retrycli.web.sessions import COOKIE
from tests.conftest import on_sqlite
from tests.systems.chromium import PROGRAM, Chromium, chromium
from tests.web.test_serve import add_token, address_of, served, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cli.command import Cli

__all__ = ["served"]

pytestmark = [on_sqlite, pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium")]

# A clock that the test advances, and a server whose answers take a number of milliseconds by this clock.
FAKES = """
(() => {
  const real = Date.now();
  window.clock = { at: 0, takes: 0, polls: 0 };
  Date.now = () => real + clock.at;
  window.fetch = async () => {
    clock.polls += 1;
    clock.at += clock.takes;
    return { ok: true, redirected: false, text: async () => document.documentElement.outerHTML };
  };
})()
"""


@pytest.fixture
def page(served: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """Provide a browser that shows the first page, with a clock that the test advances."""
    token = add_token(served)
    with serving(served, "--port", "0") as process, chromium(tmp_path_factory.mktemp("chromium")) as browser:
        address = address_of(process)
        sign_in = httpx.post(
            f"{address}/messages/sign-in",
            data={"token": token},
            headers={"Sec-Fetch-Site": "same-origin"},
            trust_env=False,
        )
        browser.set_cookie(COOKIE, sign_in.cookies[COOKIE], address)
        browser.resize(1280)
        browser.open(f"{address}/messages/")
        browser.find(FAKES)
        yield browser


def polls_after(page: Chromium, seconds: int, *, answers_take: int = 0) -> int:
    """Return how many requests the page has made, some seconds later."""
    page.find(f"clock.takes = {answers_take} * 1000; clock.at += {seconds} * 1000")
    page.find("document.dispatchEvent(new Event('visibilitychange'))")
    return int(page.find("clock.polls"))


def test_an_open_page_polls_every_15_seconds(page: Chromium) -> None:
    assert [polls_after(page, seconds) for seconds in (14, 2, 14, 2)] == [0, 1, 1, 2]


def test_a_page_that_takes_long_is_polled_less_often(page: Chromium) -> None:
    """Otherwise, each open page of statistics would keep a large database busy."""
    assert polls_after(page, 15, answers_take=5) == 1
    assert [polls_after(page, seconds) for seconds in (90, 6)] == [1, 2]
