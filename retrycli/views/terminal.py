"""Print results: as tables with local times on a terminal, as tab-separated lines with times in UTC if piped, or as one
JSON object.

Text of a message or a response is data: control characters are escaped, and markup in it has no effect.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from shutil import get_terminal_size

from retrycli.domain import suggested
from retrycli.domain.duration import utc_text
from retrycli.domain.passes import Event
from retrycli.domain.sanitize import printable
from retrycli.views import formatting

GAP = 2  # spaces between columns
ARROW = "→ "
COMMAND = re.compile(r"`([^`]+)`")
MIN_TEXT_WIDTH = 30  # minimum width of wrapped text
BATCH = 100  # number of list items serialized together
INDENT = 4  # of a command on a line of its own

Row = Sequence[formatting.Cell]


def on_terminal() -> bool:
    """Return whether stdout is a terminal."""
    return sys.stdout.isatty()


def show_json(values: Mapping[str, object]) -> None:
    """Print one object, with its schema version first. An iterator's items are printed as they arrive.

    A callable value is called after all earlier values are printed, because it may depend on them. The output is ASCII,
    so that every locale can print it and no control character reaches a terminal.
    """
    for number, (name, value) in enumerate({"schema_version": 1, **values}.items()):
        print(", " if number else "{", json.dumps(name), ": ", sep="", end="")  # noqa: T201
        for piece in _pieces(value() if callable(value) else value):
            print(piece, end="")  # noqa: T201
    print("}")  # noqa: T201


def _pieces(value: object) -> Iterator[str]:
    if not isinstance(value, Iterator):
        yield formatting.as_json(value)
        return
    yield "["
    for number, some in enumerate(iter(lambda: list(islice(value, BATCH)), [])):
        yield (", " if number else "") + formatting.as_json(some)[1:-1]
    yield "]"


def show_table(headers: Sequence[str], rows: Iterable[Row], *, texts: int = 0, named: bool = False) -> None:
    """Print rows, if any: as a table on a terminal, and otherwise as tab-separated lines, as they arrive. Nothing is
    truncated.

    The last ``texts`` columns have an unlimited length. If the terminal is too narrow for them, they are printed under
    their row. Without a terminal, the headers are printed only if they are ``named``.
    """
    if not on_terminal():
        if named:
            print("\t".join(headers))  # noqa: T201
        for row in rows:
            print("\t".join(map(formatting.plain, row)))  # noqa: T201
        return
    cells = [[formatting.local(cell) for cell in row] for row in rows]
    if not cells:
        return
    from retrycli.views import screen

    screen.show_table(headers, cells, texts=texts)


def show_facts(facts: Mapping[str, formatting.Cell]) -> None:
    """Print names and values, one pair per line. On a terminal, wrap long values and align the continuation lines."""
    if not on_terminal():
        show_table((), facts.items())
        return
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{printable(name):<{width}}  {_folded(formatting.local(value), width + GAP)}")  # noqa: T201


def show_findings(findings: Sequence[tuple[str, str, str, str | None]]) -> None:
    """Print findings for an operator: mark, name and text, with the remedy underneath.

    If a remedy does not fit on one line, each of its commands (in backticks) gets a separate, unbroken line, so that
    operators can paste it.
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
            yield (left if indent + len(piece) <= columns else " " * INDENT) + piece


def _folded(text: str, indent: int) -> str:
    width = get_terminal_size().columns - indent
    # Half of the width, because a character may be two columns wide.
    if " " not in text or len(text) <= width // 2 or width < MIN_TEXT_WIDTH:
        return text
    from retrycli.views import screen

    return ("\n" + " " * indent).join(screen.wrapped(text, width))


def say(*lines: str) -> None:
    """Print lines for an operator, which may quote ids of other systems. Print nothing if the output is piped."""
    if on_terminal():
        print(*(printable(suggested.own(line)) for line in lines), sep="\n")  # noqa: T201


def answer(fields: Mapping[str, object], *lines: str, as_json: bool) -> None:
    """Print the result of a command that changes something: as JSON, or in words for an operator."""
    if as_json:
        show_json(fields)
    else:
        say(*lines)


def show_text(text: str) -> None:
    """Print multi-line text that retrycli did not write. Keep line breaks, and escape all other control characters."""
    print("\n".join(printable(line) for line in text.splitlines()))  # noqa: T201


def show_difference(lines: Iterable[str]) -> None:
    """Print a unified diff for an operator. Print nothing if the output is piped, because the diff quotes a message."""
    if on_terminal():
        from retrycli.views import screen

        screen.show_difference(lines)


def complain(text: str) -> None:
    """Print a line to stderr."""
    print(printable(suggested.quoted(text)), file=sys.stderr)  # noqa: T201


@contextmanager
def progress() -> Iterator[Callable[[Event], None]]:
    """If stdout and stderr are terminals, show a progress bar on stderr that follows a pass's events."""
    if not (sys.stderr.isatty() and on_terminal()):
        yield lambda _: None
        return
    from retrycli.views import screen  # only here, so that passes without a terminal start fast

    with screen.progress() as follow:
        yield follow


def time_in_words(time: datetime) -> str:
    """Format a time for use within a sentence: for an operator on a terminal, otherwise for a program."""
    return formatting.local_time(time) if on_terminal() else utc_text(time)


def told(sentence: str) -> str:
    """Format the times in a sentence of retrycli, like `time_in_words`."""
    return formatting.with_times(sentence, time_in_words)
