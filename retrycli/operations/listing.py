"""List failed messages and escalations, and show one message."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from retrycli.config.settings import Settings
from retrycli.domain.filter import Filter
from retrycli.domain.listing import EscalationGroup, ListedMessage, MessageDetails
from retrycli.operations.status import ended_passes
from retrycli.operations.wiring import open_database
from retrycli.store import completion
from retrycli.store.database import Database
from retrycli.store.escalations import escalation_groups
from retrycli.store.ledger import Ledger
from retrycli.store.views import Views

OFFERED = 50
"""So many messages are offered by a shell's completion at most."""

OFFER_WITHIN_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Listing:
    """Failed messages, to be gone through once, while the database is open."""

    messages: Iterator[ListedMessage]
    number: int
    """How many there are in the list."""
    total: Callable[[], int]
    """Counts how many there are in all."""


@contextmanager
def list_messages(
    settings: Settings, wanted: Filter, *, sort: str = "next", limit: int | None = None
) -> Iterator[Listing]:
    """Failed messages that a filter lets through. They are read as they are gone through, a page at a time.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        views = Views(database)
        ids = views.ids(wanted, sort=sort, limit=limit)
        yield Listing(views.pages(ids, wanted), len(ids), lambda: views.count(wanted))


def failed_beginning(settings: Settings, digits: str) -> list[tuple[int, object, object]]:
    """The newest failed messages whose ids begin with some digits, for a shell to offer: id, ticket, last error.

    Nothing is written, and nobody waits long for it.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    hasty = Database(settings.database.url, settings.database.table, patience=OFFER_WITHIN_SECONDS)
    with closing(hasty) as database:
        return completion.failed_beginning(database, digits, limit=OFFERED)


def escalations(settings: Settings) -> list[EscalationGroup]:
    """What a person must look at: groups of one cause, the largest first. The messages are listed as others are.

    Raises:
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        return escalation_groups(database)


def show(settings: Settings, message_id: int) -> MessageDetails:
    """One message with its text and its history.

    Raises:
        NoSuchMessage: there is no such row.
        DatabaseUnavailable, ConfigurationError: as in `retrycli.run_once`.
    """
    with open_database(settings) as database:
        found = Views(database).message(message_id, body=True)
        running = {
            attempt.pass_id for attempt in found.attempts if attempt.outcome is None and attempt.pass_id is not None
        }
        return replace(found, ended=ended_passes(settings, Ledger(database), running))
