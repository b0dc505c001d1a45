"""``edit``: change the subject, body or recipient of a message."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from retrycli import operations
from retrycli.cli.arguments import MessageId
from retrycli.cli.options import By, ConfigFile, Json, Yes, confirm, load_settings, require_confirmation, utf8
from retrycli.domain.listing import MessageDetails
from retrycli.domain.suggested import command, line
from retrycli.system.editor import SUDO_REMEDY, edited, editor_command, stripped_by_sudo
from retrycli.views import terminal


def edit(
    ctx: typer.Context,
    message_id: MessageId,
    subject: Annotated[str | None, typer.Option(help="The new subject.", show_default=False, parser=utf8)] = None,
    body_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The file that contains the new body, or - for stdin.", show_default=False),
    ] = None,
    recipient: Annotated[str | None, typer.Option(help="The new recipient.", show_default=False, parser=utf8)] = None,
    digest: Annotated[
        str | None,
        typer.Option(help="The digest of the text to edit, from `show --json`.", show_default=False, parser=utf8),
    ] = None,
    by: By = None,
    yes: Yes = False,
    as_json: Json = False,
    config: ConfigFile = None,
) -> None:
    """Edit a failed message in an editor or with options.

    The editor ($VISUAL or $EDITOR) shows the text: the subject on its first line, a blank line, and the body. The
    message gets a new delivery key, so that the ticketing API does not treat it as a duplicate. With --digest, nothing
    is written if the text has changed since it was read.
    """
    why = "this changes the message"
    require_confirmation(why, yes=yes, as_json=as_json)
    settings = load_settings(ctx, config)
    read, before = operations.edit_message.read_draft(settings, message_id, digest=digest)
    if subject is None and body_file is None and recipient is None:
        after = _in_editor(message_id, before)
    else:
        body = None if body_file is None else _read_body(body_file)
        after = before.having(subject=subject, body=body, recipient=recipient)
    after.check(before)
    if not yes and after != before:
        terminal.show_difference(operations.edit_message.difference(before, after))
        _warn_of_second_message(read)
        confirm(f"Apply this change to message {message_id}?", why, yes=yes, as_json=as_json)
    done = operations.edit_message.write_draft(settings, read, after, by=by)
    if as_json:
        terminal.show_json(operations.bodies.edited(done))
    elif not done.changed:
        terminal.complain("No changes; nothing was written.")
    else:
        terminal.say(f"Changed {', '.join(done.changed)} of message {message_id}, which has a new delivery key.")
        escalated = read.queue is not None and read.queue["escalated_at"] is not None
        either = f"{command('retry', done.message_id)} or {command('requeue', done.message_id)}"
        terminal.say(f"Next: {either if escalated else line('retry', done.message_id)}")


def _warn_of_second_message(read: MessageDetails) -> None:
    if read.may_have_arrived or (read.queue is not None and read.queue["delivered_to"]):
        terminal.complain(
            "The text before this edit may have arrived, perhaps at only some recipients. Check ticket "
            f"{read.row['ticket_id']}: the new text would be a second message."
        )


def _in_editor(
    message_id: str, before: operations.edit_message.EditableMessage
) -> operations.edit_message.EditableMessage:
    editor = editor_command(os.environ)
    if stripped_by_sudo(os.environ):
        terminal.complain(
            f"retrycli: opening {editor[0]}, because sudo passed on neither $VISUAL nor $EDITOR; {SUDO_REMEDY}"
        )
    return before.with_text(edited(before.as_text(), editor, name=f"message-{message_id}.txt"))


def _read_body(file: Path) -> str:
    try:  # read bytes, because text mode would change the line breaks
        return (sys.stdin.buffer.read() if file == Path("-") else file.read_bytes()).decode("utf-8-sig")
    except OSError as error:
        raise typer.BadParameter(f"can't read {file}: {error.strerror}", param_hint="--body-file") from None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not valid UTF-8", param_hint="--body-file") from None
