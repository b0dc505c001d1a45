"""A ticket id of bytes that are not UTF-8 has a page, and over HTTPS every page refuses other sites' windows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.conftest import on_sqlite
from tests.web.conftest import HOST, PAGES

if TYPE_CHECKING:
    from tests.web.conftest import Desk

pytestmark = on_sqlite


def test_a_ticket_of_invalid_utf_8_has_a_page(desk: Desk) -> None:
    desk.application.execute(
        "INSERT INTO pending_messages (id, ticket_id, message_type, body, status, retry_count)"
        " VALUES (7, CAST(x'66ff' AS TEXT), 'customer', 'a', 'failed', 0)"
    )
    page = desk.browser("anna").open("/id/7")
    assert page.status == 200
    assert f"{PAGES}/?ticket=f%5Cudcff" in page.links


def test_pages_share_no_window_with_other_sites_over_https(desk: Desk) -> None:
    for scheme, policy in (("https", "same-origin"), ("http", None)):  # over HTTP, Chromium logs an error for it
        page = desk.client().get(f"{scheme}://{HOST}{PAGES}/sign-in")
        assert (page.status_code, page.headers.get("Cross-Origin-Opener-Policy")) == (200, policy)
