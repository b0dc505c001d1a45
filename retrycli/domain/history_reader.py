"""Read recorded attempts, and derive the messages, the outages and the outcome rates that a replay needs.

Attempts in an outage say nothing about their messages. All other attempts do: their outcomes are kept for each message,
in order, and counted by the number of the try.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from retrycli.domain.circuit_breaker import Breaker, BreakerRules, BreakerState
from retrycli.domain.errors import InvalidMessage
from retrycli.domain.identity import BY_TICKET
from retrycli.domain.message import BY_PASS, EscalationReason, MessageType, utc_time
from retrycli.domain.outcome import ALIVE, IN_DOUBT, OUTAGE, Outcome, OutcomeKind
from retrycli.domain.passes import StopReason
from retrycli.domain.recorded_history import (
    TRIES,
    RecordedAttempt,
    RecordedHistory,
    RecordedMessage,
    RecordedOutage,
    RecordedPass,
    TryRates,
)

FEW = 30  # with fewer observed attempts, the rates of all tries together apply
REFUSED_ACCESS = frozenset({StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER})
TYPES = {str(message_type): message_type for message_type in MessageType}
# Outcomes that, in a row, show that the destination delivers nothing.
FAILURES = OUTAGE | {OutcomeKind.UNAUTHORIZED}


class _Known:
    """A message while the history is read."""

    __slots__ = ("digest", "earlier", "is_in_period", "message")

    def __init__(self, message: RecordedMessage, digest: str | None, *, earlier: int, is_in_period: bool) -> None:
        self.message = message
        self.digest = digest
        self.earlier = earlier  # number of attempts before the period
        self.is_in_period = is_in_period


class _Observed:
    """An outcome, with the number of attempts that had it, for each of `TRIES`."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.is_failure = outcome.kind in FAILURES
        self.is_answer = outcome.kind in ALIVE
        self.numbers = [0 for _ in TRIES]


class _Result(NamedTuple):
    """The outcome of an attempt whose meaning is not known yet."""

    known: _Known
    observed: _Observed
    digest: str | None  # of the text that was sent
    by_pass: bool


class _Failures:
    """The failures of a destination since its last answer. They are an outage if they opened the breaker."""

    def __init__(self, destination: str, began_at: datetime) -> None:
        self.began_at = self.failed_at = began_at
        self.breaker = Breaker(destination)
        self.is_outage = False
        self.pass_id: str | None = None  # the pass in which the failures became an outage
        self.results: list[_Result] = []


