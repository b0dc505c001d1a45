"""Pause and resume deliveries: all of them, or a part of the queue."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import overload

from retrycli.config.settings import Settings
from retrycli.domain.errors import NotActionable
from retrycli.domain.listing import Filter, ListedMessage, ListedState
from retrycli.domain.message import MessageType, State, ticket_text
from retrycli.domain.operator_action import OperatorAction, no_such, not_free
from retrycli.domain.passes import Hold, HoldKind, HoldTarget, Pause, withheld
from retrycli.domain.transition import NOTHING_WITHHELD, ActionKind, Withheld
from retrycli.operations.wiring import clock, open_database, utc_now
from retrycli.store.database import Database
from retrycli.store.history import act_values, standings
from retrycli.store.holds import Holds
from retrycli.store.messages import numbers_of
from retrycli.store.passes import Ledger
from retrycli.system.process import login_name

Targets = HoldTarget | Collection[HoldTarget]


@dataclass(frozen=True, slots=True)
class ActiveHold:
    """An active hold, and the number of waiting messages that it covers."""

    hold: Hold
    messages: int


@overload
def pause(
    settings: Settings,
    *,
    target: None = None,
    length: timedelta | None = None,
    reason: str | None = None,
    by: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> tuple[Pause, Pause | None]: ...


@overload
def pause(
    settings: Settings,
    *,
    target: Targets,
    length: timedelta | None = None,
    reason: str | None = None,
    by: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> tuple[list[ActiveHold], list[Hold]]: ...


def pause(
    settings: Settings,
    *,
    target: Targets | None = None,
    length: timedelta | None = None,
    reason: str | None = None,
    by: str | None = None,
    now: Callable[[], datetime] = utc_now,
) -> tuple[Pause, Pause | None] | tuple[list[ActiveHold], list[Hold]]:
    """Pause deliveries, for a period or until `resume`.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        target: the part of the queue to hold, or several parts; by default pause all deliveries.
        length: how long; by default until `resume`.
        reason: the reason, which `status` and the history show.
        by: the operator, for the history; by default the current user's login name.
        now: the clock.

    Returns:
        The pause and the active pause that it replaces. With ``target``, the holds and the active holds that they
        replace.

    Raises:
        NoSuchMessage: a message to hold does not exist.
        NotActionable: a message to hold is not failed, or no messages can have this ticket, type or destination. No
            hold begins.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        at = clock(database, now)()
        until, name = None if length is None else at + length, by or login_name()
        with database.transaction():
            if target is None:
                return _pause_all(database, Pause(at, until, name, reason))
            begun, replaced = _hold(settings, database, _parts(target), Pause(at, until, name, reason))
        return active_holds(settings, database, begun), replaced


def _pause_all(database: Database, wanted: Pause) -> tuple[Pause, Pause | None]:
    ledger = Ledger(database)
    replaced = ledger.pause(wanted.since)
    end = wanted.end if replaced is None else f"{wanted.end} (replaces {replaced.in_words})"
    ledger.set_pause(wanted, act_values(OperatorAction(ActionKind.PAUSED, wanted.by, wanted.since, end)))
    return wanted, replaced


def _hold(
    settings: Settings, database: Database, parts: Collection[HoldTarget], wanted: Pause
) -> tuple[list[Hold], list[Hold]]:
    checked = dict.fromkeys(_checked(settings, database, part) for part in parts)
    births = _births(database, [part.text for part in checked if part.kind is HoldKind.MESSAGE], wanted.since)
    begun = [
        Hold(part.kind, part.text, wanted.since, wanted.until, wanted.by, wanted.reason, births.get(part.text))
        for part in checked
    ]
    replaced = [hold for hold in _active(database, wanted.since) if hold.part in checked]
    Holds(database).begin(begun, {hold.part: hold for hold in replaced})
    return begun, replaced


def _births(database: Database, ids: Collection[str], at: datetime) -> dict[str, str | None]:
    """Return the births of the messages to hold.

    Raises:
        NoSuchMessage, NotActionable: a message does not exist, or is not failed.
    """
    if not ids:
        return {}
    numbers = numbers_of(database, ids)
    with database.read() as connection:
        found = standings(database, connection, list(numbers.values()))
    for text in ids:
        standing = found.get(numbers[text]) if text in numbers else None
        if standing is None:
            raise no_such(text)
        # A message that is being sent can be held: the hold applies to later attempts.
        if (problem := not_free(standing._replace(state=None), "hold", at)) is not None:
            raise problem
    births = Holds(database).births(list(numbers.values()))
    return {text: births.get(numbers[text]) for text in ids}


def _active(database: Database, at: datetime) -> Sequence[Hold]:
    return Ledger(database).pause_and_holds(at)[1]


