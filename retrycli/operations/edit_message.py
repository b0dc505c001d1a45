"""Edit one message: read it, and write the edit if nobody has changed the message since."""

from retrycli.config.settings import Settings
from retrycli.domain.editable_message import EditableMessage
from retrycli.domain.errors import NotEdited
from retrycli.domain.listing import MessageDetails
from retrycli.domain.message import ticket_text
from retrycli.domain.operator_action import OperatorAction
from retrycli.engine import manual_attempt
from retrycli.operations.wiring import (
    DEFAULT_RUNTIME,
    Runtime,
    clock,
    login_name,
    make_dependencies,
    open_database,
    pass_rules,
)
from retrycli.store.history import message_details
from retrycli.store.operator_actions import Acts


def read_draft(
    settings: Settings, message_id: int, *, runtime: Runtime = DEFAULT_RUNTIME
) -> tuple[MessageDetails, EditableMessage]:
    """Return a message, and its editable part.

    Raises:
        NoSuchMessage: the application's table has no such row.
        NotActionable: the message is not failed, or is being sent.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    with open_database(settings) as database:
        Acts(database).check_editable(message_id, clock(database, runtime.now)())
        found = message_details(database, message_id, body=True)
        return found, EditableMessage.of(found.row)


def write_draft(
    settings: Settings,
    read: MessageDetails,
    wanted: EditableMessage,
    *,
    by: str | None = None,
    runtime: Runtime = DEFAULT_RUNTIME,
) -> list[str]:
    """Write an edited message. The message gets a new delivery key and keeps its state.

    Only ``subject``, ``body`` and, if the table has it, ``recipient_email`` are written, and only if they changed.

    Args:
        settings: from `retrycli.load_settings`, or created directly.
        read: the message as `read_draft` returned it.
        wanted: the edited message.
        by: the operator; by default the current user's login name.
        runtime: the clock.

    Returns:
        The columns that were written; empty if the edit changes nothing.

    Raises:
        NotEdited: the edited text can't be sent, or the table has no column for the recipient.
        NoSuchMessage: the row is gone.
        NotActionable: the message is not failed, is being sent, or was changed since it was read; or its row can't
            store the edit.
        DatabaseUnavailable, ConfigurationError: the database or a setting can't be used.
    """
    row = read.row
    wanted.check(EditableMessage.of(row))
    if wanted.recipient is not None and "recipient_email" not in row:
        raise NotEdited(f"{settings.database.table} has no column recipient_email; omit the recipient")
    changes = wanted.changes(row)
    if not changes:
        return []
    message_id = int(row["id"])
    with open_database(settings) as database:
        at, acts = clock(database, runtime.now)(), Acts(database)
        if not acts.check_editable(message_id, at):
            manual_attempt.enrol_message(
                make_dependencies(settings, database, runtime), pass_rules(settings), message_id, at
            )
        before, ticket = {name: row[name] for name in changes}, ticket_text(row["ticket_id"])
        act = OperatorAction.edited(before, changes, ticket=ticket, by=by or login_name(), at=at)
        columns = ("subject", "body", "recipient_email")
        acts.edit(message_id, act, read={name: row[name] for name in columns if name in row}, changes=changes)
    return list(changes)
