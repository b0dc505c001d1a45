"""Create the environment of the templates: everything is escaped, and control characters are visible. Sentences name
the console's buttons and pages instead of commands, because its users may have no shell.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime

from jinja2 import ChoiceLoader, Environment, PackageLoader, PrefixLoader, StrictUndefined
from markupsafe import Markup, escape

from retrycli import operations
from retrycli.domain.duration import in_words, utc_text
from retrycli.domain.message import MessageId, State
from retrycli.domain.retry_policy import EXHAUSTED
from retrycli.domain.sanitize import printable, shortened
from retrycli.domain.user import Right
from retrycli.views.formatting import count, local_time, with_times
from retrycli.views.report.page import visible, whole

# The words for a command, with a place for its first argument. Other commands stay: they need a shell on the server.
IN_THE_CONSOLE: Mapping[str, str] = {
    "retry": "“Retry now”",
    "look-up": "“Look up”",
    "edit": "“Edit”",
    "requeue": "“Requeue”",
    "reject": "“Reject”",
    "mark-sent": "“Mark as sent”",
    "show": "the page of message {}",
    "explain": "the page of message {}",
    "pause": "“Pause” on the page “Passes”",
    "resume": "“Resume deliveries” on the page “Passes”",
    "passes": "the page “Passes”",
    "status": "the state at the top of each page",
    "list-failed": "the page “Messages”",
    "escalations": "the page “Escalations”",
}
NAMES = "|".join(IN_THE_CONSOLE)
# A text may quote what a client sent. Both patterns take linear time for any text.
IN_BACKTICKS = re.compile(r"(?P<run>\b[Rr]un )?`(?P<command>[^`]*)`")
COMMAND = re.compile(
    rf"(?:.*[/ ])?retrycli (?:--config \S+ )?(?P<name>{NAMES})(?: (?:-- )?(?P<argument>[^ ]+).*)?", re.DOTALL
)


def in_console(text: str) -> str:
    """Return a sentence of retrycli with buttons and pages instead of the commands that do the same."""
    return IN_BACKTICKS.sub(_words, text) if "retrycli " in text else text


def _words(found: re.Match[str]) -> str:
    command = COMMAND.fullmatch(found["command"])
    if command is None:
        return found[0]
    words, argument = IN_THE_CONSOLE[command["name"]], command["argument"]
    if command["name"] == "resume" and argument:
        words = "“Release” on the page “Passes”"
    verb = "" if found["run"] is None else "open " if words.startswith("the ") else "use "
    if found["run"] is not None and found["run"][0].isupper():
        verb = verb.capitalize()
    return verb + words.format(argument)


SHORT = 160  # maximum number of characters of a text in a list
LONGEST_CELL = 60
LONGEST_MARK = 30
QUOTED = re.compile(r"`([^`]+)`")


def make_environment() -> Environment:
    """Return the environment of the templates."""
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
        finalize=visible,  # no template can forget it
    )
    environment.filters |= {
        "line": line,
        "field": escape,  # the value of a form's field stays as it is
        "id": lambda value: line(value) if isinstance(value, MessageId) else value,  # text of another system
        "short": short,
        "lines": lines,
        "mark": mark,
        "whole": whole,
        "words": words,
        "number": "{:,}".format,
        "figure": "{:g}".format,
        "length": in_words,
        "moment": moment,
        "cell": cell,
        "told": told,
    }
    environment.globals |= {"amount": count, "Right": Right, "longest_reason": operations.bulk.LONGEST_REASON}
    environment.globals["state_words"] = operations.words.listed_state
    return environment


def line(text: object) -> Markup:
    """Return a text of another system for one line: control characters are visible, and its direction stays its own."""
    return Markup(f"<bdi>{escape(printable(str(text)))}</bdi>")  # noqa: S704  faster than `Markup.format`


def short(text: object, longest: int = SHORT) -> Markup:
    """Return a text like `line`, shortened."""
    return line(shortened(str(text), longest))


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
    return _timed(QUOTED.sub(r"<code>\1</code>", escaped) if "`" in escaped else escaped)


def told(text: str, longest: int) -> Markup:
    """Return words of retrycli about what an operator did, shortened. They may quote the operator."""
    return _timed(short(text, longest))


def _timed(escaped: str) -> Markup:
    return Markup(with_times(escaped, moment))  # noqa: S704  it is escaped


def moment(time: datetime) -> Markup:
    """Return a time in UTC, as an element. The script shows it in the browser's zone."""
    return Markup(f'<time datetime="{utc_text(time)}">{local_time(time, UTC)}</time>')  # noqa: S704  only digits


def cell(value: object) -> object:
    """Return a value for a cell of a list."""
    return "–" if value is None else moment(value) if isinstance(value, datetime) else short(value, LONGEST_CELL)


def is_outdated(state: object, last_error: object, made: object, allowed: int | None) -> bool:
    """Return whether an error says that the retries are used up, although the message waits and has some left. ``made``
    is None if the retry count is invalid, and ``allowed`` if the message's type is unknown.
    """
    if state != State.WAITING or not isinstance(made, int) or allowed is None:
        return False
    return made < allowed and EXHAUSTED.match(str(last_error)) is not None
