"""Retry at once, within one attempt, what was certainly not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, stop_before_delay, wait_random

from retrycli.domain.outcome import Outcome, OutcomeKind

WAIT_SECONDS = (0.1, 0.5)
"""Minimum and maximum wait before a retry."""


async def retry_unreachable(
    attempt: Callable[[], Awaitable[Outcome]],
    *,
    retries: int,
    within: float,
    sleep: Callable[[float], Awaitable[None]],
) -> Outcome:
    """Make an attempt, and repeat it while its outcome is `UNREACHABLE`.

    Args:
        attempt: makes one attempt.
        retries: the maximum number of retries.
        within: seconds from now in which the last retry must start.
        sleep: waits between retries.

    Returns:
        The outcome of the last one.
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
