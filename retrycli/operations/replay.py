"""Replay recorded failures with a schedule: the passes, the breaker and the retry policy decide as in a real pass.

The recorded outages and outcomes replace the destination. Nothing is read, written or sent, and the only randomness is
the seed. An attempt takes no time, so a replay does not know the deadline of a pass. It ignores `run.per_ticket_order`,
and whatever operators did.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from math import ceil

from retrycli.domain.message import MessageType
from retrycli.domain.recorded_history import RecordedHistory
from retrycli.domain.schedule_grid import Ticks
from retrycli.domain.simulation import ReplayTally
from retrycli.engine.limits import capacity
from retrycli.engine.ports import PassRules
from retrycli.operations.replayed_queue import JITTER, ReplayedMessage, ReplayedQueue, TypeRules, draw

# Maximum time after the end of the period that a replay covers. Messages that still wait then count as neither
# delivered nor escalated.
AFTERMATH = timedelta(days=90)


def replay(
    history: RecordedHistory,
    rules: PassRules,
    *,
    seed: int,
    passes: Sequence[datetime],
    later: Ticks,
    until: datetime,
    looks_up: Mapping[MessageType, bool],
    has_times: bool = True,
) -> dict[MessageType, ReplayTally]:
    """Replay the recorded messages with the schedules in ``rules``, and return what happened, by message type.

    Args:
        history: the recorded messages, outages and outcome rates.
        rules: the rules of a pass.
        seed: the seed of all random numbers.
        passes: the starts of the recorded passes that could deliver, the first one first.
        later: the ticks after these passes, so that all messages can be delivered or escalated.
        until: the end of the period. After it the replay assumes no outage.
        looks_up: the message types for which an unsettled attempt is looked up.
        has_times: the application's table has creation or update times, so that the first wait begins at the failure.
    """
    return _Replay(history, rules, seed, until, looks_up, has_times=has_times).run(passes, later)


class _Replay:
    def __init__(
        self,
        history: RecordedHistory,
        rules: PassRules,
        seed: int,
        until: datetime,
        looks_up: Mapping[MessageType, bool],
        *,
        has_times: bool,
    ) -> None:
        self._rules = rules
        self._seed = seed
        self._until = until
        self._coming = history.messages
        self._enrolled = 0  # number of messages that are enrolled; the others fail later
        self._rules_of = {
            message_type: TypeRules(policy, ReplayTally(), has_lookup=looks_up[message_type], has_times=has_times)
            for message_type, policy in rules.policies.items()
        }
        destinations = {message_type: rules.destination_of(message_type) for message_type in MessageType}
        queues = {
            destination: ReplayedQueue(destination, history, rules, seed, until)
            for destination in dict.fromkeys(destinations.values())
        }
        self._queues = [*queues.values()]
        self._queue_of = {message_type: queues[destinations[message_type]] for message_type in MessageType}

    def run(self, passes: Sequence[datetime], later: Ticks) -> dict[MessageType, ReplayTally]:
        for at in self._pass_starts(passes, later):
            self._enrol(at)
            self._deliver(at)
        return {message_type: rules.tally for message_type, rules in self._rules_of.items()}

    def _pass_starts(self, passes: Sequence[datetime], later: Ticks) -> Iterator[datetime]:
        yield from passes
        last = max([self._until, *passes[-1:]])
        while (next_due := self._next_due()) is not None:
            last = later.next(max(last, next_due - self._rules.due_slack - timedelta.resolution))
            if last > self._until + AFTERMATH:
                return
            yield last

    def _next_due(self) -> datetime | None:
        times = [queue.waiting[0][0] for queue in self._queues if queue.waiting]
        times += [message.first_failed_at for message in self._coming[self._enrolled : self._enrolled + 1]]
        return min(times, default=None)

    def _enrol(self, at: datetime) -> None:
        while self._enrolled < len(self._coming) and self._coming[self._enrolled].first_failed_at <= at:
            record = self._coming[self._enrolled]
            rules = self._rules_of[record.message_type]
            message = ReplayedMessage(record, self._enrolled, rules)
            self._enrolled += 1
            rules.tally.messages += 1
            change = rules.policy.enrol(
                rules.message(record, 0),
                first_failed_at=record.first_failed_at,
                now=at,
                jitter=2 * draw(self._seed, JITTER, message.number, 0) - 1,
            )
            self._queue_of[record.message_type].add(message, change.next_attempt_at or at)

    def _deliver(self, at: datetime) -> None:
        due_by = self._rules.due_by(at)
        due = [queue for queue in self._queues if queue.waiting and queue.waiting[0][0] <= due_by]
        left = self._rules.limit
        for number, queue in enumerate(due):
            share = None if left is None else ceil(left / (len(due) - number))
            begun = queue.deliver(at, capacity(self._rules._replace(limit=share)))
            left = None if left is None else left - begun
