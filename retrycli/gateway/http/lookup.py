"""Ask a ticketing system whether a message has arrived, whether a note stays internal, and what the system supports.

A question changes nothing in the ticketing system. Without a usable answer, nothing is proven, and a message that needs
the proof is not sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.gateway.delivery import NotSent, TimeLimit
from retrycli.gateway.http.client import ApiClient
from retrycli.gateway.http.request import Request
from retrycli.gateway.http.response import LOOK_UP_LIMIT, Answer, holds, outcome_of_question
from retrycli.gateway.http.transport import (
    HEADERS,
    TRANSPORT_ERRORS,
    check_urls,
    describe_error,
    kind_without_message,
    open_transport,
)
from retrycli.gateway.presets.json_path import find, first_gap
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.model import Get, Question, Step
from retrycli.gateway.presets.template import Fields, fill_path
from retrycli.gateway.redaction import safe_line

CACHE_SIZE = 100  # maximum number of cached answers for preflights; together they hold at most `LOOK_UP_LIMIT`
MAX_PAGES = 100  # maximum number of pages of results to read for one question
# `_take_step` returns this object if a step proves the whole preflight. Compare it by identity, because a step that
# adds no fields returns an equal mapping.
ENOUGH: Mapping[str, object] = {}


@dataclass(frozen=True, slots=True)
class Lookups:
    """Ask the questions of a preset.

    Every method raises `NotSent` if there is no usable answer.
    """

    client: ApiClient
    answers: dict[str, Answer] = field(default_factory=dict)  # cached answers to preflights, by path

    async def proven(self, name: str, fields: Fields) -> bool:
        """Return whether a preflight is proven. The result only decides whether to add a marker to the message."""
        try:
            await self.preflight(name, fields)
        except NotSent as error:
            # `PERMANENT`: the system does not support the feature. `INVALID`: the preflight failed.
            if error.outcome.kind not in {OutcomeKind.PERMANENT, OutcomeKind.INVALID}:
                raise
            return False
        return True

    async def look_up(self, fields: Fields) -> bool:
        """Return whether a message has arrived."""
        for rule in self.client.preset.look_up:
            try:
                if await self.holds_on_a_page(rule, fields, "look-up", believe_no=False):
                    return True
            except NotSent as error:
                if error.outcome.kind is OutcomeKind.PERMANENT:  # this concerns the look-up, not the message
                    raise NotSent(error.outcome._replace(kind=OutcomeKind.REFUSED)) from None
                raise
        return False

    async def preflight(self, name: str, fields: Fields) -> None:
        """Check the preflight's conditions before a message is sent.

        Raises:
            NotSent: the preflight is not proven.
        """
        rules = self.client.preset.preflight[name]
        for step in rules.steps:
            taken = await self._take_step(step, fields, f"preflight {name}")
            if taken is None:
                # It may fail for all messages, for example because a role has lost a right.
                error = f"not sent, because preflight {name} failed: {rules.remedy}"
                raise NotSent(Outcome(OutcomeKind.INVALID, error=error, in_doubt=True))
            if taken is ENOUGH:
                return
            fields = {**fields, **taken}

    async def _take_step(self, step: Step, fields: Fields, what: str) -> Mapping[str, object] | None:
        """Return the fields that a step adds; `ENOUGH` if it proves the whole preflight; None if its condition does not
        hold, or a value is missing.
        """
        values = fields.get(step.each) if step.each else [None]
        proven = step.holds is None
        taken: dict[str, object] = {}
        for value in values if isinstance(values, list) else [values]:
            with_value = {**fields, step.each: value} if step.each else fields
            answer = await self._get(step, with_value, what)
            try:
                if step.enough is not None and holds(step.enough, answer, with_value):
                    return ENOUGH
                proven = proven or (step.holds is not None and holds(step.holds, answer, with_value))
                for name, path in step.take.items():
                    taken[name] = find(answer.json, path, with_value)
            except ValueError as error:
                raise _unreadable(what, answer, error) from None
        return taken if proven and all(taken.values()) else None

    async def _get(self, asked: Get, fields: Fields, what: str) -> Answer:
        path = fill_path(asked.path, fields, asked.query)
        if (known := self.answers.get(path)) is not None:
            return known
        answer = await self._fetch(asked, fields, what)
        cached = sum(len(each.text) for each in self.answers.values())
        if len(self.answers) >= CACHE_SIZE or cached + len(answer.text) > LOOK_UP_LIMIT:
            self.answers.clear()
        self.answers[path] = answer._replace(headers={})  # steps read none
        return answer

    async def holds_on_a_page(self, question: Question, fields: Fields, what: str, *, believe_no: bool = True) -> bool:
        """Return whether the condition holds on any page of the answer. With ``believe_no`` an answer is a no, even if
        a value that the question reads is missing. ``what`` names the question in errors.
        """
        for page in range(1, MAX_PAGES + 1):
            with_page = {**fields, "page": page}
            try:
                answer = await self._fetch(question, with_page, what)
            except InvalidMessage as error:
                raise NotSent(Outcome(OutcomeKind.PERMANENT, error=f"{what}: {error}")) from None
            try:
                if holds(question.holds, answer, with_page):
                    return True
                if not believe_no:
                    _check_complete(question, answer, with_page, what)
                if question.more is None or not holds(question.more, answer, with_page):
                    return False
            except ValueError as error:
                raise _unreadable(what, answer, error) from None
        raise NotSent(Outcome(OutcomeKind.REFUSED, error=f"{what}: more than {MAX_PAGES} pages of results"))

    async def _fetch(self, asked: Get, fields: Fields, what: str) -> Answer:
        def build(session: str | None) -> Request:
            return Request("GET", fill_path(asked.path, {**fields, "session": session}, asked.query), HEADERS)

        reply = await self.client.send(build, limit=LOOK_UP_LIMIT)
        outcome = reply.outcome
        if reply.answer is None or outcome.kind is not OutcomeKind.DELIVERED:
            kind = OutcomeKind.TRANSIENT if outcome.kind is OutcomeKind.UNKNOWN else outcome.kind
            raise NotSent(outcome._replace(kind=kind, error=f"{what}: {outcome.error}"))
        return reply.answer


def _check_complete(question: Question, answer: Answer, fields: Fields, what: str) -> None:
    """Require every value that a question reads, and the whole list. Otherwise the message is not proved absent."""
    gap = None
    if answer.status == HTTPStatus.NON_AUTHORITATIVE_INFORMATION:  # RFC 9110, section 15.3.4
        gap = "HTTP 203, a list that a proxy has changed,"
    elif answer.status == HTTPStatus.PARTIAL_CONTENT and question.more is None:  # section 15.3.7
        gap = "HTTP 206, a part of the list, and the look-up has no `more`,"
    for condition in (question.holds, question.more):
        if gap is None and condition is not None and condition.path is not None:
            missing = first_gap(answer.json, condition.path, fields)
            if missing is None and condition.equals is not None and None in find(answer.json, condition.path, fields):
                missing = condition.path.rpartition(".")[2]  # null may mean that the value is unknown
            gap = None if missing is None else f"HTTP {answer.status}, but the response has no {missing!r},"
    if gap is not None:
        error = f"{what}: {gap} so it proves nothing"
        raise NotSent(Outcome(OutcomeKind.REFUSED, answer.status, error, in_doubt=True))


def _unreadable(what: str, answer: Answer, error: ValueError) -> NotSent:
    text = f"{what}: HTTP {answer.status}, but the response can't be read: {error}"
    return NotSent(Outcome(OutcomeKind.REFUSED, answer.status, text, in_doubt=True))


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe of the ticketing system.

    The outcome is that of the last request: the log-in, the preset's check, or the GET of the base URL. A log-in that
    returned a token is `DELIVERED`.
    """

    outcome: Outcome
    proves_credentials: bool
    # Seconds by which the ticketing system's clock is ahead of this machine's; None if no answer had a date.
    ahead_seconds: float | None


