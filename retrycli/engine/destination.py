"""The state of a destination in a pass: its circuit breaker, ambiguous answers, and concurrency.

An ambiguous answer concerns either one message, or retrycli's access and therefore all messages. A 403 can
mean a closed ticket or a user without permission. A 404 can mean a deleted ticket or a misconfigured proxy. A redirect
is often a maintenance page. A single answer does not show its cause. So each route withholds ambiguous answers until
one of these rules applies:

- A delivery whose request was sent after the answers shows that the route works, so the answers concern their
  messages. If a look-up found the message, the delivery shows nothing, because nothing was sent.
- If ten tickets get the same status without a delivery in between, a trial sends three messages of other tickets, one
  at a time. If one of the three is delivered, the ten answers concern their messages. Otherwise all answers concern
  retrycli's access. Tickets of earlier passes count for a day: an outage may meet few messages in each pass.
- If the pass ends during a trial, or because the destination rejects retrycli's access, the answers concern the access.
  If the pass ends otherwise, they concern their messages.

Messages that came due one after another may fail for a common reason, for example because many tickets were closed at
the same time. The ten tickets' messages came due first, so the trial sends the messages that came due last.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType

from retrycli.domain.circuit_breaker import PROBED, Breaker, BreakerState, next_concurrency
from retrycli.domain.outcome import ALIVE, MAY_BE_STORED, OUTAGE, SUCCESS, Outcome, OutcomeKind
from retrycli.domain.passes import BreakerClosed, BreakerOpened, Event, StopReason
from retrycli.domain.transition import Attempt
from retrycli.engine.ports import Dependencies, PassRules

TICKETS = 10  # number of tickets with the same status, without a delivery in between, that start a trial
TRIAL_MESSAGES = 3
REMEMBERED = timedelta(days=1)  # age up to which answers of earlier passes count
NO_TICKETS: Mapping[int, frozenset[str]] = MappingProxyType({})
MAX_HELD = 100  # once this many answers are withheld, their tickets get no further requests


class Doubt:
    """The ambiguous answers of one route in one pass.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(self, earlier: Mapping[int, frozenset[str]]) -> None:
        # The tickets of earlier passes, by status, that got an ambiguous answer since the last delivery.
        self._earlier = earlier
        # The status that started the trial, 0 for failed preflights; None if no trial is running.
        self.status: int | None = None
        self._held: list[Attempt] = []
        self._new: list[Attempt] = []
        self._trials: list[Attempt] = []

    def holds(self, attempt: Attempt) -> bool:
        """Return whether an attempt must be withheld.

        Ambiguous answers are always withheld. A trial also withholds rejections, because a failed trial must escalate
        no message and use up no retry.
        """
        kind = attempt.outcome.kind
        answered = kind in ALIVE and kind is not OutcomeKind.DELIVERED
        return attempt.outcome.in_doubt or (attempt.trial and answered)

    def hold(self, attempt: Attempt) -> None:
        """Withhold an attempt until other answers show whether its answer concerns the message or retrycli's access."""
        self._held = [*self._held, attempt]
        self._new = [*self._new, attempt]
        if self.status is None and len(self._tickets_with(_status(attempt))) >= TICKETS:
            self.status = _status(attempt)

    def count_trial(self, attempt: Attempt) -> None:
        """Count an attempt of the trial, unless nothing was sent because the row is invalid or the message had
        already arrived.
        """
        is_invalid = attempt.outcome.kind is OutcomeKind.INVALID and not attempt.outcome.in_doubt
        if not is_invalid and not attempt.outcome.found:
            self._trials = [*self._trials, attempt]

    @property
    def is_settled(self) -> bool:
        """Return whether the trial has failed: all its attempts ended without a delivery."""
        return self.status is not None and len(self._trials) >= TRIAL_MESSAGES

    @property
    def tickets(self) -> frozenset[str]:
        """Return the tickets that get no further requests while their answers are withheld.

        The set is empty until a trial begins or `MAX_HELD` answers are withheld.
        """
        if self.status is None and len(self._held) < MAX_HELD:
            return frozenset()
        return frozenset(attempt.ticket for attempt in (*self._held, *self._trials))

    def new(self) -> list[Attempt]:
        """Return the attempts that have been withheld since the last call and are still withheld."""
        new, self._new = self._new, []
        return new

    def let_go(self, delivery: Attempt | None = None) -> list[Attempt]:
        """Return withheld attempts and stop withholding them: all, or only those that were answered before the request
        of a delivery was sent.
        """
        if delivery is not None:
            self._earlier = NO_TICKETS
        if not self._held:
            return []
        known = [attempt for attempt in self._held if delivery is None or attempt.finished_at <= delivery.begun_at]
        done = set(map(id, known))
        self._held = [attempt for attempt in self._held if id(attempt) not in done]
        self._new = [attempt for attempt in self._new if id(attempt) not in done]
        if len(self._tickets_with(self.status)) < TICKETS:
            self.status, self._trials = None, []
        return known

    def words(self, protocol: str) -> str:
        """Describe the answers that started the trial, for an operator."""
        alike = self._trials and all(_status(attempt) == self.status for attempt in self._trials)
        number = len(self._tickets_with(self.status))
        if not self.status:
            error = next(each.outcome.error for each in self._held if each.outcome.in_doubt and not _status(each))
            return f"{error} (for {number} tickets, without a delivery in between)"
        refusal = f"{protocol} {self.status}" + (" and a refusal" if self.status in SUCCESS else "")
        return f"{refusal} {'to every request' if alike else f'for {number} tickets, without a delivery in between'}"

    def _tickets_with(self, status: int | None) -> set[str]:
        now = {attempt.ticket for attempt in self._held if attempt.outcome.in_doubt and _status(attempt) == status}
        return now.union(self._earlier.get(status, ())) if now and status is not None else now