class HistoryReader:
    """Read attempts in the order in which they were made, and build a `RecordedHistory`.

    Args:
        rules: the breaker's rules, which decide which failures are an outage.
        passes: the passes of the period, by id.
        destinations: the destination of each message type.
        since: the start of the period.
    """

    def __init__(
        self,
        rules: BreakerRules,
        passes: Mapping[str, RecordedPass],
        destinations: Mapping[MessageType, str],
        *,
        since: datetime,
    ) -> None:
        self._rules = rules
        self._passes = passes
        self._destination_of = {str(message_type): name for message_type, name in destinations.items()}
        self._since = since
        self._known: dict[tuple[int, str | None], _Known] = {}
        self._done: list[RecordedMessage] = []
        self._failures: dict[str, _Failures] = {}
        self._answered_at: dict[str, datetime] = {}
        self._outages: dict[str, list[RecordedOutage]] = {}
        self._observed: dict[tuple[str, int | None, int | None], _Observed] = {}

    def add(self, attempt: RecordedAttempt) -> None:
        """Read the next attempt. Skip an attempt that has no outcome, or whose message has no valid type."""
        if attempt.message_type not in TYPES or attempt.outcome is None:
            return
        known = self._message(attempt, TYPES[attempt.message_type])
        observed = self._outcome(attempt)
        destination = self._destination_of[attempt.message_type]
        by_pass = attempt.made_by == BY_PASS
        if observed.is_failure:
            failures = self._fail(destination, attempt, observed.outcome)
            failures.results.append(_Result(known, observed, attempt.digest, by_pass))
            return
        if observed.is_answer:
            if self._failures:
                self._answer(destination, attempt)
            self._answered_at[destination] = attempt.started_at
        self._keep(known, observed, attempt.digest, by_pass=by_pass)

    def add_untried(
        self,
        message_id: int,
        birth: str | None,
        message_type: str | None,
        *,
        ticket: str | None,
        first_failed_at: datetime,
        reason: str | None,
    ) -> None:
        """Add a message of the queue, unless its attempts were read. Skip messages of unknown types.

        Also skip messages that were escalated without an attempt, except invalid and expired ones: a replay can't know
        how many retries the application had used up.
        """
        found = TYPES.get(message_type or "")
        if found is None or (message_id, birth) in self._known or first_failed_at < self._since:
            return
        if reason not in {None, EscalationReason.INVALID, EscalationReason.EXPIRED}:
            return
        message = RecordedMessage(message_id, found, ticket or "", first_failed_at, _created_at(birth))
        if reason == EscalationReason.INVALID:
            message.outcomes.append(Outcome(OutcomeKind.INVALID))
        self._done.append(message)

    def history(self) -> RecordedHistory:
        """Return the history of the attempts that were read."""
        for destination in [*self._failures]:
            self._end(destination, None)
        found = [*self._done, *(known.message for known in self._known.values() if known.is_in_period)]
        return RecordedHistory(
            messages=sorted(found, key=lambda message: (message.first_failed_at, message.message_id)),
            outages=self._outages,
            rates=[self._rates(number) for number in range(len(TRIES))],
            attempts=sum(sum(observed.numbers) for observed in self._observed.values()),
        )

    def _rates(self, number: int) -> TryRates:
        found = [(observed.outcome, observed.numbers[number]) for observed in self._observed.values()]
        pooled = sum(times for _, times in found) < FEW
        if pooled:
            found = [(observed.outcome, sum(observed.numbers)) for observed in self._observed.values()]
        return TryRates(TRIES[number], [(outcome, times) for outcome, times in found if times], pooled=pooled)

    def _message(self, attempt: RecordedAttempt, message_type: MessageType) -> _Known:
        key = (attempt.message_id, attempt.birth)
        known = self._known.get(key)
        if known is not None and not _is_delivered(known.message):
            return known
        if known is not None and known.is_in_period:
            self._done.append(known.message)  # the application has failed a delivered message again
        created_at = _created_at(attempt.birth)
        # The wait was cut to whole seconds. Cutting the time too makes it exact if the application's times are whole.
        failed_at = (attempt.started_at - timedelta(seconds=attempt.waited_s or 0)).replace(microsecond=0)
        message = RecordedMessage(attempt.message_id, message_type, attempt.ticket or "", failed_at, created_at)
        is_in_period = failed_at >= self._since
        earlier = 0 if is_in_period else attempt.number - 1
        self._known[key] = _Known(message, attempt.digest, earlier=earlier, is_in_period=is_in_period)
        return self._known[key]

    def _outcome(self, attempt: RecordedAttempt) -> _Observed:
        kind, status = str(attempt.outcome), attempt.status_code
        if status in IN_DOUBT:
            made = self._passes.get(attempt.pass_id or "")
            if made is not None and made.reason in REFUSED_ACCESS:
                kind = OutcomeKind.UNAUTHORIZED  # the pass attributed the answer to retrycli's access
        key = (kind, status, attempt.retry_after_s)
        observed = self._observed.get(key)
        if observed is None:
            wait = None if attempt.retry_after_s is None else timedelta(seconds=attempt.retry_after_s)
            observed = self._observed[key] = _Observed(Outcome(OutcomeKind(kind), status, retry_after=wait))
        return observed

    def _pass_start(self, attempt: RecordedAttempt) -> datetime:
        made = self._passes.get(attempt.pass_id or "")
        return attempt.started_at if made is None else made.started_at

    def _fail(self, destination: str, attempt: RecordedAttempt, outcome: Outcome) -> _Failures:
        start = self._pass_start(attempt)
        failures = self._failures.get(destination)
        if failures is None:
            answered_at = self._answered_at.get(destination)
            # If the pass had an answer before, the destination failed during the pass.
            began_at = start if answered_at is None or answered_at < start else attempt.started_at
            failures = self._failures[destination] = _Failures(destination, began_at)
        failures.failed_at = max(failures.failed_at, start)
        if failures.is_outage or attempt.made_by != BY_PASS:
            return failures
        failures.breaker = failures.breaker.after(outcome.kind, self._rules, since=start, ticket=attempt.ticket or "")
        is_open = failures.breaker.state is BreakerState.OPEN
        if is_open or attempt.probe or outcome.kind is OutcomeKind.UNAUTHORIZED:
            failures.is_outage, failures.pass_id = True, attempt.pass_id
        return failures

    def _answer(self, destination: str, attempt: RecordedAttempt) -> None:
        failures = self._failures.get(destination)
        # The pass that notices an outage may still receive answers to its earlier requests.
        if failures is not None and not (failures.is_outage and failures.pass_id == attempt.pass_id is not None):
            self._end(destination, self._pass_start(attempt))

    def _end(self, destination: str, answered_at: datetime | None) -> None:
        failures = self._failures.pop(destination)
        if failures.is_outage:
            outcomes = [result.observed.outcome for result in failures.results]
            outage = RecordedOutage(failures.began_at, failures.failed_at, answered_at, outcomes)
            self._outages.setdefault(destination, []).append(outage)
        else:
            for result in failures.results:
                self._keep(result.known, result.observed, result.digest, by_pass=result.by_pass)

    def _keep(self, known: _Known, observed: _Observed, digest: str | None, *, by_pass: bool) -> None:
        if digest != known.digest:
            return  # another text may have other outcomes
        outcomes = known.message.outcomes
        if by_pass:
            observed.numbers[min(known.earlier + len(outcomes), len(TRIES) - 1)] += 1
        outcomes.append(observed.outcome)


def _is_delivered(message: RecordedMessage) -> bool:
    return bool(message.outcomes) and message.outcomes[-1].kind is OutcomeKind.DELIVERED


def _created_at(birth: str | None) -> datetime | None:
    if birth is None or birth.startswith(BY_TICKET):
        return None
    try:
        return utc_time("created_at", birth)
    except InvalidMessage:
        return None
