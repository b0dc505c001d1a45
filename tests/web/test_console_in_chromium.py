"""The console in a real Chromium, as a process of its own: with and without scripts, by keyboard alone."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.cli.command import wait_until
from tests.cli.story import OK, Api
from tests.conftest import on_sqlite
from tests.systems.chromium import PROGRAM, Chromium, chromium
from tests.web.conftest import HOST
from tests.web.hostile import HOSTILE, add_hostile
from tests.web.test_serve import add_token, address_of, serving

if TYPE_CHECKING:
    from tests.cli.application import Application
    from tests.cli.command import Cli

pytestmark = [
    on_sqlite,
    pytest.mark.slow,
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium here: apt-get install chromium"),
]

WIDTHS = (375, 1280)
MOST_TABS = 150


def axe() -> str | None:
    """Return the source of axe, which checks accessibility; None if it is not installed."""
    spec = importlib.util.find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        return None
    return (Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8")


@dataclass
class Person:
    """Somebody with a browser and a keyboard."""

    browser: Chromium
    address: str

    def open(self, path: str) -> None:
        self.browser.open(self.address + path)
        self.look()

    def look(self) -> None:
        """Check the open page: no complaint of the browser, and nothing that sticks out."""
        assert self.browser.complaints() == []
        assert self.browser.find("document.documentElement.scrollWidth <= innerWidth"), self.browser.find(STICKING_OUT)

    def tab_to(self, text: str) -> None:
        """Press Tab until the focused element, or its label, begins with a text."""
        for _ in range(MOST_TABS):
            self.browser.press("Tab")
            if str(self.browser.find(FOCUSED)).startswith(text):
                return
        raise AssertionError(f"Tab never came to {text}")

    def go(self, text: str) -> None:
        """Move to a link or a button by Tab, and press Enter."""
        self.tab_to(text)
        self.browser.press("Enter", opens=True)
        self.look()

    def fill(self, label: str, text: str) -> None:
        """Move to a field by Tab, and replace its text."""
        self.tab_to(label)
        self.browser.select_all()
        self.browser.type(text)

    @property
    def words(self) -> str:
        return str(self.browser.find("document.body.innerText"))


FOCUSED = """(() => {
    const it = document.activeElement;
    const text = it.labels && it.labels[0] ? it.labels[0].innerText : it.innerText;
    return (text || it.getAttribute("aria-label") || "").trim();
})()"""
STICKING_OUT = """[...document.querySelectorAll("body *")]
    .filter((it) => it.getBoundingClientRect().right > innerWidth).map((it) => it.outerHTML.slice(0, 120))"""

LINES = """(() => {
    const tops = new Set();
    for (const cell of document.querySelectorAll(".rows tbody tr:first-child > :not(.tick)")) {
        const text = document.createRange();
        text.selectNodeContents(cell);
        for (const box of cell.offsetHeight ? text.getClientRects() : []) tops.add(Math.round(box.top / 20));
    }
    return tops.size;
})()"""
"""The number of lines of the first message of a list, on a phone."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with chromium(tmp_path_factory.mktemp("chromium")) as opened:
        opened.run_first("window.now = Date.now(); Date.now = () => window.now")  # no page polls by itself: see `poll`
        yield opened


@contextmanager
def served_desk(application: Application, cli: Cli, api: Api, folder: Path, *, alike: int) -> Iterator[tuple[str, str]]:
    """Serve a console over two escalated messages and some more with one cause; return its address and a token."""
    application.add(9, recipient_email="nobody@example.com")
    application.add(10, last_error="HTTP 422")
    for number in range(alike):
        application.add(1000 + number, retry_count=10, message_type="supplier")
    never = {"RETRYCLI_BREAKER__FAILURES": "1000", "RETRYCLI_WEB__TOKENS_FILE": str(folder / "tokens.json")}
    command = cli.having({**application.variables(api.url), **never, "RETRYCLI_WEB__ALLOWED_HOSTS": HOST})
    assert command("run-once").returncode == 0
    token = add_token(command)
    with serving(command, "--port", "0") as process:
        yield address_of(process), token


