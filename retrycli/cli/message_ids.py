"""Message ids as arguments, and their completion in a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LARGEST_ID = 2**63 - 1
"""No database holds a larger whole number."""


ERROR_ROOM = 60
"""So much of an error stands beside an id that a shell offers."""
SHELL_SAFE = str.maketrans(dict(zip("\\$`\"'[]:<>", "∕＄ˋ”’()∶‹›", strict=True)))
"""For zsh a completion's text is a piece of a program, and typer takes it for markup: no character that means
something to either is left, for the text is whatever a ticketing API has answered."""


def failed_messages(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Failed messages for a shell to offer: ids that begin as typed, with ticket and error beside them.

    Nothing is offered where something is wrong: nobody asked for an error by pressing a key.
    """
    from retrycli.config import loader as configuration
    from retrycli.domain.sanitize import printable
    from retrycli.operations import status

    try:
        given = ctx.params.get("config") or ctx.find_root().params.get("config")
        settings = configuration.load(Path(given) if given else None).settings
        found = status.failed_beginning(settings, incomplete) if incomplete.isdecimal() or not incomplete else []
    except Exception:  # noqa: BLE001  whatever it is
        return []
    texts = {number: printable(f"ticket {ticket}, {error or 'no error'}") for number, ticket, error in found}
    return [(str(number), text[:ERROR_ROOM].translate(SHELL_SAFE)) for number, text in texts.items()]


MessageId = Annotated[
    int, typer.Argument(metavar="ID", max=LARGEST_ID, help="The message.", autocompletion=failed_messages)
]
MessageIds = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="ID…", max=LARGEST_ID, help="The messages.", show_default=False, autocompletion=failed_messages
    ),
]
