"""A message as one text that an operator edits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.domain.editable_message import EditableMessage, difference, in_textarea, with_own_line_breaks
from retrycli.domain.errors import NotEdited

BEFORE = EditableMessage("Re: Invoice", "Hello,\n\nit is attached.", "ana@example.com")
LINE = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp", "Zs"]), max_size=20)


def test_the_text_starts_with_the_subject_and_a_blank_line() -> None:
    assert BEFORE.as_text() == "Subject: Re: Invoice\n\nHello,\n\nit is attached.\n"


@given(LINE, st.text(st.characters(exclude_categories=["Cs"])))
def test_an_unchanged_text_changes_nothing(subject: str, body: str) -> None:
    before = EditableMessage(subject, body)
    assert before.with_text(before.as_text()) == before


@pytest.mark.parametrize(
    ("text", "subject", "body"),
    [
        ("Subject: New\n\nBody\n", "New", "Body"),
        ("Subject:New\n\nBody", "New", "Body"),
        ("Subject:   New  \n \nBody\n\n", "New", "Body\n"),
        ("Subject: New\r\n\r\nBody\r\n", "New", "Body"),
        ("Subject:\n\nBody\n", "", "Body"),
        ("Subject: New\n\nSubject: of the body\n", "New", "Subject: of the body"),
        ("Subject: New\n", "New", ""),
    ],
)
def test_subject_and_body_are_read_back(text: str, subject: str, body: str) -> None:
    assert BEFORE.with_text(text) == EditableMessage(subject, body, "ana@example.com")


def test_a_final_newline_is_ignored_if_there_was_none_before() -> None:
    assert EditableMessage("S", "Body\n").with_text("Subject: S\n\nBody\n").body == "Body\n"


@pytest.mark.parametrize("text", ["", " \n\t\n"])
def test_an_empty_text_is_refused(text: str) -> None:
    with pytest.raises(NotEdited, match="the text must not be empty; nothing was written"):
        BEFORE.with_text(text)


@pytest.mark.parametrize("text", ["Hello,\n\nit is", "Subject: New\nBody", "\nSubject: New\n\nBody"])
def test_a_text_without_its_subject_is_refused(text: str) -> None:
    with pytest.raises(NotEdited, match="must begin with a line `Subject: …` and a blank line"):
        BEFORE.with_text(text)


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (EditableMessage("New\nBcc: all@example.com", "Body"), "the subject must not contain a line break"),
        (EditableMessage("New\r", "Body"), "the subject must not contain a line break"),
        (EditableMessage("New\u2028line", "Body"), "the subject must not contain a line break"),
        (EditableMessage("New", "Body", "a@example.com\nb@example.com"), "the recipient must not contain a line break"),
        (EditableMessage("New", "Body", " "), "the recipient must not be empty"),
        (EditableMessage("New", " \n"), "the body must not be empty"),
        (EditableMessage("New", "Bo\0dy"), "the body contains an invalid character"),
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
        (ROW, EditableMessage("New", BEFORE.body, BEFORE.recipient), {"subject": "New"}),
        (
            ROW,
            EditableMessage("New", "B", "b@x.com"),
            {"subject": "New", "body": "B", "recipient_email": "b@x.com"},
        ),
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


def test_a_difference_is_shown_line_by_line() -> None:
    after = EditableMessage("Re: bill", "Hello,\n\nit is here.", "bo@example.com")
    assert list(difference(BEFORE, after)) == [
        "--- before",
        "+++ after",
        "@@ -1,6 +1,6 @@",
        "-Recipient: ana@example.com",
        "-Subject: Re: Invoice",
        "+Recipient: bo@example.com",
        "+Subject: Re: bill",
        " ",
        " Hello,",
        " ",
        "-it is attached.",
        "+it is here.",
    ]


# -- forms in a browser ------------------------------------------------------------------------------------------------

BODIES = st.lists(st.sampled_from(["a", "b", "", " ", "\n", "\r\n", "\r", "\u2028", "\x0c", "\t", "é"])).map("".join)
"""Bodies with every kind of line break, many equal lines, and characters that only look like line breaks."""


def form(text: str) -> str:
    """Return what a browser sends for the content of a textarea, as the HTML standard defines it."""
    parsed = re.sub("\r\n?", "\n", text).removeprefix("\n")
    return parsed.replace("\n", "\r\n")


@given(BODIES | st.text())
def test_an_untouched_form_changes_nothing(body: str) -> None:
    assert with_own_line_breaks(form(in_textarea(body)), body) == body


@given(BODIES, BODIES)
def test_restored_line_breaks_change_no_line(body: str, other: str) -> None:
    sent = form(in_textarea(other))
    assert form(in_textarea(with_own_line_breaks(sent, body))) == sent


@pytest.mark.parametrize("own", ["\n", "\r\n", "\r"])
@given(body=st.lists(st.sampled_from("ab"), min_size=2), other=BODIES)
def test_equal_line_breaks_stay_equal(own: str, body: list[str], other: str) -> None:
    restored = with_own_line_breaks(form(in_textarea(other)), own.join(body))
    assert {*re.findall("\r\n|\n|\r", restored)} <= {own}


@given(st.lists(st.sampled_from(["\n", "\r\n", "\r"]), max_size=9), st.data())
def test_each_unchanged_line_keeps_its_own_line_break(breaks: list[str], data: st.DataObject) -> None:
    """An operator inserts, replaces or deletes one line."""
    lines = [f"{number}{end}" for number, end in enumerate(breaks)]
    at = data.draw(st.integers(0, len(lines)))
    gone, new = data.draw(st.sampled_from([0, 1])), data.draw(st.sampled_from([[], ["new\n"]]))
    sent = form(in_textarea("".join([*lines[:at], *new, *lines[at + gone :]])))
    restored = with_own_line_breaks(sent, "".join(lines))
    assert restored.startswith("".join(lines[:at]))
    assert restored.endswith("".join(lines[at + gone :]))


def test_a_body_without_line_breaks_gets_those_of_unix() -> None:
    assert with_own_line_breaks("a\r\nb", "a") == "a\nb"


def test_a_large_body_with_mixed_line_breaks_is_restored_quickly() -> None:
    """Comparing all pairs of lines would take minutes."""
    body = "".join(str(number % 7) + ("\r\n" if number % 2 else "\n") for number in range(50_000))
    sent = form(in_textarea(body))
    assert with_own_line_breaks(f"first\r\n{sent}", body) == f"first\n{body}"
    assert with_own_line_breaks(f"{sent}last", body) == f"{body}last"
    everywhere = sent.replace("3", "4")
    assert form(in_textarea(with_own_line_breaks(everywhere, body))) == everywhere
