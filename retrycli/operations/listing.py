"""List failed messages and escalations, show one message, and calculate delivery statistics."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.cursor import SORTS, Sort, message_cursor
from retrycli.domain.delivery_stats import DeliveryStats, Group, GroupBy
from retrycli.domain.errors import InvalidArgument
from retrycli.domain.listing import EscalationGroup, Filter, ListedMessage, MessageDetails
from retrycli.domain.message import State
from retrycli.operations.ids import resolve_one
from retrycli.operations.pause import attempt_from, probe_times, with_holds, with_prospects
from retrycli.operations.status import ended_passes
from retrycli.operations.wiring import open_database, utc_now
from retrycli.store import listing
from retrycli.store.delivery_stats import Statistics
from retrycli.store.history import message_details
from retrycli.store.passes import Ledger
from retrycli.store.summaries import escalation_groups

MAX_PAGE = 1_000  # maximum number of rows on one page
EDITS = 4_000_000  # characters; an edit of a text of 1 MiB keeps twice as many
ANY = Filter()


@dataclass(frozen=True, slots=True)
class Listing:
    """Failed messages. Iterate over them once, while the database is open."""

    messages: Iterator[ListedMessage]
    number: int  # number of messages when the list began, at most the limit
    total: Callable[[], int]  # counts all messages that the filter matches
    next: str | None  # the cursor of the next page; None if no more messages match


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list of failed messages.

    Attributes:
        messages: the messages; fewer than the limit if some of them changed while they were read.
        next: the cursor of the next page; None on the last page.
    """

    messages: list[ListedMessage]
    next: str | None


def page(
    settings: Settings, wanted: Filter = ANY, *, sort: Sort = "next", after: str | None = None, limit: int = 50
) -> Page:
    """Return one page of the failed messages that a filter matches.

    The next page begins after the last message of this one, even if messages were added, sent or removed in the
    meantime. So no message is on two pages, and none that stays is left out, unless its place in the order changes.
    Ids never change; the other values do.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        wanted: the filter; by default all failed messages.
        sort: ``next`` (next attempt), ``id``, ``tries`` (number of retries, highest first) or ``age`` (oldest first).
        after: `Page.next` of the previous page; None for the first page.
        limit: the maximum number of messages, from 1 to `MAX_PAGE`.

    Raises:
        InvalidArgument: the cursor is invalid or belongs to another order, or another argument is invalid.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    if not 1 <= limit <= MAX_PAGE:
        raise InvalidArgument(f"limit must be from 1 to {MAX_PAGE:,}: {limit}")
    with list_messages(settings, wanted, sort=sort, after=after, limit=limit) as found:
        return Page(list(found.messages), found.next)


@contextmanager
def list_messages(
    settings: Settings, wanted: Filter, *, sort: Sort = "next", after: str | None = None, limit: int | None = None
) -> Iterator[Listing]:
    """List the failed messages that a filter matches. The messages are read page by page during iteration.

    The arguments are those of `page`. Without a limit, all messages are listed.

    Raises:
        InvalidArgument: the cursor is invalid or belongs to another order, or the order or the filter is invalid.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    if sort not in SORTS:
        raise InvalidArgument(f"sort must be one of {', '.join(SORTS)}: {sort!r}")
    end = None if after is None else message_cursor(after, sort)
    wanted.check()
    with open_database(settings) as database:
        wanted = with_holds(settings, database, wanted)
        views = listing.MessageQueries(database)
        ids, last = views.ids_and_end(wanted, sort=sort, after=end, limit=limit)
        rest = None if last is None else str(last)
        messages = with_prospects(settings, database, views.pages(ids, wanted))
        yield Listing(messages, len(ids), lambda: views.count(wanted), rest)


def escalations(settings: Settings) -> list[EscalationGroup]:
    """Group the escalated messages by cause, the largest group first.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return escalation_groups(database)


def show(settings: Settings, message_id: int | str, *, edits: int | None = EDITS) -> MessageDetails:
    """Return one message with its text and its history.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        message_id: the message's id in the application's table.
        edits: the maximum number of characters of the texts that operators' edits replaced and wrote, the newest first.
            ``before`` and ``after`` of the other edits are None. None for all texts.

    Raises:
        NoSuchMessage: the application's table has no such row.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        found = message_details(database, resolve_one(database, message_id), body=True, edits=edits)
        running = {
            attempt.pass_id for attempt in found.attempts if attempt.outcome is None and attempt.pass_id is not None
        }
        queue = found.queue or {"state": None, "next_attempt_at": None}
        probes = probe_times(settings, database) if queue["state"] == State.WAITING else {}
        at = attempt_from(queue["next_attempt_at"], probes.get(str(found.row["message_type"])))
        return replace(found, ended=ended_passes(settings, Ledger(database), running), attempt_from=at)


def stats(
    settings: Settings, by: GroupBy, *, span: timedelta, limit: int, now: Callable[[], datetime] = utc_now
) -> tuple[DeliveryStats, list[Group]]:
    """Return the statistics of all attempts in a period, and the attempts grouped by a property.

    For `GroupBy.ERROR` the groups are empty, because `DeliveryStats.troubles` already has the errors.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    until = now()
    with open_database(settings) as database:
        statistics = Statistics(database)
        figures = statistics.figures(until - span, until)
        return figures, [] if by is GroupBy.ERROR else statistics.groups(by, until - span, limit=limit)
