"""Edit one message: read it, and write the edit if nobody has changed the message since."""

from dataclasses import dataclass

from retrycli.config.settings import Settings
from retrycli.domain.editable_message import EditableMessage
from retrycli.domain.errors import NotEdited
from retrycli.domain.identity import TEXT_COLUMNS, digest_of
from retrycli.domain.listing import MessageDetails
from retrycli.domain.message import ticket_text
from retrycli.domain.operator_action import OperatorAction, stale
from retrycli.engine import manual_attempt
from retrycli.operations.ids import resolve_one
from retrycli.operations.login import login_name
from retrycli.operations.wiring import DEFAULT_RUNTIME, Runtime, clock, make_dependencies, open_database, pass_rules
from retrycli.store.history import message_details
from retrycli.store.operator_actions import Acts


@dataclass(frozen=True, slots=True)
class Edit:
    """The result of an edit.

    Attributes:
        message_id: the message's id.
        changed: the columns that were written; empty if the edit changed nothing.
        digest: the digest of the message's text after the edit.
    """

    message_id: int
    changed: list[str]
    digest: str


def edit(
    settings: Settings,
    message_id: int | str,
    *,
    subject: str | None = None,
    body: str | None = None,
    recipient: str | None = None,
    digest: str | None = None,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Edit:
    """Change the subject, body or recipient of a failed message.

    If the text changes, the message gets a new delivery key. It keeps its state.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        message_id: the message's id in the application's table.
        subject: the new subject; None keeps it.
        body: the new body, written as it is; None keeps it.
        recipient: the new recipient; None keeps it.
        digest: the digest of the text that the edit is based on. Nothing is written if the text has changed since.
        by: the operator, for the history; by default the current user's login name.
        runtime: the clock.

    Raises:
        StaleEdit: the message's text is not the one that the digest names.
        NotEdited: the edited text can't be sent, or the table has no column for the recipient.
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, is being sent, or its row can't store the edit.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    read, before = read_draft(settings, message_id, digest=digest, runtime=runtime)
    after = before.having(subject=subject, body=body, recipient=recipient)
    return write_draft(settings, read, after, by=by, runtime=runtime)


def read_draft(
    settings: Settings, message_id: int | str, *, digest: str | None = None, runtime: Runtime = DEFAULT_RUNTIME
) -> tuple[MessageDetails, EditableMessage]:
    """Return a message, and its editable part. The text must have the given digest, if any.

    Raises:
        StaleEdit: the text has another digest.
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, or is being sent.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        number = resolve_one(database, message_id)
        Acts(database).check_editable(number, clock(database, runtime.now)())
        found = message_details(database, number, body=True)
    if digest is not None and digest != digest_of(found.row):
        raise stale(number)
    return found, EditableMessage.of(found.row)


def write_draft(
    settings: Settings,
    read: MessageDetails,
    wanted: EditableMessage,
    *,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> Edit:
    """Write an edited message, which `read_draft` returned. It gets a new delivery key and keeps its state.

    Only ``subject``, ``body`` and, if the table has it, ``recipient_email`` are written, and only if they changed.

    Raises:
        NotEdited: the edited text can't be sent, or the table has no column for the recipient.
        NoSuchMessage: the row is gone.
        StaleEdit: the text, its recipients or its attachments have changed since the message was read.
        NotActionable: the message is not failed, is being sent, or its row can't store the edit.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    row, before = read.row, EditableMessage.of(read.row)
    wanted.check(before)
    if wanted.recipient is not None and "recipient_email" not in row:
        raise NotEdited(f"{settings.database.table} has no column recipient_email; omit the recipient")
    message_id: int = row["id"]
    changes = {} if wanted == before else wanted.changes(row)
    if not changes:
        return Edit(message_id, [], digest_of(row))
    with open_database(settings) as database:
        at, acts = clock(database, runtime.now)(), Acts(database)
        if not acts.check_editable(message_id, at):
            manual_attempt.enrol_message(
                make_dependencies(settings, database, runtime), pass_rules(settings), message_id, at
            )
        replaced, ticket = {name: row[name] for name in changes}, ticket_text(row["ticket_id"])
        act = OperatorAction.edited(replaced, changes, ticket=ticket, by=by or login_name(), at=at)
        acts.edit(message_id, act, read={name: row[name] for name in TEXT_COLUMNS if name in row}, changes=changes)
    return Edit(message_id, list(changes), digest_of({**row, **changes}))
