"""What other people wrote, made safe to show as part of one line."""

from __future__ import annotations

import re


def printable(text: str) -> str:
    """Show control characters, line breaks, tabs and direction overrides escaped, and all else as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str) -> bool:
    """Whether a text is all Unicode; what a shell passes on of other bytes is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


LOOKALIKES = str.maketrans("<>&@#*~`|[]", "‹›＆＠＃∗∼ˋ｜［］")
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")
"""One that is not within a word, and so may be emphasis."""


def inert(text: str, longest: int) -> str:
    """The same for a chat or a mail: what a channel might read as markup, a mention or a link becomes a letter like it.

    Every channel has rules of its own (Slack's ``<!channel>``, Markdown's ``[…](…)``, HTML), and none of them can be
    told reliably to let a text be.
    """
    shown = UNDERSCORE.sub("＿", printable(text))
    shown = shown.replace("://", ":／／").translate(LOOKALIKES)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
