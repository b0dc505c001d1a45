"""Results as text: tables and local time on a terminal; tab-separated, in UTC and uncut when piped; or one JSON object.

What comes from a message or an answer is data here: control characters are shown escaped, and nothing in it is markup.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice
from math import isfinite
from shutil import get_terminal_size
from typing import TYPE_CHECKING

from retrycli.domain import suggested
from retrycli.domain.events import (
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageReleased,
    MessageRescheduled,
    PassStarted,
)
from retrycli.domain.sanitize import printable

if TYPE_CHECKING:
    from rich.console import Console as RichConsole

GAP = 2
"""Spaces between columns."""
ARROW = "→ "
COMMAND = re.compile(r"`([^`]+)`")
TEXT_ROOM = 30
"""How narrow a column of text may get before it has lines of its own."""
STEPS = " ▁▂▃▄▅▆▇█"
ENDS = "▏▎▍▌▋▊▉█"
AT_ONCE = 100
"""So many pieces of a list are put into JSON together."""
BAR = 24
"""How many characters the longest bar has."""
INDENT = (0, 0, 0, 4)

Cell = str | int | float | bool | datetime | None
Row = Sequence[Cell]


def on_terminal() -> bool:
    """Whether a person is looking at stdout."""
    return sys.stdout.isatty()


def show_json(values: Mapping[str, object]) -> None:
    """Print one object, with the version of its fields in front; what comes one by one is printed as it comes.

    A value that is a function is called when its turn has come: it may tell of what came before.

    In ASCII, so that no locale can spoil it and no control character of any kind reaches a terminal.
    """
    for number, (name, value) in enumerate({"schema_version": 1, **values}.items()):
        print(", " if number else "{", json.dumps(name), ": ", sep="", end="")  # noqa: T201
        for piece in _pieces(value() if callable(value) else value):
            print(piece, end="")  # noqa: T201
    print("}")  # noqa: T201


def _pieces(value: object) -> Iterator[str]:
    if not isinstance(value, Iterator):
        yield _as_json(value)
        return
    yield "["
    separator = ""
    while some := list(islice(value, AT_ONCE)):
        yield separator + _as_json(some)[1:-1]
        separator = ", "
    yield "]"


def show_table(headers: Sequence[str], rows: Iterable[Row], *, texts: int = 0, named: bool = False) -> None:
    """Print rows, if any: a table on a terminal, tab-separated lines without a header elsewhere. Nothing is cut.

    Args:
        headers: the columns' names, for the terminal, or if they are wanted.
        rows: the values of each row. Off a terminal they are printed as they come.
        texts: so many of the last columns may be of any length. Where the terminal has too little room for them,
            they stand under their row.
        named: print the names off a terminal too.
    """
    if not on_terminal():
        if named:
            print("\t".join(headers))  # noqa: T201
        for row in rows:
            print("\t".join(map(_plain, row)))  # noqa: T201
        return
    cells = [[_local(cell) for cell in row] for row in rows]
    if not cells:
        return
    from rich.cells import cell_len
    from rich.console import Console

    screen = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(headers, *cells, strict=True)]
    least = [min(width, TEXT_ROOM) if number >= len(widths) - texts else width for number, width in enumerate(widths)]
    if texts and sum(least) + GAP * (len(least) - 1) > screen.width:
        _show_stacked(screen, headers, cells, widths[:-texts])
    else:
        _show_columns(screen, headers, cells)


def _show_columns(screen: RichConsole, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as such; what is too wide is folded, but for the first column, by which a row is known."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
    for number, column in enumerate(table.columns):
        column.no_wrap, column.overflow = number == 0, "fold"
    for row in rows:
        table.add_row(*map(Text, row))
    screen.print(table)


def _show_stacked(
    screen: RichConsole, headers: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int]
) -> None:
    """Each row's texts, which are those beyond the given widths, on lines of their own under the other values."""
    from rich.cells import set_cell_size
    from rich.padding import Padding
    from rich.text import Text

    def line(cells: Sequence[str], style: str = "") -> Text:
        padded = [set_cell_size(cell, width) for cell, width in zip(cells, widths, strict=False)]
        return Text((" " * GAP).join(padded).rstrip(), style)

    def texts(cells: Sequence[str], style: str = "") -> list[Padding]:
        return [Padding(Text(cell, style), INDENT) for cell in cells[len(widths) :] if cell]

    screen.print(line(headers, "bold"), *texts(headers, "bold"), sep="\n")
    for row in rows:
        screen.print(line(row), *texts(row), sep="\n", overflow="fold")


