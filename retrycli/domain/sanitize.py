"""Make text from other systems safe to show in one line."""

import re


def printable(text: str) -> str:
    """Escape control characters, line breaks, tabs and direction overrides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str) -> bool:
    """Return whether a string is valid Unicode; invalid bytes in command-line arguments become surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


LOOKALIKES = str.maketrans("<>&@#*~`|[]", "‹›＆＠＃∗∼ˋ｜［］")
# An underscore that is not inside a word; Markdown may read it as emphasis.
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def inert(text: str, longest: int) -> str:
    """Escape text for a chat or an email. Replace possible markup, mentions and links with similar characters.

    Every channel has its own rules (Slack's ``<!channel>``, Markdown's ``[…](…)``, HTML), and no channel has a
    reliable way to show text verbatim.
    """
    shown = UNDERSCORE.sub("＿", printable(text))
    shown = shown.replace("://", ":／／").translate(LOOKALIKES)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"
