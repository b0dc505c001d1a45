"""The pages for an action on many messages: what it would touch, then the action, slice by slice."""

from datetime import datetime, timedelta
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal, NamedTuple

from pydantic import Field
from starlette.responses import Response

from retrycli import operations
from retrycli.domain.duration import duration
from retrycli.domain.errors import CountChanged, InvalidArgument, cause_of
from retrycli.domain.listing import ListedMessage
from retrycli.domain.message import State
from retrycli.domain.user import Right
from retrycli.operations.bulk import ACTIONS, LONGEST_REASON, MAX_CANARIES, BulkAction, BulkRequest, Canary
from retrycli.operations.message_actions import BulkResult, Match
from retrycli.views.formatting import count
from retrycli.web import problems
from retrycli.web.console.context import Console, Pages, Visit, in_console
from retrycli.web.console.forms import FormRejected, MessageFilter, Period
from retrycli.web.console.routes import page
from retrycli.web.inputs import Line, Time

SHOWN = 5  # maximum number of messages on the page, as examples
EXAMPLES = 3  # maximum number of failed attempts that are named with their errors
LONGEST_PROGRESS = 2000  # characters
SPREADS = {"": "at once", "15m": "over 15 minutes", "1h": "over 1 hour", "2h": "over 2 hours", "8h": "over 8 hours"}
PROGRESS = "progress"


class BulkFields(MessageFilter):
    """The action, and its messages: their ids, or a filter."""

    action: BulkAction
    ids: list[str] = Field([], alias="id", max_length=10_000)
    canary: Annotated[int, Field(ge=1, le=MAX_CANARIES)] | None = None
    spread: Period | None = None
    reason_given: Annotated[Line, Field(max_length=LONGEST_REASON)] | None = Field(None, alias="because")
    send_again: Literal["yes"] | None = None
    as_of: Time | None = None  # when the messages were shown

    def request(self, now: datetime, expected: int | None = None) -> BulkRequest:
        """Return the request for the operation."""
        return BulkRequest(
            self.action,
            ids=self.ids,
            wanted=None if self.ids else self.wanted(now),
            expected=None if self.ids else expected,
            reason=self.reason_given,
            spread=timedelta(0) if self.spread is None else duration(self.spread),
            canary=None if self.canary is None else Canary(self.canary),
            send_again=self.send_again is not None,
            as_of=self.as_of,
        )

    def hidden(self) -> dict[str, object]:
        """Return the fields that name the action and its messages, for a form or an address."""
        own = {"action": self.action, "as_of": self.as_of and self.as_of.isoformat()}
        if self.ids:
            return {**own, "id": self.ids}
        return {**self.given(), **own}

    def options(self) -> dict[str, object]:
        """Return the fields that say how to act, for a form or an address."""
        return {
            "canary": self.canary,
            "spread": self.spread,
            "because": self.reason_given,
            "send_again": self.send_again,
        }


class BulkQuery(BulkFields):
    """What the page shows: the ticked messages, or everything that matches; or how far the action has come."""

    which: Literal["ticked", "matching"] | None = None
    progress: Annotated[Line, Field(max_length=LONGEST_PROGRESS)] | None = None


class BulkForm(BulkFields):
    """The confirmed action, and the progress of its earlier slices."""

    as_of: Time
    expected: Annotated[int, Field(ge=0, le=10**9)] | None = None
    progress: Annotated[Line, Field(max_length=LONGEST_PROGRESS)] | None = None


class Steps(NamedTuple):
    """What the earlier slices of an action have done. A link or a form contains it sealed, because its numbers stand
    for the operator's consent.
    """

    next: str | None = None  # `BulkResult.next` of the last slice; None before the first
    done: int = 0  # numbers of messages that were changed, could not be changed, and were not reached by any slice
    refused: int = 0
    left: int = 0


