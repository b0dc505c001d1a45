"""Make text from other systems safe to show in one line."""

import re

HIDDEN = "********"  # stands for a secret


def printable(text: str) -> str:
    """Escape control characters, line breaks, tabs and direction overrides."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, longest: int) -> str:
    """Shorten text to at most ``longest`` characters, the last of which is then an ellipsis."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def encodable(text: str) -> bool:
    """Return whether a string can be encoded as UTF-8.

    Python decodes invalid bytes in command-line arguments as surrogates, which can't be encoded.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def as_utf8(text: str) -> str:
    """Escape the bytes of a SQLite file that were not valid UTF-8, so that every database and every request can hold
    the string.
    """
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def storable(text: str) -> bool:
    """Return whether both databases can store and compare a string: it is valid UTF-8 and has no NUL."""
    return "\0" not in text and encodable(text)


LOOKALIKES = str.maketrans("<>&@#*~`|[]", "‹›＆＠＃∗∼ˋ｜［］")
# An underscore that is not inside a word; Markdown may read it as emphasis.
UNDERSCORE = re.compile(r"(?<![^\W_])_|_(?![^\W_])")


def inert(text: str, longest: int) -> str:
    """Escape text for a chat or an email, and shorten it to at most ``longest`` characters.

    Lookalikes replace characters that could form markup, mentions or links. Each channel has its own markup (Slack's
    ``<!channel>``, Markdown's ``[…](…)``, HTML), so no single escape syntax works in all of them.
    """
    shown = UNDERSCORE.sub("＿", printable(text))
    return shortened(shown.replace("://", ":／／").translate(LOOKALIKES), longest)


# PostgreSQL's URL parameters include password, sslpassword, oauth_client_secret and scram_client_key. Its passfile and
# sslkey are names of files.
SECRET_PARAMETER = re.compile("pass(?!file)|pwd|secret|(?<!ssl)key|token", re.IGNORECASE)
PARAMETER = re.compile(r"([?&][^?&=]*=)[^&]*")


def masked_url(url: str) -> str:
    """Mask passwords and other secrets in a URL. Return any other string unchanged."""
    # Match up to the last @, not the first, because a password may contain an @ that was not percent-encoded.
    masked = re.sub(r"(://[^/:]*):.+@", rf"\1:{HIDDEN}@", url)
    # Without an @, the host is missing, and what looks like its port may be a password.
    masked = re.sub(r"(://[^/?:@\[]*):(?!\d*(?:[,/?]|$))[^/?@]*(?=[/?]|$)", rf"\1:{HIDDEN}", masked)
    return PARAMETER.sub(
        lambda found: found[0] if SECRET_PARAMETER.search(found[1]) is None else found[1] + HIDDEN, masked
    )
