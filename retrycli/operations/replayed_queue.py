"""The messages of one destination that wait in a replay, and a pass's attempts at them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from heapq import heappop, heappush

from retrycli.domain.attempt import Attempt
from retrycli.domain.circuit_breaker import Breaker
from retrycli.domain.identity import NO_REQUEST
from retrycli.domain.message import Message, QueuedMessage
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.domain.recorded_history import RecordedHistory, RecordedMessage, RecordedOutage, TryRates
from retrycli.domain.retry_policy import BackoffKind, RetryPolicy
from retrycli.domain.simulation import ReplayTally
from retrycli.domain.transition import Transition, TransitionKind
from retrycli.engine.destination import Destination
from retrycli.engine.ports import PassRules

INSTANT = timedelta(0)
# The purposes of random numbers. Each message has its own numbers for each purpose.
OUTCOME, OUTCOME_IN_OUTAGE, JITTER, END_OF_OUTAGE = range(4)
MASK = 2**64 - 1


def draw(seed: int, purpose: int, subject: int, turn: int) -> float:
    """Return a random number from 0 to less than 1 that depends only on the arguments.

    So two schedules get the same number for the same try of the same message. The bits are mixed as in SplitMix64, by
    Steele, Lea and Flood.
    """
    mixed = seed * 0xD1342543DE82EF95 + subject * 0x9E3779B97F4A7C15 + (4 * turn + purpose) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & MASK
    return ((mixed ^ mixed >> 31) >> 11) / 2**53


class TypeRules:
    """The rules for one message type in a replay, and the count of what happens to its messages."""

    def __init__(self, policy: RetryPolicy, tally: ReplayTally, *, has_lookup: bool, has_times: bool) -> None:
        self.policy = policy
        self.tally = tally
        self.has_lookup = has_lookup
        self._has_times = has_times
        # Without these rules, a policy looks at no time of a message, so messages with equal counts share one object.
        self._is_shared = policy.backoff.kind is not BackoffKind.LINEAR and policy.expires_after is None
        self._shared: dict[tuple[int, int, int], QueuedMessage] = {}

    def queued(self, record: RecordedMessage, retries: int, unknowns: int, requests: int) -> QueuedMessage:
        """Return a message as the policy sees it."""
        key = (retries, unknowns, requests)
        if (found := self._shared.get(key)) is None:
            found = QueuedMessage(
                self.message(record, retries), "", record.first_failed_at, unknowns, requests=requests
            )
            if self._is_shared:
                self._shared[key] = found
        return found

    def message(self, record: RecordedMessage, retries: int) -> Message:
        """Return the application's row of a message."""
        updated_at = record.first_failed_at if self._has_times else None
        return Message(
            record.message_id, record.ticket, record.message_type, retries, None, record.created_at, updated_at, {}
        )


class ReplayedMessage:
    """A message that waits in a replay."""

    __slots__ = ("attempts", "number", "queued", "record", "rules", "tries")

    def __init__(self, record: RecordedMessage, number: int, rules: TypeRules) -> None:
        self.record = record
        self.number = number
        self.rules = rules
        self.attempts = 0
        self.tries = 0  # number of attempts outside outages
        self.queued = rules.queued(record, 0, 0, 0)

    def apply(self, change: Transition, *, is_request: bool) -> None:
        """Take over the counts of a transition that did not end the message."""
        before = self.queued
        retries = before.message.retry_count if change.retry_count is None else change.retry_count
        unknowns = before.unknown_count if change.unknown_count is None else change.unknown_count
        self.queued = self.rules.queued(self.record, retries, unknowns, before.requests + is_request)


