"""Record the messages whose attempts succeeded after their time limit."""

import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from retrycli.domain.attempt import Overdue
from retrycli.domain.errors import InvalidMessage, NoSuchMessage, NotActionable
from retrycli.domain.message import BY_PASS
from retrycli.domain.outcome import OutcomeKind
from retrycli.domain.passes import Event
from retrycli.domain.transition import Claim
from retrycli.engine.manual_attempt import claim_to_settle, record_arrival
from retrycli.engine.ports import Dependencies, PassRules

LOOK_SECONDS = 0.05  # seconds between looks for an attempt that has ended


async def settle_overdue(
    deps: Dependencies,
    rules: PassRules,
    overdue: Sequence[Overdue],
    *,
    since: datetime,
    tell: Callable[[Sequence[Event]], None],
) -> None:
    """Record, as a look-up would, which messages have arrived although their attempts were recorded as unknown. Tell
    events after the commit.

    Wait for running attempts as long as one more request may take, but neither beyond the deadline of the pass nor
    after a stop request.
    """
    telling = deps._replace(emit=lambda event: tell([event]))
    until = min(deps.now() + rules.request_timeout, since + rules.deadline)
    while overdue:
        ended = [attempt for attempt in overdue if attempt.outcome.done()]
        overdue = [attempt for attempt in overdue if attempt not in ended]
        for attempt in ended:
            await _settle(telling, rules, attempt)
        if not overdue or deps.stop_requested() or deps.now() >= until:
            return
        await deps.sleep(LOOK_SECONDS)


async def _settle(deps: Dependencies, rules: PassRules, attempt: Overdue) -> None:
    outcome, now = attempt.outcome.result(), deps.now()
    if outcome.kind is not OutcomeKind.DELIVERED:
        return
    claim = Claim(str(uuid.uuid4()), now + rules.lease)
    is_same_text = False
    try:
        queued = claim_to_settle(deps, rules, claim, attempt.message_id, by=BY_PASS, now=now)
        is_same_text = queued.delivery_key == attempt.delivery_key
    except (InvalidMessage, NoSuchMessage, NotActionable):
        return  # the application has changed the row since, or another process sends it
    finally:
        if not is_same_text:
            deps.claims.release(claim, [attempt.message_id])
    if not is_same_text:
        return
    late = outcome._replace(error="delivered after the time limit", found=True)
    await record_arrival(deps, rules, claim, queued, late, by=BY_PASS, began=now)