def show_facts(facts: Mapping[str, Cell]) -> None:
    """Print names and values, one a line. On a terminal a long value continues under its beginning."""
    if not on_terminal():
        for name, value in facts.items():
            print(f"{printable(name)}\t{_plain(value)}")  # noqa: T201
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{printable(name):<{width}}  {_folded(_local(value), width + GAP)}")  # noqa: T201


def show_findings(findings: Sequence[tuple[str, str, str, str | None]]) -> None:
    """Print findings for a person: mark, name and text, and the remedy beneath.

    A remedy's commands, which stand in backticks, can be pasted: each has a line of its own, which nothing breaks,
    unless all of the remedy fits on one.
    """
    mark_width, name_width = max(len(mark) for mark, *_ in findings), max(len(name) for _, name, *_ in findings)
    indent = mark_width + name_width + 2 * GAP
    print(f"{'':<{mark_width}}  {'Check':<{name_width}}  Found")  # noqa: T201
    print("─" * get_terminal_size().columns)  # noqa: T201
    for mark, name, found, remedy in findings:
        print(f"{mark:<{mark_width}}  {name:<{name_width}}  {_folded(printable(found), indent)}")  # noqa: T201
        for line in () if remedy is None else _steps(printable(remedy), indent):
            print(line)  # noqa: T201


def _steps(remedy: str, indent: int) -> Iterator[str]:
    columns, left = get_terminal_size().columns, " " * indent
    if indent + len(ARROW + remedy) <= columns:
        yield left + ARROW + remedy
        return
    words, *rest = COMMAND.split(remedy)
    yield left + ARROW + _folded(words.strip() or "run:", indent + len(ARROW))
    for number, piece in enumerate(rest):
        if number % 2:
            if words := piece.strip(" ,;"):
                yield left + _folded(words, indent)
        else:
            yield (left if indent + len(piece) <= columns else " " * INDENT[-1]) + piece


def _folded(text: str, indent: int) -> str:
    """Break a text between words, so that it fits on the screen beside what stands left of it."""
    room = get_terminal_size().columns - indent
    if (
        " " not in text or len(text) <= room // 2 or room < TEXT_ROOM
    ):  # half of it, because a character may be two columns wide
        return text
    from rich.console import Console
    from rich.text import Text

    lines = Text(text).wrap(Console(width=room), room, overflow="fold")
    return ("\n" + " " * indent).join(line.plain.rstrip() for line in lines)


def say(text: str) -> None:
    """Print a line of our own words for a person; nothing where the output is piped."""
    if on_terminal():
        print(suggested.own(text))  # noqa: T201


def show_text(text: str) -> None:
    """Print somebody else's text of several lines, its line breaks kept and all other control characters escaped."""
    print("\n".join(printable(line) for line in text.splitlines()))  # noqa: T201


def show_difference(lines: Iterable[str]) -> None:
    """Print a unified diff for a person; nothing where the output is piped, for it quotes a message."""
    if not on_terminal():
        return
    from rich.console import Console
    from rich.text import Text

    screen = Console(highlight=False)
    styles = {"+": "green", "-": "red", "@": "cyan"}
    for line in lines:
        screen.print(Text(printable(line), styles.get(line[:1], "")), overflow="fold")


def complain(text: str) -> None:
    """Print a line to stderr."""
    print(printable(suggested.quoted(text)), file=sys.stderr)  # noqa: T201


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """A progress bar on stderr that follows a pass's events; nothing where no person is looking."""
    if not (sys.stderr.isatty() and on_terminal()):
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Delivering", total=None)

        def follow(event: Event) -> None:
            match event:
                case PassStarted(due=due):
                    # What was escalated on its way into the queue was not due.
                    bar.update(task, total=due, completed=0)
                case MessageDelivered() | MessageRescheduled() | MessageReleased() | MessageEscalated():
                    bar.advance(task)
                case _:
                    pass

        yield follow


