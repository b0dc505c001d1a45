"""List failed messages and escalations, show one message, and calculate delivery statistics."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from retrycli.config.settings import Settings
from retrycli.domain.delivery_stats import DeliveryStats, Group, GroupBy
from retrycli.domain.listing import EscalationGroup, Filter, ListedMessage, MessageDetails
from retrycli.operations.pause import mark_held
from retrycli.operations.status import ended_passes
from retrycli.operations.wiring import open_database, utc_now
from retrycli.store import listing
from retrycli.store.database import Database
from retrycli.store.delivery_stats import Statistics
from retrycli.store.history import message_details
from retrycli.store.passes import Ledger
from retrycli.store.summaries import escalation_groups

OFFERED = 50  # maximum number of messages offered by shell completion
OFFER_WITHIN_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Listing:
    """Failed messages. Iterate over them once, while the database is open."""

    messages: Iterator[ListedMessage]
    number: int  # number of messages when the list began, at most the limit
    total: Callable[[], int]  # counts all messages that the filter matches


@contextmanager
def list_messages(
    settings: Settings, wanted: Filter, *, sort: str = "next", limit: int | None = None
) -> Iterator[Listing]:
    """List the failed messages that a filter matches. The messages are read page by page during iteration.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        views = listing.MessageQueries(database)
        ids = views.ids(wanted, sort=sort, limit=limit)
        messages = mark_held(settings, database, views.pages(ids, wanted))
        yield Listing(messages, len(ids), lambda: views.count(wanted))


def failed_beginning(settings: Settings, digits: str) -> list[tuple[int, object, object]]:
    """For shell completion, return the id, ticket and last error of the newest failed messages whose ids begin with the
    given digits.

    Write nothing, and wait at most `OFFER_WITHIN_SECONDS` for a lock.

    Raises:
        DatabaseUnavailable: the database can't be opened or read.
        ConfigurationError: a setting or the application's table is wrong.
    """
    with closing(Database(settings.database.url, settings.database.table, patience=OFFER_WITHIN_SECONDS)) as database:
        return listing.failed_beginning(database, digits, limit=OFFERED)


def escalations(settings: Settings) -> list[EscalationGroup]:
    """Group the escalated messages by cause, the largest group first.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        return escalation_groups(database)


def show(settings: Settings, message_id: int) -> MessageDetails:
    """Return one message with its text and its history.

    Raises:
        NoSuchMessage: the application's table has no such row.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        found = message_details(database, message_id, body=True)
        running = {
            attempt.pass_id for attempt in found.attempts if attempt.outcome is None and attempt.pass_id is not None
        }
        return replace(found, ended=ended_passes(settings, Ledger(database), running))


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
