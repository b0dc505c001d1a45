"""The page that compares schedules on the recorded outages and outcomes."""

from __future__ import annotations

from http import HTTPMethod, HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from retrycli import operations
from retrycli.domain import simulation
from retrycli.domain.duration import duration
from retrycli.domain.errors import InvalidSchedule, TooLittleHistory, cause_of
from retrycli.domain.message import MessageType
from retrycli.domain.retry_policy import BackoffKind
from retrycli.domain.user import Right
from retrycli.web.console.forms import Form
from retrycli.web.console.routes import page
from retrycli.web.console.statistics_page import ReportPeriod
from retrycli.web.inputs import Line

if TYPE_CHECKING:
    from starlette.responses import Response

    from retrycli.domain.simulation import Simulation
    from retrycli.web.console.context import Console
    from retrycli.web.console.visit import Visit

Minutes = Annotated[float, Field(ge=0, le=10**9, allow_inf_nan=False)]


class ProposedSchedule(Form):
    """The schedule to compare with today's. Without ``since``, nothing is simulated yet."""

    max_retries: Annotated[int, Field(ge=0, le=10**6)] | None = None
    backoff: BackoffKind | None = None
    base_minutes: Minutes | None = None
    factor: Minutes | None = None
    cap_minutes: Minutes | None = None
    waits_minutes: Annotated[Line, Field(max_length=1000)] | None = None
    message_type: MessageType | None = Field(None, alias="type")
    since: ReportPeriod | None = None

    def changes(self) -> dict[str, object]:
        """Return the values of the section ``schedule`` that differ from today's."""
        given = self.model_dump(exclude={"message_type", "since"})
        return {key: value for key, value in given.items() if value is not None}


class SimulationRunning(Exception):
    """Another simulation has not ended. One over a month of a large desk takes half a minute and 400 MiB."""


class SimulationPages:
    """The simulation of a schedule."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._one_at_a_time = Lock()

    @page(HTTPMethod.GET, "/simulate", Right.READ, ProposedSchedule)
    def simulate(self, visit: Visit, query: ProposedSchedule) -> Response:
        """Replay today's schedule and the proposed one. Nothing is sent or changed."""
        found: Simulation | None = None
        problem, code = None, HTTPStatus.OK
        if query.since is not None:
            try:
                found = self._simulated(query, query.since)
            except SimulationRunning as error:
                problem, code = str(error), HTTPStatus.SERVICE_UNAVAILABLE
            except InvalidSchedule as error:
                problem, code = cause_of(error), HTTPStatus.UNPROCESSABLE_ENTITY
            except TooLittleHistory as error:
                problem = cause_of(error)
        schedule = self._console.settings.schedule
        return self._console.show(
            visit,
            "simulate.html",
            code=code,
            found=found,
            problem=problem,
            rows=[] if found is None else simulation.rows(found),
            query=query,
            schedule=schedule,
            kinds=[kind for kind in BackoffKind if kind is not BackoffKind.PYTHON or schedule.call is not None],
            types=[*MessageType],
            periods=[*ReportPeriod],
            is_open=found is not None and any(outage.answered_at is None for outage in found.outages),
        )

    def _simulated(self, query: ProposedSchedule, since: ReportPeriod) -> Simulation:
        if not self._one_at_a_time.acquire(blocking=False):
            raise SimulationRunning("another simulation is running; try again in a minute")
        try:
            return operations.simulate.simulate(
                self._console.settings,
                query.changes(),
                message_type=query.message_type,
                span=duration(since),
                now=self._console.now,
            )
        finally:
            self._one_at_a_time.release()
