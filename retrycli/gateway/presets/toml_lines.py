"""Find the line of a key in a TOML file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(#.*)?$")
KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_of(text: str, key: Sequence[str | int]) -> int | None:
    """Return the line of a key, or of the innermost table above it that is written; None if there is none.

    Args:
        text: valid TOML.
        key: names, and positions in arrays.
    """
    best, line = 0, None
    table: list[str | int] = []
    arrays: Counter[str] = Counter()
    for number, text_line in enumerate(text.splitlines(), 1):
        written = table
        if header := HEADER.match(text_line):
            table = [*_split_key(header[2])]
            if header[1] == "[[":
                table.append(arrays[header[2]])
                arrays[header[2]] += 1
            written = table
        elif found := KEY.match(text_line):
            written = [*table, *_split_key(found[1])]
        shared = _common_length(written, key)
        if shared > best and shared == len(written):
            best, line = shared, number
    return line


def _split_key(dotted: str) -> list[str]:
    return [part.strip().strip("\"'") for part in dotted.split(".")]


def _common_length(one: Sequence[str | int], other: Sequence[str | int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