@contextmanager
def tally(first: str) -> Iterator[Callable[[str, int], None]]:
    """A line on stderr that tells how many rows of something are done; nothing where no person is looking.

    Args:
        first: what the line says until then.
    """
    if not (sys.stderr.isatty() and on_terminal()):
        yield lambda *_: None
        return
    from rich.console import Console

    with Console(stderr=True).status(first) as line:
        yield lambda name, rows: line.update(f"{name}: {count(rows, 'row')}")


def local_time(time: datetime) -> str:
    """A time for a person: local, with its offset."""
    return _in_zone(None, time).isoformat(sep=" ", timespec="minutes")


def time_in_words(time: datetime) -> str:
    """A time within a sentence: for a person on a terminal, for a program elsewhere."""
    return local_time(time) if on_terminal() else str(utc_time(time))


def utc_time(time: datetime | None) -> str | None:
    """A time for a program: RFC 3339 in UTC, to the second."""
    return None if time is None else _in_zone(UTC, time).isoformat(timespec="seconds").replace("+00:00", "Z")


def _in_zone(zone: tzinfo | None, time: datetime) -> datetime:
    """A time in a zone, by default the machine's. A naive one is UTC.

    At an end of the calendar it stays as it is, and where the machine's zone is a day or more away, as ``TZ=UTC-24``.
    """
    aware = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    try:
        return aware.astimezone(zone)
    except (OverflowError, ValueError):
        return aware


def curve(numbers: Sequence[int]) -> str:
    """Numbers in turn as a curve of one character each; nothing at all is a blank."""
    most = max(numbers, default=0)
    return "".join(STEPS[-(-each * (len(STEPS) - 1) // most)] if each else " " for each in numbers)


def bar(part: int, most: int) -> str:
    """A number as a bar, the highest of its like as a full one; no number but 0 is without one."""
    eighths = -(-part * BAR * len(ENDS) // most)
    return ENDS[-1] * (eighths // len(ENDS)) + ENDS[: eighths % len(ENDS)][-1:]


def ago(time: datetime, now: datetime) -> str:
    """How long ago a time was, in the one unit that fits."""
    seconds = max((now - time).total_seconds(), 0)
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{count(int(seconds // length), unit)} ago"
    return "just now"


def ahead(time: datetime, now: datetime) -> str:
    """How far off a time is, in the one unit that fits."""
    seconds = (time - now).total_seconds()
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"in {count(int(seconds // length), unit)}"
    return "in less than a minute"


def count(number: int, thing: str, things: str | None = None) -> str:
    """A number with its noun, whose plural may be an unusual one."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def length(time: timedelta) -> str:
    """A length of time, as `retrycli.domain.duration` would read it."""
    seconds = time.total_seconds()
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _plain(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case datetime():
            return str(utc_time(cell))
        case bool():
            return str(cell).lower()
        case _:
            return printable(str(cell))


def _local(cell: Cell) -> str:
    match cell:
        case None:
            return "–"
        case datetime():
            return local_time(cell)
        case bool():
            return "yes" if cell else "no"
        case _:
            return printable(str(cell))


def _as_json(value: object) -> str:
    try:
        return json.dumps(value, default=_json_value, allow_nan=False)
    except ValueError:
        return json.dumps(_with_finite_numbers(value), default=_json_value)


def _with_finite_numbers(value: object) -> object:
    """NaN and Infinity, which databases hold, are no JSON (RFC 8259, section 6): they become texts."""
    match value:
        case dict():
            return {name: _with_finite_numbers(each) for name, each in value.items()}
        case list() | tuple():
            return [_with_finite_numbers(each) for each in value]
        case float() if not isfinite(value):
            return json.dumps(value)
        case _:
            return value


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return utc_time(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
