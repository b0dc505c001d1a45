"""The HTTP API's endpoints of the scheduler."""

from collections.abc import Sequence
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import Query
from pydantic import Field

from retrycli import operations
from retrycli.config.settings import Settings
from retrycli.domain.delivery_stats import GroupBy
from retrycli.domain.listing import Filter
from retrycli.domain.message import MessageType, State
from retrycli.domain.passes import HoldKind, HoldTarget
from retrycli.domain.user import Right
from retrycli.operations import bodies
from retrycli.web.endpoints import CurrentUser, JsonAnswer, answer, endpoint
from retrycli.web.inputs import Body, BulkBody, Duration, Line, MessageKey, PageQuery, Reason, Ticket
from retrycli.web.status import RecentStatus

INVALID, NOT_FOUND, CONFLICT = HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT
WEEK = timedelta(days=7)
MOST_GROUPS = 1000
# An empty list is an error: a program that found no ticket must not pause all deliveries.
TARGETS = Field(min_length=1, max_length=1000)


class TargetsBody(Body):
    """The parts of the queue to hold or to resume; without any field, all deliveries."""

    message: Annotated[list[MessageKey], TARGETS] | None = None
    ticket: Annotated[list[Ticket], TARGETS] | None = None
    message_type: Annotated[list[Annotated[MessageType, Field(strict=False)]], TARGETS] | None = Field(
        None, alias="type"
    )
    destination: Annotated[list[Line], TARGETS] | None = Field(None, description="the base URLs of destinations")

    @property
    def targets(self) -> list[HoldTarget] | None:
        """Return the parts; None if there are none.

        Raises:
            NoSuchMessage: no message can have one of the ids.
        """
        texts: dict[HoldKind, Sequence[str]] = {
            HoldKind.MESSAGE: list(self.message or ()),
            HoldKind.TICKET: self.ticket or (),
            HoldKind.TYPE: self.message_type or (),
            HoldKind.DESTINATION: self.destination or (),
        }
        return [HoldTarget(kind, text) for kind, found in texts.items() for text in found] or None


class PauseBody(TargetsBody):
    """What is paused, how long, and why."""

    length: Duration | None = Field(None, alias="for", description="such as 2h; without it, until `resume`")
    reason: Reason | None = None


class SchedulerEndpoints:
    """What concerns all messages."""

    def __init__(self, settings: Settings, status: RecentStatus) -> None:
        self._settings = settings
        self._status = status

    @endpoint("GET", "/scheduler/status", Right.READ)
    def scheduler_status(self) -> JsonAnswer[bodies.SchedulerStatusBody]:
        """Show whether passes run, and when the next one starts."""
        found = bodies.scheduler_status(self._status.read())
        return answer(found, has_version=False)  # the original specification has no schema_version

    @endpoint("GET", "/scheduler/overview", Right.READ)
    def scheduler_overview(self) -> JsonAnswer[bodies.OverviewBody]:
        """Show scheduler health and queue counts."""
        return answer(bodies.status(self._status.read()))

    @endpoint("POST", "/scheduler/pause", Right.PAUSE, NOT_FOUND, CONFLICT, INVALID)
    def pause_scheduler(self, user: CurrentUser, body: PauseBody = PauseBody()) -> JsonAnswer[bodies.PausedBody]:  # noqa: B008  frozen
        """Stop passes from sending, until `resume` or for a set time.

        With messages, tickets, types or destinations, hold only these. Passes send all other messages.
        """
        operations.pause.pause(
            self._settings, target=body.targets, length=body.length, reason=body.reason, by=user.name
        )
        return answer(self._paused())

    @endpoint("POST", "/scheduler/resume", Right.PAUSE, NOT_FOUND, INVALID)
    def resume_scheduler(self, user: CurrentUser, body: TargetsBody = TargetsBody()) -> JsonAnswer[bodies.PausedBody]:  # noqa: B008  frozen
        """End the pause, or the holds of messages, tickets, types or destinations.

        `ended` tells how many pauses and holds were active and have ended.
        """
        ended = operations.pause.resume(self._settings, target=body.targets, by=user.name)
        number = len(ended) if isinstance(ended, list) else int(ended is not None)
        return answer({**self._paused(), "ended": number})

    def _paused(self) -> bodies.PausedBody:
        self._status.forget()
        return bodies.paused(self._status.read())

    @endpoint("GET", "/scheduler/passes", Right.READ, INVALID)
    def list_passes(self, query: Annotated[PageQuery, Query()]) -> JsonAnswer[bodies.PassesBody]:
        """List passes and pauses, the newest first, one page at a time."""
        found = operations.status.passes(self._settings, after=query.after, limit=query.limit)
        return answer(bodies.passes(found))

    @endpoint("GET", "/scheduler/escalations", Right.READ, INVALID)
    def list_escalations(self, query: Annotated[PageQuery, Query()]) -> JsonAnswer[bodies.EscalationPageBody]:
        """List the causes of all escalations, and the escalated messages, one page at a time."""
        escalated = Filter(state=State.ESCALATED)
        found = operations.listing.page(self._settings, escalated, sort="id", after=query.after, limit=query.limit)
        groups = operations.listing.escalations(self._settings)
        body: bodies.EscalationPageBody = {**bodies.escalations(iter(found.messages), groups), "next": found.next}
        return answer(body)

    @endpoint("POST", "/scheduler/bulk", Right.BULK, NOT_FOUND, CONFLICT, INVALID)
    def act_in_bulk(self, user: CurrentUser, body: BulkBody) -> JsonAnswer[bodies.BulkActionBody]:
        """Apply an action to many messages, for at most 15 seconds.

        If messages are left because the time was up, `next` is not null. To go on, send the same body with `after` set
        to it. If a filter now matches another number of messages than expected, nothing is done, and the problem has
        the present `count`.
        """
        done = operations.bulk.act(self._settings, body.request, after=body.after, by=user.name)
        self._status.forget()
        return answer(bodies.bulk(done))

    @endpoint("GET", "/scheduler/stats", Right.READ, INVALID)
    def statistics(
        self,
        since: Annotated[Duration | None, Query(description="the period, such as 12h; by default 7d")] = None,
        by: Annotated[GroupBy, Query()] = GroupBy.OUTCOME,
    ) -> JsonAnswer[bodies.StatisticsBody]:
        """Show outcomes of attempts, and outages of the ticketing API."""
        figures, groups = operations.listing.stats(self._settings, by, span=since or WEEK, limit=MOST_GROUPS)
        return answer(bodies.statistics(figures, by, groups))
