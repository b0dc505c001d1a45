"""Format tables as Markdown, readable on a screen and in a document."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table: the first column left-aligned, figures right-aligned."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = ["| " + " | ".join(_padded(row, widths)) + " |" for row in (head, rule, *rows)]
    return "\n".join([f"## {title}", "", *lines, ""])


def ratio(value: float, of: float | None) -> str:
    """Format a ratio, or a dash if the denominator was not measured."""
    return f"{value / of:.2f}" if of else "–"


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *figures = row
    return [first.ljust(widths[0]), *(figure.rjust(width) for figure, width in zip(figures, widths[1:], strict=True))]