def _status(attempt: Attempt) -> int:
    return attempt.outcome.status_code or 0


FORBIDDEN = 403
# Number of probes with one message that use up no retry. Each later probe that the destination answers uses up a retry.
# Otherwise the only message in a queue would be sent as a probe forever if it always failed.
FREE_PROBES = 2
# The reason for which a breaker stops deliveries.
STOPPED_BY = {
    BreakerState.OPEN: StopReason.BREAKER_OPEN,
    BreakerState.RESTING: StopReason.THROTTLED,
    BreakerState.UNREAD: StopReason.UNREAD_ANSWER,
}


class Destination:
    """The state of one destination in one pass, which began at ``since``.

    Attributes are replaced and never mutated, so that a shallow copy can restore them after a failed transaction.
    """

    def __init__(
        self, breaker: Breaker, rules: PassRules, *, since: datetime, refused: Mapping[int, frozenset[str]] = NO_TICKETS
    ) -> None:
        # The slack allows for inexact start times of cron. A wait that the destination requested gets no slack.
        due_by = since if breaker.state is BreakerState.RESTING else rules.due_by(since)
        if rules.probe_now and breaker.state in PROBED and breaker.probe_at is not None:
            due_by = max(due_by, breaker.probe_at)
        self.breaker = breaker if breaker.blocks(due_by) else breaker.at_start(since)
        self.saved = breaker  # the breaker as this pass last read or saved it
        self.width = 1
        self.doubt = Doubt(refused)
        self.stop_reason: StopReason | None = None
        self.detail: str | None = None
        # The breaker was healthy at the start of the pass, and no failure since then suggests an outage.
        self._has_no_failure = breaker.is_healthy
        self._rules = rules.breaker
        self._since = since
        self._concurrency = rules.concurrency
        self._stop_if_blocked(due_by)

    def adopt(self, found: Breaker, now: datetime) -> None:
        """Adopt a breaker that was read from the database, if another pass has changed it."""
        if found != self.saved:
            self.saved = self.breaker = found
            self._stop_if_blocked(now)

    @property
    def probing(self) -> bool:
        """Return whether requests are sent only as probes, and one may be sent now."""
        return self.breaker.state in PROBED and self.stop_reason is None

    @property
    def on_trial(self) -> bool:
        """Return whether a trial is running, which settles ambiguous answers: see `retrycli.engine.destination`."""
        return self.doubt.status is not None

    def observe(self, attempts: Sequence[Attempt], *, last: bool = False) -> list[Attempt]:
        """Update the state from finished attempts, in the order in which they ended, and return those that can be
        decided. An ambiguous answer is withheld until other answers settle its meaning, or until no further ones
        follow.
        """
        observed: list[Attempt] = []
        for attempt in attempts:
            if attempt.about_access:  # a wrong setting prevented the request; the destination is not the cause
                observed.append(attempt)
                continue
            if self.doubt.holds(attempt):
                self.doubt.hold(attempt)
            else:
                if attempt.outcome.of_destination is OutcomeKind.DELIVERED and not attempt.outcome.found:
                    observed += [self._update(held) for held in self.doubt.let_go(attempt)]
                observed.append(self._update(attempt))
            if attempt.trial and self.on_trial:
                self.doubt.count_trial(attempt)
            # A probe needs no trial: it shows that the answers of earlier passes still concern the access.
            is_probe = self.breaker.state in PROBED and self.doubt.status in MAY_BE_STORED
            if self.doubt.is_settled or is_probe:
                observed += self._attribute_to_access()
        return observed + self._observe_withheld() if last else observed

    def _observe_withheld(self) -> list[Attempt]:
        """Stop withholding attempts, because no further answer will settle them, and return them."""
        # In these cases, the withheld answers may concern retrycli's access, not the messages.
        if self.on_trial or self.stop_reason in {StopReason.CREDENTIALS_REFUSED, StopReason.SAME_ANSWER}:
            return self._attribute_to_access()
        return [self._update(held) for held in self.doubt.let_go()]

    def _attribute_to_access(self) -> list[Attempt]:
        """Stop withholding attempts, and return them marked as failures of retrycli's access, not of their messages.

        During a trial, also stop sending to the destination.
        """
        if self.doubt.status is not None:
            said = self.doubt.words(self._protocol)
            if self.doubt.status == FORBIDDEN:
                self._stop(StopReason.CREDENTIALS_REFUSED, f"{self.breaker.destination}: {said}")
            else:
                if self.doubt.status in MAY_BE_STORED:  # so later passes send only probes
                    self.breaker = self.breaker.refused(self._rules, since=self._since)
                verb = " responds with" if self.doubt.status else ":"
                self._stop(StopReason.SAME_ANSWER, f"{self.breaker.destination}{verb} {said}")
        # As `permanent`, each would count towards the bound of requests, and a long outage would end as `exhausted` for
        # the whole queue.
        return [
            held._replace(about_access=True, outcome=held.outcome._replace(kind=OutcomeKind.UNAUTHORIZED))
            for held in self.doubt.let_go()
        ]

    def _update(self, attempt: Attempt) -> Attempt:
        kind = attempt.outcome.of_destination
        counts_as_retry = self._uses_retry(attempt)
        self._has_no_failure &= kind not in OUTAGE
        self.width = next_concurrency(self.width, kind, self._concurrency, is_healthy=self._has_no_failure)
        match kind:
            case OutcomeKind.THROTTLED:
                until = attempt.finished_at + (attempt.outcome.retry_after or timedelta(0))
                self.breaker = self.breaker.rest(until, since=self._since)
                self._stop_by_breaker()  # even if the rest ends now, it ends this pass
            case OutcomeKind.UNKNOWN if attempt.outcome.unread:
                self.breaker = self.breaker.unread(self._rules, since=self._since)
                self._stop(StopReason.UNREAD_ANSWER, f"{self.breaker.destination}: {attempt.outcome.error}")
            case OutcomeKind.UNAUTHORIZED:
                self._stop(StopReason.CREDENTIALS_REFUSED, self._refusal_text(attempt.outcome))
            case _:
                self.breaker = self.breaker.after(kind, self._rules, since=self._since, ticket=attempt.ticket)
        self._stop_if_blocked(self._since)
        return attempt._replace(counts_as_retry=counts_as_retry)

    def _uses_retry(self, attempt: Attempt) -> bool:
        """Return whether a failure uses up a retry.

        A failure in a trial uses up no retry. While the destination is down, a failure uses up a retry only if the
        attempt was a probe that the destination answered, after at least `FREE_PROBES` probes with the same message.
        """
        # A function of the application has no status codes, but it is sure of an outcome that is `TRANSIENT`.
        answers = attempt.outcome.status_code is not None or (
            self._is_function and attempt.outcome.kind is OutcomeKind.TRANSIENT
        )
        was_answered_again = attempt.probe > FREE_PROBES and answers
        return not attempt.trial and (self.breaker.state is not BreakerState.OPEN or was_answered_again)

    @property
    def _is_function(self) -> bool:
        return self.breaker.destination.startswith("python:")

    def _refusal_text(self, outcome: Outcome) -> str:
        """Describe a refusal by its status if it has one, because the answer's text must not reach a log."""
        said = outcome.error if outcome.status_code is None else f"{self._protocol} {outcome.status_code}"
        return f"{self.breaker.destination}: {'the function raised Unauthorized' if self._is_function else said}"

    @property
    def _protocol(self) -> str:
        return "SMTP" if self.breaker.destination.startswith("smtp") else "HTTP"

    def _stop_if_blocked(self, at: datetime) -> None:
        if self.breaker.blocks(at):
            self._stop_by_breaker()

    def _stop_by_breaker(self) -> None:
        reason = StopReason.BREAKER_OPEN if self.breaker.is_down(self._since) else STOPPED_BY[self.breaker.state]
        self._stop(reason, self.breaker.description)

    def _stop(self, reason: StopReason, detail: str | None) -> None:
        if self.stop_reason is None or self.stop_reason is reason is StopReason.THROTTLED:  # a rest may become longer
            self.stop_reason, self.detail = reason, detail