@pytest.fixture
def desk(application: Application, cli: Cli, api: Api, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Provide a served console over eight escalated messages, and a token."""
    with served_desk(application, cli, api, tmp_path, alike=6) as found:
        yield found


@pytest.fixture
def crowded(application: Application, cli: Cli, api: Api, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Provide a served console over 502 escalated messages, 500 of them with one cause, and a token."""
    with served_desk(application, cli, api, tmp_path, alike=500) as found:
        yield found


def signed_in(browser: Chromium, desk: tuple[str, str]) -> Person:
    address, token = desk
    browser.clear_cookies()
    person = Person(browser, address)
    person.open("/messages/")
    browser.type(token)  # the field has the focus
    browser.press("Enter", opens=True)
    person.look()
    return person


def test_over_plain_http_forms_work_with_any_host_name(browser: Chromium, desk: tuple[str, str]) -> None:
    """Chromium sends no Sec-Fetch-Site there, and with `no-referrer` it would send `Origin: null`."""
    address, token = desk
    person = signed_in(browser, (address.replace("127.0.0.1", HOST), token))
    assert "Needs you" in person.words


@pytest.mark.parametrize(
    ("width", "dark", "scripts"),
    [(1280, False, True), (375, True, False)],
    ids=["wide, light, with scripts", "narrow, dark, without scripts"],
)
def test_the_story_of_a_person_with_a_keyboard(
    browser: Chromium,
    crowded: tuple[str, str],
    api: Api,
    application: Application,
    width: int,
    *,
    dark: bool,
    scripts: bool,
) -> None:
    browser.resize(width, dark=dark)
    browser.run_scripts(enabled=scripts)
    try:
        person = signed_in(browser, crowded)
        assert "Needs you" in person.words
        if width == 375:
            assert browser.find(LINES) == 3
        person.go("9")
        assert "The ticketing system does not accept it as it is." in person.words
        person.go("Edit")
        person.fill("Recipient", "ana@example.com")
        person.go("Show the changes")
        assert "+Recipient: ana@example.com" in person.words
        api.answers = [OK]
        person.go("Write and retry now")
        assert "Changed recipient of message 9. Message 9 sent." in person.words
        assert application.row(9)["recipient_email"] == "ana@example.com"

        person.open("/messages/id/10")
        person.tab_to("Reject…")
        browser.press("Enter")
        person.fill("Reason", "no longer wanted")
        browser.press("Enter", opens=True)
        person.look()
        assert "Rejected message 10. No pass will send it." in person.words
        assert application.row(10)["last_error"] == "Rejected by anna: no longer wanted"

        person.go("Escalations")
        person.go("Requeue…")
        assert "Requeue 500 messages?" in person.words
        person.fill("Attempt first (canary)", "3")
        person.tab_to("The others are due")
        browser.type_keys("over 2")
        person.go("Requeue 500 messages")
        assert "Requeued 497 messages. 3 canary messages were sent." in person.words
        due = {row["next_attempt_at"] for row in application.rows("retrycli_queue").values()}
        assert len(due) == 497  # spread over two hours
    finally:
        browser.run_scripts(enabled=True)


@pytest.mark.parametrize("is_signed_in", [True, False])
@pytest.mark.parametrize("action", ["id/9/mark-sent", "pause"])
def test_a_form_on_another_site_changes_nothing_and_can_not_be_sent_again(
    browser: Chromium, desk: tuple[str, str], application: Application, action: str, *, is_signed_in: bool
) -> None:
    """The cookie stays away from such a form, so to the console its user is not signed in."""
    browser.resize(1280)
    person = signed_in(browser, desk)
    if not is_signed_in:
        browser.clear_cookies()
    before = application.dump()
    browser.open(
        f"data:text/html,<form method=post action={person.address}/messages/{action}><button>Win</button></form>"
    )
    browser.press("Tab")
    browser.press("Enter", opens=True)
    assert "the request may come from another site, so nothing was changed" in person.words
    assert browser.find("document.querySelectorAll('main form').length") == 0
    assert application.dump() == before
    browser.complaints()  # the browser says that the answer was a 403


TIMES = """[...document.querySelectorAll("time")].map((it) => [it.dateTime, it.innerText])"""


@pytest.mark.parametrize(("zone", "offset"), [("Asia/Kolkata", "+05:30"), ("Pacific/Marquesas", "-09:30")])
def test_times_are_in_the_browsers_zone_and_without_scripts_in_utc(
    browser: Chromium, desk: tuple[str, str], zone: str, offset: str
) -> None:
    browser.resize(1280)
    browser.move_to(zone)
    try:
        person = signed_in(browser, desk)
        person.open("/messages/passes")
        person.tab_to("Pause")
        browser.press("Enter", opens=True)
        person.look()
        for scripts in (True, False):
            browser.run_scripts(enabled=scripts)
            for path in ("/messages/passes", "/messages/", "/messages/id/9", "/messages/stats"):
                person.open(path)
                assert not re.search(r"\dT\d\d:\d\d:\d\dZ", person.words)
                shown = browser.find(TIMES)
                assert {text[-6:] for _, text in shown} == {offset if scripts else "+00:00"}
                for instant, text in shown:
                    assert datetime.fromisoformat(text) == datetime.fromisoformat(instant).replace(second=0)
    finally:
        browser.run_scripts(enabled=True)
        browser.move_to("")


def test_a_time_in_a_filter_is_in_the_browsers_zone(browser: Chromium, desk: tuple[str, str]) -> None:
    """`failed between 02:00 and 05:30` means the night of the person who asks."""
    browser.resize(1280)
    browser.move_to("Asia/Kolkata")
    try:
        for scripts, offset in ((True, "+05:30"), (False, "")):
            browser.run_scripts(enabled=True)
            person = signed_in(browser, desk)
            browser.run_scripts(enabled=scripts)
            person.open("/messages/")
            person.tab_to("More filters")
            browser.press("Enter")
            person.fill("Failed after", "2026-01-02 02:00")
            person.fill("Failed before", "2h")
            person.go("Filter")
            given = parse_qs(urlsplit(str(browser.find("location.href"))).query)
            assert given["failed_after"] == ["2026-01-02 02:00" + offset]
            assert given["failed_before"] == ["2h"]
    finally:
        browser.run_scripts(enabled=True)
        browser.move_to("")


PAGES = (
    "/messages/", "/messages/?error=tea&type=customer", "/messages/id/9", "/messages/id/9/edit",
    "/messages/escalations", "/messages/passes", "/messages/stats", "/messages/bulk?action=requeue&state=escalated",
    "/messages/bulk?action=reject&id=9&id=10", "/messages/?ticket=none",
)  # fmt: skip
WITH_ERRORS = ("/messages/nowhere", "/messages/?state=asleep", "/messages/bulk?action=retry&id=9&progress=x")


@pytest.mark.skipif(axe() is None, reason="no axe here: pip install --no-deps axe-playwright-python")
def test_axe_finds_no_violation_on_any_page(browser: Chromium, desk: tuple[str, str], application: Application) -> None:
    source = axe()
    add_hostile(application, 66)
    browser.resize(1280)
    browser.clear_cookies()
    browser.open(desk[0] + "/messages/sign-in")
    assert violations(browser, str(source)) == []
    signed_in(browser, desk)
    for width in WIDTHS:
        for dark in (False, True):
            browser.resize(width, dark=dark)
            for path in (*PAGES, *WITH_ERRORS, "/messages/id/66"):
                browser.open(desk[0] + path)
                browser.find("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
                assert violations(browser, str(source)) == [], f"{path}, {width} px, dark: {dark}"


def violations(browser: Chromium, source: str) -> list[Any]:
    browser.find(f"{source}; undefined")
    found = browser.find("axe.run(document, {resultTypes: ['violations']}).then((found) => found.violations)")
    return [(each["id"], each["help"], [node["html"][:200] for node in each["nodes"]]) for each in found]


@pytest.mark.parametrize("width", WIDTHS)
def test_hostile_texts_are_shown_as_text_on_every_page(
    browser: Chromium, desk: tuple[str, str], application: Application, width: int
) -> None:
    for number in range(60, 64):
        add_hostile(application, number)
    browser.resize(width)
    person = signed_in(browser, desk)
    for path in ("/messages/", "/messages/id/60", "/messages/id/60/edit", "/messages/escalations", "/messages/stats"):
        person.open(path)
        assert browser.find("document.title").endswith(" · retrycli")
        assert browser.find("window.takenOver") is None
    for path in ("/messages/id/60", "/messages/?sort=id"):
        person.open(path)
        assert HOSTILE.partition("\u202e")[0].strip() in person.words
        assert "\\u202e" in person.words
        assert "\\x1b" in person.words


def test_pages_without_a_message_fit_and_raise_no_complaint(browser: Chromium, desk: tuple[str, str]) -> None:
    for width in WIDTHS:
        browser.resize(width)
        person = signed_in(browser, desk)
        for path in PAGES:
            person.open(path)


# -- the script ----------------------------------------------------------------------------------------------------


def poll(browser: Chromium) -> None:
    """Let the page poll now, as if its time had come."""
    browser.find("window.now += 1e6")
    browser.find("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_page_that_nobody_uses_shows_changes_by_itself(
    browser: Chromium, desk: tuple[str, str], application: Application
) -> None:
    browser.resize(1280)
    person = signed_in(browser, desk)
    assert "HTTP 418" not in person.words
    application.add(70, last_error="HTTP 418: teapot")
    poll(browser)
    wait_until(lambda: "HTTP 418: teapot" in person.words)
    assert browser.complaints() == []


def test_a_list_with_a_ticked_message_is_not_swapped_until_it_is_asked_for(
    browser: Chromium, desk: tuple[str, str], application: Application
) -> None:
    browser.resize(1280)
    person = signed_in(browser, desk)
    browser.find("document.querySelector('input[name=id]').focus()")
    browser.press("Space")
    assert browser.find("document.querySelectorAll('input[name=id]:checked').length") == 1
    assert "Continue with 1 ticked" in person.words
    ticked = browser.find("document.querySelector('input[name=id]:checked').value")
    application.add(70, last_error="HTTP 418: teapot")
    application.add(71, last_error="HTTP 418: teapot")
    poll(browser)
    wait_until(lambda: "2 changes · show" in person.words)
    assert "HTTP 418: teapot" not in person.words
    person.tab_to("2 changes · show")
    browser.press("Enter")
    assert "HTTP 418: teapot" in person.words
    assert browser.find("document.querySelector('input[name=id]:checked').value") == ticked
    assert "changes · show" not in person.words


def test_a_server_that_does_not_answer_makes_the_page_stale_and_an_answer_ends_that(
    browser: Chromium, desk: tuple[str, str], application: Application
) -> None:
    browser.resize(1280)
    signed_in(browser, desk)
    assert browser.find("document.querySelector('#as-of').className") == ""
    browser.cut_off(offline=True)
    poll(browser)
    wait_until(lambda: browser.find("document.querySelector('#as-of').className") == "stale")
    browser.cut_off(offline=False)
    poll(browser)
    wait_until(lambda: browser.find("document.querySelector('#as-of').className") == "")
