"""Create the environment of the templates: everything is escaped, and control characters are visible."""

import re
from collections.abc import Callable
from datetime import datetime
from functools import partial

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup, escape

from retrycli import operations
from retrycli.domain.duration import in_words, in_zone, utc_text
from retrycli.domain.sanitize import printable
from retrycli.domain.user import Right
from retrycli.views.formatting import count
from retrycli.views.report.page import whole
from retrycli.web.console.commands import in_console

SHORT = 160  # maximum number of characters of a text in a list
LONGEST_MARK = 30
COMMAND = re.compile(r"`([^`]+)`")


def make_environment(now: Callable[[], datetime]) -> Environment:
    """Return the environment of the templates.

    Args:
        now: the clock, because a time of today is shown without its date.
    """
    environment = Environment(
        loader=ChoiceLoader(
            [
                PackageLoader("retrycli.web.console"),
                PrefixLoader({"report": PackageLoader("retrycli.views.report", "")}),
            ]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "line": line,
        "short": short,
        "lines": lines,
        "mark": mark,
        "whole": whole,
        "words": words,
        "number": "{:,}".format,
        "figure": "{:g}".format,
        "length": in_words,
        "moment": partial(moment, now=now),
        "clock": partial(moment, now=now, only_clock=True),
        "zone": zone,
    }
    environment.globals |= {"amount": count, "Right": Right, "state_words": operations.words.listed_state}
    return environment


def line(text: object) -> Markup:
    """Return a text of another system for one line: control characters are visible, and its direction stays its own."""
    return Markup(f"<bdi>{escape(printable(str(text)))}</bdi>")  # noqa: S704  faster than `Markup.format`


def short(text: object, longest: int = SHORT) -> Markup:
    """Return a text like `line`, shortened."""
    whole = str(text)
    return line(whole if len(whole) <= longest else whole[: longest - 1] + "…")


def lines(text: str) -> Markup:
    """Return a text of several lines. Line breaks stay, and other control characters are visible."""
    return Markup("\n").join(line(each) for each in text.split("\n"))


def mark(text: object, state: object) -> Markup:
    """Return a word whose look shows a state."""
    look, word = escape(str(state).replace("_", "-")), short(str(text).replace("_", " "), LONGEST_MARK)
    return Markup(f'<span class="mark s-{look}">{word}</span>')  # noqa: S704  both are escaped


def words(text: str) -> Markup:
    """Return a sentence of retrycli, with the console's buttons instead of commands, and other commands as code."""
    escaped = str(escape(printable(in_console(text))))
    return Markup(COMMAND.sub(r"<code>\1</code>", escaped) if "`" in escaped else escaped)  # noqa: S704  it is escaped


def moment(time: datetime, *, now: Callable[[], datetime], only_clock: bool = False) -> Markup:
    """Return a time in the server's zone, as an element. ``only_clock`` omits the date."""
    text = _clock(in_zone(time)) if only_clock else moment_text(time, now())
    return Markup(f'<time datetime="{utc_text(time)}">{text}</time>')  # noqa: S704  digits and names of months


def moment_text(time: datetime, now: datetime) -> str:
    """Return a time in the server's zone. A time of another day has its date."""
    local, today = in_zone(time), in_zone(now)
    if local.date() == today.date():
        return _clock(local)
    return f"{local.day} {local:%b %H:%M}" if local.year == today.year else f"{local:%Y-%m-%d %H:%M}"


def _clock(time: datetime) -> str:
    return time.isoformat(timespec="minutes")[11:16]


def zone(time: datetime) -> str:
    """Return the server's zone at a time, such as UTC+01:00."""
    offset = f"{in_zone(time):%z}"
    return "UTC" if offset in {"", "+0000"} else f"UTC{offset[:3]}:{offset[3:5]}"
