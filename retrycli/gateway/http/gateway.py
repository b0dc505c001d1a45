"""The HTTP gateway, which sends each message to a ticketing system's API."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Self

import httpx

from retrycli.config.gateway import GatewaySettings
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.message import OPTIONAL_COLUMNS, Message, QueuedMessage, ticket_text
from retrycli.domain.outcome import ARRIVED, UNVERIFIED, LookUp, Outcome, OutcomeKind, Presence
from retrycli.gateway import attachments
from retrycli.gateway.delivery import BaseGateway, DeliveryProgress, NotSent, TimeLimit, retry_unreachable
from retrycli.gateway.http.client import ApiClient, Watch
from retrycli.gateway.http.lookup import Lookups
from retrycli.gateway.http.request import PreparedRequest, Request, RequestBuilder, file_content, multipart_content
from retrycli.gateway.http.response import ANSWER_LIMIT, LOOK_UP_LIMIT, Answer, holds, outcome_of, value_at
from retrycli.gateway.http.transport import HEADERS, check_urls, open_transport
from retrycli.gateway.presets.loader import load_preset
from retrycli.gateway.presets.model import Upload
from retrycli.gateway.presets.template import fill_header, fill_path, fill_text, places, plain
from retrycli.gateway.redaction import LOOKED_AT

# Maximum bytes of an answer for each character of the message's body. An answer may contain the body three times, and
# JSON may escape a character as six bytes.
MAX_REPETITION = 20
EARLIER = "an earlier version of it has arrived"
NOT_AS_EXPECTED = "is not as intended; check it in the ticketing system immediately"

# Exceptions for a value that is invalid in the path, header or body into which its template inserts it.
UNBUILDABLE = (InvalidMessage, httpx.InvalidURL, ValueError, RecursionError)


class HttpGateway(BaseGateway):
    """Deliver to one ticketing system. Use it as an asynchronous context manager.

    A message that may have arrived is looked up first, if the preset supports that. Only a request that was certainly
    not sent is retried immediately.

    Args:
        settings: the system and the credentials.
        columns: the columns of the application's table, to check the templates; None without a table.
        connections: the maximum number of concurrent requests.
        now: the clock, for settle times, and for a Retry-After that is a date.
        elapsed: a monotonic clock, in seconds.
        sleep: waits between immediate retries.
        connect: opens the transport.
        watch: called with every request and its answer.
        section: the name of the section of the settings, for errors.

    Raises:
        ConfigurationError: the base URL or a credential is missing, or a credential, the preset or the CA file can't be
            used.
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
        connect: Callable[..., httpx.AsyncBaseTransport] = open_transport,
        watch: Watch | None = None,
        section: str = "gateway",
    ) -> None:
        self._settings = settings
        self._section = section
        self._preset = load_preset(settings.preset)
        if columns is not None:
            self._preset.check_columns({*columns, *OPTIONAL_COLUMNS})
        transport = connect(settings, connections=connections, elapsed=elapsed)
        self._client = ApiClient(transport, settings, self._preset, now=now, watch=watch)
        self._builder = RequestBuilder(settings, self._preset, self._client.credentials.identity)
        self._lookups = Lookups(self._client)
        self._secrets = self._client.credentials.secrets
        self._now = now
        self._sleep = sleep

    async def __aenter__(self) -> Self:
        """Check the URLs before the first message.

        Raises:
            ConfigurationError: the transport rejects a URL.
        """
        await check_urls(self._settings, self._section)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.transport.aclose()

    async def look_up(self, queued: QueuedMessage) -> LookUp:
        """Search the ticketing system for a message, for at most ``request_timeout_seconds``, without sending it."""
        limit, wait = self._settings.request_timeout_seconds, None
        if not self._preset.look_up:
            return LookUp(Presence.UNKNOWN, f"the preset {self._settings.preset} has no look-up")
        try:
            async with TimeLimit(limit):
                fields = self._builder.fields(queued)
                if await self._lookups.look_up(fields):
                    return LookUp(Presence.ARRIVED)
                if queued.unsettled_since is not None and not queued.refused:
                    self._require_settled(queued.unsettled_since)
                if await self._look_up_earlier(queued, fields):
                    return LookUp(Presence.UNKNOWN, f"not found, but {EARLIER}; check the ticket")
                return LookUp(Presence.ABSENT)
        except TimeoutError:
            error = f"look-up: no response within {limit:g} s"
        except NotSent as problem:
            error = str(problem)
            wait = problem.outcome.retry_after if problem.outcome.kind is OutcomeKind.THROTTLED else None
        except UNBUILDABLE as problem:
            error = f"the look-up request can't be built: {problem}"
        return LookUp(Presence.UNKNOWN, self._clean(error, queued.message), wait)

    def _sent_texts(self, message: Message) -> Iterator[str]:
        rule = self._preset.messages.get(message.message_type)
        if rule is None:
            return
        fields = {name: plain(message.fields[name])[:LOOKED_AT] for name in ("subject", "body")}
        for place in places([rule.body, rule.headers, rule.query, rule.path]):
            if place.name in fields and place.filters:
                with suppress(InvalidMessage):  # then it was not sent
                    yield plain(place.value(fields))

    async def _deliver(self, queued: QueuedMessage, progress: DeliveryProgress) -> Outcome:
        limit = self._settings.request_timeout_seconds
        try:
            async with TimeLimit(limit):
                prepared = await self._prepare(queued, ask=True)
                outcome = await retry_unreachable(
                    lambda: self._send(prepared, progress),
                    retries=self._settings.immediate_retries,
                    within=limit,
                    sleep=self._sleep,
                )
                progress.landed = outcome if outcome.kind is OutcomeKind.DELIVERED else None
                return await self._verify(prepared, outcome)
        except TimeoutError:
            if progress.landed is not None:
                return progress.landed._replace(error=f"{UNVERIFIED}no response within {limit:g} s")
            if progress.in_flight:
                return Outcome(OutcomeKind.UNKNOWN, error=f"no response within {limit:g} s")
            return Outcome(OutcomeKind.UNREACHABLE, error=f"not sent within {limit:g} s")

    async def _prepare(self, queued: QueuedMessage, *, ask: bool = False) -> PreparedRequest:
        """Build a message's request. With ``ask``, also send the look-up and preflight requests that the preset
        requires, and upload the attachments.
        """
        try:
            prepared = await self._builder.prepare(queued)
            prepared.fields["marker"] = await self._marker(prepared, ask=ask)
            # Build the request first, to find errors before `_ask` and `_upload` send requests. No session is known
            # before the first log-in, and a path must not have an empty value.
            session = "session" if self._client.credentials.by_log_in else None
            prepared.request = self._builder.build(prepared, session)
            if ask:
                await self._ask(queued, prepared)
                await self._upload(prepared)
        except UNBUILDABLE as error:
            raise NotSent(Outcome(OutcomeKind.PERMANENT, error=f"the request can't be built: {error}")) from error
        return prepared

    async def _marker(self, prepared: PreparedRequest, *, ask: bool) -> str:
        marker, fields = prepared.rule.marker, prepared.fields
        if marker is None or (ask and marker.unless and await self._lookups.proven(marker.unless, fields)):
            return ""
        return plain(fill_text(marker.text, fields))

    async def _ask(self, queued: QueuedMessage, prepared: PreparedRequest) -> None:
        if queued.unsettled_since is not None and self._preset.look_up:
            if await self._lookups.look_up(prepared.fields):
                raise NotSent(Outcome(OutcomeKind.DELIVERED, error="found by look-up", found=True))
            if not queued.refused:  # otherwise an operator who has removed the cause would have to wait
                self._require_settled(queued.unsettled_since)
        if self._preset.look_up and await self._look_up_earlier(queued, prepared.fields):
            raise NotSent(Outcome(OutcomeKind.PERMANENT, error=EARLIER, found=True))
        if prepared.rule.preflight is not None:
            await self._lookups.preflight(prepared.rule.preflight, prepared.fields)

    async def _look_up_earlier(self, queued: QueuedMessage, fields: dict[str, object]) -> bool:
        """Return whether an earlier text of the message has arrived.

        Raises:
            NotSent: there is no usable answer, or such a text may still appear.
        """
        for text in queued.earlier:
            its_fields = fields | {"delivery_key": text.delivery_key}
            if text.ticket != ticket_text(queued.ticket_id):
                its_fields["ticket_id"] = text.ticket
            if await self._lookups.look_up(its_fields):
                return True
            if text.unsettled:
                self._require_settled(text.tried_at)
        return False

    def _require_settled(self, tried_at: datetime) -> None:
        settled_at = tried_at + timedelta(seconds=max(rule.settle_seconds for rule in self._preset.look_up))
        if (left := (settled_at - self._now()).total_seconds()) > 0:
            error = f"message not found yet, but it may still appear within the next {left:.0f} s"
            raise NotSent(Outcome(OutcomeKind.REFUSED, error=error))

    async def _upload(self, prepared: PreparedRequest) -> None:
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
        headers = HEADERS | {name.lower(): fill_header(name, text, values) for name, text in rule.headers.items()}
        path = fill_path(rule.path, values, rule.query)
        content = multipart_content({}, rule.files, [file]) if rule.files else file_content(file, rule.content_type)
        reply = await self._client.send(lambda _: Request("POST", path, headers, content))
        if reply.answer is None or (token := value_at(reply.answer, rule.token)) is None:
            certain = {OutcomeKind.UNKNOWN: OutcomeKind.TRANSIENT, OutcomeKind.DELIVERED: OutcomeKind.REFUSED}
            error = f"upload of attachment {number}: {reply.outcome.error or 'the response has no token'}"
            kind = certain.get(reply.outcome.kind, reply.outcome.kind)
            in_doubt = reply.outcome.in_doubt or kind is OutcomeKind.REFUSED
            raise NotSent(reply.outcome._replace(kind=kind, error=error, in_doubt=in_doubt))
        return token

    async def _send(self, prepared: PreparedRequest, progress: DeliveryProgress) -> Outcome:
        limit = max(ANSWER_LIMIT, min(MAX_REPETITION * len(plain(prepared.fields["body"])), LOOK_UP_LIMIT))
        reply = await self._client.send(
            lambda session: self._builder.request(prepared, session), limit=limit, progress=progress
        )
        if reply.answer is None:
            return reply.outcome
        return _check_confirmation(prepared, reply.answer, outcome_of(reply.answer, reply.outcome, self._preset))

    async def _verify(self, prepared: PreparedRequest, outcome: Outcome) -> Outcome:
        rule = prepared.rule.verify
        if outcome.kind is not OutcomeKind.DELIVERED or rule is None or not self._settings.verify:
            return outcome
        fields = {**prepared.fields, "external_id": outcome.external_id}
        try:
            if await self._lookups.holds_on_a_page(rule, fields, "reading back"):
                return outcome
        except NotSent as error:
            return outcome._replace(error=f"{UNVERIFIED}{error}")
        return outcome._replace(kind=OutcomeKind.PERMANENT, error=f"{ARRIVED}the copy read back {NOT_AS_EXPECTED}")


def _check_confirmation(prepared: PreparedRequest, answer: Answer, outcome: Outcome) -> Outcome:
    condition = prepared.rule.confirmed
    if condition is None or outcome.kind is not OutcomeKind.DELIVERED:
        return outcome
    try:
        if holds(condition, answer, prepared.fields):
            return outcome
    except ValueError as error:
        said = f"HTTP {answer.status}, but the delivery can't be confirmed from the response: {error}"
        return Outcome(OutcomeKind.UNKNOWN, answer.status, said)
    return outcome._replace(
        kind=OutcomeKind.PERMANENT, error=f"{ARRIVED}according to the response it {NOT_AS_EXPECTED}"
    )