class BulkPages(Pages):
    """Actions on many messages, in steps of about ``slice_seconds``."""

    def __init__(self, console: Console, slice_seconds: float) -> None:
        super().__init__(console)
        self._slice_seconds = slice_seconds

    @page("GET", "/bulk", Right.BULK, BulkQuery)
    def bulk_page(self, visit: Visit, query: BulkQuery) -> Response:
        """Show what the action would touch, or how far it has come."""
        if query.which == "ticked" and not query.ids:
            raise FormRejected(
                HTTPStatus.UNPROCESSABLE_ENTITY, [("", "no message is ticked; tick messages, then continue")]
            )
        if query.progress is not None:
            steps = self._steps(visit, query.progress)
            return self._console.show(
                visit,
                "rest.html",
                action=query.action,
                done=ACTIONS[query.action].done.format(count(steps.done, "message")),
                progress=query.progress,
                refused=steps.refused,
                left=steps.left,
                hidden=query.hidden(),
                options=query.options(),
            )
        return self._preview(visit, query.model_copy(update={"ids": []}) if query.which == "matching" else query)

    @page("POST", "/bulk", Right.BULK, BulkForm)
    def bulk(self, visit: Visit, form: BulkForm) -> Response:
        """Apply the action to as many messages as one slice of time allows."""
        now = operations.wiring.utc_now()
        before = self._steps(visit, form.progress)
        try:
            made = operations.message_actions.act(
                self._settings,
                form.request(now, form.expected),
                after=before.next,
                seconds=self._slice_seconds,
                by=visit.by,
            )
        except CountChanged as error:
            status, _ = problems.status_of(error)
            return self._preview(visit, form, code=status, problem=cause_of(error))
        self._console.status.forget()
        done, refused = before.done + made.result.done, before.refused + len(made.result.refused)
        delivered = sum(attempt.delivered for attempt in made.result.tried) if made.action is BulkAction.REQUEUE else 0
        notice = " ".join(_words(made, done, refused, delivered))
        if made.next is not None:
            progress = self._console.seal(visit, PROGRESS, made.next, done, refused, made.result.left)
            return self._console.redirect(visit, visit.to("bulk", **form.hidden(), **form.options(), progress=progress))
        if made.result.left:
            again = visit.to("bulk", **{**form.hidden(), "as_of": None}, **form.options())
            return self._console.redirect(visit, again, notice)
        where = visit.to() if form.ids else visit.to(**form.given())
        return self._console.redirect(visit, where, notice)

    def _steps(self, visit: Visit, progress: str | None) -> Steps:
        if progress is None:
            return Steps()
        match self._console.unseal(visit, PROGRESS, progress):
            case [str(following), int(done), int(refused), int(left)]:
                return Steps(following, done, refused, left)
            case _:
                raise InvalidArgument("this server did not make this link or form for you; begin the action again")

    def _preview(
        self, visit: Visit, query: BulkFields, *, code: HTTPStatus = HTTPStatus.OK, problem: str | None = None
    ) -> Response:
        now = operations.wiring.utc_now()
        ticked = len({*query.ids})
        fixed = query.fixed(now)
        found = self._found(
            fixed.model_copy(update=dict.fromkeys(("reason_given", "canary", "spread", "send_again"))), now
        )
        fixed = fixed.model_copy(update={"as_of": found.as_of})
        if ticked:
            fixed = fixed.model_copy(update={"ids": [str(message_id) for message_id in found.ids]})
        return self._console.show(
            visit,
            "bulk.html",
            code=code,
            problem=problem,
            action=query.action,
            plan=ACTIONS[query.action].plan.format(count(len(found.ids), "message")),
            of_escalations=ACTIONS[query.action].of_escalations,
            found=found,
            total=len(found.ids),
            hidden=fixed.hidden(),
            left_out=ticked - len(found.ids) if ticked else 0,
            given={} if ticked else query.given(),
            options=query.options(),
            spreads=SPREADS,
            expected=None if ticked else len(found.ids),
        )

    def _found(self, query: BulkFields, now: datetime) -> Match:
        """Return the messages that the action would touch. Leave out ticked ones in another state, as a filter does."""
        preview = partial(operations.message_actions.preview, self._settings, query.request(now))
        if not query.ids:
            return preview(shown=SHOWN)
        found = preview(shown=len(query.ids))
        suitable = {message.id: message for message in found.first if _suits(message, query.action)}
        return Match([*suitable], [*suitable.values()][:SHOWN], found.expired & suitable.keys(), found.as_of)


def _suits(message: ListedMessage, action: BulkAction) -> bool:
    if action is BulkAction.ACKNOWLEDGE and message.acknowledged_at is not None:
        return False
    if ACTIONS[action].of_escalations:
        return message.state is State.ESCALATED
    return message.state is not State.SENDING


def _cause(error: Exception) -> str:
    return in_console(cause_of(error))


def _words(made: BulkResult, done: int, refused: int, delivered: int) -> list[str]:
    words = [ACTIONS[made.action].done.format(count(done, "message"))]
    if delivered:
        words.append(f"{count(delivered, 'canary message')} {'was' if delivered == 1 else 'were'} sent.")
    failed = [attempt for attempt in made.result.tried if attempt.failed]
    for attempt in failed[:EXAMPLES]:
        why = operations.words.attempted(attempt.outcome) if attempt.outcome else _cause(attempt.error or Exception())
        words.append(f"Message {attempt.message_id} {why}")
    if len(failed) > EXAMPLES:
        words.append(f"{count(len(failed) - EXAMPLES, 'other message')} not sent.")
    if refused:
        words.append(f"{count(refused, 'message')} {'was' if refused == 1 else 'were'} not changed")
        examples = [_cause(error) for error in list(made.result.refused.values())[:1]]
        words[-1] += ", for example: " + examples[0] if examples else "."
    if made.result.left:
        words.append(operations.words.left_unchanged(made.result))
    return words
