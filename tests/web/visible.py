"""Turn a page into the text that people read: words, links, fields, buttons and tables, one block on a line."""

from __future__ import annotations

from html.parser import HTMLParser

from tests.web.browser import VOID

LINE_BREAK = " ⏎ "
BLOCKS = ("p", "div", "ul", "ol", "section", "table", "tr", "figure", "figcaption", "header", "footer", "nav", "pre")
AROUND = {
    **dict.fromkeys(BLOCKS, ("\n", "\n")),
    "h1": ("\n# ", "\n"),
    "h2": ("\n## ", "\n"),
    "li": ("\n- ", "\n"),
    "summary": ("\n> ", "\n"),
    "title": ("\ntitle: ", "\n"),
    "th": ("", " | "),
    "td": ("", " | "),
    "dt": ("", ": "),
    "br": (" / ", ""),
}
"""The texts before and after the content of an element."""


def visible(html: str, root: str) -> list[str]:
    """Return the lines of a page's visible text. A time is its full value, because its look depends on the day.

    Args:
        html: the page.
        root: the path of the console, which addresses are shown without.
    """
    lines = [" ".join(line.split()).removesuffix(" |") for line in "".join(_Visible(html, root).parts).split("\n")]
    return [line for line in lines if line]


class _Visible(HTMLParser):
    def __init__(self, html: str, root: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._root = root
        self._open: list[tuple[str, str, bool]] = []
        """The tag of each open element, the text after it, and whether its content is hidden."""
        self.feed(html)
        self.close()

    @property
    def _is_hidden(self) -> bool:
        return bool(self._open) and self._open[-1][2]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        # The bars of a chart depend on the hour. The strip of passes has a title that says what it shows.
        is_chart = tag == "svg" and given.get("class") != "strip"
        is_hidden = self._is_hidden or is_chart or "hidden" in given or given.get("aria-hidden") == "true"
        before, after = ("", "") if is_hidden else self._around(tag, given)
        self.parts.append(before)
        if tag not in VOID:
            self._open.append((tag, after, is_hidden or tag == "time"))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            self.parts.append(self._open.pop()[1])

    def handle_data(self, data: str) -> None:
        if not self._is_hidden:
            is_kept = any(tag in {"pre", "textarea"} for tag, _, _ in self._open)
            self.parts.append(data.replace("\n", LINE_BREAK if is_kept else " "))

    def _around(self, tag: str, given: dict[str, str]) -> tuple[str, str]:
        value = given.get("value", "").replace("\n", LINE_BREAK)
        match tag:
            case "a":
                return "[", f"]({given['href'].removeprefix(self._root)})"
            case "form":
                return f"\n({given.get('method', 'get')} {given.get('action', '').removeprefix(self._root)}) ", "\n"
            case "button":
                return "<", f"{' ' * bool(value)}{value}{' disabled' if 'disabled' in given else ''}> "
            case "input":
                kinds = {"checkbox": f"[{'x' if 'checked' in given else ' '}] ", "hidden": "hidden "}
                return f" {kinds.get(given['type'], '')}{{{given.get('name', '')}={value}}} ", ""
            case "select" | "textarea":
                return f" {{{given['name']}=", "} "
            case "option":
                return "*" * ("selected" in given) + value + " ", "; "
            case "time":
                return f"<{given['datetime']}>", ""
            case _:
                return AROUND.get(tag, ("", ""))
