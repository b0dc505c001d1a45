"""The limits that keep the code readable: sizes, unique names, and forbidden phrases."""

from __future__ import annotations

import re

import pytest

from tests.size import ROOT, size_of, sources

SIZE = size_of()
PHRASES = (
    r"is no (whole number|JSON|UTF-8|URL|file|path|TOML|date|folder|text|share|time|length)",
    r"or its port is none",
    r"which the table has not",
    r"person's hands",
    r"by another just now",
    r"loses? its tries",
    r"a fault of retrycli's own",
    r"nobody is there",
    r"so many messages",
    r"is all right",
    r"leave a word",
    r"messages of the dead",
    r"take note that",
    r"apart from what it holds",
    r"\bmend(s|ed|ing)?\b",
    r"whoever",
)
"""Regular expressions for unidiomatic phrases. CONTRIBUTING's section on style gives the rules."""
TEXTS = sources() | {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), *ROOT.glob("retrycli/manual/*.md"), *ROOT.glob("retrycli/**/*.html"))
}


def test_no_file_is_longer_than_700_lines_and_no_function_than_50() -> None:
    assert SIZE.longest_file[0] <= 700, SIZE.longest_file
    assert SIZE.longest_function[0] <= 50, SIZE.longest_function


def test_no_class_name_is_used_twice() -> None:
    assert SIZE.shared_names == {}


@pytest.mark.parametrize("phrase", PHRASES)
def test_no_text_contains_a_stiff_phrase(phrase: str) -> None:
    used = re.compile(phrase, re.IGNORECASE)
    found = [
        f"{path}:{text[: match.start()].count(chr(10)) + 1}: {match[0]}"
        for path, text in TEXTS.items()
        for match in used.finditer(text)
    ]
    assert found == []
