"""The pages of the passes and pauses and of the statistics, and the forms that pause deliveries, or hold a part of the
queue.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from operator import attrgetter
from typing import Annotated, Any

from pydantic import Field
from starlette.responses import Response

from retrycli import operations
from retrycli.domain.duration import duration, utc_text
from retrycli.domain.passes import HoldKind, HoldTarget
from retrycli.domain.user import Right
from retrycli.operations.status import PassList
from retrycli.views.formatting import count
from retrycli.views.report.page import offset_of, values
from retrycli.web.console.context import Pages, Visit
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import NoFields, page
from retrycli.web.inputs import Duration, Line, Reason

ROWS = 50  # maximum number of passes on a page
# The lengths of a pause that the form offers.
LENGTHS = {"30m": "for 30 minutes", "1h": "for 1 hour", "2h": "for 2 hours", "4h": "for 4 hours", "12h": "for 12 hours"}


class PassesQuery(Form):
    """The place at which the page of passes begins."""

    after: Line | None = None


class PauseForm(Form):
    """How long deliveries are paused, and why."""

    length: Duration | None = Field(None, alias="for")
    reason: Reason | None = None


class ReleaseForm(Form):
    """A part of the queue."""

    kind: HoldKind
    target: Annotated[Line, Field(min_length=1, max_length=2000)]

    @property
    def part(self) -> HoldTarget:
        """Return the part of the queue."""
        return HoldTarget(self.kind, self.target)


class HoldForm(ReleaseForm, PauseForm):
    """A part of the queue, how long to hold it, and why."""


@dataclass(frozen=True, slots=True)
class PassRow:
    """A pass, or a pause or its end, in the list."""

    at: datetime
    by: str
    result: str
    detail: str | None
    is_pass: bool = True


def _rows(found: PassList) -> Iterator[PassRow]:
    for record in found.passes:
        result = record.result_in_words(found.unrecorded)
        yield PassRow(record.started_at, record.started_by, result, operations.words.result_of_pass(record))
    oldest = min((record.started_at for record in found.passes), default=None)
    for pause in found.pauses:
        if oldest is None or found.next is None or pause.at >= oldest:
            yield PassRow(pause.at, pause.by, pause.act, pause.detail, is_pass=False)


class PassPages(Pages):
    """The passes, the pause of deliveries, and the holds of parts of the queue."""

    @page("GET", "/passes", Right.READ, PassesQuery)
    def passes(self, visit: Visit, query: PassesQuery) -> Response:
        """List passes, pauses and resumptions, newest first."""
        found = operations.status.passes(self._settings, after=query.after, limit=ROWS)
        return self._console.show(
            visit,
            "passes.html",
            rows=sorted(_rows(found), key=attrgetter("at"), reverse=True),
            next_page=None if found.next is None else visit.to("passes", after=found.next),
            is_later=query.after is not None,
            lengths=LENGTHS,
            kinds=[*HoldKind],
        )

    @page("POST", "/pause", Right.PAUSE, PauseForm)
    def pause(self, visit: Visit, form: PauseForm) -> Response:
        """Stop passes from sending."""
        begun, replaced = operations.pause.pause(self._settings, length=form.length, reason=form.reason, by=visit.by)
        until = f"until {utc_text(begun.until)}" if begun.until else "until somebody resumes deliveries"
        instead = "" if replaced is None else f" This replaces {replaced.in_words}."
        notice = f"Paused {until}. Passes still run and are recorded, but send nothing.{instead}"
        return self._done(visit, visit.to("passes"), notice)

    @page("POST", "/resume", Right.PAUSE)
    def resume(self, visit: Visit, _: NoFields) -> Response:
        """End a pause."""
        ended = operations.pause.resume(self._settings, by=visit.by)
        notice = "Resumed; passes will send messages again." if ended else "Nothing was paused."
        return self._done(visit, visit.to("passes"), notice)

    @page("POST", "/hold", Right.PAUSE, HoldForm)
    def hold(self, visit: Visit, form: HoldForm) -> Response:
        """Hold a part of the queue."""
        return self._done(visit, visit.to("passes"), self._hold(form.part, form, visit.by))

    @page("POST", "/release", Right.PAUSE, ReleaseForm)
    def release(self, visit: Visit, form: ReleaseForm) -> Response:
        """End the hold of a part of the queue."""
        return self._done(visit, visit.to("passes"), self._release(form.part, visit.by))

    @page("POST", "/id/{message_id}/hold", Right.PAUSE, PauseForm)
    def hold_message(self, visit: Visit, form: PauseForm) -> Response:
        """Hold one message."""
        return self._done(visit, visit.to("id", visit.id), self._hold(self._message(visit), form, visit.by))

    @page("POST", "/id/{message_id}/release", Right.PAUSE)
    def release_message(self, visit: Visit, _: NoFields) -> Response:
        """End the hold of one message."""
        return self._done(visit, visit.to("id", visit.id), self._release(self._message(visit), visit.by))

    def _message(self, visit: Visit) -> HoldTarget:
        return HoldTarget(HoldKind.MESSAGE, visit.id)

    def _hold(self, part: HoldTarget, form: PauseForm, by: str) -> str:
        begun, _ = operations.pause.pause(self._settings, target=part, length=form.length, reason=form.reason, by=by)
        [active] = begun
        end = active.hold.until
        until = f"until {utc_text(end)}" if end else "until somebody releases it"
        what = "it" if part.kind is HoldKind.MESSAGE else f"its {count(active.messages, 'waiting message')}"
        now = f"No pass sends {what}." if active.messages else "Nothing under this hold is waiting now."
        return f"Held {active.hold.part} {until}. {now}"

    def _release(self, part: HoldTarget, by: str) -> str:
        ended = operations.pause.resume(self._settings, target=part, by=by)
        return f"Released {part}." if ended else f"There is no hold of {part}."


class ReportPeriod(StrEnum):
    """The periods that the page offers."""

    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"


class StatisticsQuery(Form):
    """The period that the page covers."""

    since: ReportPeriod = ReportPeriod.WEEK


class StatisticsPages(Pages):
    """The statistics."""

    @page("GET", "/stats", Right.READ, StatisticsQuery)
    def statistics(self, visit: Visit, query: StatisticsQuery) -> Response:
        """Show outcomes of attempts, waits, passes, and errors."""
        console = self._console
        found = console.status.statistics.read(
            query.since,
            lambda: operations.report.report_data(
                self._settings,
                console.status.read(),
                span=duration(query.since),
                until=operations.wiring.utc_now(),
                with_causes=False,
            ),
        )
        shown: dict[str, Any] = values(found, offset_of(found))
        return self._console.show(
            visit,
            "stats.html",
            **{name: value for name, value in shown.items() if name != "last_pass"},
            with_causes=False,
            period=query.since,
            periods=[*ReportPeriod],
        )