class ReplayedQueue:
    """The waiting messages of one destination, with its breaker and its outages.

    Args:
        destination: the name of the destination.
        history: the recorded outages and outcome rates.
        rules: the rules of a pass.
        seed: the seed of all random numbers.
        until: the end of an outage that had not ended.
    """

    def __init__(
        self, destination: str, history: RecordedHistory, rules: PassRules, seed: int, until: datetime
    ) -> None:
        # A heap, in the order in which a pass claims: due time and id. The number distinguishes messages with one id.
        self.waiting: list[tuple[datetime, int, int, ReplayedMessage]] = []
        self._rules = rules
        self._seed = seed
        self._rates: Sequence[TryRates] = history.rates
        self._breaker = Breaker(destination)
        self._is_healthy = True  # the same as `Breaker.is_healthy`, which takes longer
        found = history.outages.get(destination, ())
        shares = (draw(seed, END_OF_OUTAGE, number, 0) for number in range(len(found)))
        ends = [outage.end(share, until) for outage, share in zip(found, shares, strict=True)]
        # The outages that have not ended, the last one first, so that the next one is easy to remove.
        self._outages = list(zip(found, ends, strict=True))[::-1]
        self._opened_at: datetime | None = None
        self._probes: dict[int, tuple[datetime, int]] = {}  # time and number of probes, by message

    def add(self, message: ReplayedMessage, due: datetime) -> None:
        """Let a message wait until it is due."""
        heappush(self.waiting, (due, message.record.message_id, message.number, message))

    def deliver(self, at: datetime, room: int | None) -> int:
        """Make a pass's attempts, at most ``room`` of them, and return their number."""
        destination = Destination(self._breaker, self._rules, since=at)
        outage = self._outage(at)
        due_by = self._rules.due_by(at)
        self._postpone_closed(at, due_by)
        begun = 0
        while destination.stop_reason is None and begun != room:
            probing = destination.probing
            if probing:
                self._forget_probes_before(destination.breaker.opened_at)
            message = self._take_probe(due_by) if probing else self._take(due_by)
            if message is None:
                break
            begun += self._attempt(message, destination, outage, at, probing=probing)
        self._breaker = destination.breaker
        return begun

    def _postpone_closed(self, at: datetime, due_by: datetime) -> None:
        """Let due messages wait until the delivery windows of their types open."""
        closed = {kind: windows for kind, windows in self._rules.windows.items() if not windows.is_open(at)}
        if not closed:
            return
        due = []
        while self.waiting and self.waiting[0][0] <= due_by:
            due.append(heappop(self.waiting)[3])
        for message in due:
            windows = closed.get(message.record.message_type)
            self.add(message, at if windows is None else windows.next_opening(at))

    def _outage(self, at: datetime) -> RecordedOutage | None:
        while self._outages and self._outages[-1][1] <= at:
            self._outages.pop()
        return self._outages[-1][0] if self._outages and self._outages[-1][0].began_at <= at else None

    def _take(self, due_by: datetime) -> ReplayedMessage | None:
        return heappop(self.waiting)[3] if self.waiting and self.waiting[0][0] <= due_by else None

    def _take_probe(self, due_by: datetime) -> ReplayedMessage | None:
        """Take the message to probe with, as `retrycli.engine.ports.Claims.claim_probe` describes."""
        passed_over = []
        found = None
        while found is None and self.waiting and self.waiting[0][0] <= due_by:
            item = heappop(self.waiting)
            if item[3].number in self._probes:
                passed_over.append(item)
            else:
                found = item
        if found is None and passed_over:
            found = min(passed_over, key=lambda item: (self._probes[item[3].number][0], item))
            passed_over.remove(found)
        for item in passed_over:
            heappush(self.waiting, item)
        return None if found is None else found[3]

    def _forget_probes_before(self, opened_at: datetime | None) -> None:
        if opened_at != self._opened_at:
            self._opened_at = opened_at
            self._probes = {}

    def _attempt(
        self,
        message: ReplayedMessage,
        destination: Destination,
        outage: RecordedOutage | None,
        at: datetime,
        *,
        probing: bool,
    ) -> bool:
        """Make one attempt, and return whether it began: a message may be escalated instead."""
        queued, rules = message.queued, message.rules
        policy, tally = rules.policy, rules.tally
        if policy.escalation_before_send(queued, at, has_lookup=rules.has_lookup) is not None:
            tally.escalated += 1
            return False
        probe = self._count_probe(message, at) if probing else 0
        outcome = self._outcome(message, outage)
        kind = outcome.kind
        counts_as_retry = self._observe(destination, message, outcome, probe, at)
        tally.requests += kind is not OutcomeKind.INVALID
        tally.requests_in_outages += outage is not None and kind is not OutcomeKind.INVALID
        if kind is OutcomeKind.DELIVERED:
            tally.waits.append(int((at - message.record.first_failed_at).total_seconds()))
            return True
        change = policy.decide(
            queued,
            outcome,
            since=at,
            now=at,
            jitter=2 * draw(self._seed, JITTER, message.number, message.attempts) - 1,
            counts_as_retry=counts_as_retry,
            has_lookup=rules.has_lookup,
        )
        if change.kind is TransitionKind.ESCALATED:
            tally.escalated += 1
        else:
            message.apply(change, is_request=kind not in NO_REQUEST)
            self.add(message, change.next_attempt_at or at)
        return True

    def _count_probe(self, message: ReplayedMessage, at: datetime) -> int:
        probe = self._probes.get(message.number, (at, 0))[1] + 1
        self._probes[message.number] = at, probe
        return probe

    def _observe(
        self, destination: Destination, message: ReplayedMessage, outcome: Outcome, probe: int, at: datetime
    ) -> bool:
        """Update the destination from an attempt, and return whether a failure uses up a retry."""
        kind = outcome.kind
        is_answer = kind is OutcomeKind.DELIVERED or kind is OutcomeKind.REFUSED or kind is OutcomeKind.PERMANENT
        if is_answer and self._is_healthy:
            return True  # an answer does not change a healthy destination
        queued = message.queued._replace(message=message.rules.message(message.record, 0))  # with its own ticket
        [attempt] = destination.observe([Attempt(queued, outcome, INSTANT, at, probe)])
        self._is_healthy = destination.breaker.is_healthy
        return attempt.counts_as_retry

    def _outcome(self, message: ReplayedMessage, outage: RecordedOutage | None) -> Outcome:
        """Return the outcome of an attempt: that of the recorded outage, else the message's own, else a random one."""
        own, message.attempts = message.record.outcomes, message.attempts + 1
        has_own = message.tries < len(own)
        is_invalid = has_own and own[message.tries].kind is OutcomeKind.INVALID  # an outage does not change the row
        if outage is not None and not is_invalid:
            share = draw(self._seed, OUTCOME_IN_OUTAGE, message.number, message.attempts)
            return outage.outcomes[int(share * len(outage.outcomes))]
        message.tries += 1
        if has_own:
            return own[message.tries - 1]
        rates = self._rates[min(message.tries, len(self._rates)) - 1]
        return rates.draw(draw(self._seed, OUTCOME, message.number, message.tries))
