"""Forms that can't be used, errors as pages, and consoles below other paths."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

import pytest

from retrycli import operations, web
from retrycli.domain.listing import FILTER_FIELDS
from retrycli.domain.user import Role, User
from retrycli.web.console.forms import LARGEST_FORM
from tests.conftest import on_sqlite
from tests.web.browser import FORM, Browser, HtmlPage
from tests.web.conftest import PAGES

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_sqlite

NOTE = f"{PAGES}/id/9/reject"


def test_the_query_of_a_stranger_must_be_short(desk: Desk) -> None:
    """Otherwise a request of 60 kB, with thousands of unknown fields, got an answer of 600 kB."""
    many = "&".join(f"a{number}=" for number in range(2_000))
    for path in ("/sign-in", "/static/console.js", "/"):
        answer = desk.stranger.get(f"{PAGES}{path}?{many}")
        assert (answer.status_code in {303, 401, 414}, len(answer.content) < 10_000) == (True, True), path
    answer = desk.operator.get(f"{PAGES}/?{many}")
    assert (answer.status_code, "more than 10 fields are unknown" in answer.text) == (422, True)


def test_an_id_that_no_database_can_hold_has_no_page(desk: Desk) -> None:
    for path in ("/id/1%00", "/id/%ff"):
        assert desk.operator.get(f"{PAGES}{path}").status_code == 404
        answer = desk.operator.post(f"{PAGES}{path}/release", content=b"", headers=FORM)
        assert answer.status_code == 404


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00%2B23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_outside_the_calendar_is_refused(desk: Desk, time: str) -> None:
    answer = desk.operator.get(f"{PAGES}/bulk?action=retry&failed_before={time}")
    assert (answer.status_code, "is too far in the " in answer.text) == (422, True)


@pytest.fixture
def escalated(desk: Desk) -> Desk:
    """Provide an installation with the escalated message 9."""
    desk.application.add(9, retry_count=10, last_error="HTTP 422")
    operations.run_pass.run_once(desk.settings)
    return desk


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"reason=a&reason=b", 422, "reason: the field is given twice"),
        (b"reason=a&<script>=b", 422, "<script>: the field is unknown"),
        (b"reason=", 422, "reason: must not be empty"),
        (b"reason=a%0Ab", 422, "reason: must be one line"),
        (b"reason=a%00b", 422, "reason: must not contain NUL"),
        (b"reason=%ff", 422, "not valid UTF-8"),
        (b"reason=\xff", 422, "not valid UTF-8"),
        (b"reason", 422, "not a valid form"),
        (b"reason=" + b"x" * 2001, 422, "at most 2,000 characters"),
        (b"&".join(b"a%d=" % number for number in range(10_001)), 422, "not a valid form"),
        (b"reason=" + b"x" * LARGEST_FORM, 413, "the form has more than"),
        (b"a" * 300 + b"=1&reason=a", 422, "a" * 40 + "…: the field is unknown"),
        (b"&".join(b"a%d=" % number for number in range(10_000)), 422, "more than 10 fields are unknown"),
    ],
    ids=lambda value: repr(value)[:24],
)
def test_a_form_that_can_not_be_used_says_why_and_changes_nothing(
    escalated: Desk, body: bytes, status: int, words: str
) -> None:
    before = escalated.application.dump()
    answer = escalated.operator.post(NOTE, content=body, headers=FORM)
    assert answer.status_code == status
    assert words in HtmlPage(answer).words
    assert escalated.application.dump() == before


@pytest.mark.parametrize(
    "kind", ["multipart/form-data; boundary=x", "application/json", "text/plain", "application/octet-stream", ""]
)
def test_only_url_encoded_forms_are_read(escalated: Desk, kind: str) -> None:
    answer = escalated.operator.post(NOTE, content=b"reason=a", headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert escalated.application.row(9)["status"] == "failed"


def test_an_unexpected_error_is_a_page_without_its_text(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.application.fill()
    browser = desk.browser("anna")
    desk.application.execute("ALTER TABLE pending_messages RENAME COLUMN body TO content")
    page = browser.open("/id/5")
    assert page.status == 500
    assert "Something is wrong here" in page.words
    assert "Traceback" not in page.answer.text
    assert caplog.records


def test_a_page_recovers_as_soon_as_the_database_is_back(desk: Desk) -> None:
    desk.application.fill()
    browser = desk.browser("anna")
    page = browser.open("/id/5")
    file = desk.application.path
    away = file.with_name("away")
    file.rename(away)
    file.mkdir()
    try:
        gone = browser.open("/id/5")
        assert (gone.status, gone.answer.headers["retry-after"]) == (503, "5")
        assert "Not available now" in gone.words
        assert ("body", "data-recover", None) in gone.attributes
        assert f"{PAGES}/id/5" in gone.links
        kept = browser.submit(page, "/reject", reason="no longer wanted")
        assert (kept.status, "It is not certain that nothing was changed" in kept.words) == (503, True)
    finally:
        file.rmdir()
        away.rename(file)
    assert browser.open("/id/5").status == 200
    done = browser.submit(kept, "/reject", press="Send it again")
    assert "Rejected message 5. No pass will send it." in done.words
    assert desk.application.row(5)["last_error"] == "Rejected by anna: no longer wanted"


# -- below other paths ---------------------------------------------------------------------------------------------


def crawl(browser: Browser) -> set[str]:
    """Open every page that links lead to, from the first page on, and return their addresses without queries."""
    seen: set[str] = set()
    queue = [browser.root + "/"]
    while queue:
        address = queue.pop().partition("#")[0]
        if address in seen or "after=" in address:
            continue
        seen.add(address)
        assert address.startswith(browser.root + "/"), address
        page = browser.open(address.removeprefix(browser.root))
        assert page.status == 200, address
        queue += [urljoin(page.url, link) for link in page.links]
        assert all(form.action.startswith(browser.root + "/") for form in page.forms)
        files = [
            str(value) for _, name, value in page.attributes if name in {"src", "href"} and "/static/" in str(value)
        ]
        assert len(files) == 3
        assert all(browser.fetch(file).status_code == 200 for file in files)
    return {address.partition("?")[0].removeprefix(browser.root) for address in seen}


def served(root: str) -> Callable[[Desk], Browser]:
    def make(desk: Desk) -> Browser:
        web_settings = desk.settings.web.model_copy(update={"root_path": root})
        desk.settings = desk.settings.model_copy(update={"web": web_settings})
        return desk.browser("anna", root=root + PAGES)

    return make


def mounted(prefix: str) -> Callable[[Desk], Browser]:
    def make(desk: Desk) -> Browser:
        from fastapi import FastAPI

        app = FastAPI()
        app.mount(prefix, web.pages(desk.settings, user=lambda _: User("max", Role.OPERATOR)))
        return Browser(app, quote(prefix))

    return make


def stripped(root: str) -> Callable[[Desk], Browser]:
    """Serve behind a proxy that strips the root path."""

    def make(desk: Desk) -> Browser:
        browser = served(root)(desk)
        inner = browser.app

        async def strip(scope: dict, receive: object, send: object) -> None:  # type: ignore[type-arg]
            path, raw = scope["path"].removeprefix(root), scope["raw_path"].removeprefix(root.encode())
            await inner({**scope, "path": path, "raw_path": raw}, receive, send)  # type: ignore[arg-type]

        browser.app = strip  # type: ignore[assignment]
        return browser

    return make


@pytest.mark.parametrize(
    "make", [stripped("/desk"), mounted("/my desk/ä")], ids=["stripped", "mounted below a path with a space"]
)
def test_every_link_and_form_is_right_below_any_path(escalated: Desk, make: Callable[[Desk], Browser]) -> None:
    browser = make(escalated)
    found = crawl(browser)
    assert {"/", "/id/9", "/id/9/edit", "/escalations", "/passes", "/stats"} <= found
    done = browser.submit(browser.open("/id/9"), "/reject", reason="tea")
    assert done.url == f"{browser.root}/id/9"
    assert "Rejected message 9" in done.words
    assert "Rejected message 9" not in browser.open("/id/9").words  # the result is shown once
    paused = browser.submit(browser.open("/passes"), "/pause", reason="tea", **{"for": "1h"})
    assert "Deliveries are paused" in paused.words


def test_a_new_version_of_a_file_has_another_address(desk: Desk) -> None:
    page = desk.browser("anna").open("/")
    style = next(str(value) for _, name, value in page.attributes if name == "href" and "console.css" in str(value))
    assert desk.stranger.get(style).headers["cache-control"] == "public, max-age=31536000, immutable"
    assert desk.stranger.get(style + "0").headers["cache-control"] == "no-cache"
    assert len(style.rpartition("=")[2]) == 12


def test_the_form_of_a_list_has_every_condition(escalated: Desk) -> None:
    page = escalated.operator.get(f"{PAGES}/", params={"fingerprint": "x"}).text  # without it, no field keeps it
    assert [each.name for each in FILTER_FIELDS.values() if f'name="{each.name}"' not in page] == []