def _checked(settings: Settings, database: Database, part: HoldTarget) -> HoldTarget:
    """Check a part of the queue to hold, and return it as `_canonical` does.

    Raises:
        NotActionable: no messages can have this ticket, type or destination.
    """
    part = _canonical(database, part)
    destinations = settings.gateway.destinations
    match part.kind:
        case HoldKind.TYPE if part.text not in {*MessageType}:
            raise NotActionable(f"no messages have the type {part.text}; the types are {', '.join(MessageType)}")
        case HoldKind.DESTINATION if part.text not in destinations:
            known = ", ".join(sorted(destinations)) or "none, because gateway.base_url is not set"
            raise NotActionable(f"no messages go to {part.text}; the destinations are: {known}")
        case HoldKind.TICKET if not (part.text.strip() and part.text.isprintable()):
            raise NotActionable("the ticket to hold must have printable characters, not only spaces; give its id")
    return part


def _canonical(database: Database, part: HoldTarget) -> HoldTarget:
    match part.kind:
        case HoldKind.MESSAGE:
            return part._replace(text=next(map(str, numbers_of(database, [part.text]).values()), part.text))
        case HoldKind.TICKET:
            return part._replace(text=ticket_text(part.text))
        case HoldKind.DESTINATION:
            return part._replace(text=part.text.rstrip("/"))
        case HoldKind.TYPE:
            return part


def _parts(target: Targets) -> Collection[HoldTarget]:
    return [target] if isinstance(target, HoldTarget) else target


@overload
def resume(
    settings: Settings, *, target: None = None, by: str | None = None, now: Callable[[], datetime] = utc_now
) -> Pause | None: ...


@overload
def resume(
    settings: Settings, *, target: Targets, by: str | None = None, now: Callable[[], datetime] = utc_now
) -> list[Hold]: ...


def resume(
    settings: Settings, *, target: Targets | None = None, by: str | None = None, now: Callable[[], datetime] = utc_now
) -> Pause | list[Hold] | None:
    """End the active pause, if any, and return it. With ``target``, end and return the active holds of these parts.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        ledger, at, name = Ledger(database), clock(database, now)(), by or login_name()
        with database.transaction():
            if target is None:
                ended = ledger.pause(at)
                act = None if ended is None else OperatorAction(ActionKind.RESUMED, name, at, ended.in_words)
                ledger.set_pause(None, act and act_values(act))
                return ended
            parts = {_canonical(database, part) for part in _parts(target)}
            over = [hold for hold in _active(database, at) if hold.part in parts]
            Holds(database).end(over, parts, OperatorAction(ActionKind.RESUMED, name, at))
    return over


def holds(settings: Settings, *, now: Callable[[], datetime] = utc_now) -> list[Hold]:
    """Return the active holds.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return list(_active(database, clock(database, now)()))


def with_holds(settings: Settings, database: Database, wanted: Filter) -> Filter:
    """Return a filter with what the active holds cover, if it selects held messages."""
    is_needed = ListedState.HELD in wanted.states
    return replace(wanted, held_by=_covered(settings, database)) if is_needed else wanted


def _covered(settings: Settings, database: Database) -> Withheld:
    found = _active(database, clock(database, utc_now)())
    return withheld(found, lambda kind: settings.gateway.of(kind).destination_if_set)


def with_prospects(
    settings: Settings, database: Database, messages: Iterable[ListedMessage]
) -> Iterator[ListedMessage]:
    """Yield messages with their limits, and with what holds them back if they wait: an active hold, or a probe."""
    covered, probes, policies = _covered(settings, database), probe_times(settings, database), settings.policies
    for plain in messages:
        message = plain.under(policies)
        if message.state is State.WAITING and (probes or covered != NOTHING_WITHHELD):
            held = covered.covers(message.id, message.message_type, message.ticket_id)
            at = attempt_from(message.next_attempt_at, probes.get(message.message_type))
            message = replace(message, held=held, attempt_from=at)
        yield message


def probe_times(settings: Settings, database: Database) -> dict[str, datetime]:
    """Return, by message type, the times before which the types' destinations get no requests."""
    probes = {breaker.destination: breaker.probe_at for breaker in Ledger(database).breakers()}
    return {kind: at for kind in MessageType if (at := probes.get(settings.gateway.of(kind).destination_if_set or ""))}


def attempt_from(due: datetime | None, probe_at: datetime | None) -> datetime | None:
    """Return when a pass may attempt a waiting message: when it is due or, if later, at the next probe."""
    return due if due is None or probe_at is None else max(due, probe_at)


def active_holds(settings: Settings, database: Database, found: Sequence[Hold]) -> list[ActiveHold]:
    """Return holds, each with the number of waiting messages that it covers."""

    def types_to(destination: str) -> list[MessageType]:
        return [kind for kind in MessageType if settings.gateway.of(kind).destination_if_set == destination]

    counts = Holds(database).count_waiting(found, types_to) if found else []
    return [ActiveHold(hold, count) for hold, count in zip(found, counts, strict=True)]
