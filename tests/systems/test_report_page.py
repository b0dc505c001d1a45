"""The report in a real Chromium: no errors, no overflow, in light and dark mode."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests import history
from tests.cli.command import Cli
from tests.systems.chromium import PROGRAM, Chromium, Seen, chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium"),
]

WIDTHS = (360, 1280)
HISTORIES = {"none": 0, "one": 1, "many": 100_000, "hostile": 50}
HOSTILE = "<script>document.title = 'taken over'; console.error('taken over')</script>" + "x" * 2000
MOST_KIB = 300


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Provide reports of zero, one and very many attempts, and of attempts with long hostile texts."""
    folder = tmp_path_factory.mktemp("pages")
    midnight_near_the_edge = f"ZONE{datetime.now(UTC).hour - 11:+d}"  # the local time in this zone is about 11:00
    found = {}
    for name, attempts in HISTORIES.items():
        database = folder / f"{name}.db"
        history.make(database, attempts=attempts, now=datetime.now(UTC), days=7 if attempts else 0, people=attempts > 1)
        if name == "hostile":
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("UPDATE retrycli_attempts SET error = ?, outcome = 'permanent'", (HOSTILE,))
                connection.execute(
                    "UPDATE pending_messages SET last_error = ?1, subject = ?1, ticket_id = ?1", (HOSTILE,)
                )
                connection.execute("UPDATE pending_messages SET message_type = ? WHERE id % 2", (HOSTILE,))
        cli = Cli(folder, {"RETRYCLI_DATABASE__URL": f"sqlite:///{database}", "TZ": midnight_near_the_edge})
        done = cli("report", "--html", f"{name}.html")
        assert (done.returncode, done.stderr) == (0, "")
        found[name] = folder / f"{name}.html"
    return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.long_except(
    "test_the_page_opens_without_errors_and_without_overflow[many-1280-dark]",
    "test_the_page_opens_without_errors_and_without_overflow[hostile-360-light]",
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", HISTORIES)
def test_the_page_opens_without_errors_and_without_overflow(
    pages: dict[str, Path], browser: Chromium, name: str, width: int, *, dark: bool
) -> None:
    seen = browser.look(pages[name], width=width, dark=dark)
    assert seen.complaints == []
    assert seen.requests == [pages[name].as_uri()]
    assert seen.content_width == width
    assert browser.find("document.title").startswith("retrycli: ")
    sticking_out = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
    assert browser.find(f"{sticking_out}.map(e => e.outerHTML.slice(0, 80))") == []


def test_light_and_dark_mode_look_different(pages: dict[str, Path], browser: Chromium) -> None:
    def ground(*, dark: bool) -> str:
        browser.look(pages["one"], width=WIDTHS[0], dark=dark)
        return str(browser.find("getComputedStyle(document.body).backgroundColor"))

    assert (ground(dark=False), ground(dark=True)) == ("rgb(247, 246, 243)", "rgb(20, 23, 27)")


def test_a_hundred_thousand_attempts_make_a_small_page(pages: dict[str, Path]) -> None:
    assert pages["many"].stat().st_size < MOST_KIB * 1024


def test_a_faulty_page_would_be_detected(browser: Chromium, tmp_path: Path) -> None:
    """This proves that the checks above can fail."""
    page = tmp_path / "bad.html"
    page.write_text(
        "<!doctype html><title>Tea</title><script>console.error('tea')</script><img src='tea.png'>"
        "<main><p style='width: 2000px'>wide</p></main>",
        encoding="utf-8",
    )
    seen: Seen = browser.look(page, width=360)
    assert len(seen.complaints) == 2
    assert len(seen.requests) > 1
    assert seen.content_width > 360