async def probe(settings: GatewaySettings, *, now: Callable[[], datetime]) -> Probe:
    """Log in if deliveries need a log-in, then run the preset's check. Without either, send a GET to the base URL.

    Raises:
        ConfigurationError: the base URL, token, preset or CA file can't be used.
    """
    await check_urls(settings)
    preset = load_preset(settings.preset)
    client = ApiClient(open_transport(settings, connections=1), settings, preset, now=now)
    credentials = client.credentials
    ahead: list[float | None] = []

    async def exchange(request: httpx.Request) -> Answer:
        answer = await client.exchange(request)
        ahead.append(_clock_offset(answer.headers.get("Date"), now()))
        return answer

    try:
        async with TimeLimit(settings.request_timeout_seconds):
            refusal = await credentials.log_in(None, exchange, now) if credentials.by_log_in else None
            if refusal is not None or (credentials.by_log_in and preset.check is None):
                outcome = refusal or Outcome(OutcomeKind.DELIVERED)
            else:
                check, values = preset.check, {"identity": credentials.identity}
                path = "" if check is None else fill_path(check.path, values, check.query)
                headers = HEADERS | credentials.headers()
                answer = await exchange(httpx.Request("GET", settings.destination + path, headers=headers))
                kind = outcome_of_question(answer, preset, now()).kind
                outcome = Outcome(kind, answer.status, f"HTTP {answer.status}")
    except TimeoutError:
        outcome = Outcome(OutcomeKind.UNREACHABLE, error=f"no response within {settings.request_timeout_seconds:g} s")
    except TRANSPORT_ERRORS as error:
        outcome = Outcome(kind_without_message(error), error=describe_error(error))
    finally:
        await client.transport.aclose()
    if outcome.error is not None:
        outcome = outcome._replace(error=safe_line(outcome.error, credentials.secrets))
    ahead_seconds = next((seconds for seconds in ahead if seconds is not None), None)
    return Probe(outcome, credentials.by_log_in or preset.check is not None, ahead_seconds)


def _clock_offset(date: str | None, now: datetime) -> float | None:
    try:
        server_time = parsedate_to_datetime(date or "")
        return ((server_time if server_time.tzinfo else server_time.replace(tzinfo=UTC)) - now).total_seconds()
    except (ValueError, OverflowError):
        return None
