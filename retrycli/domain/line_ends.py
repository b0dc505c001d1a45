"""Restore the line ends of a text that was edited in a browser.

A form sends every line end as CRLF, and an HTML page can't contain NUL. Without this module, every edit would change
every line of a text with other line ends.
"""

import re
from collections import Counter

LINE_END = re.compile(r"(\r\n|\r|\n)")
UNSEEN = str.maketrans({"\0": "\ufffd"})  # a browser replaces NUL


def restored(before: str, sent: str) -> str:
    """Return an edited text with the line ends of the text before the edit.

    Lines before the first changed line and after the last one are returned as they were. The other lines end like most
    lines of the text before the edit.
    """
    olds, old_ends = _split(before)
    news, _ = _split(sent)
    usual = Counter(old_ends).most_common(1)[0][0] if old_ends else "\n"
    head, tail = _unchanged([line.translate(UNSEEN) for line in olds], news)
    last = len(news) - 1
    pieces: list[str] = []
    for number, line in enumerate(news):
        is_tail = number > last - tail
        old = number if number < head else number - last + len(olds) - 1 if is_tail else None
        pieces.append(line if old is None else olds[old])
        if number < last:
            end = usual if old is None or old >= len(old_ends) else old_ends[old]
            # After CR and an empty line, LF alone would form one line end with the CR.
            pieces.append("\r\n" if end == "\n" and pieces[-2:] == ["\r", ""] else end)
    return "".join(pieces)


def _split(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of a text, and the ends between them."""
    parts = LINE_END.split(text)
    return parts[::2], parts[1::2]


def _unchanged(olds: list[str], news: list[str]) -> tuple[int, int]:
    """Return how many lines are equal at the beginning, and how many of the others at the end."""
    most = min(len(olds), len(news))
    head = next((number for number in range(most) if olds[number] != news[number]), most)
    rest = most - head
    tail = next((number for number in range(rest) if olds[-1 - number] != news[-1 - number]), rest)
    return head, tail
