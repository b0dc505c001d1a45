"""Hostile texts in every column, and in every part of a request, are text in JSON and in problem documents."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from retrycli import operations
from tests.conftest import on_sqlite
from tests.web.conftest import API
from tests.web.hostile import HOSTILE, LONG, SCRIPT, add_hostile
from tests.web.test_access import requests
from tests.web.test_hostile_pages import TEXTS

if TYPE_CHECKING:
    import httpx

    from tests.web.conftest import Desk

pytestmark = on_sqlite


@pytest.fixture
def hostile(desk: Desk) -> Desk:
    """Provide a desk whose columns all have hostile texts."""
    for number in (9, 10):
        add_hostile(desk.application, number)
        desk.application.execute("UPDATE pending_messages SET retry_count = 10")
    operations.run_pass.run_once(desk.settings)
    operations.message_actions.note(desk.settings, 9, "tea", by="anna")
    operations.pause.pause(desk.settings, reason="tea", by="anna")
    for table, columns in TEXTS.items():
        for column in columns:
            desk.application.execute(f"UPDATE {table} SET {column} = ?", LONG)
    return desk


def is_harmless(answer: httpx.Response) -> bool:
    """Return whether a response is JSON in ASCII, without control characters, that a browser will not take for HTML."""
    kind, sniffing = answer.headers["Content-Type"], answer.headers["X-Content-Type-Options"]
    is_plain = answer.content.isascii() and answer.text.isprintable()
    return kind in {"application/json", "application/problem+json"} and sniffing == "nosniff" and is_plain


def test_hostile_rows_are_text_in_every_answer(hostile: Desk) -> None:
    shown = 0
    for method, path, _ in requests(hostile.settings):
        if method == "GET":
            answer = hostile.viewer.get(path.replace("999", "9"))
            assert (answer.status_code, is_harmless(answer)) == (200, True), path
            answer.json()
            shown += SCRIPT in answer.text.replace('\\"', '"')
    assert shown >= 5
    message = hostile.viewer.get(f"{API}/9").json()["message"]
    assert (message["subject"], message["body"].count("y")) == (LONG, 1_000_000)


def test_an_error_filter_is_fast_over_long_errors_that_repeat_its_text(desk: Desk) -> None:
    """In quadratic time, the request would take longer than this test may, and nobody else would get an answer."""
    desk.application.add_due(400)
    desk.application.execute("UPDATE pending_messages SET last_error = ?", "E" * 100_000)
    long = "&".join(f"error={'E' * 500}{number}" for number in range(10))
    answer = desk.viewer.get(f"{API}?limit=1&{long}")
    assert (answer.status_code, answer.json()["messages"]) == (200, [])


@pytest.mark.parametrize(
    ("method", "path", "request_"),
    [
        ("GET", f"/{quote(HOSTILE, safe='')}", {}),
        ("GET", f"?state={quote(HOSTILE)}", {}),
        ("GET", f"?{quote(HOSTILE)}=1", {}),
        ("GET", f"?after={quote(HOSTILE)}", {}),
        ("POST", "/9/reject", {"json": {HOSTILE: HOSTILE}}),
        ("POST", "/9/reject", {"json": {"reason": [HOSTILE]}}),
        ("POST", "/scheduler/pause", {"json": {"for": HOSTILE}}),
        ("POST", "/scheduler/pause", {"json": {"destination": [SCRIPT]}}),
        ("POST", "/scheduler/pause", {"json": {"message": [HOSTILE]}}),
        ("POST", "/scheduler/bulk", {"json": {"action": HOSTILE, "ids": [HOSTILE]}}),
        ("POST", "/9/retry", {"content": HOSTILE.encode(), "headers": {"Content-Type": "application/json"}}),
        ("PATCH", "/9", {"json": {"subject": HOSTILE + "\0"}, "headers": {"If-Match": "*"}}),
    ],
)
def test_hostile_requests_are_text_in_problem_documents(
    hostile: Desk, method: str, path: str, request_: dict[str, object]
) -> None:
    answer = hostile.operator(method, API + path, **request_)
    assert (answer.status_code in {404, 409, 422}, is_harmless(answer)) == (True, True), answer.text
    assert answer.json()["status"] == answer.status_code
