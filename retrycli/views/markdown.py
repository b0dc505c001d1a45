"""Show Markdown in a terminal's pager. rich takes longer to load than any command that needs no Markdown."""

from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table


class _FoldedTable(TableElement):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            assert isinstance(table, Table)  # noqa: S101  for the type checker
            for column in table.columns:
                column.overflow = "fold"  # break long words, which rich would truncate
            yield table


class _Page(Markdown):
    elements: ClassVar = {**Markdown.elements, "table_open": _FoldedTable}


def show_markdown(text: str, *, styled: bool) -> None:
    """Show a page. ``styled``: the pager shows colours."""
    screen = Console(highlight=False)
    with screen.pager(styles=styled):
        screen.print(_Page(text, code_theme="ansi_dark", hyperlinks=False))
