"""Write the report's sentences."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from retrycli.domain import suggested
from retrycli.domain.delivery_stats import DeliveryStats, Outage
from retrycli.domain.duration import in_words
from retrycli.domain.passes import StopReason
from retrycli.views.formatting import count

LATELY = timedelta(hours=24)  # an outage that ended within this time is still in the headline

DOWN: dict[str | None, str] = {
    StopReason.BREAKER_OPEN: "The ticketing API is down",
    StopReason.CREDENTIALS_REFUSED: "The ticketing API refuses the credentials",
    StopReason.SAME_ANSWER: "The ticketing API answers every request alike",
    StopReason.FAULT: "The last pass failed: run `retrycli doctor`",
    StopReason.THROTTLED: "The ticketing API asked retrycli to wait",
}
Clock = Callable[[datetime], datetime]  # converts a time to the page's zone


def headline(
    state: str,
    figures: DeliveryStats,
    messages: Mapping[str, int],
    last_pass: datetime | None,
    clock: Clock,
    *,
    reason: str | None = None,
) -> tuple[str, str]:
    """Describe the state in one sentence, and return its severity: ``good``, ``mind`` or ``bad``.

    Args:
        state: `Status.state`, which the headline describes.
        figures: the statistics of recent attempts.
        messages: `Status.messages`.
        last_pass: the start of the newest pass.
        clock: converts the times in the headline.
        reason: the reason why that pass stopped.
    """
    people = messages["escalated"]
    yours = f"{count(people, 'message')} {'needs' if people == 1 else 'need'} an operator" if people else ""
    trouble = _problem(state, figures, messages["waiting"], last_pass, clock, reason)
    if trouble is not None:
        said, tone = trouble
        return f"{said}; {yours}." if yours else f"{said}.", "mind" if tone == "good" and people else tone
    if yours:
        return f"{yours}; everything else is well.", "mind"
    if figures.delivered:
        return (
            f"All well: {count(figures.delivered, 'message')} delivered on retry in the last {span(figures)}, "
            "and none needs an operator.",
            "good",
        )
    if waiting := messages["waiting"]:
        wait = f"{count(waiting, 'message')} {'waits for its' if waiting == 1 else 'wait for their'} next attempt"
        return f"{wait}; none was delivered in the last {span(figures)}.", "mind"
    return f"All quiet: no message had to be retried in the last {span(figures)}.", "good"


def _problem(
    state: str, figures: DeliveryStats, waiting: int, last_pass: datetime | None, clock: Clock, reason: str | None
) -> tuple[str, str] | None:
    latest = figures.outages[-1] if figures.outages else None
    if state == "never_run":
        return "No pass has run yet: run `retrycli run-once`", "mind"
    if state == "late" and last_pass is not None:
        return f"No pass has begun since {moment(last_pass, clock)}: check cron", "bad"
    if latest is not None and latest.ended_at is None:
        wait = f", and {count(waiting, 'message')} {'is' if waiting == 1 else 'are'} waiting" if waiting else ""
        return f"The ticketing API has been down since {moment(latest.began_at, clock)}{wait}", "bad"
    if state == "down":
        return suggested.quoted(DOWN.get(reason, "Nothing can be delivered now: run `retrycli doctor`")), "bad"
    if state == "paused":
        return "Deliveries are paused by an operator", "mind"
    if latest is not None and latest.ended_at is not None and figures.until - latest.ended_at <= LATELY:
        return f"The ticketing API was down {from_to(latest, clock)} but is back", "good"
    return None


def from_to(outage: Outage, clock: Clock) -> str:
    """Describe an outage's start and end. If both are on the same day, name it once."""
    begun = moment(outage.began_at, clock)
    if outage.ended_at is None:
        return f"since {begun}"
    same = clock(outage.began_at).date() == clock(outage.ended_at).date()
    ended = f"{clock(outage.ended_at):%H:%M}" if same else moment(outage.ended_at, clock)
    return f"from {begun} to {ended}"


def moment(time: datetime, clock: Clock) -> str:
    """Format a time with its day."""
    local = clock(time)
    return f"{local:%a} {local.day} {local:%b %H:%M}"


def span(figures: DeliveryStats) -> str:
    """Describe the period of the statistics: ``7 days``, ``12 h``."""
    length = figures.until - figures.since
    days, rest = divmod(length, timedelta(days=1))
    return count(days, "day") if days and not rest else in_words(length)


def zone(time: datetime, clock: Clock) -> str:
    """Return the name of the page's time zone."""
    local = clock(time)
    offset = f"{local:%z}"
    return f"UTC{'' if offset == '+0000' else f'{offset[:3]}:{offset[3:5]}'}"
