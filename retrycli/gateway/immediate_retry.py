"""The immediate retry: what was certainly not sent is tried again at once, a time or two."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, stop_before_delay, wait_random

from retrycli.domain.outcome import Outcome, OutcomeKind

WAIT_SECONDS = (0.1, 0.5)
"""The shortest and the longest wait before each."""


async def retry_unreachable(
    attempt: Callable[[], Awaitable[Outcome]],
    *,
    retries: int,
    within: float,
    sleep: Callable[[float], Awaitable[None]],
) -> Outcome:
    """Make an attempt, and others as long as nothing has been sent.

    Args:
        attempt: makes one.
        retries: how many more there may be.
        within: how many seconds from now on the last one has to begin in.
        sleep: waits between them.

    Returns:
        What came of the last one.
    """
    clock = asyncio.get_running_loop().time
    ends_at = clock() + within
    first = await attempt()
    if first.kind is not OutcomeKind.UNREACHABLE or not retries:
        return first

    made = [first]

    async def made_or_next() -> Outcome:
        return made.pop() if made else await attempt()

    retrying = AsyncRetrying(
        stop=stop_after_attempt(1 + retries) | stop_before_delay(ends_at - clock()),
        wait=wait_random(*WAIT_SECONDS),
        retry=retry_if_result(lambda outcome: outcome.kind is OutcomeKind.UNREACHABLE),
        retry_error_callback=lambda state: state.outcome.result() if state.outcome else first,
        sleep=sleep,
    )
    last: Outcome = await retrying(made_or_next)
    return last
