"""Predict what a pass would send now. Change nothing.

If retrycli's own tables must be created or upgraded, do so in a transaction that is rolled back. Otherwise, block no
other writer.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from heapq import merge

from retrycli.config.settings import Settings
from retrycli.domain.circuit_breaker import PROBED, Breaker, BreakerState
from retrycli.domain.listing import Filter, ListedMessage
from retrycli.domain.message import EscalationReason, Message, MessageType, QueuedMessage, State, UnusableMessage
from retrycli.domain.passes import Pause
from retrycli.domain.transition import (
    NOTHING_WITHHELD,
    ChangedMessage,
    Decision,
    IdRange,
    Route,
    TransitionKind,
    Withheld,
)
from retrycli.engine import runner
from retrycli.engine.destination import Destination
from retrycli.engine.ports import Dependencies, PassRules
from retrycli.operations.wiring import DEFAULT_RUNTIME, dry_run_database, make_dependencies, pass_rules
from retrycli.store import own_tables
from retrycli.store.database import Database
from retrycli.store.enrolment import Enrolment
from retrycli.store.listing import PAGE, MessageQueries
from retrycli.store.passes import Ledger
from retrycli.store.summaries import QueueCounts

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta.resolution


@dataclass(slots=True)
class _DryRunEnrolment:
    """An enrolment that writes nothing. It records in memory what would be enrolled, replaced and escalated."""

    real: Enrolment
    rules: PassRules
    at: datetime
    left_out: Withheld  # messages that the pass would not claim
    ids: "array[int]" = field(default_factory=lambda: array("q"))
    times: "array[int]" = field(default_factory=lambda: array("q"))
    destinations: list[str] = field(default_factory=list)
    replaced: set[int] = field(default_factory=set)  # ids in the queue that now belong to other failed messages
    # Why new messages would be escalated immediately, without values of rows, with the numbers of messages.
    escalated: Counter[str] = field(default_factory=Counter)
    withheld: int = 0  # number of due messages in `left_out`
    expired: int = 0
    expired_due: int = 0
    _replaced_in_range: Collection[int] = ()
    _new_messages: Mapping[int, Message | UnusableMessage] = field(default_factory=dict)

    def plan_sweep(self, swept_to: int | None) -> tuple[list[IdRange], int]:
        return self.real.plan_sweep(swept_to)

    def newly_failed(self, span: IdRange, limit: int) -> list[Message | UnusableMessage]:
        found = self.real.newly_failed(span, limit, replaced=self._replaced_in_range)
        self._new_messages = {
            message.message_id if isinstance(message, UnusableMessage) else message.id: message for message in found
        }
        return found

    def enrol(
        self, entries: Sequence[tuple[Decision, datetime, int | str]], now: datetime
    ) -> tuple[Sequence[Decision], Mapping[int, str]]:
        spent = {settled.message_id: self._why_spent(settled, failed_at) for settled, failed_at, _ in entries}
        self.escalated.update(filter(None, spent.values()))
        self._remember(settled for settled, _, _ in entries if spent[settled.message_id] is None)
        return (), {}

    def _why_spent(self, settled: Decision, failed_at: datetime) -> str | None:
        """Return why the pass would escalate a new message instead of sending it. Count it if it has expired."""
        message, due = self._new_messages[settled.message_id], settled.transition.next_attempt_at
        if isinstance(message, UnusableMessage):
            return f"{EscalationReason.INVALID} ({message.problem.partition(':')[0]})"
        if due is None:
            return settled.transition.reason
        policy = self.rules.policies[message.message_type]
        may_be_claimed = due <= self.rules.due_by(self.at) and not self._is_left_out(message)
        end = policy.wanted_until(message.created_at or failed_at)
        if end is not None and self.at > end:
            self.expired += 1
            self.expired_due += may_be_claimed
        if not may_be_claimed:
            return None
        return policy.why_spent(message.retry_count, message.created_at or failed_at, self.at)

    def _is_left_out(self, message: Message | UnusableMessage) -> bool:
        message_id = message.message_id if isinstance(message, UnusableMessage) else message.id
        return self.left_out.covers(message_id, message.message_type, message.ticket_id)

    def _remember(self, settled: Iterable[Decision]) -> None:
        due_by = self.rules.due_by(self.at)
        for decision in settled:
            due = decision.transition.next_attempt_at
            if decision.transition.kind is not TransitionKind.ENROLLED or due is None or due > due_by:
                continue
            found = decision.message or self._new_messages[decision.message_id]
            message = found.message if isinstance(found, QueuedMessage) else found
            if self._is_left_out(message):
                self.withheld += 1
            else:
                self.ids.append(decision.message_id)
                self.times.append((due - EPOCH) // MICROSECOND)
                self.destinations.append(self.rules.destination_of(message.message_type))

    def retire(self, span: IdRange) -> Sequence[int]:
        self._replaced_in_range, changed = self.real.would_retire(span)
        self.replaced.update(self._replaced_in_range)
        return changed  # messages that are no longer failed need no entry: `MessageQueries` omits them

    def review(
        self, ids: Collection[int], decide: Callable[[ChangedMessage], Decision], now: datetime
    ) -> list[Decision]:
        self._remember(self.real.would_review(ids, decide))
        return []

    def due(self, to: str) -> Iterator[tuple[datetime, int]]:
        """Yield the due time and id of each message to a destination, in the order in which a pass claims them."""
        # The sort is stable: messages that are due at the same time stay in the order in which they were found.
        positions = (position for position, destination in enumerate(self.destinations) if destination == to)
        for position in sorted(positions, key=self.times.__getitem__):
            yield EPOCH + self.times[position] * MICROSECOND, self.ids[position]


LONG_AGO = timedelta(days=7)  # the sender of an older message may no longer want it sent


@dataclass(slots=True)
class DryRunTotals:
    """Totals of the messages counted so far."""

    destination_of: Callable[[str], str]
    number: int = 0
    oldest: datetime | None = None  # earliest creation time; None if the messages have no creation time
    destinations: Counter[str] = field(default_factory=Counter)

    def count(self, messages: Iterable[ListedMessage]) -> Iterator[ListedMessage]:
        """Yield the messages unchanged, and count them."""
        for message in messages:
            self.number += 1
            self.destinations[self.destination_of(message.message_type)] += 1
            self.oldest = min((at for at in (self.oldest, message.created_at) if at is not None), default=None)
            yield message


@dataclass(frozen=True, slots=True)
class Preview:
    """The predicted result of a pass that starts now."""

    number: int  # number of messages to send, up to the limit, including those that `pause` holds back
    # The messages to send, route by route, in the order of their due times. Iteration reads and counts them.
    messages: Iterator[ListedMessage]
    totals: DryRunTotals
    escalated: Counter[str]  # why a pass would escalate messages without sending them, with their numbers
    waiting: int  # number of waiting messages, due or not, that a pass would not escalate
    pause: Pause | None
    withheld: int  # number of due messages that are held, or whose delivery windows are closed
    down: Mapping[str, Breaker]  # destinations that would get no messages, because they are down or throttled
    blocked: Counter[str]  # number of due messages for each destination in `down`
    probed: Mapping[str, Breaker]  # destinations that would first get one message as a probe
    unaccepted: str | None  # why a pass would send nothing until an operator accepts the settings of the table


@contextmanager
def preview(settings: Settings, *, limit: int | None = None, despite_outages: bool = False) -> Iterator[Preview]:
    """Predict the result of a pass, on request as if no destination were down.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used, or no base URL is set.
    """
    rules = pass_rules(settings, limit=limit)
    with dry_run_database(settings, to_read=True) as database:
        deps = make_dependencies(settings, database, DEFAULT_RUNTIME)
        at = deps.now()
        pause, holds = Ledger(database).pause_and_holds(at)
        route = Route("", withheld=rules.withheld(holds, at))
        foreseen = _predict_queue(database, deps, rules, at, route.withheld)
        views = MessageQueries(database)
        spent = _spent(views, rules, at, route, foreseen.replaced)
        left_out = spent.keys() | foreseen.replaced
        breakers = () if despite_outages else Ledger(database).breakers()
        opened = {breaker.destination: breaker for breaker in breakers if breaker.state is not BreakerState.CLOSED}
        barred = {to for to, breaker in opened.items() if Destination(breaker, rules, since=at).stop_reason is not None}
        ids, times, blocked = array("q"), array("q"), Counter[str]()
        turns = runner.routes_in_turn(deps, rules, rules.due_by(at), route.withheld, set(foreseen.destinations))
        for number, turn in enumerate(turns):
            room = runner.share(rules.limit, len(ids), len(turns) - number)
            known = (entry for entry in views.due(rules.due_by(at), turn) if entry[1] not in left_out)
            for place, (due, message_id) in enumerate(merge(known, foreseen.due(turn.destination))):
                if turn.destination in barred:
                    blocked[turn.destination] += 1
                elif room is None or place < room:
                    ids.append(message_id)
                    times.append((due - EPOCH) // MICROSECOND)
        totals = DryRunTotals(rules.destination_of)
        yield Preview(
            number=len(ids),
            messages=totals.count(_still_waiting(views, ids, times, set(foreseen.ids))),
            totals=totals,
            escalated=foreseen.escalated + Counter(spent.values()),
            waiting=QueueCounts(database).counts(at)["waiting"] - len(spent),
            pause=pause,
            withheld=foreseen.withheld + _count_withheld(views, rules.due_by(at), route, foreseen.replaced),
            down={to: breaker for to, breaker in opened.items() if to in barred},
            blocked=blocked,
            probed={to: found for to, found in opened.items() if to not in barred and found.state in PROBED},
            unaccepted=own_tables.objection_to(database),
        )


def _count_withheld(views: MessageQueries, due_by: datetime, route: Route, replaced: Collection[int]) -> int:
    if route.withheld == NOTHING_WITHHELD:
        return 0
    due, left = ({message_id for _, message_id in views.due(due_by, among)} for among in (None, route))
    return len(due - left - set(replaced))


def _spent(
    views: MessageQueries, rules: PassRules, at: datetime, route: Route, replaced: Collection[int]
) -> dict[int, str]:
    """Return the due messages, except ``replaced``, that a pass would escalate without an attempt, and why."""
    policies = rules.policies
    ages = any(policy.expires_after is not None for policy in policies.values())
    # Without an age limit, read only messages that may have used up their retries. They are usually few.
    tries = None if ages else min(policy.max_retries for policy in policies.values())
    return {
        message_id: why
        for message_id, kind, tried, created_at in views.expiry_facts(rules.due_by(at), route, tries=tries)
        if kind in policies and tried is not None and message_id not in replaced
        if (why := policies[MessageType(kind)].why_spent(tried, created_at or at, at)) is not None
    }


def _expired(views: MessageQueries, rules: PassRules, at: datetime) -> set[int]:
    """Return the waiting messages in the queue that have expired, due or not."""
    policies = {kind: policy for kind, policy in rules.policies.items() if policy.expires_after is not None}
    ends = {
        message_id: policies[MessageType(kind)].wanted_until(created_at)
        for message_id, kind, _, created_at in (views.expiry_facts(None) if policies else ())
        if kind in policies and created_at is not None
    }
    return {message_id for message_id, end in ends.items() if end is not None and at > end}


def counts(settings: Settings, database: Database, at: datetime) -> dict[str, int]:
    """Count failed messages as `QueueCounts.counts` does; ``due`` counts the messages that a pass would send at the
    given time.

    Two more counts concern waiting messages that are too old to send. ``expired`` counts all of them. ``expired_due``
    counts those that the next pass will escalate.
    """
    rules = pass_rules(settings, to_send=False)
    deps = make_dependencies(settings, database, replace(DEFAULT_RUNTIME, now=lambda: at))
    _, holds = Ledger(database).pause_and_holds(at)
    route = Route("", withheld=rules.withheld(holds, at))
    foreseen = _predict_queue(database, deps, rules, at, route.withheld)
    found = QueueCounts(database).counts(rules.due_by(at), route)
    displaced = MessageQueries(database).count_due_among(foreseen.replaced, rules.due_by(at), route)
    spent = _spent(MessageQueries(database), rules, at, route, foreseen.replaced)
    expired = _expired(MessageQueries(database), rules, at) - foreseen.replaced
    return found | {
        "due": found["due"] - displaced - len(spent) + len(foreseen.ids),
        "expired": len(expired) + foreseen.expired,
        "expired_due": len(expired & spent.keys()) + foreseen.expired_due,
    }


def _predict_queue(
    database: Database, deps: Dependencies, rules: PassRules, at: datetime, left_out: Withheld
) -> _DryRunEnrolment:
    foreseen = _DryRunEnrolment(Enrolment(database), rules, at, left_out)
    runner.sync_queue(deps._replace(enrolment=foreseen), rules, at, emit=lambda _: None)
    return foreseen


def _still_waiting(
    views: MessageQueries, ids: "array[int]", times: "array[int]", anew: Collection[int]
) -> Iterator[ListedMessage]:
    """Yield the messages that still wait, or that a pass would enqueue, each with its due time."""
    for start in range(0, len(ids), PAGE):
        page = ids[start : start + PAGE]
        when = dict(zip(page, times[start : start + PAGE], strict=True))
        for message in views.pages(page, Filter()):
            if message.state is State.WAITING or message.id in anew:
                yield replace(message, next_attempt_at=EPOCH + when[message.id] * MICROSECOND)
