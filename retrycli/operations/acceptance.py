"""Show what the next pass would send by the settings of the application's table, and let an operator accept it."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

from retrycli.config.settings import Settings
from retrycli.domain.errors import ConfigurationError
from retrycli.domain.listing import ListedMessage
from retrycli.domain.table_mapping import Acceptance, selection_parts
from retrycli.domain.transition import IdRange
from retrycli.operations import dry_run
from retrycli.operations.doctor.context import Finding, failed
from retrycli.operations.doctor.table import findings_of, stable
from retrycli.operations.login import login_name
from retrycli.operations.presets import example_url
from retrycli.operations.wiring import connect, open_database, utc_now
from retrycli.store import own_tables
from retrycli.store.enrolment import Enrolment

SHOWN = 3  # number of messages that are shown


@dataclass(frozen=True, slots=True)
class Selected:
    """What the settings select.

    Attributes:
        parts: the parts of the selection, as `retrycli.domain.table_mapping` names them; None if the table needs no
            acceptance.
        accepted: what an operator has accepted last, if anything.
        unaccepted: why passes send nothing; None if they may send, because this selection is accepted.
    """

    parts: dict[str, object] | None
    accepted: Acceptance | None
    unaccepted: str | None


@dataclass(frozen=True, slots=True)
class NextPass:
    """What the next pass would send.

    Attributes:
        findings: what the checks of the table found.
        number: the number of messages that it would send.
        escalated: why it would escalate messages without sending them, with the numbers of messages.
        oldest: the earliest creation time of a message; None if none has one.
        first: the first messages, each with the URL to which it would be sent; None for a mail.
    """

    findings: Sequence[Finding]
    number: int
    escalated: Counter[str]
    oldest: datetime | None
    first: Sequence[tuple[ListedMessage, str | None]]


def selected(settings: Settings) -> Selected:
    """Return what the settings select, and whether an operator has accepted it.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        why = own_tables.objection_to(database)
        if database.mapping is None and why is None and database.accepted is None:
            return Selected(None, None, None)
        parts = selection_parts(own_tables.full_name(database), database.mapping)
        return Selected(parts, database.accepted, why)


def next_pass(settings: Settings) -> NextPass:
    """Check the table, and predict what the next pass would send. Change nothing.

    Raises:
        DatabaseUnavailable: the database can't be opened, read or written.
        ConfigurationError: a check of the table fails, or a setting is wrong.
    """
    with closing(connect(settings)) as database:
        findings = [*findings_of(settings, database)]
        if not failed(findings):
            findings += stable(database)
    if failed(findings):
        raise ConfigurationError("; ".join(filter(None, (findings[-1].found, findings[-1].remedy))))
    with dry_run.preview(settings, despite_outages=True) as foreseen:
        listed = foreseen.messages
        first = [(message, _url(settings, message)) for message in islice(listed, SHOWN)]
        for _ in listed:
            pass  # reading a message counts it
        return NextPass(findings, foreseen.totals.number, foreseen.escalated, foreseen.totals.oldest, first)


def _url(settings: Settings, message: ListedMessage) -> str | None:
    ticket = message.ticket_id
    return example_url(settings, ticket, message.message_type) if isinstance(ticket, int | str) else None


def accept(settings: Settings, *, by: str | None = None, at: datetime | None = None) -> None:
    """Record that an operator accepts which messages the settings select.

    Raises:
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        if own_tables.births_differ(database):
            Enrolment(database).retire(IdRange(None, None))  # stores the births that the settings read
        own_tables.accept_selection(database, by or login_name(), at or utc_now())
