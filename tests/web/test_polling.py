"""An open page polls itself for its live regions, without keeping the server busy. In a real Chromium."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx
import pytest

from retrycli.web.sessions import COOKIE
from tests.cli.command import LONGEST
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
  window.fetch = async (address) => {
    clock.polls += 1;
    clock.address = address;
    clock.at += clock.takes;
    return { ok: true, redirected: false, text: async () => document.documentElement.outerHTML };
  };
})()
"""


@dataclass(frozen=True)
class PolledPage:
    """A browser that is signed in, and the console's address."""

    browser: Chromium
    address: str

    def open(self, path: str) -> None:
        """Open a page, with a clock that the test advances."""
        self.browser.open(f"{self.address}/messages{path}")

    def polls_after(self, seconds: int, *, answers_take: int = 0) -> int:
        """Return how many requests the page has made, some seconds later."""
        self.browser.find(f"clock.takes = {answers_take} * 1000; clock.at += {seconds} * 1000")
        self.browser.find("document.dispatchEvent(new Event('visibilitychange'))")
        return int(self.browser.find("clock.polls"))


@pytest.fixture
def page(served: Cli, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PolledPage]:
    """Provide a browser that is signed in."""
    token = add_token(served)
    with serving(served, "--port", "0") as process, chromium(tmp_path_factory.mktemp("chromium")) as browser:
        address = address_of(process)
        sign_in = httpx.post(
            f"{address}/messages/sign-in",
            data={"token": token},
            headers={"Sec-Fetch-Site": "same-origin"},
            trust_env=False,
            timeout=LONGEST,
        )
        browser.set_cookie(COOKIE, sign_in.cookies[COOKIE], address)
        browser.resize(1280)
        browser.run_first(FAKES)
        yield PolledPage(browser, address)


def test_an_open_page_polls_every_15_seconds(page: PolledPage) -> None:
    page.open("/")
    assert [page.polls_after(seconds) for seconds in (14, 2, 14, 2)] == [0, 1, 1, 2]


def test_a_page_that_takes_long_is_polled_less_often(page: PolledPage) -> None:
    """Otherwise, each open page would keep a large database busy."""
    page.open("/")
    assert page.polls_after(15, answers_take=5) == 1
    assert [page.polls_after(seconds) for seconds in (90, 6)] == [1, 2]


def test_figures_are_not_calculated_again_for_the_state_line(page: PolledPage) -> None:
    page.open("/stats")
    assert page.polls_after(16) == 1
    assert page.browser.find("clock.address") == "/messages/passes"
