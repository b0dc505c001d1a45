"""Describe results of operations in words, for the commands and the pages.

Commands in these texts are in backticks, and name the program ``retrycli``; see `retrycli.domain.suggested`. Times are
in UTC; see `retrycli.views.formatting.with_times`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from retrycli.domain import suggested
from retrycli.domain.duration import utc_text
from retrycli.domain.listing import is_in_doubt
from retrycli.domain.message import State
from retrycli.domain.outcome import OutcomeKind, Presence, may_have_arrived
from retrycli.domain.passes import COUNTS
from retrycli.views import formatting

if TYPE_CHECKING:
    from collections import Counter
    from datetime import datetime

    from retrycli.domain.known_table import Sample
    from retrycli.domain.listing import ListedMessage
    from retrycli.domain.outcome import LookUp, Outcome
    from retrycli.domain.passes import PassRecord
    from retrycli.operations.explain import Explanation
    from retrycli.operations.retry import ActionResult
    from retrycli.operations.status import Status

# The count ``released`` in words. The count includes messages that were claimed but not attempted.
RELEASED = "returned to the queue without using up a retry"
REMEDIES = {
    "status": "`retrycli list-failed`",
    "data": "`retrycli show {id}`, then fix the row in the application",
    "pause": "`retrycli resume`",
    "breaker": "`retrycli status`",
    "disk": "`retrycli doctor`",
    "cron": "`retrycli doctor`",
}


def end_of_pass(reason: str | None, detail: str | None) -> str | None:
    """Return why a pass ended early. Omit ``lock_held`` and ``paused`` if the detail already states the reason."""
    if detail is not None:
        detail = suggested.quoted(detail)
    if reason is None or (detail and reason in {"lock_held", "paused"}):
        return detail
    return reason.replace("_", " ") + (f": {detail}" if detail else "")


def result_of_pass(found: PassRecord) -> str | None:
    """Return a pass's counts, and why it ended early; None if there is nothing to say."""
    words = {"unknown": "with unknown outcome", "released": RELEASED}
    counts = [f"{number:,} {words.get(name, name)}" for name in COUNTS if (number := getattr(found, name))]
    described = "; ".join(filter(None, (", ".join(counts), end_of_pass(found.reason, found.detail))))
    return described or ("nothing was due" if found.result == "completed" else None)


def last_pass(found: Status) -> str:
    """Return when the last pass began, and its result."""
    last = found.last_pass
    if last is None:
        return "none yet"
    words = f"the last one began {formatting.ago(last.started_at, found.now)}: {last.result_in_words(found.unrecorded)}"
    if last.result == "stopped" and last.reason:
        words += f" ({last.reason.replace('_', ' ')})"
    if last.result is not None:  # the counts are written when the pass ends
        words += f", {last.sent:,} sent, {last.rescheduled:,} rescheduled, {last.escalated:,} escalated"
    return words


def state(found: Status) -> str:
    """Return the scheduler's state and, if no next run is known, why not. An "ok" then says nothing."""
    if found.silence is None:
        return found.state
    why = found.silence.words(utc_text)
    return why if found.state == "ok" else f"{found.state}: {why}"


def expired(found: Status) -> str | None:
    """Return how many waiting messages have expired, and when a pass will escalate them; None if there are none."""
    number = found.messages["expired"]
    if not number:
        return None
    if found.pause is not None or found.breakers:
        then = f"a pass will escalate {'it' if number == 1 else 'them'} once deliveries resume"
    elif found.messages["expired_due"] < number:
        is_left_out = found.holds or any(not windows.open for windows in found.windows)
        then = f"a pass will escalate {'it' if number == 1 else 'each of them'} when due" + (
            ", but not during a hold or outside a delivery window" if is_left_out else ""
        )
    else:
        then = f"the next pass will escalate {'it' if number == 1 else 'them'}"
    return f"{number:,} of the waiting messages; {then}"


def next_attempt(found: Explanation) -> datetime | str:
    """Return the time of a message's next attempt, or words if a time is not enough."""
    at = found.next_attempt_at
    if found.being_sent:
        later = f"; if the process that claimed the message has died, at {utc_text(at)}" if at else ""
        return ("being sent now" if found.has_begun else "by the pass or command that has claimed the message") + later
    if found.expires_first:
        return "none: the message expires before a pass would attempt it"
    if at is None:
        return "none at present"
    if found.one_goes_first:
        return (
            f"not before {utc_text(at)}: the pass attempts one message first, "
            "and the others only if the destination works"
        )
    if found.pass_runs and all(gate.open for gate in found.gates):
        return f"in the pass that is running now, or at {utc_text(at)}"
    return at


