"""The HTTP gateway: one message, one attempt, one outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import OPTIONAL_COLUMNS, QueuedMessage
from retrycli.domain.outcome import LookUp, Outcome, OutcomeKind, Presence, one_line
from retrycli.gateway import attachments
from retrycli.gateway.http.auth import Credentials
from retrycli.gateway.http.body import file_content, multipart_content
from retrycli.gateway.http.client import ApiClient, Request, Watch
from retrycli.gateway.http.lookup import LookupAnswer, LookupFailed, Lookups
from retrycli.gateway.http.request_builder import PreparedRequest, RequestBuilder, UnsupportedMessage
from retrycli.gateway.http.response import (
    ANSWER_LIMIT,
    LOOK_UP_LIMIT,
    Answer,
    holds,
    outcome_of,
    outcome_of_question,
    value_at,
)
from retrycli.gateway.http.transport import HEADERS, open_transport
from retrycli.gateway.http.url_check import check_urls
from retrycli.gateway.immediate_retry import retry_unreachable
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.model import Upload
from retrycli.gateway.presets.template import fill_header, fill_path, fill_text, plain
from retrycli.gateway.progress import DeliveryProgress, guard
from retrycli.gateway.redaction import without_quotations
from retrycli.gateway.time_limit import TimeLimit

if TYPE_CHECKING:
    from types import TracebackType

MAX_REPETITION = 20
"""Maximum length of an answer, as a multiple of the message's text, which it may repeat three times, and escaped."""
NOT_AS_EXPECTED = "is not as it should be: look at it there at once"

UNBUILDABLE = (InvalidMessage, httpx.InvalidURL, ValueError, RecursionError)
"""Raised if a value can't be where its template puts it."""


