"""Hostile texts in every column that any program can write are shown as text on every page."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from retrycli import operations
from retrycli.config.settings import WebSettings
from retrycli.domain.user import Role, User
from retrycli.web.access import Access
from retrycli.web.console.application import make_pages
from retrycli.web.console.context import make_environment
from retrycli.web.status import RecentStatus
from tests.cli.api import REJECTS
from tests.cli.story import Api
from tests.cli.test_table_check import made_with
from tests.conftest import on_sqlite
from tests.web.browser import Browser, HtmlPage
from tests.web.conftest import HOST
from tests.web.hostile import HOSTILE, LONG, SCRIPT, add_hostile
from tests.web.test_message_pages import use

if TYPE_CHECKING:
    from pathlib import Path

    from tests.store.conftest import Factory
    from tests.web.conftest import Desk

pytestmark = on_sqlite

TEXTS = {
    "pending_messages": ("message_type", "last_error", "subject", "cc_emails", "bcc_emails", "attachments"),
    "retrycli_queue": ("note", "acknowledged_by", "ticket"),
    "retrycli_attempts": ("error", "external_id", "made_by", "ticket"),
    "retrycli_acts": ("detail", "by"),
    "retrycli_passes": ("detail", "host"),
    "retrycli_pause": ("reason", "by"),
}
PAGES = (
    "/", "/?sort=id", "/id/9", "/id/9?text=whole", "/id/10", "/id/9/edit", "/escalations", "/passes", "/stats",
    "/stats?since=30d", "/bulk?action=reject&state=escalated", "/bulk?action=retry&id=9&id=10",
)  # fmt: skip


@pytest.fixture
def browser(desk: Desk) -> Browser:
    """Provide a browser of a hostile user, over a database full of hostile texts."""
    with Api(REJECTS) as api:
        use(desk, api)
        for number in (9, 10, 11):
            add_hostile(desk.application, number)
        operations.run_pass.run_once(desk.settings)
        operations.message_actions.acknowledge(desk.settings, [9], by="anna")
        operations.message_actions.note(desk.settings, 9, "tea", by="anna")
        read, draft = operations.edit_message.read_draft(desk.settings, 10)
        operations.edit_message.write_draft(desk.settings, read, type(draft)(LONG.replace("\n", ""), LONG, HOSTILE))
        operations.pause.pause(desk.settings, reason="tea", by="anna")
    for table, columns in TEXTS.items():
        for column in columns:
            desk.application.execute(f"UPDATE {table} SET {column} = ?", LONG)
    desk.application.execute("UPDATE retrycli_queue SET acknowledged_at = first_failed_at")
    hostile = User(HOSTILE, Role.OPERATOR)
    return Browser(
        make_pages(desk.settings, Access.of(desk.settings, lambda _: hostile), RecentStatus(desk.settings)), ""
    )


def harm(page: HtmlPage) -> list[object]:
    """Return what is wrong with a page: other scripts than ours, or raw control characters outside of fields."""
    ours = ("script", "src", next((value for tag, name, value in page.attributes if (tag, name) == ("script", "src"))))
    shown = "".join(text for tag, text in page.texts if tag != "textarea")
    shown += "".join(value or "" for _, name, value in page.attributes if name != "value")
    return [
        *(each for each in page.attributes if each[0] in {"script", "img", "iframe"} and each[1:] != ("defer", None)
          and each != ours),
        *(each for each in page.attributes if each[1].startswith("on") or each[1] == "style"),
        *(each for each in page.attributes if (each[1] in {"href", "src", "action"}
          and not (each[2] or "").startswith(("/", "#"))) or (each[2] or "").startswith("//")),
        *{"\x1b", "\x07", "\u202e", "\x00"}.intersection(shown),
        *([] if " · retrycli" in page.within("title") else [page.within("title")]),
        *([SCRIPT] if SCRIPT in page.answer.text else []),
    ]  # fmt: skip


@pytest.mark.parametrize("path", PAGES)
def test_hostile_texts_are_text_on_every_page(browser: Browser, path: str) -> None:
    page = browser.open(path)
    assert page.status == 200, page.words
    assert harm(page) == []
    assert len(page.answer.content) < (6_000_000 if "whole" in path or "edit" in path else 400_000)
    if path.startswith(("/id", "/esc", "/?")):
        assert SCRIPT in page.words
        assert "\\u202e" in page.words


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("/id/10/reject", {"reason": HOSTILE.replace("\x1b", "").replace("\x07", "")}),
        ("/id/10/mark-sent", {"note": HOSTILE.replace("\x1b", "").replace("\x07", "")}),
        ("/id/10/note", {"text": HOSTILE.replace("\x1b", "").replace("\x07", "")}),
        ("/id/10/note", {HOSTILE: HOSTILE, "text": HOSTILE}),
        ("/pause", {"reason": HOSTILE, "for": HOSTILE}),
        (f"/id/{quote(HOSTILE, safe='')}/note", {"text": "tea"}),
        ("/sign-in", {"next": HOSTILE}),
        ("/bulk", {"action": HOSTILE, "id": HOSTILE}),
    ],
)
def test_hostile_texts_of_a_form_come_back_as_text(browser: Browser, path: str, values: dict[str, str]) -> None:
    page = browser.post(path, **values)
    assert harm(page) == []


def test_a_hostile_address_comes_back_as_text(browser: Browser) -> None:
    for path in (
        "/?ticket=",
        "/?after=",
        "/?sort=",
        "/?state=",
        "/id/",
        "/",
        "/?error=",
        "/sign-in?next=",
        "/stats?since=",
    ):
        page = browser.open(path + "%3Cscript%3Ewindow.takenOver%3D1%3C%2Fscript%3E%22%27%3E")
        assert harm(page) == [], path
        assert "<script>window" not in page.answer.text


def test_hostile_ids_and_counts_are_text_on_every_page(engine: Factory, tmp_path: Path) -> None:
    """The ids of a table may be Message-IDs of mails, and a column of SQLite holds any text."""
    with engine(tmp_path, None) as url:
        made = made_with(url, {"id": "VARCHAR(400)"})
        made.add(9)
        made.add(10, message_type="carrier pigeon")
        made.execute("UPDATE pending_messages SET id = id || ?, retry_count = ?", HOSTILE, HOSTILE)
        web = WebSettings(allowed_hosts=(HOST,))
        settings = made.settings("http://127.0.0.1:9").model_copy(update={"web": web})
        operations.run_pass.run_once(settings)
        user = User(HOSTILE, Role.OPERATOR)
        pages = make_pages(settings, Access.of(settings, lambda _: user), RecentStatus(settings))
        browser = Browser(pages, "")
        for number in (9, 10):
            page = f"/id/{quote(f'{number}{HOSTILE}', safe='')}"
            for path in (
                page,
                f"{page}/edit",
                "/",
                "/escalations",
                "/passes",
                "/stats",
                f"/bulk?action=retry&id={page[4:]}",
            ):
                found = browser.open(path)
                assert found.status == 200, (path, found.words)
                assert harm(found) == [], path
        edited = browser.open(f"/id/{quote(f'9{HOSTILE}', safe='')}/edit")
        assert "\\u202e" in edited.within("title") + edited.within("h1")
        made.lock.unlink(missing_ok=True)


def test_a_text_that_no_filter_treats_is_escaped() -> None:
    """So a template that forgets a filter shows no control character; `field` keeps them for fields of forms."""
    shown = make_environment().from_string("{{ text }}|{{ text|field }}").render(text="<\u202e\x1b")
    assert shown == "&lt;\\u202e\\x1b|&lt;\u202e\x1b"