def remedy(found: Explanation) -> str:
    """Return the command for the first gate that holds a message back."""
    escalation = next((gate.figure for gate in found.gates if gate.name == "escalation"), None)
    if escalation is not None and is_in_doubt(escalation, may_have_arrived=found.may_have_arrived):
        return check_arrival(found.message_id, looks_up=found.looks_up)
    if found.is_claimed:
        return suggested.command("show", found.message_id)
    closed = [gate.name for gate in found.gates if not gate.open]
    if "hold" in closed and closed[0] in {"wait", "retry_after", "hold"}:
        return "`retrycli resume " + " ".join(hold.part.option for hold in found.holds) + "`"
    if (step := REMEDIES.get(next(iter(closed), ""))) is not None:
        return step.format(id=suggested.as_argument(found.message_id))
    if found.may_have_arrived:
        return check_arrival(found.message_id, looks_up=found.looks_up)
    return f"{suggested.command('retry', found.message_id)} attempts it now"


def check_arrival(message_id: int, *, looks_up: bool) -> str:
    """Return what to do with a message that may have arrived; with ``looks_up``, its gateway can look it up."""
    look_up, mark_sent, retry = (suggested.command(verb, message_id) for verb in ("look-up", "mark-sent", "retry"))
    first = f"{look_up}; if it finds nothing, " if looks_up else ""
    return f"{first}check the ticket, then {mark_sent} if the message arrived, or {retry} if it did not"


def listed_state(message: ListedMessage) -> str:
    """Return the state of a message, for a list that people read."""
    if message.held:
        return "held"
    return "may have arrived" if message.may_have_arrived and message.state is State.WAITING else message.state


def listed_text(message: ListedMessage) -> str:
    """Return the recipient and the subject of a message, for a list that people read."""
    return ": ".join(filter(None, (message.recipient, message.subject)))


# These checks would require reading complete messages.
NOT_FORESEEN = (
    "Not checked: whether a message has already arrived or has become invalid.",
    "A pass may escalate such messages.",
)


def attempted(outcome: Outcome) -> str:
    """Return whether an attempt by hand delivered its message, to follow the message's name."""
    if outcome.kind is OutcomeKind.DELIVERED:
        return "sent."
    sent = "may have been sent" if may_have_arrived(outcome.kind, outcome.status_code) else "not sent"
    return f"{sent}: {outcome.kind}, {outcome.error}. Its state is unchanged."


def looked_up(message_id: int | str, found: LookUp) -> str:
    """Return the result of a look-up."""
    match found.result:
        case Presence.ARRIVED:
            ending = f", but {found.error}." if found.error else " and is marked as sent."
            return f"Message {message_id} has arrived{ending}"
        case Presence.ABSENT:
            return f"Message {message_id} has not arrived. Nothing was changed."
        case Presence.UNKNOWN:
            return f"It is not known whether message {message_id} has arrived: {found.error}. Nothing was changed."


def left_unchanged(done: ActionResult) -> str:
    """Return a sentence with the number of messages that an action left unchanged, and the reason."""
    tried, failed = done.canaries
    why = {
        "canary_failed": f"{failed} of {tried} canaries failed" if tried > 1 else "the canary failed",
        "destination_down": "the last attempts all failed, probably because of the ticketing API",
        "signal": "the command was stopped; run it again to continue with the rest",
        "time": "the time of this step is up; go on with the rest",
    }[done.reason or "signal"]
    return f"{formatting.count(done.left, 'message')} {'was' if done.left == 1 else 'were'} left unchanged: {why}."


def left_out(number: int) -> str:
    """Describe the failed rows that the settings leave out."""
    rows = "1 failed row does" if number == 1 else f"{number:,} failed rows do"
    return f"{rows} not meet database.where; passes ignore them (in a large table, only some rows are counted)"


def tally(counts: Counter[str]) -> str:
    """List counted things, the most frequent first."""
    return ", ".join(
        f"{what} ×{number:,}" for what, number in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    )


def counted_rows(sample: Sample) -> str:
    """Describe which rows of a table were counted."""
    rows = formatting.count(sample.rows, "row")
    return f"all {rows}" if sample.is_whole else f"the newest {rows}" if sample.is_newest else rows