class HttpGateway:
    """Deliver to one ticketing system. Use it as an asynchronous context manager.

    Args:
        settings: the system and our credentials.
        columns: the columns of the application's table, to check the templates; None without a table.
        connections: the maximum number of concurrent requests.
        now: the clock, for a Retry-After that is a date.
        elapsed: a monotonic clock, in seconds.
        sleep: waits between immediate retries.
        watch: called with every request and its answer.
        section: the name of the settings, for errors.

    Raises:
        ConfigurationError: the base URL is missing, the token can't be used, or the preset is invalid.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        *,
        columns: Collection[str] | None,
        connections: int,
        now: Callable[[], datetime],
        elapsed: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        watch: Watch | None = None,
        section: str = "gateway",
    ) -> None:
        self._settings = settings
        self._section = section
        self._preset = load_preset(settings.preset)
        if columns is not None:
            self._preset.check_columns({*columns, *OPTIONAL_COLUMNS})
        self._credentials = Credentials(settings, self._preset.auth, errors=self._preset.answer.errors)
        self._transport = open_transport(settings, connections=connections, elapsed=elapsed)
        timeout = settings.connect_timeout_seconds
        self._client = ApiClient(
            self._transport,
            settings.destination,
            self._credentials,
            connect_timeout_seconds=timeout,
            now=now,
            watch=watch,
        )
        self._builder = RequestBuilder(settings, self._preset, self._credentials.identity)
        self._lookups = Lookups(self._client, self._preset, now, answers={})
        self._now = now
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Check the URLs before the first message.

        Raises:
            ConfigurationError: the transport rejects a URL.
        """
        await check_urls(self._settings, self._section)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.aclose()

    async def deliver(self, queued: QueuedMessage) -> Outcome:
        """Send one message, within ``request_timeout_seconds`` in total.

        A message that may have arrived is looked up first, if the preset can. Only what was certainly not sent is
        retried at once.
        """
        progress = DeliveryProgress()
        return await guard(self._deliver_in_time(queued, progress), queued.message_id, progress)

    async def problem(self, queued: QueuedMessage) -> str | None:
        """Return why no request can be built of a message, or None. Send nothing."""
        try:
            prepared = await self._builder.prepare(queued)
            marker = prepared.rule.marker
            prepared.fields["marker"] = "" if marker is None else plain(fill_text(marker.text, prepared.fields))
            self._builder.build(prepared, None)
        except UnsupportedMessage as error:
            return self._clean(str(error), queued)
        except UNBUILDABLE as error:
            return self._clean(f"the request can't be built: {error}", queued)
        except OSError:
            return None  # an attachment can't be checked now
        return None

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Ask if a message has arrived, within ``request_timeout_seconds``. Send nothing."""
        limit = self._settings.request_timeout_seconds
        try:
            async with TimeLimit(limit):
                found = await self._look_up(queued)
        except TimeoutError:
            return LookUp(Presence.UNKNOWN, f"look-up: no answer within {limit:g} s")
        return found if found.error is None else found._replace(error=self._clean(found.error, queued))

    async def _look_up(self, queued: QueuedMessage) -> LookUp:
        if not self._preset.look_up:
            return LookUp(Presence.UNKNOWN, f"the preset {self._settings.preset} has no look-up")
        try:
            if await self._lookups.look_up(self._builder.fields(queued)) is LookupAnswer.THERE:
                return LookUp(Presence.ARRIVED)
            if queued.unsettled_since is not None:
                self._wait_until_settled(queued.unsettled_since)
        except LookupFailed as error:
            return LookUp(Presence.UNKNOWN, error.outcome.error)
        except UNBUILDABLE as error:
            return LookUp(Presence.UNKNOWN, f"the question can't be built: {error}")
        return LookUp(Presence.ABSENT)

    def redact_secrets(self, text: str) -> str:
        """Mask our secrets in a text."""
        return self._credentials.redact_secrets(text)

    async def _deliver_in_time(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        limit = self._settings.request_timeout_seconds
        try:
            async with TimeLimit(limit):
                outcome = await self._deliver(queued, progress)
        except TimeoutError:
            if progress.landed is not None:
                return replace(progress.landed, error=f"delivered, but not read back within {limit:g} s")
            if progress.in_flight:
                return Outcome(OutcomeKind.UNKNOWN, error=f"no answer within {limit:g} s")
            return Outcome(OutcomeKind.UNREACHABLE, error=f"not sent within {limit:g} s")
        return self._cleaned(outcome, queued)

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        try:
            prepared = await self._builder.prepare(queued)
            prepared.fields["marker"] = await self._marker(prepared)
            # Find errors before any request goes out.
            prepared.request = self._builder.build(prepared, None)
            if queued.unsettled_since is not None and self._preset.look_up:
                if await self._lookups.look_up(prepared.fields) is LookupAnswer.THERE:
                    return Outcome(OutcomeKind.DELIVERED, error="found by look-up", found=True)
                self._wait_until_settled(queued.unsettled_since)
            if prepared.rule.preflight is not None and (
                objection := await self._lookups.preflight(prepared.rule.preflight, prepared.fields)
            ):
                return objection
            await self._upload(prepared)
        except LookupFailed as error:
            return error.outcome
        except UnsupportedMessage as error:
            return Outcome(OutcomeKind.INVALID, error=str(error))
        except UNBUILDABLE as error:
            return Outcome(OutcomeKind.PERMANENT, error=f"the request can't be built: {error}")
        except OSError as error:
            if problem := attachments.shortage(error):
                return Outcome(OutcomeKind.UNREACHABLE, error=f"attachments: {problem}")
            raise
        outcome = await retry_unreachable(
            lambda: self._send(prepared, progress),
            retries=self._settings.immediate_retries,
            within=self._settings.request_timeout_seconds,
            sleep=self._sleep,
        )
        progress.landed = outcome if outcome.kind is OutcomeKind.DELIVERED else None
        return await self._verify(prepared, outcome)

    # -- before it is sent ------------------------------------------------------------------------------------

    async def _marker(self, prepared: PreparedRequest) -> str:
        marker = prepared.rule.marker
        if marker is None or (marker.unless and await self._lookups.proven(marker.unless, prepared.fields)):
            return ""
        return plain(fill_text(marker.text, prepared.fields))

    def _wait_until_settled(self, unsettled_since: datetime) -> None:
        settled_at = unsettled_since + timedelta(seconds=self._preset.settle_seconds)
        if (left := (settled_at - self._now()).total_seconds()) > 0:
            error = f"not there by now; whether it is to be sent again shows in {left:.0f} s"
            raise LookupFailed(Outcome(OutcomeKind.REFUSED, error=error))

    async def _upload(self, prepared: PreparedRequest) -> None:
        """Upload the attachments, if the message refers to uploads."""
        rule = self._preset.upload
        entries = prepared.fields["attachments"]
        if rule is None or not isinstance(entries, list):
            return
        for number, (file, entry) in enumerate(zip(prepared.files, entries, strict=True), 1):
            values = {**prepared.fields, **{f"each.{name}": value for name, value in entry.items()}}
            entry["token"] = await self._upload_one(rule, file, values, number)

    async def _upload_one(
        self, rule: Upload, file: attachments.Attachment, values: dict[str, object], number: int
    ) -> str | int:
        """Upload one attachment. Return its token."""
        headers = HEADERS | {name.lower(): fill_header(name, text, values) for name, text in rule.headers.items()}
        path = fill_path(rule.path, values, rule.query)
        is_plain = rule.files is None
        content = file_content(file, rule.content_type) if is_plain else multipart_content({}, rule.files, [file])
        request = Request("POST", path, headers, content)
        reply = await self._client.send(lambda _: request, self._judge_upload)
        if reply.answer is None or (token := value_at(reply.answer, rule.token)) is None:
            raise LookupFailed(_outcome_of_failed_upload(reply.outcome, number))
        return token

    # -- sending ----------------------------------------------------------------------------------------------

    async def _send(self, prepared: PreparedRequest, progress: DeliveryProgress) -> Outcome:
        limit = max(ANSWER_LIMIT, min(MAX_REPETITION * len(plain(prepared.fields["body"])), LOOK_UP_LIMIT))
        reply = await self._client.send(
            lambda session: self._builder.request(prepared, session), self._judge, limit=limit, progress=progress
        )
        if reply.answer is None or reply.outcome.kind is not OutcomeKind.DELIVERED:
            return reply.outcome
        return _check_confirmation(prepared, reply.answer, reply.outcome)

    def _judge(self, answer: Answer) -> Outcome:
        return outcome_of(answer, self._preset, self._now())

    def _judge_upload(self, answer: Answer) -> Outcome:
        return outcome_of_question(answer, self._preset, self._now())

    # -- after it was sent ------------------------------------------------------------------------------------

    async def _verify(self, prepared: PreparedRequest, outcome: Outcome) -> Outcome:
        """Read back a delivered message, if ``gateway.verify`` is set."""
        rule = prepared.rule.verify
        if outcome.kind is not OutcomeKind.DELIVERED or rule is None or not self._settings.verify:
            return outcome
        try:
            as_it_should_be = await self._lookups.verify(rule, {**prepared.fields, "external_id": outcome.external_id})
        except LookupFailed as error:
            return replace(outcome, error=f"delivered, but not read back: {error}")
        if as_it_should_be:
            return outcome
        return replace(outcome, kind=OutcomeKind.PERMANENT, error=f"it arrived, but read back it {NOT_AS_EXPECTED}")

    def _cleaned(self, outcome: Outcome, queued: QueuedMessage) -> Outcome:
        """Return the outcome as it may be stored: the error on one line, without secrets and the customer's words."""
        if outcome.external_id is not None and self.redact_secrets(outcome.external_id) != outcome.external_id:
            outcome = replace(outcome, external_id=None)
        return outcome if outcome.error is None else replace(outcome, error=self._clean(outcome.error, queued))

    def _clean(self, error: str, queued: QueuedMessage) -> str:
        return without_quotations(one_line(self._credentials.redact_secrets(error)), queued.message)


def _check_confirmation(prepared: PreparedRequest, answer: Answer, outcome: Outcome) -> Outcome:
    """Return the outcome of a delivered message after checking the answer's confirmation."""
    condition = prepared.rule.confirmed
    try:
        if condition is None or holds(condition, answer, prepared.fields):
            return outcome
    except ValueError as error:
        said = f"HTTP {answer.status}, but how it arrived can't be read: {error}"
        return Outcome(OutcomeKind.UNKNOWN, answer.status, said)
    return replace(outcome, kind=OutcomeKind.PERMANENT, error=f"it arrived, but by the answer it {NOT_AS_EXPECTED}")


def _outcome_of_failed_upload(outcome: Outcome, number: int) -> Outcome:
    """Return the outcome of a message whose upload failed: it was certainly not sent."""
    kind = {OutcomeKind.UNKNOWN: OutcomeKind.TRANSIENT, OutcomeKind.DELIVERED: OutcomeKind.REFUSED}
    said = outcome.error or "the answer has no token"
    return replace(
        outcome, kind=kind.get(outcome.kind, outcome.kind), error=f"upload of attachment no. {number}: {said}"
    )
