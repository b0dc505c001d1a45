"""Apply one operator action to many messages.

Each action is recorded with its operator. Messages are changed in short transactions of `BATCH`, so that passes and the
application can go on. Sent messages and messages being sent are left alone. A changed message no longer matches the
filter that found it, so an interrupted action can simply be repeated.
"""

from __future__ import annotations

import asyncio
import uuid
from array import array
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError, NoSuchMessage, NotActionable, RetrycliError
from retrycli.domain.message import Message, MessageStatus, QueuedMessage
from retrycli.domain.operator_action import ActionKind, OperatorAction, not_written, unfit, would_expire
from retrycli.domain.outcome import Outcome, OutcomeKind
from retrycli.operations.wiring import Runtime, clock, open_database
from retrycli.store.database import Database
from retrycli.store.operator_actions import Acts

BATCH = 500
"""The number of messages in one transaction."""


@dataclass(frozen=True, slots=True)
class ManualAttempt:
    """One attempt by hand: its outcome, or why there was none."""

    message_id: int
    outcome: Outcome | None = None
    error: RetrycliError | None = None

    @property
    def delivered(self) -> bool:
        """Return whether the message was delivered."""
        return self.outcome is not None and self.outcome.kind is OutcomeKind.DELIVERED

    @property
    def failed(self) -> bool:
        """Return whether it could have been delivered and was not. A message that has moved on is no failure."""
        return not self.delivered and not isinstance(self.error, NoSuchMessage | NotActionable)


@dataclass(frozen=True, slots=True)
class ActionResult:
    """The result of an action on messages."""

    matched: int
    """The number of messages to act on."""
    done: int = 0
    refused: dict[int, RetrycliError] = field(default_factory=dict)
    """Messages left alone because they had moved on, or did not allow the action, and why."""
    tried: list[ManualAttempt] = field(default_factory=list)
    """Attempts by hand."""
    left: int = 0
    """The number of messages not reached; they are unchanged."""
    reason: str | None = None
    """Why messages were not reached: ``canary_failed``, ``destination_down`` or ``signal``."""


def unique_ids(ids: Iterable[int]) -> array[int]:
    """Return the ids in their order without duplicates."""
    packed = array("q", ids)
    rising = all(one < next_one for one, next_one in pairwise(packed))
    return packed if rising else array("q", dict.fromkeys(packed))


def perform(
    settings: Settings,
    kind: ActionKind,
    ids: Sequence[int],
    act: Callable[[int, datetime], OperatorAction],
    runtime: Runtime,
) -> ActionResult:
    """Apply an action to messages in batches. ``act`` gets a message's position and the start of the whole action."""
    refused: dict[int, RetrycliError] = {}
    reached = 0
    with open_database(settings) as database:
        acts, now = Acts(database), clock(database, runtime.now)
        at = now()
        while reached < len(ids) and not runtime.stop_requested():
            batch = {message_id: act(reached + n, at) for n, message_id in enumerate(ids[reached : reached + BATCH])}
            messages = acts.read(batch) if kind is ActionKind.REQUEUED else []
            rejected = {message.id for message in messages if message.fields["status"] == MessageStatus.REJECTED}
            too_old = _expired(settings, acts, messages, at)
            problems = _problems(settings, database, messages, now) if messages else {}
            performed = acts.perform(kind, batch, problems | dict.fromkeys(too_old, "it has expired"))
            refused |= {message_id: not_written(kind, message_id, why) for message_id, why in performed.refused.items()}
            refused |= {
                message_id: would_expire(message_id, is_rejected=message_id in rejected)
                if message_id in too_old
                else unfit(message_id, why)
                for message_id, why in performed.unfit.items()
            }
            if performed.lost:
                refused |= acts.why_not(kind, performed.lost, now())
            reached += len(batch)
    left = len(ids) - reached
    return ActionResult(len(ids), reached - len(refused), refused, left=left, reason="signal" if left else None)


def _expired(settings: Settings, acts: Acts, messages: Sequence[Message], now: datetime) -> set[int]:
    """Return the messages that have expired, in any status: one may be rejected, and not in the queue."""
    policies = {message.id: settings.policies[message.message_type] for message in messages}
    if not any(policy.expires_after for policy in policies.values()):
        return set()
    failed_at = acts.first_failures([message.id for message in messages if message.created_at is None])
    made_at = failed_at | {message.id: message.created_at for message in messages if message.created_at is not None}
    ends = ((message_id, policies[message_id].wanted_until(at)) for message_id, at in made_at.items())
    return {message_id for message_id, end in ends if end is not None and end < now}


def _problems(
    settings: Settings, database: Database, messages: Sequence[Message], now: Callable[[], datetime]
) -> dict[int, str]:
    """Return the messages from which no request can be built, and why. Nothing is sent.

    If no gateway can be used as configured, nothing is known of them: a pass finds out.
    """
    from retrycli.gateway.router import open_router

    async def ask() -> dict[int, str]:
        columns = database.messages.c.keys()
        async with open_router(settings.gateway, columns=columns, connections=1, now=now) as gateway:
            queued = [QueuedMessage(message, str(uuid.uuid4()), now()) for message in messages]
            found = {message.message_id: await gateway.problem(message) for message in queued}
        return {message_id: why for message_id, why in found.items() if why is not None}

    with suppress(ConfigurationError), ThreadPoolExecutor(1) as aside:  # the caller may run an event loop
        return aside.submit(asyncio.run, ask()).result()
    return {}