def claim_destination(deps: Dependencies, rules: PassRules, *, since: datetime) -> Destination:
    """Load the destination. If it is down and a probe is due, reserve the probe unless another pass has done so."""
    found = deps.ledger.breaker(rules.destination)
    refused = deps.ledger.refused_tickets(rules.destination, since - REMEMBERED)
    destination = Destination(found, rules, since=since, refused=refused)
    if destination.probing:
        is_taken = deps.ledger.take_probe(found, deps.now() + rules.lease)
        found = deps.ledger.breaker(rules.destination)
        if is_taken:
            destination.saved = found
        else:
            destination.adopt(found, deps.now())
    return destination


def judge(
    destination: Destination, deps: Dependencies, attempts: Sequence[Attempt], *, last: bool
) -> tuple[list[Attempt], list[Event]]:
    """Update the destination from attempts (see `Destination.observe`) and from changes by other passes, and save its
    breaker. Return the attempts that can be decided, and events to emit after the commit.
    """
    if not (destination.breaker.is_healthy and all(attempt.outcome.of_destination in ALIVE for attempt in attempts)):
        destination.adopt(deps.ledger.breaker_to_judge(destination.breaker.destination), deps.now())
    before = destination.breaker
    observed = destination.observe(attempts, last=last)
    after = destination.breaker
    if after == before:
        return observed, []
    deps.ledger.save_breaker(after)
    destination.saved = after
    if after.state is BreakerState.OPEN and after.probe_at is not None:
        return observed, [BreakerOpened(after.destination, after.failures, after.probe_at)]
    has_closed = before.state is BreakerState.OPEN and after.state is BreakerState.CLOSED
    return observed, [BreakerClosed(after.destination)] if has_closed else []
