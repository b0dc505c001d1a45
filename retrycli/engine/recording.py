"""Recording of decisions, and the events that follow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import datetime

from retrycli.domain.claim import Claim
from retrycli.domain.errors import DatabaseBusy
from retrycli.domain.events import Event, MessageMovedOn, event_of
from retrycli.domain.message import QueuedMessage, UnusableMessage
from retrycli.domain.transition import Decision, WriteResult
from retrycli.engine.rules import SYNC_INTERVAL, Dependencies

Decided = tuple[QueuedMessage | UnusableMessage, Decision]
"""A claimed message and its decision."""
MAX_LOCKED_ROWS = 8
"""The maximum number of locked rows that a transaction waits for."""
TRY_AGAIN_SECONDS = 0.05
"""The wait before a transaction is started, or committed, again."""
COMMIT_TIMES = 100
"""Number of attempts to commit before the lock, which blocks the application's readers, is released."""


async def commit_patiently(commit: Callable[[], bool], sleep: Callable[[float], Awaitable[None]]) -> None:
    """Commit as soon as no reader of a SQLite file is in the way.

    Raises:
        DatabaseBusy: the application read it for too long.
    """
    for _ in range(COMMIT_TIMES):
        if commit():
            return
        await sleep(TRY_AGAIN_SECONDS)
    raise DatabaseBusy("the application reads the database for too long; end its transaction, or use WAL")


def record(deps: Dependencies, claim: Claim, decided: Sequence[Decided]) -> tuple[list[Event], list[Decided]]:
    """Record decisions about claimed messages in one transaction.

    Returns:
        An event for each message whose row is not locked by the application, and the others, to be written later.
    """
    if not decided:
        return [], []
    recorded = deps.claims.results.record(claim, [decision for _, decision in decided], deps.now())
    held = [pair for pair in decided if pair[1].message_id in recorded.locked] if recorded.locked else []
    return _events(decided, recorded), held


def _events(decided: Sequence[Decided], recorded: WriteResult) -> list[Event]:
    return [
        MessageMovedOn(decision.message_id, decision.outcome.kind if decision.outcome else None)
        if decision.message_id in recorded.lost
        else event_of(
            message,
            recorded.changed.get(decision.message_id, decision),
            refusal=recorded.not_written.get(decision.message_id),
        )
        for message, decision in decided
        if decision.message_id not in recorded.locked
    ]


class ResultBuffer:
    """Decisions of a pass that are not committed yet. A transaction may fail at any time.

    Args:
        deps: the database and the clock.
        tell: receives the events of messages.
        written: receives the messages whose results are written.
    """

    def __init__(
        self,
        deps: Dependencies,
        *,
        tell: Callable[[Iterable[Event]], object],
        written: Callable[[Iterable[QueuedMessage | UnusableMessage]], object],
    ) -> None:
        self._deps = deps
        self._tell = tell
        self._on_written = written
        self._waiting: list[Decided] = []
        """The decisions that the next transaction writes."""
        self._unwritten: list[Decided] = []
        """Decisions that are not written because the application locks the rows. Their outcomes are recorded."""
        self._now: list[Decided] = []
        """The decisions that the current transaction writes, and those of them that it finds locked."""
        self._now_locked: list[Decided] = []
        self._still_locked: list[Decided] | None = None
        """The earlier decisions that the current transaction finds still locked; None if it does not check."""
        self._retried_at: datetime | None = None
        self.blocked_in_a_row = 0
        """Number of locked results since one was last written."""

    @property
    def waiting(self) -> Sequence[Decision]:
        """Return the decisions that the next transaction writes."""
        return [decision for _, decision in self._waiting]

    @property
    def unwritten(self) -> list[int]:
        """Return the ids of messages whose rows the application locks."""
        return [decision.message_id for _, decision in self._unwritten]

    def add(self, decided: Iterable[Decided]) -> None:
        """Add decisions."""
        self._waiting += decided

    def write(self, claim: Claim, others: Sequence[Decided] = ()) -> None:
        """Write all decisions; those with locked rows only at intervals.

        Args:
            claim: the lease on the messages.
            others: decisions of the current transaction without an attempt. They are dropped if it fails.
        """
        if self._unwritten and self._still_locked is None and self._is_retry_due():
            self.write_locked(claim)
        decided, self._waiting = [*self._waiting, *others], []
        self._now += decided
        self._now_locked += self._write(claim, decided)

    def _is_retry_due(self) -> bool:
        return self._retried_at is None or self._deps.now() - self._retried_at >= SYNC_INTERVAL

    def write_locked(self, claim: Claim) -> None:
        """Write the decisions whose rows were locked the last time."""
        self._retried_at = self._deps.now()
        self._still_locked = self._write(claim, self._unwritten)

    def _write(self, claim: Claim, decided: Sequence[Decided]) -> list[Decided]:
        events, held = record(self._deps, claim, decided)
        self._tell(events)
        unwritten = {decision.message_id for _, decision in held}
        self._on_written(message for message, decision in decided if decision.message_id not in unwritten)
        return held

    def committed(self) -> None:
        """Note that the transaction is committed."""
        if self._still_locked is not None:
            if len(self._still_locked) < len(self._unwritten):
                self.blocked_in_a_row = 0
            # The next time the transaction waits for other rows.
            self._unwritten = self._still_locked[MAX_LOCKED_ROWS:] + self._still_locked[:MAX_LOCKED_ROWS]
            self._still_locked = None
        if self._now:
            self.blocked_in_a_row = (
                0 if len(self._now_locked) < len(self._now) else self.blocked_in_a_row + len(self._now_locked)
            )
            self._unwritten += self._now_locked
            self._now, self._now_locked = [], []

    def rolled_back(self) -> None:
        """Note that the transaction has failed: its results are written again."""
        self._waiting[:0] = [pair for pair in self._now if pair[1].outcome is not None]
        self._now, self._now_locked, self._still_locked = [], [], None
