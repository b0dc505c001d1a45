"""Name the console's buttons and pages instead of commands, because its users may have no shell."""

import re
from collections.abc import Mapping

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
COMMAND = re.compile(
    rf"(?P<run>\b[Rr]un )?`(?:[^`]*[/ ])?retrycli (?:--config \S+ )?(?P<name>{NAMES})(?: (?P<argument>[^` ]+)[^`]*)?`"
)


def in_console(text: str) -> str:
    """Return a sentence of retrycli with buttons and pages instead of the commands that do the same."""
    return COMMAND.sub(_words, text) if "retrycli " in text else text


def _words(found: re.Match[str]) -> str:
    name, words = found["name"], IN_THE_CONSOLE[found["name"]]
    if name == "resume" and found["argument"]:
        words = "“Release” on the page “Passes”"
    verb = "" if found["run"] is None else "open " if words.startswith("the ") else "use "
    if found["run"] is not None and found["run"][0].isupper():
        verb = verb.capitalize()
    return verb + words.format(found["argument"])
