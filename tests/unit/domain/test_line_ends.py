"""The line ends of a text that a browser has edited."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrycli.operations.edit_message import restored

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
