"""Editing a message in the browser: nothing is lost, and nobody's change is overwritten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from retrycli import operations
from tests.conftest import on_both, on_sqlite
from tests.web.conftest import PAGES

if TYPE_CHECKING:
    from tests.web.browser import HtmlPage
    from tests.web.conftest import Desk

pytestmark = on_both

BODIES = {
    "CRLF": "Hello,\r\n\r\none\r\ntwo\r\n",
    "LF": "Hello,\n\none\ntwo\n",
    "CR": "Hello,\rone\rtwo",
    "mixed": "Hello,\r\none\ntwo\rthree",
    "blank first lines": "\n\nHello,\none",
    "CRLF first": "\r\n\r\nHello",
    "no line end": "Hello",
    "markup": "<b>&amp;</b></textarea><script>alert(1)</script>\n",
    "a mark for the right": "\u202eolleH\n",
}


def preview(desk: Desk, **values: str) -> HtmlPage:
    browser = desk.browser("anna")
    return browser.submit(browser.open("/id/9/edit"), "/edit", press="Show the changes", **values)


@on_sqlite
@pytest.mark.parametrize("name", BODIES)
def test_only_the_line_that_was_edited_changes(desk: Desk, name: str) -> None:
    body = BODIES[name]
    desk.application.add(9, body=body, subject="Re: <Tea> & more")
    page = preview(desk)
    assert "You changed nothing." in page.words
    assert [button[2] for button in page.form("/edit").buttons] == ["Edit again"]
    browser = desk.browser("anna")
    again = browser.submit(page, "/edit", press="Edit again")
    assert "You changed nothing." in browser.submit(again, "/edit", press="Show the changes").words
    assert desk.application.row(9)["body"] == body
    shown = dict(again.form("/edit").fields)["body"]
    page = browser.submit(again, "/edit", press="Show the changes", body=shown.replace("Hello", "Good day"))
    done = browser.submit(page, "/edit", press="Only write") if "Hello" in body else page
    assert desk.application.row(9)["body"] == body.replace("Hello", "Good day")
    assert done.status == 200


@on_sqlite
def test_a_null_character_must_be_removed_and_its_replacement_is_not_written(desk: Desk) -> None:
    desk.application.add(9, body="one\0\ntwo\nthree")
    browser = desk.browser("anna")
    page = preview(desk, body="one\ufffd\ntwo\n3")
    assert (page.status, "invalid character" in page.words) == (422, True)
    page = browser.submit(page, "/edit", press="Show the changes", body="one\ntwo\n3")
    browser.submit(page, "/edit", press="Only write")
    assert desk.application.row(9)["body"] == "one\ntwo\n3"


@on_sqlite
def test_of_two_people_the_second_sees_both_texts_and_loses_nothing(desk: Desk) -> None:
    desk.application.add(9, body="one\ntwo\nthree\n", subject="Tea")
    anna, max_ = desk.browser("anna"), desk.browser("anna")
    form = anna.open("/id/9/edit")
    mine = anna.submit(form, "/edit", press="Show the changes", body="one\n2\nthree\n")
    theirs = max_.submit(max_.open("/id/9/edit"), "/edit", press="Show the changes", subject="Coffee")
    assert "Changed subject" in max_.submit(theirs, "/edit", press="Only write").words
    for late in (
        anna.submit(mine, "/edit", press="Write and retry now"),
        anna.submit(form, "/edit", press="Show the changes", body="one\n2\nthree\n"),
    ):
        assert late.status == 412
        assert "The message has changed since you opened it. Nothing was written." in late.words
        assert "Coffee" in late.words
        assert "-two +2" in late.words
        fields = dict(late.form("/edit").fields)
        assert (fields["subject"], fields["body"]) == ("Tea", "one\n2\nthree\n")
    changes = anna.submit(late, "/edit", press="Show the changes", subject="Coffee")
    assert "Changed body" in anna.submit(changes, "/edit", press="Only write").words
    row = desk.application.row(9)
    assert (row["subject"], row["body"], row["status"]) == ("Coffee", "one\n2\nthree\n", "failed")


@on_sqlite
@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"body": "  "}, "the body must not be empty"),
        ({"recipient": ""}, "the recipient must not be empty"),
        ({"subject": "a\u2028b"}, "the subject must not contain a line break"),
        ({"body": "a\0b"}, "invalid character"),
        ({"recipient": "a\0b"}, "invalid character"),
    ],
)
def test_an_edit_that_can_not_be_written_stays_in_the_form(desk: Desk, values: dict[str, str], words: str) -> None:
    desk.application.add(9)
    page = _unbrowsed(desk, values)
    assert page.status == 422
    assert words in page.words
    fields = dict(page.form("/edit").fields)
    assert {name: fields[name] for name in values} == values
    assert desk.application.row(9)["body"] == "It is attached."


def _unbrowsed(desk: Desk, values: dict[str, str]) -> HtmlPage:
    """Send the form of message 9 with values that a browser would not send, such as NUL."""
    browser = desk.browser("anna")
    fields = dict(browser.open("/id/9/edit").form("/edit").fields)
    return browser.post("/id/9/edit", **{**fields, "step": "preview", **values})


@on_sqlite
def test_a_message_that_was_sent_meanwhile_keeps_the_edit_on_the_page(desk: Desk) -> None:
    desk.application.add(9)
    browser = desk.browser("anna")
    page = preview(desk, body="A long and careful text.")
    operations.run_pass.run_once(desk.settings)
    for step in ("Only write", "Write and retry now", "Edit again"):
        late = browser.submit(page, "/edit", press=step)
        assert late.status == 409
        assert "message 9 is sent, not failed" in late.words
        assert dict(late.form("/edit").fields)["body"] == "A long and careful text."


@on_sqlite
def test_an_edit_of_a_megabyte_is_written(desk: Desk) -> None:
    desk.application.add(9, body="ä" * 500_000)
    browser = desk.browser("anna")
    page = preview(desk, body="ä" * 500_000 + "\nö")
    assert "Changed body of message 9" in browser.submit(page, "/edit", press="Only write").words
    assert desk.application.row(9)["body"] == "ä" * 500_000 + "\nö"


@on_sqlite
def test_a_retry_that_is_not_possible_after_the_edit_says_that_the_edit_was_written(desk: Desk) -> None:
    desk.application.add(9, message_type="customer", cc_emails="no list")
    browser = desk.browser("anna")
    page = preview(desk, subject="Coffee")
    done = browser.submit(page, "/edit", press="Write and retry now")
    assert done.url == f"{PAGES}/id/9"
    assert "Changed subject of message 9. It was not retried: " in done.words
    assert desk.application.row(9)["subject"] == "Coffee"


@on_sqlite
def test_a_table_without_a_recipient_has_no_field_for_it(desk: Desk) -> None:
    desk.application.add(9, recipient_email=None)
    fields = dict(desk.browser("anna").open("/id/9/edit").form("/edit").fields)
    assert "recipient" not in fields
    assert (
        "Changed subject"
        in desk.browser("anna").submit(preview(desk, subject="Coffee"), "/edit", press="Only write").words
    )
