"""Message ids as arguments, with shell completion."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LARGEST_ID = 2**63 - 1
"""Largest integer of both databases."""


MAX_ERROR_LENGTH = 60
"""Maximum characters of an error in a completion."""
SHELL_SAFE = str.maketrans(dict(zip("\\$`\"'[]:<>", "∕＄ˋ”’()∶‹›", strict=True)))
"""Look-alikes for the characters that zsh evaluates, or typer reads as markup: the text comes from a ticketing API."""


def failed_messages(ctx: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Complete the ids of failed messages, with ticket and error.

    Offer nothing on an error: the user only pressed a key.
    """
    from retrycli.config import loader as configuration
    from retrycli.domain.sanitize import printable
    from retrycli.operations import listing

    try:
        given = ctx.params.get("config") or ctx.find_root().params.get("config")
        settings = configuration.load(Path(given) if given else None).settings
        found = listing.failed_beginning(settings, incomplete) if incomplete.isdecimal() or not incomplete else []
    except Exception:  # noqa: BLE001  completion must not fail
        return []
    texts = {number: printable(f"ticket {ticket}, {error or 'no error'}") for number, ticket, error in found}
    return [(str(number), text[:MAX_ERROR_LENGTH].translate(SHELL_SAFE)) for number, text in texts.items()]


MessageId = Annotated[
    int, typer.Argument(metavar="ID", max=LARGEST_ID, help="The message.", autocompletion=failed_messages)
]
MessageIds = Annotated[
    list[int] | None,
    typer.Argument(
        metavar="ID…", max=LARGEST_ID, help="The messages.", show_default=False, autocompletion=failed_messages
    ),
]
