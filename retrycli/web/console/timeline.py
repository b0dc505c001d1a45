"""One time line of a message: its attempts and the operators' actions, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from retrycli.domain.editable_message import edit_in_lines
from retrycli.domain.listing import ActionRecord, AttemptRecord, MessageDetails
from retrycli.domain.message import BY_PASS
from retrycli.domain.outcome import OutcomeKind, may_have_arrived

MOST_EVENTS = 200  # maximum number of events on a page, the newest first
MOST_LINES = 400  # maximum number of changed lines that one event shows


@dataclass(frozen=True, slots=True)
class HappenedEvent:
    """One event of a time line.

    Attributes:
        at: when it happened.
        what: the event in a few words.
        by: the operator; None for a pass.
        tone: ``good``, ``bad``, ``open`` (not known, or still going on) or ``plain``.
        detail: further words, from another system or an operator.
        facts: short figures.
        changes: the lines that an edit removed and added.
        more_changes: the number of further lines.
    """

    at: datetime
    what: str
    by: str | None
    tone: str
    detail: str | None = None
    facts: Sequence[str] = ()
    changes: Sequence[str] = ()
    more_changes: int = 0


def timeline(found: MessageDetails) -> list[HappenedEvent]:
    """Return all attempts and actions of a message, newest first."""
    events = [_attempted(attempt, ended=attempt.pass_id in found.ended) for attempt in found.attempts]
    events += [_acted(act) for act in found.acts]
    return sorted(events, key=lambda event: event.at, reverse=True)


def _attempted(attempt: AttemptRecord, *, ended: bool) -> HappenedEvent:
    facts = [
        *(() if attempt.status_code is None else (f"HTTP {attempt.status_code}",)),
        *(() if attempt.duration_ms is None else (f"{attempt.duration_ms:,} ms",)),
        *(() if attempt.retry_after_s is None else (f"Retry-After {attempt.retry_after_s:,} s",)),
        *(() if attempt.external_id is None else (f"external id {attempt.external_id}",)),
    ]
    return HappenedEvent(
        at=attempt.started_at,
        what=f"Attempt {attempt.number}: {attempt.outcome or ('not recorded' if ended else 'under way')}",
        by=None if attempt.made_by == BY_PASS else attempt.made_by,
        tone=_tone(attempt),
        detail=None if attempt.error == f"HTTP {attempt.status_code}" else attempt.error,
        facts=facts,
    )


def _tone(attempt: AttemptRecord) -> str:
    if attempt.outcome is None or may_have_arrived(attempt.outcome, attempt.status_code):
        return "open"
    return "good" if attempt.outcome == OutcomeKind.DELIVERED else "bad"


def _acted(act: ActionRecord) -> HappenedEvent:
    lines = [] if act.before is None or act.after is None else [*edit_in_lines(act.before, act.after)]
    return HappenedEvent(
        at=act.at,
        what=act.act.replace("_", " ").capitalize(),
        by=act.by,
        tone="plain",
        detail=act.detail,
        changes=lines[:MOST_LINES],
        more_changes=max(len(lines) - MOST_LINES, 0),
    )
