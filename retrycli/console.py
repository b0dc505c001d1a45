"""Results as text: tables and local time on a terminal; tab-separated, in UTC and uncut when piped; or one JSON object.

What comes from a message or an answer is data here: control characters are shown escaped, and nothing in it is markup.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from retrycli.escape import printable
from retrycli.events import (
    Event,
    MessageDelivered,
    MessageEscalated,
    MessageReleased,
    MessageRescheduled,
    PassStarted,
)

Cell = str | int | float | bool | datetime | None
Row = Sequence[Cell]


def on_terminal() -> bool:
    """Whether a person is looking at stdout."""
    return sys.stdout.isatty()


def show_json(values: Mapping[str, object]) -> None:
    """Print one object, with the version of its fields in front."""
    print(json.dumps({"schema_version": 1, **values}, default=_json_value, ensure_ascii=False))  # noqa: T201


def show_table(headers: Sequence[str], rows: Sequence[Row], *, title: str | None = None) -> None:
    """Print rows: a table on a terminal, tab-separated lines without a header elsewhere."""
    if not on_terminal():
        for row in rows:
            print("\t".join(map(_plain, row)))  # noqa: T201
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headers, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for row in rows:
        table.add_row(*(Text(_local(cell)) for cell in row))
    Console(highlight=False).print(table)


def show_facts(facts: Mapping[str, Cell]) -> None:
    """Print names and values, one a line."""
    if not on_terminal():
        for name, value in facts.items():
            print(f"{name}\t{_plain(value)}")  # noqa: T201
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {_local(value)}")  # noqa: T201


def say(text: str) -> None:
    """Print a line for a person; nothing where the output is piped."""
    if on_terminal():
        print(text)  # noqa: T201


def show_text(text: str) -> None:
    """Print somebody else's text of several lines, its line breaks kept and all other control characters escaped."""
    print("\n".join(printable(line) for line in text.splitlines()))  # noqa: T201


def complain(text: str) -> None:
    """Print a line to stderr."""
    print(printable(text), file=sys.stderr)  # noqa: T201


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
                    bar.update(task, total=due)
                case MessageDelivered() | MessageRescheduled() | MessageReleased() | MessageEscalated():
                    bar.advance(task)
                case _:
                    pass

        yield follow


def local_time(time: datetime) -> str:
    """A time for a person: local, with its offset."""
    return time.astimezone().isoformat(sep=" ", timespec="minutes")


def utc_time(time: datetime | None) -> str | None:
    """A time for a program: RFC 3339 in UTC, to the second."""
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ago(time: datetime, now: datetime) -> str:
    """How long ago a time was, in the one unit that fits."""
    seconds = max((now - time).total_seconds(), 0)
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{count(int(seconds // length), unit)} ago"
    return "just now"


def count(number: int, thing: str) -> str:
    """A number with its noun."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def length(time: timedelta) -> str:
    """A length of time, as `retrycli.duration` would read it."""
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


def _json_value(value: object) -> object:
    if isinstance(value, datetime):
        return utc_time(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
