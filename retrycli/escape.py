"""What other people wrote, made safe to show as part of one line."""

from __future__ import annotations


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
