"""Print on a terminal what needs rich: tables, wrapped text, differences and a progress bar.

`terminal` imports this module only if the output is a terminal, because rich takes longer to import than a pass with
nothing due.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from retrycli.domain.passes import (
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageReleased,
    MessageRescheduled,
    PassStarted,
)
from retrycli.domain.sanitize import printable

GAP = 2  # spaces between columns
MIN_TEXT_WIDTH = 30  # minimum width of a text column; on narrower terminals, texts are printed on separate lines
INDENT = 4  # of a text on a line of its own


def show_table(headers: Sequence[str], cells: Sequence[Sequence[str]], *, texts: int) -> None:
    """Print a table: see `retrycli.views.terminal.show_table`."""
    screen = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(headers, *cells, strict=True)]
    least = [
        min(width, MIN_TEXT_WIDTH) if number >= len(widths) - texts else width for number, width in enumerate(widths)
    ]
    if texts and sum(least) + GAP * (len(least) - 1) > screen.width:
        screen.print(*_stacked(headers, cells, widths[:-texts]), sep="\n")
    else:
        screen.print(_table(headers, cells))


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(*headers, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for number, column in enumerate(table.columns):
        column.no_wrap, column.overflow = number == 0, "fold"  # never wrap the first column, such as an id
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _stacked(headers: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> Iterator[Text | Padding]:
    """Yield the first columns of each row, padded to ``widths``, on one line, and each other column on a line below."""
    for number, row in enumerate([headers, *rows]):
        style = "" if number else "bold"
        padded = [set_cell_size(cell, width) for cell, width in zip(row, widths, strict=False)]
        yield Text((" " * GAP).join(padded).rstrip(), style)
        yield from (Padding.indent(Text(cell, style), INDENT) for cell in row[len(widths) :] if cell)


def wrapped(text: str, width: int) -> list[str]:
    """Return the lines of a text that is wrapped to a width."""
    return [line.plain.rstrip() for line in Text(text).wrap(Console(width=width), width, overflow="fold")]


def show_difference(lines: Iterable[str]) -> None:
    """Print a unified diff."""
    screen = Console(highlight=False)
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        screen.print(Text(printable(line), styles.get(line[:1], "")), overflow="fold")


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """Show a progress bar on stderr that follows a pass's events."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Delivering", total=None)

        def follow(event: Event) -> None:
            match event:
                case PassStarted(due=due):
                    # Start again at 0: messages escalated at enrolment are not among the due messages.
                    bar.update(task, total=due, completed=0)
                case MessageDelivered() | MessageRescheduled() | MessageReleased() | MessageEscalated():
                    bar.advance(task)
                case _:
                    pass

        yield follow
