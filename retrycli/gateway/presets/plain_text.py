"""Convert HTML to plain text, for systems that accept nothing else."""

from __future__ import annotations

import re
from html.parser import HTMLParser

BLOCKS = frozenset(
    {"br", "div", "h1", "h2", "h3", "h4", "h5", "h6", "li", "p", "table", "tr", "ul", "ol", "blockquote"}
)
"""Elements that start a line."""
HIDDEN = frozenset({"head", "script", "style", "title"})
HUGE_NUMBER = re.compile("&(?=#[0-9]{100})")
"""Start of a character reference so long that Python may refuse to parse its number."""


def plain_text(html: str) -> str:
    """Return the text of HTML, line by line. Never fails, and never takes long."""
    reader = _Reader()
    reader.feed(_escape_unended(_escape_unended(HUGE_NUMBER.sub("&amp;", html), "<!--", "-->"), "<", ">"))
    reader.close()
    lines = (" ".join(line.split()) for line in "".join(reader.parts).split("\n"))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _escape_unended(html: str, start: str, end: str) -> str:
    """Escape constructs without an end: the parser would search the rest of the text for every one of them."""
    last = html.rfind(end) + 1
    return html[:last] + html[last:].replace(start, start.replace("<", "&lt;"))


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._hidden = 0

    def parse_html_declaration(self, i: int) -> int:
        """Skip ``<![…>`` as browsers do. An assertion in Python 3.11 fails for some of them."""
        bogus = self.rawdata.startswith("<![", i)
        return self.parse_bogus_comment(i) if bogus else super().parse_html_declaration(i)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in HIDDEN
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in HIDDEN and self._hidden > 0
        if tag in BLOCKS and tag != "br":
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data.replace("\n", " "))
