"""The forms that hold a part of the queue, and that end a hold."""

from typing import Annotated

from pydantic import Field
from starlette.responses import Response

from retrycli import operations
from retrycli.domain.duration import utc_text
from retrycli.domain.hold import HoldKind, HoldTarget
from retrycli.domain.user import Right
from retrycli.views.formatting import count
from retrycli.web.console.context import Console
from retrycli.web.console.forms import Form
from retrycli.web.console.passes import PauseForm
from retrycli.web.console.routes import NoFields, page
from retrycli.web.console.visit import Visit
from retrycli.web.inputs import Line

LONGEST_TARGET = 2000  # characters


class ReleaseForm(Form):
    """A part of the queue."""

    kind: HoldKind
    target: Annotated[Line, Field(min_length=1, max_length=LONGEST_TARGET)]

    @property
    def part(self) -> HoldTarget:
        """Return the part of the queue."""
        return HoldTarget(self.kind, self.target)


class HoldForm(ReleaseForm, PauseForm):
    """A part of the queue, how long to hold it, and why."""


class HoldPages:
    """Hold and release parts of the queue."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._settings = console.settings

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

    def _done(self, visit: Visit, path: str, notice: str) -> Response:
        self._console.status.forget()
        return self._console.redirect(visit, path, notice)
