"""Tables as Markdown, so that they read well both on a screen and in a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in (head, rule, *rows)]
    return "\n".join([f"## {title}", "", *lines, ""])


def ratio(value: float, of: float | None) -> str:
    """A ratio, or a dash where what it would be taken of did not run."""
    return f"{value / of:.2f}" if of else "–"


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *figures = row
    return [first.ljust(widths[0]), *(each.rjust(width) for each, width in zip(figures, widths[1:], strict=True))]
