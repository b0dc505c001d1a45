"""A message as one text that an operator edits."""

from __future__ import annotations

import re
import tracemalloc
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.errors import NotEdited
from retrycli.operations.edit_message import EditableMessage, edit_in_lines, restored

BEFORE = EditableMessage("Re: Invoice", "Hello,\n\nit is attached.", "ana@example.com")


@pytest.mark.parametrize(
    ("text", "subject", "body"),
    [
        ("Subject: New\n\nBody\n", "New", "Body"),
        ("Subject:New\n\nBody", "New", "Body"),
        ("Subject:   New  \n \nBody\n\n", "New", "Body\n"),
        ("Subject: New\r\n\r\nBody\r\n", "New", "Body"),
        ("Subject: New\n\nSubject: of the body\n", "New", "Subject: of the body"),
        ("Subject:\n", "", ""),
    ],
)
def test_subject_and_body_are_read_back(text: str, subject: str, body: str) -> None:
    assert BEFORE.with_text(text) == EditableMessage(subject, body, "ana@example.com")


def test_a_final_newline_is_ignored_if_there_was_none_before() -> None:
    assert BEFORE.as_text() == "Subject: Re: Invoice\n\nHello,\n\nit is attached.\n"
    assert BEFORE.with_text(BEFORE.as_text()) == BEFORE
    assert EditableMessage("S", "Body\n").with_text("Subject: S\n\nBody\n").body == "Body\n"


def test_an_empty_text_is_refused() -> None:
    with pytest.raises(NotEdited, match="the text must not be empty; nothing was written"):
        BEFORE.with_text(" \n\t\n")


@pytest.mark.parametrize("text", ["Hello,\n\nit is", "Subject: New\nBody", "\nSubject: New\n\nBody"])
def test_a_text_without_its_subject_is_refused(text: str) -> None:
    with pytest.raises(NotEdited, match="must begin with a line `Subject: …` and a blank line"):
        BEFORE.with_text(text)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (EditableMessage("New\nBcc: all@example.com", "Body"), "the subject must not contain a line break"),
        (EditableMessage("New", "Body", "a@example.com\nb@example.com"), "the recipient must not contain a line break"),
        (EditableMessage("Ne\udcffw", "Body"), "the subject contains an invalid character"),
    ],
)
def test_text_that_cannot_be_sent_is_refused(after: EditableMessage, why: str) -> None:
    with pytest.raises(NotEdited, match=why):
        after.check(BEFORE)


def test_a_body_that_was_empty_may_stay_empty() -> None:
    EditableMessage("New", "").check(EditableMessage("Old", ""))


ROW: dict[str, object] = {
    "id": 1,
    "subject": "Re: Invoice",
    "body": "Hello,\n\nit is attached.",
    "recipient_email": "ana@example.com",
}


@pytest.mark.parametrize(
    ("row", "after", "changes"),
    [
        (ROW, BEFORE, {}),
        (ROW, EditableMessage("New", "B", "b@x.com"), {"subject": "New", "body": "B", "recipient_email": "b@x.com"}),
        (ROW, EditableMessage("", BEFORE.body), {"subject": ""}),
        ({"subject": None, "body": None}, EditableMessage("", ""), {}),
        ({"subject": "a\nb", "body": "B"}, EditableMessage("a b", "B"), {"subject": "a b"}),
        ({"subject": "S", "body": "B"}, EditableMessage("S", "B", "bo@example.com"), {}),
    ],
)
def test_only_changed_columns_are_written(
    row: dict[str, object], after: EditableMessage, changes: dict[str, str]
) -> None:
    assert after.changes(row) == changes


@pytest.mark.parametrize(
    ("columns", "offered"),
    [
        ({"subject": None, "body": None}, EditableMessage("", "")),
        ({"subject": b"\xff", "body": 7}, EditableMessage("", "")),
        ({"subject": " a\r\nb\u2028c ", "body": "x"}, EditableMessage("a b c", "x")),
        ({"subject": "caf\udce9", "body": "x", "recipient_email": None}, EditableMessage("caf\ufffd", "x")),
    ],
)
def test_any_row_can_be_edited(columns: dict[str, object], offered: EditableMessage) -> None:
    assert EditableMessage.of(columns) == offered


def test_an_edit_of_a_long_text_shows_its_changed_lines() -> None:
    lines = [f"line {number % 7}" for number in range(5_000)]
    changed = [*lines[:2_000], "new", *lines[2_001:]]
    shown = edit_in_lines({"body": "\n".join(lines)}, {"body": "\n".join(changed)})
    assert [*shown] == [f"-{lines[2_000]}", "+new"]


def test_lines_that_repeat_are_not_compared_for_long() -> None:
    """For `SequenceMatcher` they are the worst case: two such texts of 500 lines would take seconds."""
    old, new = (["a", *["b", "c"] * 250_000, each] for each in "de")
    [*shown] = edit_in_lines({"body": "\n".join(old)}, {"body": "\n".join([*new[::-1], "x"])})
    assert len(shown) == len(old) + len(new) + 1


def test_the_first_changed_lines_of_a_long_text_need_little_memory() -> None:
    before, after = ({"body": f"{each}\n" * 600_000} for each in "xy")
    tracemalloc.start()
    [*shown] = islice(edit_in_lines(before, after), 400)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert shown == ["-x"] * 400
    assert peak < 10_000_000


# -- the line ends of a text that a browser has edited --------------------------------------------------------------

TEXTS = st.text(st.sampled_from("ab\n\r\0 \u2028\v"), max_size=30)


def through_a_browser(text: str) -> str:
    """Return a text as a form sends it: with CRLF, and without NUL."""
    return re.sub(r"\r\n|\r|\n", "\r\n", text.replace("\0", "\ufffd"))


@given(TEXTS)
def test_a_text_that_nobody_changed_stays_as_it_is(text: str) -> None:
    assert restored(text, through_a_browser(text)) == text


@given(TEXTS, TEXTS)
def test_an_edit_has_the_words_that_were_sent(before: str, wanted: str) -> None:
    sent = through_a_browser(wanted)
    assert through_a_browser(restored(before, sent)) == sent


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_changed_line_ends_like_the_others(end: str) -> None:
    before = end.join(["Hello,", "", "one", "two", "bye", ""])
    sent = "Hello,\r\n\r\none\r\n2\r\nthree\r\nbye\r\n"
    assert restored(before, sent) == end.join(["Hello,", "", "one", "2", "three", "bye", ""])


def test_unchanged_lines_keep_mixed_ends_and_added_ones_get_the_usual() -> None:
    assert restored("a\nb\r\nc\rd\r\ne\nf", "a\r\nb\r\nC\r\nd\r\ne\r\nf") == "a\nb\r\nC\nd\r\ne\nf"
    assert restored("a\nb", "a\r\nb\r\nc\r\n") == "a\nb\nc\n"
    assert restored("", "a\r\nb") == "a\nb"
